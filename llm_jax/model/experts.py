"""A top-k mixture of SwiGLU experts that drops no token (routing as in Qwen3-MoE), and its two auxiliary losses.

Axes beside the usual: M tokens, k experts of a token, C = M x k copies of tokens, E experts, F their feed-forward.
"""

import functools

import jax
import jax.numpy as jnp

from llm_jax import sharding


def mixture(x_BTD, logits_BTE, gate_EDF, up_EDF, down_EFD, k: int) -> tuple[jax.Array, jax.Array]:
    """(output BTD, experts that each token chose BTk); `logits` are the router's, float32.

    On a mesh each device routes its own tokens, so that nothing is sorted across devices. Those along `expert` hold
    different experts: they gather each other's tokens, run what they hold, and add the parts up.
    """
    if jax.sharding.get_abstract_mesh().empty:
        weights_BTk, chosen_BTk = route(logits_BTE, k)
        return run_experts(x_BTD, weights_BTk, chosen_BTk, 0, gate_EDF, up_EDF, down_EFD), chosen_BTk
    # One token at a time, as in decoding, is not split.
    length = "length" if x_BTD.shape[1] % sharding.shards(jax.sharding.get_abstract_mesh(), "length") == 0 else None
    place = lambda *last: sharding.spec(("batch", length, *last))  # noqa: E731
    wide, tall = sharding.spec(("expert", None, "ff")), sharding.spec(("expert", "ff", None))
    expert_axis, ff_axis = sharding.RULES["expert"], sharding.RULES["ff"]

    @functools.partial(
        jax.shard_map,
        in_specs=(place(None), place(None), wide, wide, tall),
        out_specs=(place("residual"), place(None)),
        check_vma=False,
    )
    def run(x_BTD, logits_BTE, *experts):
        weights_BTk, chosen_BTk = route(logits_BTE, k)
        gathered = [jax.lax.all_gather(x, expert_axis, tiled=True) for x in (x_BTD, weights_BTk, chosen_BTk)]
        first = jax.lax.axis_index(expert_axis) * len(experts[0])
        part_BTD = run_experts(*gathered, first, *experts)
        out_BTD = jax.lax.psum_scatter(part_BTD, expert_axis, tiled=True)
        return jax.lax.psum_scatter(out_BTD, ff_axis, scatter_dimension=2, tiled=True), chosen_BTk

    return run(x_BTD, logits_BTE, gate_EDF, up_EDF, down_EFD)


def route(logits_BTE: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """(weights_BTk, chosen_BTk): the k likeliest experts of each token, and their probabilities scaled to sum 1."""
    weights_BTk, chosen_BTk = jax.lax.top_k(jax.nn.softmax(logits_BTE, axis=-1), k)
    return weights_BTk / weights_BTk.sum(axis=-1, keepdims=True), chosen_BTk


def run_experts(x_BTD, weights_BTk, chosen_BTk, first, gate_EDF, up_EDF, down_EFD) -> jax.Array:
    """What the E experts from number `first` on add to the mixture, BTD: copies are sorted by expert, and come back."""
    (B, T, D), k, E = x_BTD.shape, chosen_BTk.shape[-1], len(gate_EDF)
    expert_C = chosen_BTk.ravel() - first
    expert_C = jnp.where((expert_C >= 0) & (expert_C < E), expert_C, E)  # those of other devices come last
    order_C = jnp.argsort(expert_C)
    back_C = jnp.argsort(order_C)
    sizes_E = jnp.sum(expert_C[:, None] == jnp.arange(E)[None], axis=0, dtype=jnp.int32)
    # What a ragged product makes of rows beyond its groups is promised nowhere, in neither direction: zeros here.
    held_C1 = (jnp.arange(B * T * k) < sizes_E.sum())[:, None]
    x_CD = jnp.where(held_C1, taken(x_BTD.reshape(-1, D), order_C, back_C, k), 0)
    hidden_CF = jax.nn.silu(grouped(x_CD, gate_EDF, sizes_E)) * grouped(x_CD, up_EDF, sizes_E)
    out_CD = jnp.where(held_C1, grouped(hidden_CF, down_EFD, sizes_E), 0)
    out_BTkD = taken(out_CD, back_C, order_C, 1).reshape(B, T, k, D)
    return jnp.sum(out_BTkD * weights_BTk[..., None], axis=2).astype(x_BTD.dtype)


def grouped(x_CD: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """Every product with experts: rows of x come in groups, an expert each, and meet their expert's matrix."""
    return jax.lax.ragged_dot(x_CD, w_EDF.astype(x_CD.dtype), sizes_E)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def taken(x_MD: jax.Array, order_C: jax.Array, back_C: jax.Array, k: int) -> jax.Array:
    """Row order[c] // k of x for each c, where `back` is the inverse of `order`.

    Thanks to the inverse the gradient is a gather too. That of plain indexing is a scatter: for a TPU, XLA sorts the
    indices once more for it, and adds up the k copies in x's dtype.
    """
    return x_MD[order_C // k]


def _taken_forward(x_MD, order_C, back_C, k):
    return taken(x_MD, order_C, back_C, k), back_C


def _taken_backward(k, back_C, g_CD):
    return g_CD[back_C].reshape(-1, k, g_CD.shape[1]).sum(axis=1), None, None


taken.defvjp(_taken_forward, _taken_backward)


def load_balance(logits_BTE: jax.Array, chosen_BTk: jax.Array) -> jax.Array:
    """Fedus et al. 2021, eq. 4-6: E x the sum over experts of (share of the copies) x (mean probability).

    1 when both are even, up to E / k when all tokens choose the same. Padding counts as any token.
    """
    E = logits_BTE.shape[-1]
    share_E = jax.nn.one_hot(chosen_BTk, E).mean(axis=(0, 1, 2))
    probability_E = jax.nn.softmax(logits_BTE, axis=-1).mean(axis=(0, 1))
    return E * jnp.sum(share_E * probability_E)


def router_z(logits_BTE: jax.Array) -> jax.Array:
    """Zoph et al. 2022: keeps the router's logits small."""
    return jnp.mean(jax.nn.logsumexp(logits_BTE, axis=-1) ** 2)
