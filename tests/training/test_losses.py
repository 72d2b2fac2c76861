"""Chunked cross-entropy and log-probabilities against a plain float64 reference."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.training import losses

B, T, D, V, PADDED = 2, 6, 5, 7, 16
CHUNKS = [2, 4, 6, 1000]


def case(seed: int = 0):
    rng = np.random.default_rng(seed)
    hidden, head = rng.normal(size=(B, T, D)), rng.normal(size=(D, PADDED))
    targets = rng.integers(V, size=(B, T))
    weights = rng.uniform(0, 2, size=(B, T)) * (rng.uniform(size=(B, T)) < 0.7)
    return hidden, head, targets, weights


def plain(hidden, head, targets, weights) -> float:
    """Sum of weight x -log softmax over the true vocabulary, in float64."""
    logits = hidden @ head[:, :V]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return float(-(weights * np.take_along_axis(log_p, targets[..., None], -1)[..., 0]).sum())


def slope(function, x: np.ndarray, at: tuple) -> float:
    step = np.zeros_like(x)
    step[at] = 1e-5
    return (function(x + step) - function(x - step)) / 2e-5


def float32(*arrays):
    return [jnp.asarray(a, jnp.float32) if a.dtype == np.float64 else jnp.asarray(a) for a in arrays]


@pytest.mark.parametrize("chunk", CHUNKS)
def test_value_and_gradients_match_the_reference(chunk):
    hidden, head, targets, weights = case()
    h, w, t, m = float32(hidden, head, targets, weights)
    scale = 0.3  # the incoming gradient
    value, (d_hidden, d_head) = jax.value_and_grad(
        lambda h, w: scale * losses.cross_entropy(h, w, t, m, V, chunk), argnums=(0, 1)
    )(h, w)
    np.testing.assert_allclose(value, scale * plain(hidden, head, targets, weights), rtol=1e-5)
    for at in np.ndindex(hidden.shape):
        wanted = scale * slope(lambda x: plain(x, head, targets, weights), hidden, at)
        np.testing.assert_allclose(d_hidden[at], wanted, rtol=1e-4, atol=1e-5)
    for at in np.ndindex(head.shape):
        wanted = scale * slope(lambda x: plain(hidden, x, targets, weights), head, at)
        np.testing.assert_allclose(d_head[at], wanted, rtol=1e-4, atol=1e-5)
    assert not np.asarray(d_head[:, V:]).any()


def test_value_without_gradient_is_the_same():
    arrays = float32(*case(1))
    with_gradient, _ = jax.value_and_grad(losses.cross_entropy)(*arrays, V, 4)
    np.testing.assert_allclose(losses.cross_entropy(*arrays, V, 4), with_gradient, rtol=1e-6)


def test_zero_weights_give_zero_gradients():
    h, w, t, m = float32(*case(2))
    grads = jax.grad(losses.cross_entropy, argnums=(0, 1))(h, w, t, m * 0, V, 4)
    assert not any(np.asarray(g).any() for g in grads)
    one = m.at[:].set(0).at[1, 2].set(1.0)
    d_hidden = np.array(jax.grad(losses.cross_entropy)(h, w, t, one, V, 4))
    assert d_hidden[1, 2].any()
    d_hidden[1, 2] = 0
    assert not d_hidden.any()


def test_padded_columns_have_no_probability():
    h, w, _, _ = float32(*case(3))
    w = w.at[:, V:].set(50.0 * jnp.sign(w[:, :1]))  # as large as they please
    p = jax.nn.softmax(losses.logits_of(h, w, V))
    np.testing.assert_allclose(p[..., :V].sum(-1), 1.0, rtol=1e-6)
    assert not np.asarray(p[..., V:]).any()


@pytest.mark.parametrize("chunk", CHUNKS)
def test_logprobs_match_log_softmax_and_its_gradient(chunk):
    h, w, t, m = float32(*case(4))

    def direct(h, w):
        log_p = jax.nn.log_softmax(jnp.einsum("btd,dv->btv", h, w[:, :V]))
        return jnp.take_along_axis(log_p, t[..., None], -1)[..., 0]

    np.testing.assert_allclose(losses.logprobs_BT(h, w, t, V, chunk), direct(h, w), rtol=1e-5, atol=1e-5)
    ours = jax.grad(lambda h, w: (m * losses.logprobs_BT(h, w, t, V, chunk)).sum(), argnums=(0, 1))(h, w)
    wanted = jax.grad(lambda h, w: (m * direct(h, w)).sum(), argnums=(0, 1))(h, w)
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_capped_logits_have_the_gradient_of_the_cap(chunk):
    """By JAX's own derivative of the whole, whose columns that pad the vocabulary are left out."""
    h, w, t, m = float32(*case(6))
    cap = 1.5

    def direct(h, w):
        log_p = jax.nn.log_softmax(cap * jnp.tanh(jnp.einsum("btd,dv->btv", h, w[:, :V]) / cap))
        return jnp.take_along_axis(log_p, t[..., None], -1)[..., 0]

    def total(h, w):
        return -(m * direct(h, w)).sum()

    np.testing.assert_allclose(losses.logprobs_BT(h, w, t, V, chunk, cap), direct(h, w), rtol=1e-5, atol=1e-5)
    ours = jax.value_and_grad(losses.cross_entropy, argnums=(0, 1))(h, w, t, m, V, chunk, cap)
    wanted = jax.value_and_grad(total, argnums=(0, 1))(h, w)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_hidden_states_come_close_and_keep_their_dtype():
    h, w, t, m = float32(*case(5))
    value, grad = jax.value_and_grad(losses.cross_entropy)(h.astype(jnp.bfloat16), w, t, m, V, 4)
    np.testing.assert_allclose(value, losses.cross_entropy(h, w, t, m, V, 4), rtol=0.02)
    assert value.dtype == jnp.float32 and grad.dtype == jnp.bfloat16


@pytest.mark.parametrize("chunk, count", [(1, 6), (3, 6), (4, 3), (11, 2), (12, 1), (100, 1)])
def test_chunks_are_the_fewest_that_respect_the_limit(chunk, count):
    x = jnp.arange(B * T * D).reshape(B, T, D)
    chunks = losses.chunks_of(x, chunk)
    assert chunks.shape == (count, B, T // count, D)
    np.testing.assert_array_equal(losses.joined(chunks), x)


def largest_float32(function, *arguments) -> int:
    """Elements of the largest float32 array in the compiled program."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return max(math.prod(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", text))


@pytest.mark.parametrize("differentiated", [losses.cross_entropy, losses.logprobs_BT])
def test_the_compiled_program_never_holds_all_logits(differentiated):
    rows, length, width, vocab = 4, 64, 8, 1024
    hidden, head = jnp.ones((rows, length, width)), jnp.ones((width, vocab))
    targets = jnp.zeros((rows, length), jnp.int32)
    weights = (jnp.ones((rows, length)),) if differentiated is losses.cross_entropy else ()
    tokens = rows * length

    def loss(chunk, hidden, head):
        return differentiated(hidden, head, targets, *weights, vocab, chunk).sum()

    gradient = lambda chunk: jax.grad(functools.partial(loss, chunk), argnums=(0, 1))  # noqa: E731
    assert largest_float32(gradient(tokens // 8), hidden, head) <= tokens // 8 * vocab
    assert largest_float32(gradient(tokens), hidden, head) >= tokens * vocab  # so the measure sees them
