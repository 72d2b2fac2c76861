"""What an engine holds in memory: told when it is made, and refused where there is no room for it."""

import math
import os
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from llm_jax import sharding
from llm_jax.config import UserError
from llm_jax.model import transformer
from llm_jax.sampling.slots import cache_lengths, makers, placed

MEMINFO = Path("/proc/meminfo")  # Linux


def tell(
    model: ConfigDict,
    vocab_size: int,
    mesh: Mesh,
    slots: int,
    length: int,
    int8_weights: bool = False,
    int8_cache: bool = False,
    **_,
) -> None:
    """Prints to stderr the bytes that the cache has when it is full; it begins small and grows with the rows.

    Raises UserError, which names slots x length, where it and the weights as decoding reads them take more than is
    free: on each device of an accelerator, on the host of CPUs.
    """
    make, _ = makers((model.to_json(), vocab_size, 0), slots, length, int8_cache)
    full = lambda: make(cache_lengths(length)[-1])  # noqa: E731
    cache = taken(mesh, jax.eval_shape(full), placed(mesh, full))
    dtype = jnp.int8 if int8_weights else jnp.dtype(model.compute_dtype)
    _, state = transformer.abstract(model, vocab_size)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), nnx.to_pure_dict(state))
    weights = taken(mesh, shapes, sharding.named_tree(mesh, transformer.param_axes(model, vocab_size)))
    said = f"{slots} slot{'s' * (slots > 1)} x {length:,} tokens: {shown(cache)}"
    if cache + weights > (room := free(mesh)):
        what = f"a cache of {said}, beside weights of {shown(weights)}, and {shown(room)} of memory are free"
        raise UserError(f"{what}; give fewer slots, or a shorter data.sequence_length")
    if jax.process_index() == 0:
        print(f"cache of {said} when it is full", file=sys.stderr, flush=True)


def check_copy(params, mesh: Mesh) -> None:
    """Raises UserError, which names the sizes, where (abstract) parameters have no room on the devices of this process,
    which it needs to sample with others."""
    size, room = taken(mesh, params, jax.tree.map(lambda x: x.sharding, params)), free(mesh)
    if size > room:
        what = f"to sample, each process copies all weights onto its own devices: {shown(size)}"
        where = "the host" if on_cpu(mesh) else f"each of {mesh.size}"
        mend = "give each process more devices; over several hosts one model cannot sample yet"
        raise UserError(f"{what} on {where}, where {shown(room)} of memory are free; {mend}")


def taken(mesh: Mesh, shapes, places) -> int:
    """Bytes on one device; of CPUs, on all that share the host."""
    parts = zip(jax.tree.leaves(shapes), jax.tree.leaves(places), strict=True)
    of_one = sum(math.prod(place.shard_shape(x.shape)) * x.dtype.itemsize for x, place in parts)
    return of_one * (len(mesh.local_devices) if on_cpu(mesh) else 1)


def free(mesh: Mesh) -> float:
    """Bytes that a device has left, or the host of CPUs; without end where nobody says."""
    if not on_cpu(mesh):
        stats = mesh.local_devices[0].memory_stats() or {}
        return stats.get("bytes_limit", math.inf) - stats.get("bytes_in_use", 0)
    if MEMINFO.exists() and (found := re.search(r"MemAvailable: +(\d+) kB", MEMINFO.read_text(encoding="utf-8"))):
        return 1024 * int(found[1])  # with what the system would give up for a program, as copies of files
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def on_cpu(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "cpu"


def shown(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
