"""Packed rows on disk: ArrayRecord files of fixed-size int32 records, shared by the packer and the loader.

A row of length T holds T+1 tokens: inputs are all but the last, targets all but the first.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

FIELDS = ("tokens", "segment_ids", "positions", "loss_mask")  # each int32 [T+1]


@dataclasses.dataclass
class Row:
    """tokens; segment_ids from 1 (0 is padding); positions restart in each segment; loss_mask 1 on target tokens."""

    tokens: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    loss_mask: np.ndarray

    def to_bytes(self) -> bytes:
        return np.stack([getattr(self, name) for name in FIELDS]).astype("<i4").tobytes()


def from_bytes(record: bytes) -> dict[str, np.ndarray]:
    fields = np.frombuffer(record, "<i4").reshape(len(FIELDS), -1)
    return dict(zip(FIELDS, fields, strict=True))


def write_rows(path: Path, rows, facts: dict) -> None:
    """Writes `path` (.array_record) and `path` with .json beside it; both appear whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    writer = ArrayRecordWriter(str(partial), "group_size:1")
    count = 0
    for row in rows:
        writer.write(row.to_bytes())
        count += 1
    writer.close()
    partial_json = path.with_suffix(".json.partial")
    partial_json.write_text(json.dumps({**facts, "rows": count}, indent=1))
    partial.replace(path)
    partial_json.replace(path.with_suffix(".json"))


def facts(path: Path) -> dict:
    """What the packer noted about the rows: counts of rows, documents, tokens and bytes."""
    return json.loads(path.with_suffix(".json").read_text())
