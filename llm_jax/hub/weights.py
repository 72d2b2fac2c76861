"""Weights by their names in Hugging Face's folders, to and from our parameter tree.

A matrix of theirs is (outputs, inputs), ours inputs first, with heads as axes of their own; layers of ours are stacked.
What is read goes leaf by leaf of our tree, large tables in blocks of rows: the host has no copy of the whole.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from llm_jax.config import UserError
from llm_jax.hub.families import layer_specs, scales_alike
from llm_jax.hub.streaming import Leaf
from llm_jax.model.attention import LayerSpec
from llm_jax.model.outputs_first import INPUTS

TABLES = ("embedding", "head")
BLOCK_BYTES = 4 * 2**20  # of a table, read at a time
DERIVED = ("rotary_emb.inv_freq", "masked_bias", "attn.bias")  # ends of names that some folders have and nobody needs

Path = tuple[str, ...]


class Tensor(Protocol):
    """A tensor in a file, of which rows are read by slicing."""

    shape: tuple[int, ...]

    def __getitem__(self, rows: slice) -> np.ndarray: ...


class Place(NamedTuple):
    """Where a tensor of theirs lies in our tree."""

    path: Path
    at: tuple[int, ...]  # indices of the leading axes that stack layers and experts
    shape: tuple[int, ...]  # of the weight there


def block_names(m: ConfigDict, spec: LayerSpec) -> dict[Path, str]:
    """Path in a block -> name in a layer; {e} is the number of an expert."""
    names = {("attention", name): f"self_attn.{name}_proj.weight" for name in "qkvo"}
    if m.qkv_bias:
        names |= {("attention", f"{name}_bias"): f"self_attn.{name}_proj.bias" for name in "qkv"}
    if m.qk_norm:
        names |= {("attention", f"{name}_norm", "scale"): f"self_attn.{name}_norm.weight" for name in "qk"}
    norms = {"attention_norm": "input_layernorm", "ff_norm": "post_attention_layernorm"}
    if m.post_norms:
        norms |= {"after_attention": "post_attention_layernorm", "ff_norm": "pre_feedforward_layernorm"}
        norms["after_ff"] = "post_feedforward_layernorm"
    names |= {(ours, "scale"): f"{theirs}.weight" for ours, theirs in norms.items()}
    where = "mlp.experts.{e}." if spec.experts else "mlp."
    names |= {("ff", name): f"{where}{name}_proj.weight" for name in ("gate", "up", "down")}
    return names | ({("ff", "router"): "mlp.gate.weight"} if spec.experts else {})


def places(m: ConfigDict, vocab_size: int, shapes: dict[Path, tuple[int, ...]]) -> dict[str, Place]:
    """Every tensor's name -> its place; `shapes` are those of our tree's leaves."""
    out = {
        "model.embed_tokens.weight": Place(("embedding",), (), (vocab_size, m.dim)),
        "model.norm.weight": Place(("norm", "scale"), (), (m.dim,)),
    }
    if not m.tied_embedding:
        out["lm_head.weight"] = Place(("head",), (), (m.dim, vocab_size))
    period = len(m.layer_pattern)
    for i, spec in enumerate(layer_specs(m)):
        group, number = divmod(i, period)
        stacked = group < m.layers // period
        for inside, name in block_names(m, spec).items():
            path = ("stack" if stacked else "tail", "blocks", f"layer_{number}", *inside)
            at = (group,) if stacked else ()
            for e in range(m.experts) if "{e}" in name else (None,):
                index = at if e is None else (*at, e)
                where = Place(path, index, shapes[path][len(index) :])
                out[f"model.layers.{i}.{name.format(e=e)}"] = where
    return out


def their_shape(place: Place) -> tuple[int, ...]:
    """(outputs, inputs) of a matrix; a vector's length."""
    name, shape = place.path[-1], place.shape
    if name == "embedding" or len(shape) == 1:
        return shape
    inputs = 0 if name.endswith("_bias") else INPUTS.get(name, 1)
    if not inputs:
        return (int(np.prod(shape)),)
    return int(np.prod(shape[inputs:])), int(np.prod(shape[:inputs]))


