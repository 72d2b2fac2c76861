"""Grain: rows on disk -> this host's part of the batch of a step. The loader's whole state is the step.

The global order of rows is a pure function of the seed: `batch(step)` is rows [step*B, (step+1)*B) of an endless
stream that is shuffled anew each epoch, and host h of H reads the h-th of its H equal blocks.
"""

from collections.abc import Iterator
from pathlib import Path

import grain
import numpy as np

from llm_jax import rows
from llm_jax.config import UserError

EPOCHS = 10**6  # endless for us; Grain cannot slice its own endless stream


def dataset(path: Path, batch: int, seed: int, host: int = 0, hosts: int = 1) -> grain.MapDataset:
    """An endless MapDataset: element `step` is host's {field: int32 [batch/hosts, T+1]} of that step.

    Raises UserError when the rows are missing or empty, or the batch does not divide over the hosts.
    """
    if not path.is_file():
        raise UserError(f"no rows at {path}; run stage `data` first")
    if batch % hosts:
        raise UserError(f"a batch of {batch} rows does not divide over {hosts} hosts")
    source = grain.sources.ArrayRecordDataSource(str(path))
    if len(source) == 0:
        raise UserError(f"{path} holds no rows; the corpus is empty")
    stream = grain.MapDataset.source(source).seed(seed).shuffle().repeat(EPOCHS).map(rows.from_bytes)
    return stream.batch(batch // hosts)[host::hosts]


def batches(path: Path, batch: int, seed: int, start: int, host: int = 0, hosts: int = 1) -> Iterator[dict]:
    """The batches from step `start` on, read ahead by Grain's threads."""
    stream = dataset(path, batch, seed, host, hosts)[start:]
    return iter(stream.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))


def targets(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows [B, T+1] -> the arrays of a training step: tokens, positions, segments, targets, weights (B, T)."""
    same_segment = batch["segment_ids"][:, 1:] == batch["segment_ids"][:, :-1]
    weights = batch["loss_mask"][:, 1:] * same_segment * (batch["segment_ids"][:, 1:] > 0)
    return {
        "tokens": batch["tokens"][:, :-1],
        "positions": batch["positions"][:, :-1],
        "segments": batch["segment_ids"][:, :-1],
        "targets": batch["tokens"][:, 1:],
        "weights": weights.astype(np.float32),
    }


def read_all(path: Path) -> list[bytes]:
    """Every row of a (small) file, in order."""
    source = grain.sources.ArrayRecordDataSource(str(path))
    return [source[i] for i in range(len(source))]
