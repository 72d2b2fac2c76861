"""Low-rank adapters (LoRA, Hu et al. 2021): a projection gives x W + (alpha / rank) (x A) B, and W stays as it is.

An adapter's tree is that of the parameters with {"a", "b"} in the place of each adapted matrix, and nothing else.
`attached` puts it onto parameters, in the form that every forward takes; `merged` adds it to them.
"""

import dataclasses
import functools
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from llm_jax.model.outputs_first import INPUTS, OutputsFirst, product
from llm_jax.sharding import constrain, named

Tree = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapted:
    """A matrix and its adapter. Those of a stack of layers have an axis of the layers in front."""

    base: jax.Array | OutputsFirst
    a: jax.Array  # inputs, then the rank
    b: jax.Array  # the rank, then outputs
    scale: float = dataclasses.field(metadata={"static": True})

    def product(self, x: jax.Array, inputs: int) -> jax.Array:
        """Contracts x's last `inputs` axes; in x's dtype."""
        inside = product(x, self.a, inputs)
        return product(x, self.base, inputs) + self.scale * spread(inside, self.b)

    def turned(self, inputs: int, dtype, int8: bool) -> "Adapted":
        """For decoding. It is not merged: in bfloat16 a small change would be lost in rounding, in int8 a large one."""
        base = self.base
        if isinstance(base, jax.Array):
            base = OutputsFirst.of(base, inputs, dtype, int8)
        return Adapted(base, self.a.astype(dtype), self.b.astype(dtype), self.scale)


@jax.custom_vjp
def spread(inside: jax.Array, b: jax.Array) -> jax.Array:
    """`product(inside, b, 1)`: the rank's few numbers of each token to all outputs.

    The gradient of b has the few on the left. Left to itself, JAX has the gradient of the outputs there, which XLA
    first copies, transposed: an eighth of the step's CPU time (1,024 tokens of SmolLM2-135M).
    """
    return product(inside, b, 1)


def _spread_forward(inside, b):
    return spread(inside, b), (inside, b)


def _spread_backward(kept, gradient):
    inside, b = kept
    outs = tuple(range(inside.ndim - 1, gradient.ndim))
    tokens = tuple(range(inside.ndim - 1))
    of_inside = jax.lax.dot_general(gradient, b.astype(gradient.dtype), ((outs, tuple(range(1, b.ndim))), ((), ())))
    of_b = jax.lax.dot_general(inside, gradient, ((tokens, tokens), ((), ())))
    return of_inside, of_b.astype(b.dtype)


spread.defvjp(_spread_forward, _spread_backward)


def adapter_of(leaf, axes_tree: Tree, projections: tuple[str, ...], *trees: Tree, path: tuple[str, ...] = ()) -> Tree:
    """The adapter tree of leaf(path, axes, *parts): axes of the parameters, and what `trees` have at the same place."""
    out: Tree = {}
    for name, axes in axes_tree.items():
        parts, place = [tree[name] for tree in trees], (*path, name)
        if isinstance(axes, dict):
            inside = adapter_of(leaf, axes, projections, *parts, path=place)
            out |= {name: inside} if inside else {}
        elif name in projections and "expert" not in axes:
            out[name] = leaf(place, axes, *parts)
    return out


def cut(axes: tuple, name: str) -> tuple[slice, slice, slice]:
    """Of a weight: its axes that stack layers, its inputs, its outputs."""
    first = int(axes[0] == "layers")
    last = first + INPUTS[name]
    return slice(0, first), slice(first, last), slice(last, None)


def adapter_axes(axes_tree: Tree, projections: tuple[str, ...]) -> Tree:
    """The logical axes of an adapter, from those of the parameters. The rank lies whole on every device."""

    def leaf(path: tuple[str, ...], axes: tuple) -> dict[str, tuple]:
        layers, ins, outs = (axes[part] for part in cut(axes, path[-1]))
        return {"a": (*layers, *ins, None), "b": (*layers, None, *outs)}

    return adapter_of(leaf, axes_tree, projections)


def init(axes_tree: Tree, shapes: Tree, lora: ConfigDict, key: jax.Array) -> Tree:
    """A fresh adapter, float32, for parameters of these axes and shapes: A uniform, within 1 / sqrt(inputs), B zero."""

    def leaf(path: tuple[str, ...], axes: tuple, weight) -> dict[str, jax.Array]:
        layers, ins, outs = (weight.shape[part] for part in cut(axes, path[-1]))
        own, bound = jax.random.fold_in(key, zlib.crc32("/".join(path).encode())), math.prod(ins) ** -0.5
        a = jax.random.uniform(own, (*layers, *ins, lora.rank), jnp.float32, -bound, bound)
        return {"a": a, "b": jnp.zeros((*layers, lora.rank, *outs), jnp.float32)}

    return adapter_of(leaf, axes_tree, tuple(lora.projections), shapes)


