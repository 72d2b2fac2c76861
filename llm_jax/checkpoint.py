"""Orbax checkpoints of a stage: parameters, optimizer state and a JSON record, in one atomic save.

The record (`meta`) carries the step, the config, the stage's identity, its parent, the tokenizer's hash, checksums of
the parameters and whatever else the stage needs to continue exactly (RL: its prompt cursor).
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from llm_jax.config import UserError, differences

FORMAT_VERSION = 2  # of the record, and of a run's config.json


@jax.jit
def _checksum(x: jax.Array) -> jax.Array:
    """Sum of the bits, each word weighted by its place, modulo 2^32: the same on every sharding."""
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32).ravel()
    return jnp.sum(bits * (jax.lax.iota(jnp.uint32, bits.size) * 2 + 1), dtype=jnp.uint32)


def checksums(params) -> dict[str, int]:
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    sums = jax.device_get([_checksum(leaf) for _, leaf in flat])
    return {jax.tree_util.keystr(path): int(s) for (path, _), s in zip(flat, sums, strict=True)}


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
    """The checkpoints of one stage."""

    def __init__(self, workdir: Path, stage: str, keep: int | None = None):
        self.stage, self.path = stage, folder(workdir, stage)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(self.path, options=options)

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, params, optimizer_state, meta: dict[str, Any]) -> None:
        """Starts a save of the state after `step` steps; `wait` or the next save finishes it."""
        meta = {**meta, "format": FORMAT_VERSION, "step": step, "checksums": checksums(params)}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(params),
                optimizer=ocp.args.StandardSave(optimizer_state),
                meta=ocp.args.JsonSave(meta),
            ),
        )

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def meta(self, step: int) -> dict[str, Any]:
        return self._read(step, meta=ocp.args.JsonRestore()).meta

    def restore(self, step: int, params, optimizer_state):
        """State like the given abstract trees (ShapeDtypeStructs with shardings) -> (params, optimizer state).

        Raises UserError when the files do not read back or their checksums do not match.
        """
        restored = self._read(
            step, params=ocp.args.StandardRestore(params), optimizer=ocp.args.StandardRestore(optimizer_state)
        )
        self._check(step, restored.params)
        return restored.params, restored.optimizer

    def restore_params(self, step: int, params):
        """The parameters alone. Raises UserError as `restore` does."""
        restored = self._read(step, params=ocp.args.StandardRestore(params)).params
        self._check(step, restored)
        return restored

    def _read(self, step: int, **items):
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax, TensorStore and JSON each have their own
            reason = " ".join(str(error).split())[:200]
            mend = "delete that folder to use the one before"
            raise UserError(f"{self.path}/{step} is damaged or of another model ({reason}); {mend}") from error

    def _check(self, step: int, params) -> None:
        if checksums(params) != self.meta(step)["checksums"]:
            raise UserError(
                f"{self.path}/{step} is damaged: checksums differ; delete that folder to use the one before"
            )


def existing(workdir: Path, stage: str) -> Checkpoints:
    """The checkpoints of a stage that has some. Raises UserError when it has none."""
    if not folder(workdir, stage).is_dir() or (store := Checkpoints(workdir, stage)).latest() is None:
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
