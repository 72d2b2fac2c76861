"""Attention against a loop that says what it means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.config import UserError
from llm_jax.model import attention as attention_module
from llm_jax.model import kernels
from llm_jax.model.attention import LayerSpec, Mask, attention, cached_attention
from llm_jax.model.transformer import training_mask

B, N, K, H = 2, 4, 2, 6


def naive(q, k, v, segments, window: int) -> np.ndarray:
    """Each query over the keys it may see, one at a time, in float64."""
    T = q.shape[1]
    out = np.zeros((B, T, N, H))
    for b, t, n in np.ndindex(B, T, N):
        kv = n // (N // K)
        seen = [s for s in range(t + 1) if segments[b, s] == segments[b, t] and (not window or t - s < window)]
        logits = np.array([q[b, t, n] @ k[b, s, kv] for s in seen]) / np.sqrt(H)
        weights = np.exp(logits - logits.max())
        out[b, t, n] = sum(w * v[b, s, kv] for w, s in zip(weights / weights.sum(), seen, strict=True))
    return out


@pytest.mark.parametrize("window", [0, 1, 3, 5, 100])
@pytest.mark.parametrize("T, block, cached", [(9, 64, False), (9, 64, True), (23, 4, False)])
def test_attention_matches_the_loop(window, T, block, cached, monkeypatch):
    monkeypatch.setattr(attention_module, "BLOCK", block)
    rng = np.random.default_rng(window)
    q, k, v = rng.normal(size=(B, T, N, H)), rng.normal(size=(B, T, K, H)), rng.normal(size=(B, T, K, H))
    segments = np.array([np.repeat([1, 2, 3, 0], [4, 3, T - 8, 1]), [1] * T])
    places = np.broadcast_to(np.arange(T), (B, T))
    mask = Mask(*map(jnp.asarray, (places, segments, places, segments)))
    q32, k32, v32 = (jnp.asarray(x, jnp.float32) for x in (q, k, v))
    if cached:
        ours = cached_attention(q32, k32.transpose(0, 2, 3, 1), v32.swapaxes(1, 2), mask, window)
    else:
        ours = attention(q32, k32, v32, mask, window)
    np.testing.assert_allclose(ours, naive(q, k, v, segments, window), atol=1e-5)


def random_row(T: int, segments: list[int]):
    rng = np.random.default_rng(T)
    q, k, v = (jnp.asarray(rng.normal(size=(B, T, heads, 32)), jnp.float32) for heads in (N, K, K))
    ids = np.stack([np.repeat(np.arange(1, len(segments) + 1), segments), np.ones(T)]).astype(np.int32)
    return (q, k, v), training_mask(jnp.asarray(ids))


def value_and_gradients(function, qkv):
    out, grads = jax.value_and_grad(lambda qkv: jnp.sum(jnp.sin(function(*qkv))))(qkv)
    return [function(*qkv), out, *grads]


@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize("kernel", ["splash", "streamed", "blocked"])
def test_kernels_agree_with_the_reference(window, kernel, mesh, monkeypatch):
    """Forward and gradient; splash runs in Pallas' interpreter."""
    monkeypatch.setattr(attention_module, "STREAM_CHUNK", 64)
    qkv, mask = random_row(256, [100, 90, 66])
    functions = {
        "splash": lambda q, k, v: kernels.splash(q, k, v, mask.q_segments_BT, window, interpret=True),
        "streamed": lambda q, k, v: attention_module.streamed_attention(q, k, v, mask, window),
        "blocked": lambda q, k, v: attention(q, k, v, mask, window),
    }
    with jax.set_mesh(mesh):
        ours = value_and_gradients(jax.jit(functions[kernel]), qkv)
        reference = value_and_gradients(lambda q, k, v: attention_module.dense_attention(q, k, v, mask, window), qkv)
    for a, b in zip(ours, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_splash_refuses_rows_it_cannot_cut(mesh):
    qkv, mask = random_row(96, [96])
    with jax.set_mesh(mesh), pytest.raises(UserError, match="a multiple of 128"):
        attention(*qkv, mask, 0, "splash")


@pytest.mark.parametrize("platform, dtype, head_dim, length, kernel", [
    ("cpu", "float32", 64, 256, "xla"),
    ("gpu", "bfloat16", 64, 256, "cudnn"),
    ("gpu", "float32", 64, 256, "xla"),
    ("gpu", "bfloat16", 36, 256, "xla"),
    ("gpu", "bfloat16", 256, 256, "xla"),
    ("gpu", "bfloat16", 64, 255, "xla"),
    ("tpu", "float32", 64, 256, "splash"),
    ("tpu", "float32", 64, 96, "xla"),
])  # fmt: skip
def test_auto_is_a_kernel_that_can_compute_the_model(tiny_model, platform, dtype, head_dim, length, kernel):
    m = tiny_model.copy_and_resolve_references()
    m.compute_dtype, m.head_dim, m.attention = dtype, head_dim, "auto"
    assert attention_module.kernel_for(platform, m, length) == kernel
    for name in ("xla", "splash", "cudnn"):
        m.attention = name
        if name in (kernel, "xla"):
            assert attention_module.kernel_for(platform, m, length) == name
        else:
            with pytest.raises(UserError, match=f"model.attention is '{name}', which .*attention=auto"):
                attention_module.kernel_for(platform, m, length)


def test_a_query_that_sees_nothing_gives_numbers():
    ones = jnp.ones((1, 2, 1, 4))
    mask = Mask(jnp.array([[0, 1]]), jnp.array([[1, 1]]), jnp.array([[0, 1]]), jnp.array([[2, 2]]))
    assert jnp.isfinite(attention_module.dense_attention(ones, ones, ones, mask, 0)).all()


@pytest.mark.parametrize(
    "text, spec",
    [("full", (0, True)), ("full-norope", (0, False)), ("window:64", (64, True)), ("window:8-norope", (8, False))],
)
def test_layer_specs_are_read(text, spec):
    assert LayerSpec.parse(text) == LayerSpec(*spec)
