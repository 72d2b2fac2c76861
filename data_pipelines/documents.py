"""Reading and writing records: `document` {id, source, text, split} as .jsonl, .jsonl.gz or .txt files."""

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


def matching(pattern: str, kinds: str) -> list[Path]:
    """The files of a glob, in order. Raises UserError, which names the kinds wanted, when there is none."""
    paths = [Path(p) for p in sorted(glob.glob(os.path.expanduser(pattern), recursive=True)) if os.path.isfile(p)]
    if not paths:
        raise UserError(f"no file matches {pattern!r}; give a glob of {kinds} files")
    return paths


def read_documents(pattern: str) -> Iterator[dict]:
    """Documents of the .txt (one each) and .jsonl or .jsonl.gz files that match a glob.

    Raises UserError when nothing matches, a file is not UTF-8, or a line is no object with a `text`.
    """
    for path in matching(pattern, ".txt, .jsonl or .jsonl.gz"):
        text = read_text(path)
        if not path.name.endswith((".jsonl", ".jsonl.gz")):
            yield {"id": path.name, "source": "text", "text": text, "split": split_of(text)}
            continue
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield parse_line(path, number, line)


def parse_line(path: Path, number: int, line: str) -> dict:
    try:
        record = json.loads(line)
        text = record["text"]
        if not isinstance(text, str):
            raise TypeError
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} line {number}: not a JSON object with a string `text`") from error
    source = re.sub(r"[^\w-]", "_", str(record.get("source", path.stem)))  # it names a folder
    split = record["split"] if record.get("split") in ("train", "val") else split_of(text)
    return {"id": str(record.get("id", f"{path.name}:{number}")), "source": source, "text": text, "split": split}


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
