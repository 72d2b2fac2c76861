"""A stage's only checkpoint, written leaf by leaf: the host holds one of them at a time.

`checkpoint.Checkpoints` saves what is on a mesh. What is read from files needs none: each leaf is made when it is its
turn to be written, and forgotten. What comes of it is restored like any other checkpoint.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from llm_jax import checkpoint
from llm_jax.config import UserError

CHUNK = 2**20  # numbers that are looked at together


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An array of float32 that is not there yet."""

    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


class OneByOne(ocp.type_handlers.NumpyHandler):
    """Writes leaves in turns."""

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)

    async def serialize(self, values, infos, args=None):
        for leaf, info, arg in zip(values, infos, args, strict=True):
            await self._write(leaf, info, arg)
        return []

    async def _write(self, leaf, info, arg):  # whose names go, and the array with them
        for written in await super().serialize([leaf.make()], [info], [arg]):
            written.result()

    def memory_size(self, values):
        return [(0, 0) for _ in values]  # for Orbax's log, which nobody reads


class Record(ocp.JsonCheckpointHandler):
    """Its item is a function, called when everything else is written: then the checksums are known."""

    async def async_save(self, directory, item=None, args=None):
        self._make = args.make
        return []

    def finalize(self, directory):
        (directory / self._filename).write_bytes(json.dumps(self._make()).encode())


@ocp.args.register_with_handler(Record, for_save=True, for_restore=True)
@dataclasses.dataclass
class RecordSave(ocp.args.CheckpointArgs):
    make: Callable[[], dict[str, Any]]


def save(workdir: Path, stage: str, params: dict, meta: dict[str, Any]) -> None:
    """Saves a tree of leaves as step 1 of a stage. Raises UserError for a number that is not finite."""
    sums: dict[str, int] = {}

    def looked_at(path, leaf: Leaf) -> Leaf:
        name = jax.tree_util.keystr(path)

        def make() -> np.ndarray:
            array = leaf.make()
            sums[name] = checksum(array, name)
            return array

        return Leaf(leaf.shape, make)

    def record() -> dict[str, Any]:
        noted = {"format": checkpoint.FORMAT_VERSION, "step": 1, "checksums": sums, "optimizer_checksums": {}}
        whole = {**meta, **noted, "shapes": checkpoint.shapes(params)}
        return {**whole, "sha256": checkpoint.sha256(whole)}

    arrays = (jax.Array, ocp.type_handlers.ArrayHandler())  # without which Orbax warns
    registry = ocp.type_handlers.create_type_handler_registry((Leaf, OneByOne()), arrays)
    # Not compressed, for the sake of time and memory; weights that were four bits each take half as much disk again.
    writer = ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False)
    handlers = {"params": writer, "meta": Record()}
    items = {
        "params": ocp.args.PyTreeSave(jax.tree_util.tree_map_with_path(looked_at, params)),
        "meta": RecordSave(record),
    }
    path = checkpoint.folder(workdir, stage)
    path.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(create=False, enable_async_checkpointing=False)
    try:
        with (
            checkpoint.without_patterns(path) as place,
            ocp.CheckpointManager(place, options=options, item_handlers=handlers) as manager,
        ):
            manager.save(1, args=ocp.args.Composite(**items))
    finally:  # what this save, or a killed one before it, has left half-written
        for left in path.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(left)


def checksum(array: np.ndarray, name: str) -> int:
    """As `checkpoint.checksums` has it, of an array on the host."""
    bits, total = array.reshape(-1).view(np.uint32), 0
    place = 2 * np.arange(CHUNK, dtype=np.uint32) + 1
    for start in range(0, bits.size, CHUNK):
        part = bits[start : start + CHUNK]
        if not np.isfinite(part.view(np.float32)).all():
            raise UserError(f"the weights have numbers that are not finite, in {name}; fetch them again")
        total += int(np.dot(part, place[: part.size])) + 2 * start * int(part.sum(dtype=np.uint32))
    return total % 2**32