def scale_of(values: ConfigDict) -> float:
    """Of x A B, by the values of a section `lora`."""
    return values.alpha / values.rank


def attached(adapter: Tree, params: Tree, scale: float) -> Tree:
    """The parameters, with an `Adapted` in the place of each matrix of the adapter."""
    out = dict(params)
    for name, part in adapter.items():
        is_leaf = set(part) == {"a", "b"}
        out[name] = Adapted(params[name], **part, scale=scale) if is_leaf else attached(part, params[name], scale)
    return out


def adapters(params: Tree) -> list[tuple[jax.Array, jax.Array]]:
    """A and B of each adapted matrix of parameters that `attached` made."""
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, Adapted))
    return [(x.a, x.b) for x in leaves if isinstance(x, Adapted)]


def detached(params: Tree) -> Tree:
    """The parameters that `attached` was given, uncopied."""
    is_adapted = lambda x: isinstance(x, Adapted)  # noqa: E731
    return jax.tree.map(lambda x: x.base if is_adapted(x) else x, params, is_leaf=is_adapted)


def frozen(params: Tree, axes_tree: Tree, dtype: str) -> Tree:
    """Parameters as they lie under an adapter; the given ones are deleted one by one, as they are turned.

    In bfloat16: matrices and tables; norms, biases and routers stay float32. In int8: the matrices of `INPUTS`, with
    one float32 scale for each output; experts and tables in bfloat16.
    """

    def leaf(path, axes: tuple, weight: jax.Array):
        kept = kept_as(path[-1].key, axes, dtype)
        if not kept:
            return weight
        out = _int8(weight, axes, path[-1].key) if kept == "int8" else _bfloat16(weight)
        weight.delete()
        return out

    return jax.tree_util.tree_map_with_path(leaf, axes_tree, params, is_leaf=lambda x: isinstance(x, tuple))


def abstract_frozen(params: Tree, axes_tree: Tree, dtype: str, mesh: Mesh) -> Tree:
    """Shapes and shardings of what `frozen` makes, of those of the parameters."""

    def leaf(path, axes: tuple, weight: jax.ShapeDtypeStruct):
        kept, name = kept_as(path[-1].key, axes, dtype), path[-1].key
        if not kept:
            return weight
        turn = functools.partial(_int8, axes=axes, name=name) if kept == "int8" else _bfloat16
        places = frozen_axes(axes, name) if kept == "int8" else axes
        with_place = lambda x, names: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=named(mesh, *names))  # noqa: E731
        return jax.tree.map(with_place, jax.eval_shape(turn, weight), places)

    return jax.tree_util.tree_map_with_path(leaf, axes_tree, params, is_leaf=lambda x: isinstance(x, tuple))


def kept_as(name: str, axes: tuple, dtype: str) -> str:
    """What a parameter under an adapter lies in, for `lora.frozen`; "": as it is."""
    if dtype == "float32" or "embed" not in axes or name == "router":
        return ""
    return "int8" if dtype == "int8" and name in INPUTS and "expert" not in axes else "bfloat16"


@jax.jit
def _bfloat16(weight: jax.Array) -> jax.Array:
    return weight.astype(jnp.bfloat16)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _int8(weight: jax.Array, axes: tuple, name: str) -> OutputsFirst:
    turn = functools.partial(OutputsFirst.of, inputs=INPUTS[name], dtype=jnp.int8, int8=True)
    out = jax.vmap(turn)(weight) if axes[0] == "layers" else turn(weight)
    return jax.tree.map(lambda x, names: constrain(x, *names), out, frozen_axes(axes, name))


def frozen_axes(axes: tuple, name: str) -> OutputsFirst:
    """The logical axes of a matrix in int8."""
    layers, ins, outs = (axes[part] for part in cut(axes, name))
    return OutputsFirst((*layers, *outs, *ins), (*layers, *outs))


def merged(params: Tree, axes_tree: Tree) -> Tree:
    """Plain float32 parameters of those that `attached` made: W + (alpha / rank) A B, of W as it was frozen."""

    def leaf(path, axes: tuple, weight):
        return weight.astype(jnp.float32) if isinstance(weight, jax.Array) else _sum(weight, axes, path[-1].key)

    return jax.tree_util.tree_map_with_path(leaf, axes_tree, params, is_leaf=lambda x: isinstance(x, tuple))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _sum(weight: Adapted | OutputsFirst, axes: tuple, name: str) -> jax.Array:
    inputs = INPUTS[name]

    def one(weight):
        base, change = weight, 0.0
        if isinstance(weight, Adapted):
            base, change = weight.base, weight.scale * jnp.tensordot(weight.a, weight.b, 1)
        base = base.dense(inputs) if isinstance(base, OutputsFirst) else base.astype(jnp.float32)
        return base + change

    return constrain(jax.vmap(one)(weight) if axes[0] == "layers" else one(weight), *axes)
