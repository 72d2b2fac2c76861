"""Writers of documents: files appear under their names when whole; the same documents give the same bytes."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data_pipelines.web.records import OF_THE_PIPELINE

FORMATS = {"jsonl": ".jsonl.gz", "parquet": ".parquet"}
# Where each document is from and how it scored, in this order; None where that is not known.
PROVENANCE = ("source", "url", "date", "file_path", "warc_offset", "language", "language_score", "quality", "pii")
ROWS = 1000  # of a row group


class Shard(PipelineStep):
    """Passes documents on and writes them to FOLDER/RANK.jsonl.gz, as they are; for the steps that follow."""

    name, type, suffix = "write", "writer", ".jsonl.gz"

    def __init__(self, folder: str):
        super().__init__()
        self.folder = folder

    def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        path = Path(self.folder) / f"{rank:05}{self.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            yield from self.write(data, file)
        partial.replace(path)

    def write(self, data, raw: BinaryIO) -> Iterator[Document]:
        yield from written_jsonl(data, raw, self.record, level=1)

    def record(self, doc: Document) -> dict:
        kept = {key: value for key, value in doc.metadata.items() if key not in OF_THE_PIPELINE}
        return {"id": doc.id, "text": doc.text, **kept}


class Documents(Shard):
    """The pipeline's output: each document with its provenance, as jsonl.gz or parquet."""

    def __init__(self, folder: str, format_: str):
        super().__init__(folder)
        self.format, self.suffix = format_, FORMATS[format_]

    def write(self, data, raw: BinaryIO) -> Iterator[Document]:
        if self.format == "parquet":
            yield from written_parquet(data, raw, self.record)
        else:
            yield from written_jsonl(data, raw, self.record, level=6)

    def record(self, doc: Document) -> dict:
        kept = {"source": "web"} | super().record(doc)
        named = {"id": doc.id, "text": doc.text, **{key: kept.pop(key, None) for key in PROVENANCE}}
        return named | {key: value for key, value in kept.items() if key not in named}


def written_jsonl(data, raw: BinaryIO, record, level: int) -> Iterator[Document]:
    with gzip.GzipFile("", "wb", level, raw, mtime=0) as file:  # no time and no name in the header
        for doc in data:
            line = json.dumps(record(doc), ensure_ascii=False, default=str)
            file.write(line.encode("utf-8", "replace") + b"\n")
            yield doc


def written_parquet(data, raw: BinaryIO, record) -> Iterator[Document]:
    """Flat columns, zstd; what else a record of the input had is JSON in `metadata`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"warc_offset": pa.int64(), "language_score": pa.float64(), "quality": pa.float64(), "pii": pa.int64()}
    names = ("id", "text", *PROVENANCE)
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in (*names, "metadata")])

    def row(doc: Document) -> dict:
        columns = record(doc)
        made = {name: cell(columns.pop(name), schema.field(name).type) for name in names}
        return made | {"metadata": json.dumps(columns, ensure_ascii=True, default=str) if columns else None}

    rows: list[dict] = []
    with pq.ParquetWriter(raw, schema, compression="zstd") as writer:
        for doc in data:
            rows.append(row(doc))
            if len(rows) == ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
            yield doc
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))


def cell(value, kind):
    """A column has one type, whatever the metadata of a record of the input was; None for what is not of it."""
    import pyarrow as pa

    if kind == pa.string():
        return None if value is None else str(value).encode("utf-8", "replace").decode()
    if kind == pa.int64():
        return value if type(value) is int and abs(value) < 2**63 else None
    return float(value) if isinstance(value, (int, float)) and abs(value) < 2**1000 else None
