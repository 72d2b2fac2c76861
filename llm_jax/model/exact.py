"""Arithmetic whose bits do not depend on what is computed together: the same for one token, a batch, or a whole row.

How XLA adds up a product or a sum depends on the shape of the whole array, and on what it is fused with. Here tokens
are computed in blocks of one shape, one after the other, in a loop whose body is the same in every program; and each
query attends to the keys of its row by itself. Backward, gradients are those of the ordinary operations.

For one device, in float32. What stands outside of the blocks only copies, looks up and scales.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.model.attention import Mask

BLOCK = 8  # tokens, or rows, that are computed together
LEAST = 2  # turns of a loop: one of a single turn is dissolved into its surroundings, and fused with them


def by_blocks(function: Callable, *trees):
    """`function` of arrays (B, T, ...), in which no token depends on another: on blocks (BLOCK, 1, ...) of them."""
    B, T = jax.tree.leaves(trees)[0].shape[:2]
    cut = lambda x: blocks(x.reshape(B * T, 1, *x.shape[2:]), BLOCK)  # noqa: E731
    joined = lambda y: y.reshape(-1, *y.shape[3:])[: B * T].reshape(B, T, *y.shape[3:])  # noqa: E731
    return jax.tree.map(joined, jax.lax.map(lambda part: function(*part), jax.tree.map(cut, trees)))


def blocks(x: jax.Array, size: int) -> jax.Array:
    """(N, ...) -> (blocks, size, ...), LEAST blocks or more; zeros fill the last."""
    count = max(LEAST, -(-len(x) // size))
    return jnp.pad(x, [(0, count * size - len(x)), *[(0, 0)] * (x.ndim - 1)]).reshape(count, size, *x.shape[1:])


def query_by_query(function: Callable, q_BTNH, k_BKHS, v_BKSH, mask: Mask) -> jax.Array:
    """`function(q, k, v, mask)`, as attention of a cache: BLOCK rows together, of each one query at a time."""
    B, T = q_BTNH.shape[:2]

    def of_rows(part):
        q, k, v, mask = part

        def of_query(one):
            q, positions, segments = one
            return function(q, k, v, Mask(positions, segments, mask.k_positions_BS, mask.k_segments_BS))[:, 0]

        by_query = lambda x: jnp.moveaxis(blocks(jnp.moveaxis(x, 1, 0), 1), 1, 2)  # noqa: E731
        outs = jax.lax.map(of_query, tuple(map(by_query, (q, mask.q_positions_BT, mask.q_segments_BT))))
        return jnp.moveaxis(outs, 0, 1)[:, :T]

    parts = jax.tree.map(lambda x: blocks(x, BLOCK), (q_BTNH, k_BKHS, v_BKSH, mask))
    out = jax.lax.map(of_rows, parts)
    return out.reshape(-1, *out.shape[2:])[:B]


def with_gradient_of(plain: Callable, forward: Callable) -> Callable:
    """`forward`, which computes what `plain` does; its gradient is that of `plain`."""
    run = jax.custom_vjp(forward)
    run.defvjp(lambda *args: (forward(*args), args), lambda args, g: jax.vjp(plain, *args)[1](g))
    return run


def on_tokens(module: nnx.Module, method: str, *arrays):
    """`module.method(*arrays)`, exactly; no token of its output depends on another token."""
    graph, state = nnx.split(module)
    plain = lambda state, *arrays: getattr(nnx.merge(graph, state), method)(*arrays)  # noqa: E731
    exact = lambda state, *arrays: by_blocks(functools.partial(plain, state), *arrays)  # noqa: E731
    return with_gradient_of(plain, exact)(state, *arrays)


def attend(function: Callable, *arrays) -> jax.Array:
    """`function(q, k, v, mask)`, exactly."""
    return with_gradient_of(function, functools.partial(query_by_query, function))(*arrays)


def log_probs(logits_of: Callable, head_VD, hidden_BTD) -> jax.Array:
    """The log-probabilities of all next tokens (B, T, V), exactly; no gradient. `logits_of(head_VD, hidden_BTD)`."""
    return by_blocks(lambda hidden: jax.nn.log_softmax(logits_of(head_VD, hidden), axis=-1), hidden_BTD)


def picked(logits_of: Callable, head_VD, hidden_BTD, targets_BT) -> jax.Array:
    """Of those, that of each target; logits exist for a block at a time."""

    def of_block(hidden, targets):
        # As it stands in `log_probs`: nothing is fused into it.
        log_p = jax.lax.optimization_barrier(jax.nn.log_softmax(logits_of(head_VD, hidden), axis=-1))
        return jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]

    return by_blocks(of_block, hidden_BTD, targets_BT)
