"""One forward: packed, causal, cached and uncached alike, for every layer pattern."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.model import transformer

VOCAB = 300
T = 12  # of every row here, so that little compiles
PATTERNS = {"full": (2, ("full",)), "tail": (5, ("full-norope", "window:4"))}


def tokens_of(B: int, seed: int = 0) -> jax.Array:
    return jax.random.randint(jax.random.key(seed), (B, T), 0, VOCAB)


@pytest.fixture(scope="module", params=PATTERNS)
def model(tiny_model, draw_params, request):
    m = tiny_model.copy_and_resolve_references()
    m.layers, m.layer_pattern = PATTERNS[request.param]
    return m, draw_params(m, VOCAB)


@pytest.fixture
def hidden_of(forward):
    """(model, params, tokens, positions, segments) -> final hidden states"""
    return lambda m, params, tokens, positions=None, segments=None: forward(
        m, VOCAB, params, tokens, positions, segments
    )[0]


def test_later_tokens_do_not_matter(model, hidden_of):
    m, params = model
    tokens = tokens_of(1)
    changed = tokens.at[0, 6:].set((tokens[0, 6:] + 1) % VOCAB)
    a, b = hidden_of(m, params, tokens), hidden_of(m, params, changed)
    np.testing.assert_array_equal(a[:, :6], b[:, :6])
    assert (jnp.abs(a[:, 6:] - b[:, 6:]).max(-1) > 1e-3).all()


def test_packed_segments_are_as_if_alone(model, hidden_of):
    m, params = model
    tokens = tokens_of(1)
    positions, segments = [[*range(5), *range(7)]], [[1] * 5 + [2] * 7]
    packed = hidden_of(m, params, tokens, positions, segments)
    for start, end in ((0, 5), (5, 12)):
        n = end - start
        alone = jnp.zeros_like(tokens).at[:, :n].set(tokens[:, start:end])
        by_itself = hidden_of(m, params, alone, None, [[1] * n + [0] * (T - n)])
        np.testing.assert_allclose(packed[:, start:end], by_itself[:, :n], atol=2e-5)
    changed = tokens.at[0, :5].set((tokens[0, :5] + 7) % VOCAB)
    np.testing.assert_array_equal(packed[:, 5:], hidden_of(m, params, changed, positions, segments)[:, 5:])


def test_cached_equals_uncached(model, hidden_of):
    m, params = model
    B, prompt = 2, 5
    tokens, ones = tokens_of(B), jnp.ones((B, T), jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(T), (B, T))
    weights = transformer.for_decoding(m, params)
    step = jax.jit(lambda t, p, s, cache: transformer.apply(m, VOCAB, weights, t, p, s, cache))
    cache = transformer.empty_cache(m, B, T)
    hidden, cache, _ = step(tokens[:, :prompt], positions[:, :prompt], ones[:, :prompt], cache)
    pieces = [hidden]
    for t in range(prompt, T):
        hidden, cache, _ = step(tokens[:, t : t + 1], positions[:, t : t + 1], ones[:, :1], cache)
        pieces.append(hidden)
    np.testing.assert_allclose(jnp.concatenate(pieces, axis=1), hidden_of(m, params, tokens), atol=2e-5)


def test_axes_match_the_parameters(model):
    m, params = model
    axes = transformer.param_axes(m, VOCAB)
    is_axes = {"is_leaf": lambda x: isinstance(x, tuple)}
    assert jax.tree.structure(params) == jax.tree.structure(jax.tree.map(lambda _: 0, axes, **is_axes))
    ranks = jax.tree.map(lambda a, p: len(a) == p.ndim and p.dtype == jnp.float32, axes, params, **is_axes)
    assert jax.tree.all(ranks)


def test_depth_and_tail_have_the_layers_asked_for(model):
    m, params = model
    gates = [p for path, p in jax.tree_util.tree_flatten_with_path(params)[0] if "'gate'" in jax.tree_util.keystr(path)]
    assert sum(p.shape[0] if p.ndim == 3 else 1 for p in gates) == m.layers
    assert params["stack"]["blocks"]["layer_0"]["ff"]["gate"].shape[0] == m.layers // len(m.layer_pattern)


def test_layers_run_in_the_order_of_the_pattern(tiny, draw_params, hidden_of):
    """A stack of three gives what a group of two and a tail of one with the same weights give."""
    tiny.model.layers = 3
    params = draw_params(tiny.model, VOCAB)
    layers = params["stack"]["blocks"]["layer_0"]
    pick = lambda which: jax.tree.map(lambda x: x[which], layers)  # noqa: E731
    regrouped = {
        **params,
        "stack": {"blocks": {"layer_0": pick(slice(0, 1)), "layer_1": pick(slice(1, 2))}},
        "tail": {"blocks": {"layer_0": pick(2)}},
    }
    whole = hidden_of(tiny.model, params, tokens_of(1))
    tiny.model.layer_pattern = ("full", "full")
    np.testing.assert_allclose(hidden_of(tiny.model, regrouped, tokens_of(1)), whole, atol=1e-5)


@pytest.mark.parametrize("spec, sees_order", [("full", True), ("full-norope", False)])
def test_without_rotary_the_order_of_earlier_tokens_is_lost(tiny, draw_params, hidden_of, spec, sees_order):
    tiny.model.layers, tiny.model.layer_pattern = 1, (spec,)
    params = draw_params(tiny.model, VOCAB)
    tokens = tokens_of(1)
    swapped = tokens[:, jnp.array([3, 1, 0, 2, 6, 5, 4, 7, 10, 9, 8, 11])]
    gap = jnp.abs(hidden_of(tiny.model, params, tokens) - hidden_of(tiny.model, params, swapped))[0, -1].max()
    assert (gap > 1e-3) == sees_order


def test_a_window_sees_that_many_tokens(tiny, draw_params, hidden_of):
    tiny.model.layers, tiny.model.layer_pattern = 1, ("window:3",)
    params = draw_params(tiny.model, VOCAB)
    tokens = tokens_of(1)
    base = hidden_of(tiny.model, params, tokens)[0, -1]
    moved = [hidden_of(tiny.model, params, tokens.at[0, s].set((tokens[0, s] + 1) % VOCAB))[0, -1] for s in range(T)]
    assert [bool(jnp.abs(x - base).max() > 1e-4) for x in moved] == [False] * (T - 3) + [True] * 3


def test_rotary_is_relative(tiny, draw_params, hidden_of):
    params, positions = draw_params(tiny.model, VOCAB), jnp.arange(T)[None]
    shifted = hidden_of(tiny.model, params, tokens_of(1), positions + 100)
    np.testing.assert_allclose(shifted, hidden_of(tiny.model, params, tokens_of(1), positions), atol=1e-4)


def test_a_tied_head_is_the_embedding(tiny, draw_params, forward):
    tiny.model.tied_embedding = True
    params = draw_params(tiny.model, VOCAB)
    assert "head" not in params
    np.testing.assert_array_equal(transformer.head_DV(tiny.model, params), params["embedding"].T)
    grad = jax.grad(lambda p: (forward(tiny.model, VOCAB, p, tokens_of(1))[1][..., :VOCAB] ** 2).sum())(params)
    # As an output every true row counts, not just those of the input.
    assert ((jnp.abs(grad["embedding"]).max(axis=1) > 0) == (jnp.arange(384) < VOCAB)).all()


def test_bfloat16_compute_is_near_float32(tiny, draw_params, hidden_of):
    params = draw_params(tiny.model, VOCAB)
    exact = hidden_of(tiny.model, params, tokens_of(2))
    tiny.model.compute_dtype = "bfloat16"
    low = hidden_of(tiny.model, params, tokens_of(2))
    assert low.dtype == jnp.bfloat16 and exact.dtype == jnp.float32
    error = jnp.abs(low.astype(jnp.float32) - exact)
    assert 0 < error.mean() < 0.05
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(transformer.empty_cache(tiny.model, 1, 4)))


def test_rematerialisation_changes_no_gradient(tiny, draw_params, hidden_of):
    params, grads = draw_params(tiny.model, VOCAB), []
    for remat in ("none", "dots", "full"):
        tiny.model.remat = remat
        grads.append(jax.jit(jax.grad(lambda p: (hidden_of(tiny.model, p, tokens_of(1)) ** 3).sum()))(params))
    for a, *others in zip(*map(jax.tree.leaves, grads), strict=True):
        for b in others:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("vocab, padded", [(1, 128), (128, 128), (129, 256), (300, 384)])
def test_the_vocabulary_is_padded(tiny, vocab, padded):
    shapes = jax.eval_shape(lambda: transformer.init_params(tiny.model, vocab, jax.random.key(0)))
    assert shapes["embedding"].shape[0] == shapes["head"].shape[1] == transformer.padded_vocab(vocab) == padded


def test_initial_parameters_follow_the_key(tiny):
    init = jax.jit(lambda key: transformer.init_params(tiny.model, VOCAB, key))
    one, same, other = (init(jax.random.key(k)) for k in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, same))
    assert not jnp.array_equal(one["embedding"], other["embedding"])
    gate = one["stack"]["blocks"]["layer_0"]["ff"]["gate"]
    assert not jnp.allclose(gate[0], gate[1])  # each layer starts with weights of its own
    np.testing.assert_allclose(gate.std(), tiny.model.dim**-0.5, rtol=0.05)
    assert all(
        (scale == 1).all() for path, scale in jax.tree_util.tree_flatten_with_path(one)[0] if path[-1].key == "scale"
    )


def test_nothing_is_promoted_in_rank(tiny, params, tokenizer):
    tokens, problem = jnp.ones((1, 4), jnp.int32), ""
    with jax.numpy_rank_promotion("raise"):
        try:
            jax.eval_shape(lambda p: transformer.apply(tiny.model, tokenizer.vocab_size, p, *[tokens] * 3), params)
        except ValueError as error:
            problem = str(error)
    assert not problem
