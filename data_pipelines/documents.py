"""Reading and writing records: `document` {id, source, text, split} as .jsonl, .jsonl.gz, .parquet or .txt files."""

import glob
import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from llm_jax.config import UserError

KINDS = ".txt, .jsonl, .jsonl.gz or .parquet"
SHARD_NUMBER = re.compile(r"([-_]?(of[-_])?\d+)+$")
VALIDATION_PERCENT = 5


def read_text(path: Path) -> str:
    """The file as UTF-8, unpacked if its name ends in .gz. Raises UserError naming the file and the first bad byte."""
    try:
        return (gzip.open if path.suffix == ".gz" else open)(path, "rb").read().decode("utf-8")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is no whole gzip file ({error}); leave it out") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid UTF-8 (byte {error.start}); convert it, or leave it out") from error


def split_of(text: str) -> str:
    percent = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 100
    return "val" if percent < VALIDATION_PERCENT else "train"


def keep_one_to_train(records: list[dict]) -> list[dict]:
    """The records; where all few of them fell to validation, the first is to be trained on."""
    if records and all(record["split"] == "val" for record in records):
        records[0]["split"] = "train"
    return records


def matching(pattern: str, kinds: str) -> list[Path]:
    """The files of a glob, in order. Raises UserError, which names the kinds wanted, when there is none."""
    paths = [Path(p) for p in sorted(glob.glob(os.path.expanduser(pattern), recursive=True)) if os.path.isfile(p)]
    if not paths:
        raise UserError(f"no file matches {pattern!r}; give a glob of {kinds} files")
    return paths


def read_documents(pattern: str) -> Iterator[dict]:
    """Documents of the .txt (one each), .jsonl, .jsonl.gz and .parquet files that match a glob, one file after another.

    Raises UserError when nothing matches, a file is not UTF-8, or a line is no object with a `text`.
    """
    for path in matching(pattern, KINDS):
        for number, record in read_records(path):
            yield document_of(path, number, record)


def read_records(path: Path) -> Iterator[tuple[int, object]]:
    """(line or row, what it holds) of a file, without holding the file in memory; a .txt is one record."""
    if path.suffix == ".parquet":
        yield from enumerate(read_parquet(path), 1)
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        for number, line in read_lines(path):
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise UserError(f"{path} line {number}: not a JSON object with a string `text`") from error
    else:
        yield 1, {"id": path.name, "source": "text", "text": read_text(path)}


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of those that are not blank. Raises UserError as `read_text` does."""
    at = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8")
                at += len(line)
                if text.strip():
                    yield number, text
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is no whole gzip file ({error}); leave it out") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid UTF-8 (byte {at + error.start}); convert it, or leave it out") from error


def read_parquet(path: Path) -> Iterator[dict]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                yield from batch.to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is no whole parquet file ({error}); leave it out") from error


def document_of(path: Path, number: int, record: object) -> dict:
    """Lone surrogates, which are no Unicode, become U+FFFD."""
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise UserError(f"{path} line {number}: not a JSON object with a string `text`")
    text = record["text"].encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    split = record["split"] if record.get("split") in ("train", "val") else split_of(text)
    id_ = str(record.get("id", f"{path.name}:{number}"))
    return {"id": id_, "source": source_of(path, record), "text": text, "split": split}


def source_of(path: Path, record: dict) -> str:
    """What the record says, or its file's name without the number that files of one set have. It names a folder."""
    name = SHARD_NUMBER.sub("", path.name.partition(".")[0]) or "text"
    return re.sub(r"[^\w-]", "_", str(record.get("source") or name))


def read_jsonl(path: Path) -> list[dict]:
    # Not splitlines(): text in a record may have other ends of lines, such as U+2028, as they are.
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def write_jsonl(path: Path, records: Iterable[dict]) -> None:
    """All lines or none: a reader never sees half a file."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    partial.replace(path)


def write_whole(path: Path, text: str) -> None:
    """All or nothing: a reader never sees half a file. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(path)
