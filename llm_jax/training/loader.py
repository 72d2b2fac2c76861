"""Grain: rows on disk -> this process's rows of the batch of a step. The loader's whole state is the step.

The global order of rows is a pure function of the seed: `batch(step)` is rows [step*B, (step+1)*B) of an endless
stream, of which a process reads those that its devices hold (`sharding.own_rows`). Each source is shuffled anew each
time it is read through; the sources take turns so that after any n rows each has given its share of n, to within one.
"""

import dataclasses
import functools
import heapq
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import grain
import numpy as np
from ml_collections import ConfigDict

from llm_jax import files, rows
from llm_jax.config import UserError
from llm_jax.tables import known

EPOCHS = 10**6  # endless for us; Grain cannot slice its own endless stream


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Row sets, and how many rows of each are read in one pass."""

    folders: tuple[Path, ...]
    sizes: tuple[int, ...]  # rows that are there
    quotas: tuple[int, ...]  # rows in a pass
    first: int = 0  # so many of them are read to their end, one after another, before the others begin; in pass 1 only

    @property
    def rows(self) -> int:
        return sum(self.quotas)

    def lines(self, count: int) -> list[str]:
        """One on each source: its rows, its share, and how often a run of `count` rows reads them."""
        out = []
        for folder, size, quota in zip(self.folders, self.sizes, self.quotas, strict=True):
            share = quota / self.rows
            out.append(f"{folder.name}: {size:,} rows, {share:.1%} of a batch, read {count * share / size:.2f} times")
        return out


def mixture(
    folder: Path,
    epochs: Mapping[str, float] | None = None,
    weights: Mapping[str, float] | None = None,
    first: Sequence[str] = (),
) -> Mixture:
    """The Mixture of the row sets in `folder`: each row is read once a pass, or `epochs[source]` times.

    With `weights`, shares of the rows by source, a pass is as many rows as there are, and `epochs` does not count.
    The sources `first` are read one after another, in this order, before the others.
    Raises UserError when there are no rows, a name is of no source, or the weights leave one out.
    """
    sets = [path for path in rows.row_sets(folder) if rows.shards(path)]
    order = [*first]
    sets.sort(key=lambda path: order.index(path.name) if path.name in order else len(order))  # stable
    names, sizes = [path.name for path in sets], [rows.facts(path)["rows"] for path in sets]
    if not sets:
        raise UserError(f"no rows in {folder}; run stage `data` first, and give it text")
    for key, named in (("data.epochs", epochs), ("data.weights", weights), ("data.first", first)):
        for name in named or ():
            known(f"source in {key}", name, names)
    if weights:
        if missing := sorted(set(names) - set(weights)):
            raise UserError(f"data.weights has no {missing[0]!r}, a source in {folder}; give it a share, 0 for none")
        quotas = apportion(sum(sizes), [weights[name] for name in names])
    else:
        quotas = [round(size * (epochs or {}).get(name, 1)) for name, size in zip(names, sizes, strict=True)]
    chosen = [(path, size, quota) for path, size, quota in zip(sets, sizes, quotas, strict=True) if quota]
    if not chosen:
        raise UserError(f"data.epochs leaves no row of {folder} to read; give one of {', '.join(names)} more")
    return Mixture(*zip(*chosen, strict=True), sum(path.name in first for path, *_ in chosen))


def wanted(folder: Path, data: ConfigDict) -> Mixture:
    """Of the rows in `folder`/pretrain, as the data asks for in `folder`/mixture.json {epochs, first}, where the
    config's section `data` does not say otherwise. Raises UserError as `mixture`."""
    return mixture(folder / "pretrain", epochs_of(folder, data), data.weights, data.first or asked(folder)["first"])


def epochs_of(folder: Path, data: ConfigDict) -> dict[str, float]:
    """How often one pass reads each source, where it is not once."""
    return {**asked(folder)["epochs"], **data.epochs}


def asked(folder: Path) -> dict:
    """What the data asks for, of the sources that are there: a small world may lack some."""
    noted, there = folder / "mixture.json", {path.name for path in rows.row_sets(folder / "pretrain")}
    found = files.read_json(noted) if noted.exists() else {"epochs": {}, "first": []}
    epochs = {name: times for name, times in found["epochs"].items() if name in there}
    return {"epochs": epochs, "first": [name for name in found["first"] if name in there]}


