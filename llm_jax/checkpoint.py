"""Orbax checkpoints of a stage: parameters, optimizer state and a JSON record, in one atomic save.

The record (`meta`) carries the step, the config, the stage's identity, its parent, the tokenizer's hash, checksums of
parameters, optimizer state and itself, and whatever else the stage needs to continue exactly (RL: its prompt cursor).
"""

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from llm_jax.config import UserError, differences
from llm_jax.files import permitted

FORMAT_VERSION = 3  # of the record, and of a run's config.json
T = TypeVar("T")


class Damaged(UserError):
    """A checkpoint that is not what was saved."""


class Gone(UserError):
    """A checkpoint that was deleted between two looks at it."""


@jax.jit
def _checksum(x: jax.Array) -> jax.Array:
    """Sum of the bits, each word weighted by its place, modulo 2^32: the same on every sharding."""
    whole = not jnp.issubdtype(x.dtype, jnp.floating)
    bits = x.astype(jnp.uint32) if whole else jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    return jnp.sum(bits.ravel() * (jax.lax.iota(jnp.uint32, bits.size) * 2 + 1), dtype=jnp.uint32)


def checksums(tree) -> dict[str, int]:
    flat = named_leaves(tree)
    return dict(zip(flat, map(int, jax.device_get([_checksum(leaf) for leaf in flat.values()])), strict=True))


def named_leaves(tree) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


@jax.jit
def _finite(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.isfinite(leaf).all() for leaf in leaves]


def shapes(tree) -> dict[str, list[int]]:
    return {name: list(leaf.shape) for name, leaf in named_leaves(tree).items()}


def digest(sums: dict[str, int]) -> str:
    """Checksums in one: what tells parameters from others."""
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()[:16]


def folder(workdir: Path, stage: str) -> Path:
    return Path(workdir).absolute() / stage / "checkpoints"


def written(workdir: Path, stage: str) -> float | None:
    """When the newest whole checkpoint of a stage was written, in seconds since 1970; None where there is none."""
    times = []
    for path in folder(workdir, stage).glob("*"):
        with contextlib.suppress(FileNotFoundError):  # just deleted for a newer one
            if path.name.isdigit():  # one that is still being written has another name
                times.append(path.stat().st_mtime)
    return max(times, default=None)


