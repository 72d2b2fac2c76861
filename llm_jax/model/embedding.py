"""The lookup of tokens' embeddings, by hand on a mesh.

Left to itself XLA may add up the gradient of the whole table over the devices, in float32. Here each device looks up
the columns that it holds, for all tokens of the devices that hold the others, and sends them where they belong; the
gradient comes back the same way, and meets its rows at home.
"""

import jax
import jax.numpy as jnp

from llm_jax.sharding import axes_of, on_tokens


def look_up(table_VD: jax.Array, tokens_BT: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Row `token` of the table for each token, as `dtype` -> x_BTD. The gradient is added up in the table's dtype."""

    def local(table, tokens):
        sharers, holders = axes_of("embed"), axes_of("vocab")
        tokens = jax.lax.all_gather(tokens, sharers, tiled=True)
        row = tokens - jax.lax.axis_index(holders) * len(table)
        here = (row >= 0) & (row < len(table))
        x = jnp.where(here[..., None], table[jnp.where(here, row, 0)], 0).astype(dtype)
        if sharers:
            x = jax.lax.all_to_all(x, sharers, split_axis=0, concat_axis=2, tiled=True)
        # All but one holder of a token's row add zeros. They are also those that split the residual stream.
        return (jax.lax.psum_scatter(x, holders, scatter_dimension=2, tiled=True),)

    in_axes, out_axes = (("vocab", "embed"), ("batch", "length")), (("batch", "length", "residual"),)
    (x_BTD,) = on_tokens(local, in_axes, out_axes)(table_VD, tokens_BT)
    return x_BTD
