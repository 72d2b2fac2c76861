"""Weight-only int8: a matrix as int8 with one float32 scale for each output, multiplied in the activations' dtype.

Decoding reads every weight at every step; a quarter of float32's bytes, half of bfloat16's, are read faster. The layers' matrices are
held so; embedding, head, router and norms stay as they are.
"""

import dataclasses

import jax
import jax.numpy as jnp

CONTRACTED = {"q": 1, "k": 1, "v": 1, "o": 2, "gate": 1, "up": 1, "down": 1}  # leading axes that a product sums over


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8Weight:
    values: jax.Array  # int8, in the shape of the weight
    scale: jax.Array  # float32, in the shape of its outputs

    @classmethod
    def of(cls, weight: jax.Array, contracted: int) -> "Int8Weight":
        axes = tuple(range(contracted))
        scale = jnp.maximum(jnp.max(jnp.abs(weight), axis=axes), 1e-30) / 127
        return cls(jnp.round(weight / scale).astype(jnp.int8), scale)


def quantized(group: dict) -> dict:
    """One group of layers with its matrices in int8; those of experts stay."""

    def quantize(path, leaf):
        name, is_expert = path[-1].key, leaf.ndim == 3 and path[-2].key == "ff"
        return Int8Weight.of(leaf, CONTRACTED[name]) if name in CONTRACTED and not is_expert else leaf

    return jax.tree_util.tree_map_with_path(quantize, group)
