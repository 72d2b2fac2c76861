"""Adapters: nothing at first, the same in training and in decoding, and small."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from llm_jax import config
from llm_jax.model import lora, transformer
from llm_jax.model.outputs_first import OutputsFirst
from llm_jax.training import losses
from tests.conftest import drawn_params

VOCAB, T, RANK, SCALE = 300, 12, 3, 2.0
ALL = config.default().lora.projections


@pytest.fixture(scope="module")
def model(tiny_model):
    m = tiny_model.copy_and_resolve_references()
    m.layers = 1
    return m


@pytest.fixture
def with_tail(tiny_model):
    """Two layers in one group, and a tail of one."""
    m = tiny_model.copy_and_resolve_references()
    m.layers, m.layer_pattern = 3, ("full-norope", "window:4")
    return m


def values(**changes):
    c = config.default().lora
    c.rank, c.alpha = RANK, SCALE * RANK
    c.update(changes)
    return c


def init(m, **changes):
    axes, shapes = transformer.param_axes(m, VOCAB), drawn_params(m, VOCAB)
    return functools.partial(lora.init, axes, shapes, values(**changes))


def fresh(m):
    return jax.jit(init(m))(jax.random.key(1))


def disturbed(adapter, seed: int = 0):
    """With the same changes to every B, whoever asks."""
    rng = np.random.default_rng(seed)
    change = lambda path, x: x + (path[-1].key == "b") * rng.normal(size=x.shape).astype(np.float32) * 0.05  # noqa: E731
    return jax.tree_util.tree_map_with_path(change, adapter)


def attached(m, adapter, dtype: str = "float32"):
    params = lora.frozen(drawn_params(m, VOCAB), transformer.param_axes(m, VOCAB), dtype)
    return lora.attached(adapter, params, SCALE)


TOKENS = np.random.default_rng(0).integers(VOCAB, size=(2, T + 1)).astype(np.int32)
INPUTS = TOKENS[:, :-1], np.tile(np.arange(T, dtype=np.int32), (2, 1)), np.ones((2, T), np.int32)


def logp_BT(hidden_BTD, head_DV):
    """Of the next tokens."""
    logp_BTV = jax.nn.log_softmax(losses.logits_of(hidden_BTD, head_DV, VOCAB))
    return jnp.take_along_axis(logp_BTV, TOKENS[:, 1:, None], axis=-1)[..., 0]


@functools.partial(jax.jit, static_argnums=0)
def _trained(model_json, params):
    m = ConfigDict(json.loads(model_json))
    hidden_BTD, *_ = transformer.apply(m, VOCAB, params, *INPUTS)
    return logp_BT(hidden_BTD, transformer.head_DV(m, params))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sampled(model_json, int8, params):
    m = ConfigDict(json.loads(model_json))
    weights, cache = transformer.for_decoding(m, params, int8), transformer.empty_cache(m, 2, T)
    hidden_BTD, *_ = transformer.apply(m, VOCAB, weights, *INPUTS, cache)
    return logp_BT(hidden_BTD, weights["head_VD"].T)


def trained(m, params):
    """Log-probabilities as the trainer has them."""
    return np.asarray(_trained(m.to_json(), params))


def sampled(m, params, int8: bool = False):
    """As the sampler has them."""
    return np.asarray(_sampled(m.to_json(), int8, params))


def test_a_fresh_adapter_changes_no_bit(model):
    params, with_it = drawn_params(model, VOCAB), attached(model, fresh(model))
    np.testing.assert_array_equal(trained(model, params), trained(model, with_it))
    np.testing.assert_array_equal(sampled(model, params), sampled(model, with_it))


@pytest.mark.parametrize("dtype", ["float32", "int8", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_change_moves_trainer_and_sampler_alike_and_merged_is_the_same(model, dtype):
    adapter = disturbed(fresh(model))
    params = attached(model, adapter, dtype)
    ours = trained(model, params)
    assert np.abs(ours - trained(model, attached(model, fresh(model), dtype))).max() > 0.1
    np.testing.assert_allclose(sampled(model, params), ours, rtol=0, atol=1e-6)
    merged = lora.merged(params, transformer.param_axes(model, VOCAB))
    assert jax.tree.map(lambda x: (x.shape, str(x.dtype)), merged) == jax.tree.map(
        lambda x: (x.shape, "float32"), drawn_params(model, VOCAB)
    )
    np.testing.assert_allclose(trained(model, merged), ours, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_int8_decoding_keeps_the_adapter(model):
    """The engine's int8 is of the base alone."""
    params = attached(model, disturbed(fresh(model)))
    gap = lambda a, b: np.abs(a - b).max()  # noqa: E731
    assert gap(sampled(model, params, int8=True), trained(model, params)) < 0.1
    assert gap(sampled(model, drawn_params(model, VOCAB), int8=True), trained(model, params)) > 0.1


