"""Experts against loops and dense formulations, no token dropped on any mesh; their losses, optimizer, errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import config
from llm_jax.config import UserError
from llm_jax.model import experts, transformer
from llm_jax.planning import roofline
from llm_jax.runs import Run
from llm_jax.training import optimizer
from llm_jax.training.nats import cross_entropy_loss, jitted_nats
from tests.commands import DEADLINE

ROOT = Path(__file__).parent.parent.parent
VOCAB, B, T, D, E, F, K = 300, 2, 12, 16, 4, 8, 2
STEPS, MESHES = 10, ("1,2,2,2,1", "2,2,1,1,2")  # data, fsdp, expert, tensor, context


def drawn(seed: int = 0, lean: float = 0.0):
    """(x, logits, gate, up, down); `lean` adds to the logits of the last two experts."""
    rng = np.random.default_rng(seed)
    shapes = (B, T, D), (B, T, E), (E, D, F), (E, D, F), (E, F, D)
    x, logits, *weights = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    logits[..., -K:] += lean
    return x, logits, *(0.3 * w for w in weights)


def looped(x, logits, gate, up, down):
    """Token by token and expert by expert, in float64."""
    x, logits, gate, up, down = (np.asarray(a, np.float64) for a in (x, logits, gate, up, down))
    out = np.zeros_like(x)
    for place in np.ndindex(x.shape[:2]):
        chosen = np.argsort(-logits[place])[:K]
        weights = np.exp(logits[place][chosen])
        for expert, weight in zip(chosen, weights / weights.sum(), strict=True):
            a = x[place] @ gate[expert]
            out[place] += weight * ((a / (1 + np.exp(-a)) * (x[place] @ up[expert])) @ down[expert])
    return out


def dense(x, logits, gate, up, down):
    """All experts on all tokens; those that a token did not choose weigh 0."""
    kept = logits >= jnp.sort(logits, axis=-1)[..., -K:][..., :1]
    weights = jax.nn.softmax(jnp.where(kept, logits, -jnp.inf), axis=-1)
    hidden = jax.nn.silu(jnp.einsum("btd,edf->btef", x, gate)) * jnp.einsum("btd,edf->btef", x, up)
    return jnp.einsum("btef,efd,bte->btd", hidden, down, weights)


@pytest.mark.parametrize("lean", [0.0, 50.0], ids=["spread", "all tokens to the same two"])
def test_the_mixture_is_a_loop_over_tokens_and_experts(lean):
    arrays = drawn(lean=lean)
    out, chosen = jax.jit(experts.mixture, static_argnums=5)(*arrays, K)
    np.testing.assert_allclose(out, looped(*arrays), atol=2e-5)
    assert (np.sort(chosen, axis=-1) == (E - 2, E - 1)).all() == (lean > 0)


def test_gradients_are_those_of_all_experts_with_masked_weights():
    arrays = drawn(1)
    loss = lambda f: lambda *arrays: jnp.sum(jnp.sin(f(*arrays)))  # noqa: E731
    ours = jax.jit(jax.grad(loss(lambda *a: experts.mixture(*a, K)[0]), argnums=range(5)))(*arrays)
    theirs = jax.jit(jax.grad(loss(dense), argnums=range(5)))(*arrays)
    for a, b in zip(ours, theirs, strict=True):
        assert jnp.abs(b).max() > 0.01
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_device_adds_what_its_own_experts_make():
    x, logits, *weights = drawn(2)
    routed = experts.route(logits, K)
    halves = [experts.run_experts(x, *routed, i, *(w[i : i + 2] for w in weights)) for i in (0, 2)]
    np.testing.assert_allclose(sum(halves), looped(x, logits, *weights), atol=2e-5)
    none = experts.run_experts(x, routed[0], jnp.full_like(routed[1], 3), 0, *(w[:2] for w in weights))
    np.testing.assert_array_equal(none, jnp.zeros_like(x))


def test_rows_beyond_the_groups_may_hold_anything(monkeypatch):
    """On a device that holds two of the experts; NaN stands for what a backend may leave there, in both directions."""
    x, logits, *weights = drawn(3)
    routed = experts.route(logits, K)
    grouped = experts.grouped

    def careless(x_CD, w_EDF, sizes_E):
        rubbish = jnp.where(jnp.arange(len(x_CD)) < sizes_E.sum(), 0.0, jnp.nan)[:, None]
        return grouped(x_CD, w_EDF, sizes_E) + rubbish * x_CD.sum(axis=1, keepdims=True)

    def outcome():
        run = lambda x, *w: jnp.sum(jnp.sin(experts.run_experts(x, *routed, 0, *(a[:2] for a in w))))  # noqa: E731
        return jax.tree.leaves(jax.value_and_grad(run, argnums=range(4))(x, *weights))

    exact = outcome()
    monkeypatch.setattr(experts, "grouped", careless)
    for a, b in zip(exact, outcome(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6)


def test_the_load_balance_loss_by_hand():
    """Three tokens, two experts, one each: f = (2/3, 1/3), P the mean of (.8, .6, .3) and of the rest."""
    p = jnp.array([[[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]]])
    loss = experts.load_balance(jnp.log(p), jnp.array([[[0], [0], [1]]]))
    np.testing.assert_allclose(loss, 2 * (2 / 3 * 1.7 / 3 + 1 / 3 * 1.3 / 3), rtol=1e-6)


def test_the_load_balance_loss_is_least_when_balanced():
    even = jnp.arange(B * T * K).reshape(B, T, K) % E
    np.testing.assert_allclose(experts.load_balance(jnp.zeros((B, T, E)), even), 1.0, rtol=1e-6)
    for seed in range(5):
        _, logits, *_ = drawn(seed, lean=0.5)
        assert experts.load_balance(logits, experts.route(logits, K)[1]) > 1.01
    _, logits, *_ = drawn(lean=50.0)
    np.testing.assert_allclose(experts.load_balance(logits, experts.route(logits, K)[1]), E / K, rtol=1e-5)


def test_the_router_z_loss_by_hand():
    logits = jnp.log(jnp.array([[[1.0, 2.0], [0.5, 0.25]]]))
    np.testing.assert_allclose(experts.router_z(logits), (np.log(3) ** 2 + np.log(0.75) ** 2) / 2, rtol=1e-6)


@pytest.fixture
def mixed(tiny):
    """A stack of two groups and a tail: three layers with experts, two without."""
    m = tiny.model
    m.layers, m.layer_pattern = 5, ("full-experts", "window:4-norope")
    m.experts, m.experts_per_token, m.expert_ff_dim = E, K, 16
    config.validate(tiny)
    return tiny


def row(seed: int = 0):
    tokens = jax.random.randint(jax.random.key(seed), (B, T), 0, VOCAB)
    return tokens, jnp.broadcast_to(jnp.arange(T), (B, T)), jnp.ones((B, T), jnp.int32)


def test_the_pattern_says_which_layers_have_experts(mixed, draw_params):
    params = draw_params(mixed.model, VOCAB)
    layers = params["stack"]["blocks"]
    assert layers["layer_0"]["ff"]["gate"].shape == (2, E, mixed.model.dim, 16)
    assert layers["layer_1"]["ff"]["gate"].shape == (2, mixed.model.dim, mixed.model.ff_dim)
    assert params["tail"]["blocks"]["layer_0"]["ff"]["router"].shape == (mixed.model.dim, E)


def test_the_router_is_float32_in_any_compute_dtype(mixed, draw_params, monkeypatch):
    seen, load_balance = [], experts.load_balance
    monkeypatch.setattr(experts, "load_balance", lambda *a: seen.append(a[0].dtype) or load_balance(*a))
    mixed.model.compute_dtype = "bfloat16"
    jax.eval_shape(lambda p: transformer.apply(mixed.model, VOCAB, p, *row()), draw_params(mixed.model, VOCAB))
    assert seen and set(seen) == {jnp.dtype("float32")}


def test_cached_equals_uncached(mixed, draw_params):
    params, (tokens, positions, ones), prompt = draw_params(mixed.model, VOCAB), row(), 5
    whole, _, _ = jax.jit(lambda *a: transformer.apply(mixed.model, VOCAB, params, *a))(tokens, positions, ones)
    weights = transformer.for_decoding(mixed.model, params)
    step = jax.jit(lambda *a: transformer.apply(mixed.model, VOCAB, weights, *a))
    cache = transformer.empty_cache(mixed.model, B, T)
    hidden, cache, _ = step(tokens[:, :prompt], positions[:, :prompt], ones[:, :prompt], cache)
    pieces = [hidden]
    for t in range(prompt, T):
        hidden, cache, _ = step(tokens[:, t : t + 1], positions[:, t : t + 1], ones[:, :1], cache)
        pieces.append(hidden)
    np.testing.assert_allclose(jnp.concatenate(pieces, axis=1), whole, atol=2e-5)


def test_the_auxiliary_loss_is_the_mean_over_layers_with_experts(mixed, draw_params, monkeypatch):
    """The z loss is replaced by one logit, which is 0 once the layer's router is: layers go out one by one."""
    params, m = draw_params(mixed.model, VOCAB), mixed.model
    monkeypatch.setattr(experts, "load_balance", lambda logits, chosen: jnp.float32(3.0))
    monkeypatch.setattr(experts, "router_z", lambda logits: logits[0, 0, 0])
    m.load_balance, m.router_z = 2.0, 0.0
    np.testing.assert_allclose(transformer.apply(m, VOCAB, params, *row())[2], 6.0, rtol=1e-6)
    m.load_balance, m.router_z = 0.0, 5.0
    layers = params["stack"]["blocks"]["layer_0"]["ff"], params["tail"]["blocks"]["layer_0"]["ff"]
    _, _, before = transformer.apply(m, VOCAB, params, *row())
    layers[1]["router"] = jnp.zeros_like(layers[1]["router"])  # the tail's part goes
    _, _, stack = transformer.apply(m, VOCAB, params, *row())
    layers[0]["router"] = layers[0]["router"].at[1].set(0)  # then the second group's
    _, _, first = transformer.apply(m, VOCAB, params, *row())
    assert len({round(float(x), 4) for x in (before, stack, first, 0)}) == 4
    layers[0]["router"] = 3 * layers[0]["router"]
    np.testing.assert_allclose(transformer.apply(m, VOCAB, params, *row())[2], 3 * first, rtol=1e-5)


