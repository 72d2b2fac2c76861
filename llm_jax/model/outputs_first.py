"""Weights as decoding reads them: outputs first, and in int8 if wanted.

A decoding step multiplies every matrix with a few rows. With the weights as the left operand, (outputs, inputs), a CPU
does that up to three times as fast as with them on the right (32 rows, 768 x 2048, float32: 77 GFLOP/s and 28).

Weight-only int8 keeps a matrix as int8 with one float32 scale for each output, multiplied in the activations' dtype: a
quarter of float32's bytes to hold and to read, half of bfloat16's.
"""

import dataclasses

import jax
import jax.numpy as jnp

INPUTS = {"q": 1, "k": 1, "v": 1, "o": 2, "gate": 1, "up": 1, "down": 1}  # leading axes that a product sums over


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OutputsFirst:
    values: jax.Array  # outputs, then inputs; the compute dtype or int8
    scale: jax.Array | None  # of int8: float32, in the shape of the outputs

    @classmethod
    def of(cls, weight: jax.Array, inputs: int, dtype, int8: bool) -> "OutputsFirst":
        """From a weight with `inputs` leading axes that a product sums over."""
        values = jnp.transpose(weight, rotated(range(weight.ndim), inputs))
        if not int8:
            return cls(values.astype(dtype), None)
        scale = jnp.max(jnp.abs(values), axis=tuple(range(-inputs, 0))) / 127
        spread = jnp.maximum(scale, 1e-30).reshape(*scale.shape, *(1,) * inputs)
        return cls(jnp.round(values / spread).astype(jnp.int8), scale)

    def product(self, x: jax.Array, inputs: int) -> jax.Array:
        """Contracts x's last `inputs` axes; in x's dtype."""
        last = lambda n: tuple(range(n - inputs, n))  # noqa: E731
        values = self.values.astype(x.dtype)
        y = jax.lax.dot_general(values, x, ((last(values.ndim), last(x.ndim)), ((), ())))
        y = jnp.transpose(y, rotated(range(y.ndim), values.ndim - inputs))
        return y if self.scale is None else y * self.scale.astype(x.dtype)

    def turned(self, inputs: int, dtype, int8: bool) -> "OutputsFirst":
        """Itself: it is so already."""
        return self

    def dense(self, inputs: int) -> jax.Array:
        """The weight again, inputs first; float32."""
        values = self.values.astype(jnp.float32)
        if self.scale is not None:
            values *= self.scale.reshape(*self.scale.shape, *(1,) * inputs)
        return jnp.transpose(values, rotated(range(values.ndim), values.ndim - inputs))


def product(x: jax.Array, weight: jax.Array | OutputsFirst, inputs: int) -> jax.Array:
    """Contracts x's last `inputs` axes with the weight's inputs, in x's dtype."""
    if isinstance(weight, OutputsFirst):
        return weight.product(x, inputs)
    dims = tuple(range(x.ndim - inputs, x.ndim)), tuple(range(inputs))
    return jax.lax.dot_general(x, weight.astype(x.dtype), (dims, ((), ())))


def rotated(axes, first: int) -> tuple:
    """The axes with the first ones at the end."""
    return (*axes[first:], *axes[:first])


def outputs_first(group: dict, dtype, int8: bool) -> dict:
    """One group of layers with its matrices turned; other weights in the dtype, but norms' scales and routers."""

    def turn(path, leaf):
        name = path[-1].key
        if not isinstance(leaf, jax.Array):
            return leaf.turned(INPUTS[name], dtype, int8)
        is_expert = leaf.ndim == 3 and path[-2].key == "ff"
        if name in INPUTS and not is_expert:
            return OutputsFirst.of(leaf, INPUTS[name], dtype, int8)
        return leaf if name in ("scale", "router") else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(turn, group, is_leaf=lambda x: not isinstance(x, dict))
