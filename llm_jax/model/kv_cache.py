"""The key/value cache: slot s of a row holds position s, so a row's stale slots lie beyond its position, unseen."""

import jax
import jax.numpy as jnp

Cache = dict[str, list[jax.Array]]  # "k", "v" -> one GBSKH array for each position of the layer pattern, G groups


def empty(groups: int, pattern: int, batch: int, length: int, kv_heads: int, head_dim: int, dtype) -> Cache:
    def zeros():
        return [jnp.zeros((groups, batch, length, kv_heads, head_dim), dtype) for _ in range(pattern)]

    return {"k": zeros(), "v": zeros()}


def write(cache_BSKH: jax.Array, new_BTKH: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """Puts each row's new keys (or values) at its own positions; positions beyond the cache are dropped."""
    rows_B1 = jnp.arange(cache_BSKH.shape[0])[:, None]
    return cache_BSKH.at[rows_B1, positions_BT].set(new_BTKH, mode="drop")
