"""Log-likelihoods from hidden states, a chunk of tokens at a time: full B x T x V logits never exist."""

import functools

import jax
import jax.numpy as jnp

from llm_jax.model.attention import capped
from llm_jax.sharding import axes_of, constrain, on_tokens, scattered

TOKENS = ("batch", "length")
HIDDEN = (*TOKENS, "residual")
IN_AXES = (HIDDEN, (None, "vocab"), TOKENS, TOKENS)  # of hidden, head, targets, weights


def logits_of(hidden_BTD: jax.Array, head_DV: jax.Array, vocab_size: int, cap: float = 0.0) -> jax.Array:
    """Float32 logits, held by the model's `logit_cap`; the columns that pad the vocabulary are -1e30."""
    logits = jnp.einsum(
        "...d,dv->...v", hidden_BTD, head_DV.astype(hidden_BTD.dtype), preferred_element_type=jnp.float32
    )
    logits = capped(logits, cap)
    if logits.shape[-1] == vocab_size:
        return logits
    return jnp.where(columns(logits) < vocab_size, logits, -1e30)


def columns(logits: jax.Array) -> jax.Array:
    """The index of each logit in the vocabulary, in the shape of the logits."""
    return first_column(logits) + jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)


def first_column(logits: jax.Array) -> jax.Array:
    """Of those that this device has."""
    return jax.lax.axis_index(axes_of("vocab")) * logits.shape[-1]


def target_logits(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the logit of each target, log of the sum of exp of all logits), whichever devices have them."""
    axes = axes_of("vocab")
    top = jax.lax.pmax(jax.lax.stop_gradient(logits.max(axis=-1)), axes)
    log_z = top + jnp.log(jax.lax.psum(jnp.exp(logits - top[..., None]).sum(axis=-1), axes))
    column = targets - first_column(logits)
    here = (column >= 0) & (column < logits.shape[-1])
    picked = jnp.take_along_axis(logits, jnp.where(here, column, 0)[..., None], axis=-1)[..., 0]
    return jax.lax.psum(jnp.where(here, picked, 0), axes), log_z


def chunks_of(x_BT: jax.Array, chunk_tokens: int) -> jax.Array:
    """(B, T, ...) -> (chunks, B, T / chunks, ...): the fewest chunks of at most `chunk_tokens` tokens."""
    B, T = x_BT.shape[:2]
    count = next(n for n in range(1, T + 1) if T % n == 0 and (B * T // n <= chunk_tokens or n == T))
    return jnp.moveaxis(x_BT.reshape(B, count, T // count, *x_BT.shape[2:]), 1, 0)


def joined(chunks: jax.Array) -> jax.Array:
    """(chunks, B, T / chunks, ...) -> (B, T, ...)"""
    x = jnp.moveaxis(chunks, 0, 1)
    return x.reshape(len(x), -1, *x.shape[3:])


def all_of(hidden: jax.Array) -> jax.Array:
    """Whole hidden states, for products with this device's columns of the head."""
    return jax.lax.all_gather(hidden, axes_of("residual"), axis=hidden.ndim - 1, tiled=True)


