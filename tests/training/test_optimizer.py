"""Muon on stacked leaves, which leaves it gets, and the schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax import config
from llm_jax.model import transformer
from llm_jax.training import optimizer

MATRICES = ("attention.q", "attention.k", "attention.v", "attention.o", "ff.gate", "ff.up", "ff.down")
SHAPES = {  # name -> (shape, axes): one of each layout the model has
    "q": ((3, 8, 2, 6), ("layers", "embed", "heads", None)),
    "o": ((3, 2, 6, 8), ("layers", "heads", None, "embed")),
    "up": ((3, 8, 20), ("layers", "embed", "ff")),
    "down": ((3, 20, 8), ("layers", "ff", "embed")),
}


def random_tree(seed: int) -> dict:
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    return {name: jax.random.normal(key, SHAPES[name][0]) for key, name in zip(keys, SHAPES, strict=True)}


def axes_of(name: str) -> tuple:
    return SHAPES[name][1]


def flat_names(tree) -> dict[str, jax.Array]:
    """{'stack.blocks.layer_0.ff.up': leaf}"""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {".".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def as_2d(name: str, x):
    """One layer's weight as (in, out), by hand."""
    return x.reshape(12, 8) if name == "o" else x.reshape(8, 12) if name == "q" else x


def reference_muon(grads: list[np.ndarray]) -> np.ndarray:
    """The last update of a 2-D weight, written out in float64 after Jordan et al."""
    momentum = np.zeros(grads[0].shape)
    for gradient in grads:
        g = np.asarray(gradient, np.float64)
        momentum = 0.95 * momentum + 0.05 * g
        x = 0.95 * momentum + 0.05 * g
    rows, columns = x.shape
    x = x.T if rows > columns else x
    x = x / np.linalg.norm(x)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return max(1.0, columns / rows) ** 0.5 * (x.T if rows > columns else x)


def test_muon_on_a_stack_is_muon_on_each_layer():
    flat_axes = {name: ("embed", "ff") if name != "down" else ("ff", "embed") for name in SHAPES}
    with jax.enable_x64(True):  # float32 leaves about 1e-6 of rounding after five steps of Newton-Schulz
        trees = [jax.tree.map(lambda x: x.astype(jnp.float64), random_tree(seed)) for seed in range(3)]
        stacked = last_update(optimizer.scale_by_muon({name: axes_of(name) for name in SHAPES}), trees)
        for layer in range(3):
            sliced = [{name: as_2d(name, x[layer]) for name, x in tree.items()} for tree in trees]
            alone = last_update(optimizer.scale_by_muon(flat_axes), sliced)
            for name in SHAPES:
                ours = as_2d(name, stacked[name][layer])
                np.testing.assert_allclose(ours, alone[name], atol=1e-6)
                np.testing.assert_allclose(ours, reference_muon([tree[name] for tree in sliced]), atol=1e-6)


def last_update(muon: optax.GradientTransformation, trees: list[dict]) -> dict:
    state, update = muon.init(trees[0]), jax.jit(muon.update)
    for tree in trees:
        updates, state = update(tree, state)
    return updates


def test_orthogonalisation_agrees_with_optax():
    tree = random_tree(7)
    muon = optimizer.scale_by_muon({name: axes_of(name) for name in SHAPES})
    ours, _ = jax.jit(muon.update)(tree, muon.init(tree))
    numbers = {
        name: optax.contrib.MuonDimensionNumbers(
            (1, 2) if name == "o" else (1,), (2, 3) if name == "q" else (x.ndim - 1,)
        )
        for name, x in tree.items()
    }
    theirs = optax.contrib.scale_by_muon(weight_dimension_numbers=numbers)
    update, _ = jax.jit(theirs.update)(tree, theirs.init(tree), tree)
    for name in SHAPES:
        for layer in range(3):
            a, b = as_2d(name, ours[name][layer]), as_2d(name, update[name][layer])
            np.testing.assert_allclose(a / jnp.linalg.norm(a), b / jnp.linalg.norm(b), atol=1e-4)