def test_training_minds_the_auxiliary_loss_and_validation_does_not(mixed, draw_params, tmp_path, mesh):
    m, params = mixed.model, draw_params(mixed.model, VOCAB)
    tokens, positions, ones = row()
    batch = {"tokens": tokens, "targets": row(1)[0], "positions": positions, "segments": ones}
    batch["weights"] = jnp.asarray(np.random.default_rng(0).uniform(size=(B, T)) < 0.5, jnp.float32)
    context = Run(mixed, tmp_path, mesh, VOCAB)
    total, targets, metrics = cross_entropy_loss(context)(params, batch)
    nats, count = jitted_nats(context)(params, jax.tree.map(lambda x: x[None], batch))
    auxiliary = transformer.apply(m, VOCAB, params, tokens, positions, ones)[2]
    assert auxiliary > 0.5 * m.load_balance and targets == count == batch["weights"].sum()
    np.testing.assert_allclose(total - nats, auxiliary * targets, rtol=1e-3)
    np.testing.assert_allclose(metrics["aux"], auxiliary * targets, rtol=1e-5)


def test_without_experts_there_is_no_auxiliary_loss(tiny, draw_params, tmp_path, mesh):
    params, (tokens, positions, ones) = draw_params(tiny.model, VOCAB), row()
    assert transformer.apply(tiny.model, VOCAB, params, tokens, positions, ones)[2] == 0.0
    batch = {"tokens": tokens, "targets": tokens, "positions": positions, "segments": ones, "weights": ones}
    assert cross_entropy_loss(Run(tiny, tmp_path, mesh, VOCAB))(params, batch)[2] == {}