def gathered(head_DV: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """On every device all rows of the head, of which it needs its columns; cast before, so that less is sent."""
    return constrain(head_DV.astype(dtype), None, "vocab")


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def cross_entropy(
    hidden_BTD, head_DV, targets_BT, weights_BT, vocab_size: int, chunk_tokens: int, cap: float = 0.0
) -> jax.Array:
    """Sum over tokens of weight x -log p(target), in nats, float32. Not differentiable in the weights.

    At most `chunk_tokens` tokens of a device have logits at a time. The gradient of the logits is formed in the forward
    pass, while they exist: the backward pass neither keeps nor recomputes them.
    """

    def local(hidden, head, targets, weights):
        loss, _, _ = nats(hidden, head, targets, weights, vocab_size, chunk_tokens, cap, False)
        return (loss[None, None],)

    head_DV = gathered(head_DV, hidden_BTD.dtype)
    (loss,) = on_tokens(local, IN_AXES, (TOKENS,))(hidden_BTD, head_DV, targets_BT, weights_BT)
    return loss.sum()


def _cross_entropy_forward(hidden_BTD, head_DV, targets_BT, weights_BT, vocab_size, chunk_tokens, cap):
    def local(hidden, head, targets, weights):
        loss, d_hidden, d_head = nats(hidden, head, targets, weights, vocab_size, chunk_tokens, cap, True)
        # Each device knows what its columns add.
        d_hidden = jax.lax.psum_scatter(d_hidden, axes_of("residual"), scatter_dimension=2, tiled=True)
        return loss[None, None], d_hidden, scattered(d_head)

    run = on_tokens(local, IN_AXES, (TOKENS, HIDDEN, ("embed", "vocab")))
    loss, d_hidden_BTD, d_head_DV = run(hidden_BTD, gathered(head_DV, hidden_BTD.dtype), targets_BT, weights_BT)
    return loss.sum(), (d_hidden_BTD, d_head_DV.astype(head_DV.dtype))


def nats(hidden_BTD, head_DV, targets_BT, weights_BT, vocab_size: int, chunk_tokens: int, cap: float, gradient: bool):
    """(loss, its gradients in hidden and head, or None without `gradient`) of the tokens of one device."""

    def chunk(carry, inputs):
        loss, d_head_DV = carry
        hidden, targets, weights = inputs
        logits = logits_of(hidden, head_DV, vocab_size, cap)
        picked, log_z = target_logits(logits, targets)
        loss += jnp.sum(weights * (log_z - picked))
        if not gradient:
            return (loss, d_head_DV), None
        one_hot = columns(logits) == targets[..., None]
        d_logits = (jnp.exp(logits - log_z[..., None]) - one_hot) * weights[..., None]
        if cap:  # the derivative of cap tanh(x / cap); what pads the vocabulary has none
            slope = 1 - (logits / cap) ** 2
            d_logits = d_logits * jnp.where(columns(logits) < vocab_size, slope, 0)
        d_logits = d_logits.astype(hidden.dtype)
        # In the compute dtype, as every other weight's gradient: in bfloat16 half of the memory, and of what is sent.
        d_head_DV += jnp.einsum("btd,btv->dv", hidden, d_logits)
        return (loss, d_head_DV), jnp.einsum("btv,dv->btd", d_logits, head_DV)

    inputs = tuple(chunks_of(x, chunk_tokens) for x in (all_of(hidden_BTD), targets_BT, weights_BT))
    start = (jnp.float32(0), jnp.zeros(head_DV.shape if gradient else (), head_DV.dtype))
    (loss, d_head_DV), d_hidden = jax.lax.scan(chunk, start, inputs)
    return (loss, joined(d_hidden), d_head_DV) if gradient else (loss, None, None)


def _cross_entropy_backward(vocab_size, chunk_tokens, cap, residuals, g):
    d_hidden_BTD, d_head_DV = residuals
    return (g * d_hidden_BTD).astype(d_hidden_BTD.dtype), g * d_head_DV, None, None


cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def logprobs_BT(hidden_BTD, head_DV, targets_BT, vocab_size: int, chunk_tokens: int, cap: float = 0.0) -> jax.Array:
    """log p(target) of every token, differentiable; each chunk's logits are recomputed in the backward pass."""

    def local(hidden, head, targets):
        @jax.checkpoint
        def chunk(inputs):
            hidden, targets = inputs
            picked, log_z = target_logits(logits_of(hidden, head, vocab_size, cap), targets)
            return picked - log_z

        out = jax.lax.map(chunk, (chunks_of(all_of(hidden), chunk_tokens), chunks_of(targets, chunk_tokens)))
        return (joined(out),)

    (out_BT,) = on_tokens(local, IN_AXES[:3], (TOKENS,))(hidden_BTD, gathered(head_DV, hidden_BTD.dtype), targets_BT)
    return out_BT