def to_theirs(place: Place, weight: jax.Array) -> jax.Array:
    rows = their_shape(place)
    if place.path[-1] == "embedding" or len(rows) == 1:
        return weight.reshape(rows)
    return weight.reshape(rows[::-1]).T


def leaves_of(m: ConfigDict, vocab_size: int, abstract: dict, tensors: Mapping[str, Tensor]) -> dict:
    """A tree like the abstract one, of leaves that are made of the tensors when they are asked for. Raises UserError as
    `check` does, before any is read."""
    leaves = flat(abstract)
    where = places(m, vocab_size, {path: leaf.shape for path, leaf in leaves.items()})
    check(where, tensors, m.tied_embedding)
    inside: dict[Path, dict[str, Place]] = {path: {} for path in leaves}
    for name, place in where.items():
        inside[place.path][name] = place
    make = lambda path: functools.partial(filled, leaves[path].shape, inside[path], tensors)  # noqa: E731
    return nested({path: Leaf(leaf.shape, make(path)) for path, leaf in leaves.items()})


def filled(shape: tuple[int, ...], where: dict[str, Place], tensors: Mapping[str, Tensor]) -> np.ndarray:
    """A leaf in float32, from the tensors that lie in it; what none fills, as rows that pad a vocabulary, is 0."""
    out = np.zeros(shape, np.float32)
    for name, place in where.items():
        theirs = their_shape(place)
        turned = len(theirs) == 2 and place.path != ("embedding",)
        for start, rows in row_blocks(tensors[name], place):
            at = slice(start, start + len(rows))
            if place.path == ("head",):
                out[:, at] = rows.T
            else:
                flat_out = out[place.at].reshape(theirs[::-1] if turned else (-1, *theirs[1:]))
                flat_out[(slice(None), at) if turned else at] = rows.T if turned else rows
    return out


def row_blocks(tensor: Tensor, place: Place) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows) of a table in blocks; of any other tensor all."""
    rows, step = tensor.shape[0], tensor.shape[0]
    if place.path[-1] in TABLES:
        step = max(1, BLOCK_BYTES // (4 * tensor.shape[1]))
    for start in range(0, rows, step):
        yield start, tensor[start : min(start + step, rows)]


def check(where: dict[str, Place], tensors: Mapping[str, Tensor], tied: bool) -> None:
    """Raises UserError for a tensor that lacks, has another shape, or has no place in the model."""
    for name, place in where.items():
        if name not in tensors:
            raise UserError(f"the weights lack {name}; take all files of the model")
        if tuple(tensors[name].shape) != their_shape(place):
            what = f"{name} is {list(tensors[name].shape)}, and the config makes it {list(their_shape(place))}"
            raise UserError(f"{what}; take config and weights of one model")
    spare = ("lm_head.weight",) if tied else ()  # some folders have the tied table twice
    for name in tensors:
        if name not in where and name not in spare and not name.endswith(DERIVED):
            raise UserError(f"the weights have {name}, which the config's model has not; take those of one model")


def named(m: ConfigDict, vocab_size: int, params: dict) -> Iterator[tuple[str, jax.Array]]:
    """(name, array) of every weight, in Hugging Face's names and orders of axes."""
    leaves = flat(params)
    for name, place in places(m, vocab_size, {path: leaf.shape for path, leaf in leaves.items()}).items():
        weight = leaves[place.path][place.at]
        if place.path == ("embedding",):
            table_VD = weight[:vocab_size]
            weight = table_VD if scales_alike(m) else table_VD * m.dim**0.5
            if m.tied_embedding and not scales_alike(m):
                yield "lm_head.weight", table_VD
        elif place.path == ("head",):
            weight = weight[:, :vocab_size]
        yield name, to_theirs(place, weight)


def flat(tree: dict) -> dict[Path, Any]:
    return {tuple(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def nested(leaves: dict[Path, Any]) -> dict:
    out: dict = {}
    for path, leaf in leaves.items():
        inner = out
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = leaf
    return out