def test_muon_on_experts_is_muon_on_each_of_them():
    axes = {"gate": ("layers", "expert", "embed", "ff"), "down": ("layers", "expert", "ff", "embed")}
    alone = {name: spec[2:] for name, spec in axes.items()}
    shapes = {"gate": (3, E, D, F), "down": (3, E, F, D)}
    with jax.enable_x64(True):  # float32 leaves about 1e-6 of rounding after five steps of Newton-Schulz
        rng = np.random.default_rng(0)
        trees = [{name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()} for _ in range(3)]
        stacked = last_update(optimizer.scale_by_muon(axes), trees)
        for layer, expert in np.ndindex(3, E):
            sliced = [jax.tree.map(lambda x: x[layer, expert], tree) for tree in trees]  # noqa: B023
            for name, update in last_update(optimizer.scale_by_muon(alone), sliced).items():
                np.testing.assert_allclose(stacked[name][layer, expert], update, atol=1e-6)


def last_update(muon, trees: list[dict]) -> dict:
    state = muon.init(trees[0])
    for tree in trees:
        updates, state = muon.update(tree, state)
    return updates


def test_experts_and_router_get_muon(mixed, draw_params):
    axes = transformer.param_axes(mixed.model, VOCAB)
    chosen = {name: optimizer.is_matrix(a) for name, a in axes["stack"]["blocks"]["layer_0"]["ff"].items()}
    assert chosen == dict.fromkeys(("router", "gate", "up", "down"), True)
    params = draw_params(mixed.model, VOCAB)
    muon = optimizer.make_optimizer(mixed.optimizer, 1, 1.0, axes)
    updates, _ = jax.jit(muon.update)(draw_params(mixed.model, VOCAB, seed=1), muon.init(params), params)
    for name, update in updates["tail"]["blocks"]["layer_0"]["ff"].items():
        singular = np.linalg.svd(update, compute_uv=False) / mixed.optimizer.muon_learning_rate
        assert singular.min() > 0.3 and singular.max() < 1.4 * (32 / 16) ** 0.5, name