def test_orthogonalised_matrices_have_singular_values_near_one():
    for shape in ((2, 8, 8), (2, 8, 40), (2, 40, 8)):
        x = jax.jit(optimizer.orthogonalize)(jax.random.normal(jax.random.key(0), shape))
        singular = np.linalg.svd(np.asarray(x), compute_uv=False)
        assert x.shape == shape and singular.min() > 0.3 and singular.max() < 1.4


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_matrices_of_the_layers_get_muon_and_the_rest_adamw(tiny, draw_params, name, tied):
    tiny.model.layers, tiny.model.tied_embedding = 3, tied
    tiny.model.layer_pattern = ("full", "window:4") if tied else ("full",)
    tiny.optimizer.name, tiny.optimizer.clip = name, 0.0
    params = draw_params(tiny.model, 300)
    chosen = optimizer.make_optimizer(tiny.optimizer, 1, 1.0, transformer.param_axes(tiny.model, 300))
    grads = draw_params(tiny.model, 300, seed=1)
    updates, _ = jax.jit(chosen.update)(grads, chosen.init(params), params)
    for path, update in flat_names(updates).items():
        # AdamW's first update is the rate times the gradient's sign.
        is_adamw = np.allclose(update, -tiny.optimizer.learning_rate * jnp.sign(flat_names(grads)[path]), rtol=1e-3)
        assert is_adamw == (name == "adamw" or not path.endswith(MATRICES)), path


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_tables_may_learn_more_slowly_than_the_rest(tiny, draw_params, name, tied, clip):
    tiny.model.tied_embedding, tiny.optimizer.name, tiny.optimizer.clip = tied, name, clip
    params, grads = (draw_params(tiny.model, 300, seed) for seed in (0, 1))
    axes = transformer.param_axes(tiny.model, 300)

    def updated(*scale):
        chosen = optimizer.make_optimizer(tiny.optimizer, 1, 1.0, axes, *scale)
        return flat_names(jax.jit(chosen.update)(grads, chosen.init(params), params)[0])

    plain, slow = updated(), updated(0.1)
    assert sum(path.endswith(("embedding", "head")) for path in plain) == 2 - tied
    for path, update in slow.items():
        scale = 0.1 if path.endswith(("embedding", "head")) else 1.0
        np.testing.assert_allclose(update, scale * plain[path], rtol=1e-6, err_msg=path)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_weight_decay_shrinks_matrices_only(tiny, draw_params, name):
    tiny.optimizer.name, tiny.optimizer.weight_decay = name, 0.5
    params = draw_params(tiny.model, 300)
    chosen = optimizer.make_optimizer(tiny.optimizer, 1, 1.0, transformer.param_axes(tiny.model, 300))
    updates, _ = jax.jit(chosen.update)(jax.tree.map(jnp.zeros_like, params), chosen.init(params), params)
    rate = tiny.optimizer.muon_learning_rate if name == "muon" else tiny.optimizer.learning_rate
    for path, update in flat_names(updates).items():
        share = 0.5 * rate if path.endswith(MATRICES) else 0.0
        np.testing.assert_allclose(update, -share * flat_names(params)[path], rtol=1e-5, atol=1e-8)


def test_gradients_are_clipped_by_their_global_norm(tiny):
    tiny.optimizer.name, tiny.optimizer.clip = "adamw", 1.0
    params, axes = {"w": jnp.ones((4, 4))}, {"w": ("embed", "ff")}
    chosen = optimizer.make_optimizer(tiny.optimizer, 1, 1.0, axes)
    results = [chosen.update({"w": jnp.full((4, 4), size)}, chosen.init(params), params)[1] for size in (5.0, 500.0)]
    for a, b in zip(jax.tree.leaves(results[0]), jax.tree.leaves(results[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_schedule_warms_up_holds_and_decays():
    o = config.default().optimizer
    o.warmup, o.decay, o.final = 0.1, 0.4, 0.05
    rates = np.array([float(optimizer.schedule(2.0, 100, o)(step)) for step in range(101)])
    np.testing.assert_allclose(rates[[0, 9]], [0.2, 2.0], rtol=1e-6)
    assert (np.diff(rates[:10]) > 0).all() and (np.diff(rates[60:]) < 0).all()
    np.testing.assert_allclose(rates[9:61], 2.0, rtol=1e-6)
    np.testing.assert_allclose(np.diff(rates[60:]), np.diff(rates[60:])[0], rtol=1e-3)
    assert 0 < rates[99] <= 2.0 * (0.05 + 0.95 / 40) * 1.0001  # within one decrement of `final`
    np.testing.assert_allclose(rates[100], 0.1, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 3, 17])
def test_a_short_schedule_still_learns(steps):
    o = config.default().optimizer
    rates = [float(optimizer.schedule(1.0, steps, o)(step)) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates) and max(rates) > 0.5
