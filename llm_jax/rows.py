"""Packed rows on disk, shared by the packer and the loader.

A row of length T holds T+1 tokens: inputs are all but the last, targets all but the first. A row set is a folder of
shards, `00000.array_record` and so on, each with a .json that counts what is in it.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from llm_jax.config import UserError
from llm_jax.files import read_json

# Each [T+1]: token ids; segments from 1 (0 is padding); positions restart in each segment; 1 on what may be a target.
FIELDS = ("tokens", "segment_ids", "positions", "loss_mask")
# Half the time of ArrayRecord's own choice to write, for 1 % more bytes (rows of 2,048): 2.8 a token, 8 uncompressed.
OPTIONS = "group_size:1,zstd:1"
HASHES = 2**64  # documents' hashes are added up modulo this


def to_bytes(fields: np.ndarray) -> Iterator[bytes]:
    """Rows [n, 4, T+1], in the order of FIELDS -> a record each: the size of an integer in bytes, then the integers."""
    count, width = len(fields), fields.shape[1] * fields.shape[2]
    size = 2 if fields.max(initial=0) < 2**16 else 4
    packed = np.empty((count, 1 + size * width), np.uint8)
    packed[:, 0] = size
    packed[:, 1:] = fields.reshape(count, width).astype(f"<u{size}").view(np.uint8)
    return (row.tobytes() for row in packed)


def from_bytes(record: bytes) -> dict[str, np.ndarray]:
    """{field: int32 [T+1]} of a record."""
    fields = np.frombuffer(record, f"<u{record[0]}", offset=1).reshape(len(FIELDS), -1).astype(np.int32)
    return dict(zip(FIELDS, fields, strict=True))


class ShardWriter:
    """Writes a shard, which appears under its name when `close` notes what is in it."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.rows = path, 0
        self._partial = path.with_suffix(".partial")
        self._writer = ArrayRecordWriter(str(self._partial), OPTIONS)

    def write(self, fields: np.ndarray) -> None:
        """Rows [n, 4, T+1]."""
        for record in to_bytes(fields):
            self._writer.write(record)
        self.rows += len(fields)

    def close(self, counts: dict) -> None:
        """`counts` are numbers that add up over shards; `rows` joins them."""
        self._writer.close()
        partial = self.path.with_suffix(".json.partial")
        partial.write_text(json.dumps({**counts, "rows": self.rows}, indent=1), encoding="utf-8")
        self._partial.replace(self.path)
        partial.replace(self.path.with_suffix(".json"))


def write_shard(path: Path, fields: np.ndarray, counts: dict) -> None:
    writer = ShardWriter(path)
    writer.write(fields)
    writer.close(counts)


def row_sets(folder: Path) -> list[Path]:
    """The folders in `folder` that hold rows, in the order of their names."""
    return sorted({path.parent for path in folder.glob("*/*.array_record")})


def shards(folder: Path) -> list[Path]:
    """The shards of a row set that have a row."""
    paths = sorted(folder.glob("*.array_record"))
    return [path for path in paths if counts_of(path)["rows"]]


def counts_of(shard: Path) -> dict:
    return read_json(shard.with_suffix(".json"))


def facts(*folders: Path) -> dict:
    """What the packer counted, added up over the shards of row sets, and the shares that follow from it."""
    sums: dict = {"rows": 0}
    for folder in folders:
        for path in folder.glob("*.array_record"):
            for name, count in counts_of(path).items():
                sums[name] = sums.get(name, 0) + count
    if "hash" in sums:
        sums["hash"] %= HASHES
    if "places" in sums:
        sums["padding"] = 1 - sums["tokens"] / max(1, sums["places"])
        sums["pieces_per_document"] = sums["pieces"] / max(1, sums["documents"] - sums["dropped"])
        sums["bytes_per_token"] = sums["bytes"] / max(1, sums["targets"] - sums["documents"])  # each has an end
    return sums


def check_made(made: Path) -> None:
    """Raises UserError when the row sets beside a `prepared.json` hold other rows than it says were made."""
    counts = read_json(made).get("counts", {})
    for name in (name for name in counts if "/" in name):
        folder = made.parent / name
        there, noted = facts(folder)["rows"], counts[name].get("rows", 0)
        if there != noted:
            mend = f"move {made.parent} away to have stage 'data' done again"
            raise UserError(f"{folder} holds {there} rows, and {noted} were made; {mend}")


def check(shard: Path) -> None:
    """Raises RuntimeError when the shard does not hold the rows that its counts say."""
    reader = ArrayRecordReader(str(shard))
    held, noted = reader.num_records(), counts_of(shard)["rows"]
    reader.close()
    if held != noted:
        raise RuntimeError(f"{shard} holds {held} rows, but {noted} were written")