def test_flops_count_the_experts_of_a_token(mixed, draw_params):
    m = mixed.model
    params = draw_params(m, VOCAB)
    del params["embedding"]
    active = lambda path: K / E if path[-1].key in ("gate", "up", "down") and "layer_0" in str(path) else 1  # noqa: E731
    leaves = [(path, x) for path, x in jax.tree_util.tree_flatten_with_path(params)[0] if path[-1].key != "scale"]
    keys_seen = 3 * 1 + 2 * 1  # with rows of one token each sees itself
    expected = 2 * sum(x.size * active(path) for path, x in leaves) + 4 * m.heads * m.head_dim * keys_seen
    assert roofline.forward_flops_per_token(m, VOCAB, 1) == pytest.approx(expected)


@pytest.mark.parametrize("key, value, words", [
    ("model.experts_per_token", 5, "must be 1 to model.experts 4"),
    ("model.experts_per_token", 0, "must be 1 to model.experts 4"),
    ("model.expert_ff_dim", 0, "expert_ff_dim is 0"),
    ("model.experts", 0, "model.experts is 0, but"),
    ("model.layer_pattern", ("full",), "model.experts is 4, but"),
    ("model.layer_pattern", ("full-expert",), "'-experts' if wanted"),
    ("model.layer_pattern", ("full-experts-norope",), "'-experts' if wanted"),
    ("mesh.expert", 8, "model.experts 4 must be a multiple of mesh.expert 8"),
    ("mesh.tensor", 2, "model.expert_ff_dim 15 must be a multiple of mesh.tensor 2"),
    ("pretrain.batch", 2, "mesh.data x mesh.fsdp x mesh.expert = 4"),
])  # fmt: skip
def test_what_cannot_work_is_refused(mixed, key, value, words):
    mixed.mesh.expert = 4 if key == "pretrain.batch" else 1
    mixed.pretrain.batch = mixed.sft.batch = 8
    mixed.model.expert_ff_dim = 15 if key == "mesh.tensor" else 16
    section, _, name = key.rpartition(".")
    mixed[section][name] = value
    with pytest.raises(UserError) as error:
        config.validate(mixed)
    assert words in str(error.value)


@pytest.fixture(scope="module")
def trained():
    """The results of one device, and of each of the meshes of eight, run side by side."""
    processes = []
    for devices, meshes in ((1, ("1,1,1,1,1",)), (8, MESHES)):
        flags = f"--xla_force_host_platform_device_count={devices}"
        env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(ROOT / "tests/expert_worker.py"), str(STEPS), *meshes]
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    outputs = [process.communicate(timeout=DEADLINE) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-2000:]
    return [result for out, _ in outputs for result in json.loads(out.splitlines()[-1])]


@pytest.mark.parametrize("at", range(len(MESHES)), ids=MESHES)
def test_losses_do_not_depend_on_the_mesh(trained, at):
    one, many = trained[0], trained[1 + at]
    assert len(one["loss"]) == STEPS and one["loss"][-1] < one["loss"][0] - 0.3  # it learns, so errors would grow
    assert len(set(one["aux"])) > 1 and min(one["aux"]) > 0.3
    np.testing.assert_allclose(many["loss"], one["loss"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(many["aux"], one["aux"], rtol=0, atol=1e-5)


def test_experts_are_really_sharded(trained):
    assert trained[1]["shares"] == {"router": 1 / 2, "gate": 1 / 8, "up": 1 / 8, "down": 1 / 8}  # fsdp, expert, tensor