def test_the_scale_is_alpha_for_each_of_the_rank():
    assert lora.scale_of(values(rank=8, alpha=4.0)) == 0.5


def test_gradients_are_those_of_the_sum(model):
    """By the chain rule through W + scale A B, an array of its own."""
    axes, base, adapter = transformer.param_axes(model, VOCAB), drawn_params(model, VOCAB), disturbed(fresh(model))

    def loss(params):
        hidden_BTD, *_ = transformer.apply(model, VOCAB, params, *INPUTS)
        return jnp.mean(jnp.sin(hidden_BTD))

    ours = jax.jit(jax.grad(lambda a: loss(lora.attached(a, base, SCALE))))(adapter)
    theirs = jax.jit(jax.grad(lambda a: loss(lora.merged(lora.attached(a, base, SCALE), axes))))(adapter)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(theirs))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.any() and float(jnp.abs(a - b).max()) < 1e-5 * scale


def test_only_the_projections_asked_for_are_adapted(with_tail):
    adapter = jax.eval_shape(init(with_tail, projections=("q", "down")), jax.random.key(0))
    paths = {tuple(k.key for k in path[-3:]) for path, _ in jax.tree_util.tree_flatten_with_path(adapter)[0]}
    assert paths == {(*where, part) for where in (("attention", "q"), ("ff", "down")) for part in "ab"}
    leaf = adapter["stack"]["blocks"]["layer_1"]["ff"]["down"]
    assert leaf["a"].shape == (1, 48, RANK) and leaf["b"].shape == (1, RANK, 32)
    assert adapter["tail"]["blocks"]["layer_0"]["attention"]["q"]["b"].shape == (RANK, 4, 8)


def test_a_is_within_its_bounds_and_b_is_zero(model):
    """The bound is 1 / sqrt(inputs), of all that a product sums over; no two matrices are alike."""
    block = fresh(model)["stack"]["blocks"]["layer_0"]
    o, gate, up = block["attention"]["o"], block["ff"]["gate"], block["ff"]["up"]
    for part in (o, gate):
        assert 0.8 * 32**-0.5 < np.abs(part["a"]).max() <= 32**-0.5 and not part["b"].any()
    assert np.abs(gate["a"] - up["a"]).max() > 0.1


def smollm2():
    m = config.default().model
    m.dim, m.layers, m.heads, m.kv_heads, m.head_dim, m.ff_dim = 576, 30, 9, 3, 64, 1536
    m.tied_embedding, m.qk_norm = True, False
    return m, 49152


def count(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_rank_8_on_all_projections_is_at_most_a_fiftieth_of_adamws_state():
    """Adapter and two moments of it, against two moments and the parameters; on SmolLM2-135M's shapes."""
    m, vocab = smollm2()
    shapes = jax.eval_shape(lambda: transformer.init_params(m, vocab, jax.random.key(0)))
    axes = transformer.param_axes(m, vocab)
    adapter = jax.eval_shape(lambda: lora.init(axes, shapes, values(rank=8), jax.random.key(0)))
    assert count(shapes) == 134_515_008 and count(adapter) == 2_442_240
    assert 3 * count(adapter) <= 0.02 * 3 * count(shapes)


def test_frozen_matrices_take_fewer_bytes(with_tail, mesh):
    """As many as is told without making them. The old ones are gone."""
    model = with_tail
    axes = transformer.param_axes(model, VOCAB)
    for dtype, bytes_of_one in (("bfloat16", 2), ("int8", 1)):
        params = drawn_params(model, VOCAB)
        told = lora.abstract_frozen(jax.eval_shape(lambda x: x, params), axes, dtype, mesh)
        frozen = lora.frozen(params, axes, dtype)
        shape = lambda x: (x.shape, x.dtype)  # noqa: E731
        assert jax.tree.map(shape, told) == jax.tree.map(shape, frozen)
        q = frozen["stack"]["blocks"]["layer_0"]["attention"]["q"]
        q = q.values if isinstance(q, OutputsFirst) else q
        assert q.nbytes == bytes_of_one * q.size and q.size == model.dim * model.heads * model.head_dim
        assert frozen["embedding"].dtype == jnp.bfloat16 and frozen["norm"]["scale"].dtype == jnp.float32
        assert params["embedding"].is_deleted() and not params["norm"]["scale"].is_deleted()


@pytest.mark.parametrize("projections, fine", [(("q", "o"), True), (ALL, False)])
def test_experts_are_not_adapted(projections, fine):
    c = config.default()
    c.model.layer_pattern = ("full-experts",)
    c.model.experts, c.model.experts_per_token, c.model.expert_ff_dim = 4, 2, 48
    c.lora.rank, c.lora.projections = 4, projections
    if fine:
        return config.validate(c)
    with pytest.raises(config.UserError, match="experts are not adapted; give some of"):
        config.validate(c)