class Checkpoints:
    """The checkpoints of one stage. Who only reads deletes nothing: no old ones, and not what a killed save left."""

    def __init__(self, workdir: Path, stage: str, keep: int | None = None, read_only: bool = False):
        self.stage, self.path = stage, folder(workdir, stage)
        if not read_only and jax.process_index() == 0:
            for left in self.path.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(left)
        if not read_only:
            self.path.mkdir(parents=True, exist_ok=True)
        self._links = contextlib.ExitStack()
        self.best: int | None = None  # a step that is kept beside the newest
        options = ocp.CheckpointManagerOptions(preservation_policy=keep and Kept(self, keep), create=False)
        self._manager = ocp.CheckpointManager(self._links.enter_context(without_patterns(self.path)), options=options)

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def newest(self, read: Callable[[int], T]) -> T:
        """What `read` gives of the newest step that is whole; a line names each damaged one that is newer.

        Raises UserError when no step is whole.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                return read(step)
            except Gone:
                self._manager.reload()
                if sorted(self._manager.all_steps(), reverse=True) == steps:
                    raise
                return self.newest(read)
            except Damaged as error:
                if step == steps[-1]:
                    mend = f"there is none before it: move {self.path.parent} away to have the stage done again"
                    raise UserError(f"{error}; {mend}") from error
                print(f"warning: {error}; the one before is used", file=sys.stderr, flush=True)
        raise Gone(f"{self.path} holds no checkpoint any more; run the same command again")

    def put_aside(self, after: int) -> None:
        """Renames the damaged ones after a step, which would be in the way of those to come."""
        for step in [step for step in self._manager.all_steps() if step > after]:
            if jax.process_index() == 0:
                place = self.path / str(step)
                number = sum(1 for _ in self.path.glob(f"{step}.damaged*"))
                place.rename(self.path / f"{step}.damaged{number or ''}")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("put aside")
        self._manager.reload()

    def save(self, step: int, params, optimizer_state, meta: dict[str, Any]) -> None:
        """Starts a save of the state after `step` steps; `wait` or the next save finishes it.

        Raises FloatingPointError, and saves nothing, when a number of the state is not finite.
        """
        state = named_leaves({"params": params, "optimizer": optimizer_state})
        for name, finite in zip(state, jax.device_get(_finite(list(state.values()))), strict=True):
            if not finite:
                what = f"{name} is not finite, so it is not saved; the last checkpoint is kept"
                raise FloatingPointError(f"{self.stage}: after step {step} {what}")
        sums = {"checksums": checksums(params), "optimizer_checksums": checksums(optimizer_state)}
        meta = {**meta, "format": FORMAT_VERSION, "step": step, **sums, "shapes": shapes(params)}
        items = {"params": ocp.args.StandardSave(params), "meta": ocp.args.JsonSave({**meta, "sha256": sha256(meta)})}
        if sums["optimizer_checksums"]:  # parameters that nobody trains have none
            items["optimizer"] = ocp.args.StandardSave(optimizer_state)
        self._manager.save(step, args=ocp.args.Composite(**items))

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()
        self._links.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def meta(self, step: int) -> dict[str, Any]:
        """The record. Raises UserError as `restore` does."""
        record = self._read(step, meta=ocp.args.JsonRestore()).meta
        if not isinstance(record, dict) or record.pop("sha256", None) != sha256(record):
            raise Damaged(f"{self.path}/{step} is damaged: the checksums of its record differ")
        return record

    def restore(self, step: int, params, optimizer_state):
        """State like the given abstract trees (ShapeDtypeStructs with shardings) -> (params, optimizer state).

        Raises Damaged when the files do not read back or their checksums do not match, and UserError when they are of
        another model or may not be read.
        """
        meta = self.meta(step)
        self._check_shapes(step, params, meta)
        restored = self._read(
            step, params=ocp.args.StandardRestore(params), optimizer=ocp.args.StandardRestore(optimizer_state)
        )
        self._check(step, restored.params, meta["checksums"])
        self._check(step, restored.optimizer, meta["optimizer_checksums"])
        return restored.params, restored.optimizer

    def restore_params(self, step: int, params):
        """The parameters alone. Raises UserError as `restore` does."""
        meta = self.meta(step)
        self._check_shapes(step, params, meta)
        restored = self._read(step, params=ocp.args.StandardRestore(params)).params
        self._check(step, restored, meta["checksums"])
        return restored

    def _read(self, step: int, **items):
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax, TensorStore and JSON each have their own
            place = self.path / str(step)
            if not place.exists():
                raise Gone(f"{place} is gone: it was deleted meanwhile; run the same command again") from error
            if denied := unreadable(place):
                raise UserError(f"{denied} may not be read by this user; ask its owner for the permission") from error
            reason = " ".join(str(error).split())[:200]
            raise Damaged(f"{place} is damaged: it does not read back ({reason})") from error

    def _check_shapes(self, step: int, params, meta: dict[str, Any]) -> None:
        if changed := differences(meta["shapes"], shapes(params)):
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            what = f"{self.path}/{step} is of another model ({'; '.join(changed[:3])}{more})"
            raise UserError(f"{what}; use the config that it was trained with")

    def _check(self, step: int, tree, sums: dict[str, int]) -> None:
        if changed := sorted(name for name, _ in checksums(tree).items() ^ sums.items()):
            raise Damaged(f"{self.path}/{step} is damaged: checksums differ, first that of {changed[0]}")


@dataclasses.dataclass
class Kept(PreservationPolicy):
    """Which checkpoints of a store stay: the newest ones, and the best one where it has noted one."""

    store: Checkpoints
    newest: int

    def should_preserve(self, checkpoints: Sequence, *, context) -> list[bool]:
        old = len(checkpoints) - self.newest
        return [at >= old or info.step == self.store.best for at, info in enumerate(checkpoints)]


@contextlib.contextmanager
def without_patterns(path: Path) -> Iterator[Path]:
    """The path, or a link to it where it has what a glob takes for a pattern: Orbax puts it into globs as it is."""
    if glob.escape(str(path)) == str(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="llm_jax_") as place:
        link = Path(place) / "checkpoints"
        link.symlink_to(path)
        yield link


def sha256(meta: dict[str, Any]) -> str:
    """Of a record, as JSON has it."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(meta)), sort_keys=True).encode()).hexdigest()


def unreadable(folder: Path) -> Path | None:
    """The first of a folder and what is in it that this user may not read."""
    for path in (folder, *sorted(folder.rglob("*"))):
        if not permitted(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK):
            return path
    return None


def existing(workdir: Path, stage: str) -> Checkpoints:
    """The checkpoints of a stage that has some, to be read. Raises UserError when it has none."""
    place = folder(workdir, stage)
    try:
        there = place.is_dir()
    except PermissionError as error:
        raise UserError(f"{place} may not be read by this user; ask its owner for the permission") from error
    if not there or (store := Checkpoints(workdir, stage, read_only=True)).latest() is None:
        raise UserError(f"{workdir} has no checkpoint of stage {stage!r}; run it first with --stages={stage}")
    return store


def check_identity(identity: dict[str, Any], meta: dict[str, Any], where: Path) -> None:
    """Raises UserError, with the differing keys, when `meta` is of a stage with another identity."""
    if changed := differences(meta["identity"], identity):
        raise UserError(f"{where} holds another run ({'; '.join(changed)}); use another --workdir or the old config")


def abstract_like(tree, shardings):
    """Shapes and dtypes of `tree` with the given shardings, as `restore` wants them."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def to_host(metrics: dict) -> dict[str, float]:
    return {key: np.asarray(value).item() for key, value in jax.device_get(metrics).items()}
