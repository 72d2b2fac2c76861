"""The key/value cache: slot s of a row holds position s, so a row's stale slots lie beyond its position, unseen.

One array a layer, not one for the stack: a decoding loop then updates each in place, where a stacked cache that goes
through `lax.scan` is copied whole at every step. Keys lie as BKHS and values as BKSH: so both products of a decoding
step read them as they are (keys as BSKH were copied to be transposed: a quarter of the step on a CPU).

In int8, each key and value has a float32 scale of its own: its largest entry over 127.
"""

import jax
import jax.numpy as jnp

Cache = dict[str, list[jax.Array]]  # "k", "v" (and "k_scale" BK1S, "v_scale" BKS1 in int8) -> one for each layer
LENGTH_AXIS = {"k": 3, "v": 2, "k_scale": 3, "v_scale": 2}


def empty(layers: int, batch: int, length: int, kv_heads: int, head_dim: int, dtype) -> Cache:
    B, S, K, H = batch, length, kv_heads, head_dim
    shapes = {"k": ((B, K, H, S), dtype), "v": ((B, K, S, H), dtype)}
    if dtype == jnp.int8:
        shapes |= {"k_scale": ((B, K, 1, S), jnp.float32), "v_scale": ((B, K, S, 1), jnp.float32)}
    return {name: [jnp.zeros(*shape) for _ in range(layers)] for name, shape in shapes.items()}


def length_of(cache: Cache) -> int:
    return cache["v"][0].shape[LENGTH_AXIS["v"]]


def write(layer: dict[str, jax.Array], k_BTKH, v_BTKH, positions_BT) -> dict[str, jax.Array]:
    """Puts each row's new keys and values at its own positions; positions beyond the cache are dropped."""
    new = {"k": k_BTKH, "v": v_BTKH}
    if "k_scale" in layer:
        for name, x in list(new.items()):
            scale = jnp.max(jnp.abs(x.astype(jnp.float32)), axis=-1, keepdims=True) / 127
            new[name] = jnp.round(x / jnp.maximum(scale, 1e-30)).astype(jnp.int8)
            new[f"{name}_scale"] = scale
    rows_B1 = jnp.arange(len(positions_BT))[:, None]
    out = {}
    for name, x_BTKH in new.items():
        at = (rows_B1, slice(None), slice(None), positions_BT)
        at = at if LENGTH_AXIS[name] == 3 else (rows_B1, slice(None), positions_BT)
        out[name] = layer[name].at[at].set(x_BTKH.astype(layer[name].dtype), mode="drop")
    return out


def read(layer: dict[str, jax.Array], dtype) -> tuple[jax.Array, jax.Array]:
    """(keys BKHS, values BKSH)"""
    if "k_scale" not in layer:
        return layer["k"], layer["v"]
    return tuple((layer[name] * layer[f"{name}_scale"]).astype(dtype) for name in ("k", "v"))


def resized(cache: Cache, length: int) -> Cache:
    """The same cache with room for `length` positions: longer, or without the positions beyond."""

    def resize(name: str, x: jax.Array) -> jax.Array:
        axis = LENGTH_AXIS[name]
        if x.shape[axis] > length:
            return jax.lax.slice_in_dim(x, 0, length, axis=axis)
        return jnp.pad(x, [(0, length - n if i == axis else 0) for i, n in enumerate(x.shape)])

    return {name: [resize(name, x) for x in arrays] for name, arrays in cache.items()}


def take_rows(cache: Cache, rows_R: jax.Array) -> Cache:
    return jax.tree.map(lambda x: x[rows_R], cache)


def put_rows(cache: Cache, rows: Cache, slots_R: jax.Array) -> Cache:
    """Puts whole rows at the chosen rows of the cache; a slot beyond the cache is dropped."""
    return jax.tree.map(lambda x, new: x.at[slots_R].set(new, mode="drop"), cache, rows)