def apportion(total: int, weights: list[float]) -> list[int]:
    """Whole numbers in proportion to the weights that add up to `total`: the largest remainders are rounded up."""
    exact = [total * Fraction(w) / sum(map(Fraction, weights)) for w in weights]
    parts = [math.floor(x) for x in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


@functools.lru_cache(maxsize=4)
def turns(quotas: tuple[int, ...]) -> np.ndarray:
    """Which source each row of a pass is from, uint16 [sum of quotas]: after any n, less than 1 off n times its share.

    The j-th row of a source (from 0) with share r has to come at a place from floor(j / r) to ceil((j + 1) / r) - 1 to
    keep that distance. Such an order exists for any shares (R. Tijdeman, The chairman assignment problem, 1980), and
    the earliest deadline first finds one whenever there is one. About a second for a million rows.
    """
    total = sum(quotas)
    order = np.empty(total, np.uint16)
    taken = [0] * len(quotas)
    waiting = [(0, source) for source, quota in enumerate(quotas) if quota]  # (first place, source)
    ready: list[tuple[int, int]] = []  # (last place, source)
    for place in range(total):
        while waiting and waiting[0][0] <= place:
            source = heapq.heappop(waiting)[1]
            heapq.heappush(ready, (-(-(taken[source] + 1) * total // quotas[source]) - 1, source))
        source = order[place] = heapq.heappop(ready)[1]
        taken[source] += 1
        if taken[source] < quotas[source]:
            heapq.heappush(waiting, (taken[source] * total // quotas[source], source))
    return order


class Turns(grain.transforms.DatasetSelectionMap):
    """Row of the mixture -> (source, row of the source's stream). Grain's own `mix` rounds the shares.

    What comes first does so in the first pass; in all others the sources take turns from the begin, so that a last
    batch that is filled from the next pass is like those before it.
    """

    def __init__(self, mixed: Mixture):
        self.quotas, first = mixed.quotas, mixed.first
        one_by_one = np.repeat(np.arange(first, dtype=np.uint16), self.quotas[:first])
        opening = np.concatenate([one_by_one, first + turns(self.quotas[first:])])
        orders = [opening, turns(self.quotas)] if first else [opening]
        self.passes = [(order, self.ranks(order)) for order in orders]

    def ranks(self, order: np.ndarray) -> np.ndarray:
        """Of each row of a pass its number among the rows of its source, uint32."""
        rank = np.empty(len(order), np.uint32)
        for source, quota in enumerate(self.quotas):
            rank[order == source] = np.arange(quota)
        return rank

    def __len__(self) -> int:
        return EPOCHS * sum(self.quotas)

    def __getitem__(self, index: int) -> tuple[int, int]:
        number, place = divmod(index, sum(self.quotas))
        order, rank = self.passes[min(number, len(self.passes) - 1)]
        source = int(order[place])
        return source, number * self.quotas[source] + int(rank[place])


class Some(grain.transforms.DatasetSelectionMap):
    """Of a stream, the rows with these numbers in each batch, one after the other."""

    def __init__(self, batch: int, numbers: np.ndarray, length: int):
        self.batch, self.numbers, self.length = batch, numbers.tolist(), length // batch * len(numbers)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[int, int]:
        step, place = divmod(index, len(self.numbers))
        return 0, step * self.batch + self.numbers[place]


def dataset(mixed: Mixture, batch: int, seed: int, own: np.ndarray | None = None) -> grain.MapDataset:
    """An endless MapDataset: element `step` is {field: int32 [rows, T+1]} of that step.

    Of the batch, the rows with the numbers `own`, or all.
    """
    streams = []
    for folder in mixed.folders:
        source = grain.sources.ArrayRecordDataSource([str(path) for path in rows.shards(folder)])
        own_seed = zlib.crc32(f"{seed}/{folder.name}".encode())
        streams.append(grain.MapDataset.source(source).seed(own_seed).shuffle().repeat(EPOCHS))
    mix = grain.MapDataset.select_from_datasets
    stream = mix(streams, Turns(mixed)) if len(streams) > 1 else streams[0]
    if own is not None and len(own) < batch:
        stream = mix([stream], Some(batch, own, len(stream)))
    return stream.map(rows.from_bytes).batch(batch if own is None else len(own))


def batches(mixed: Mixture, batch: int, seed: int, start: int, own: np.ndarray | None = None) -> Iterator[dict]:
    """The batches from step `start` on, read ahead by Grain's threads."""
    stream = dataset(mixed, batch, seed, own)[start:]
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


def read_all(folder: Path) -> list[dict[str, np.ndarray]]:
    """{field: int32 [T+1]} of every row of a (small) row set, in order."""
    source = grain.sources.ArrayRecordDataSource([str(path) for path in rows.shards(folder)])
    return [rows.from_bytes(source[i]) for i in range(len(source))]
