"""Reading and writing records: `document` {id, source, text, split} and others, of .txt, JSON and .parquet files."""

import gzip
import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from llm_jax import files
from llm_jax.config import UserError

KINDS = ".txt, .jsonl, .ndjson or .json, also with .gz, or .parquet"
RECORD_KINDS = KINDS.removeprefix(".txt, ")
SUFFIXES = {".txt": "text", ".jsonl": "lines", ".ndjson": "lines", ".json": "json", ".parquet": "parquet"}
BOM = "\ufeff".encode()  # the mark that some programs begin a file with; it is no text
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # JSON's, alone it is no Unicode
SHARD_NUMBER = re.compile(r"([-_]?(of[-_])?\d+)+$")
NAME_BYTES = 200  # of a source, which names a folder
MOST_SOURCES = 200  # more names than that are no sets to mix, but those of single documents
HELD_OUT = ("val", "valid", "validation", "dev", "test", "eval", "evaluation", "held", "heldout")
SPLITS = {"train": "train", "training": "train", **dict.fromkeys(HELD_OUT, "val")}
VALIDATION_PERCENT = 5


class Invalid(Exception):
    """A record that cannot be read; the message names the field."""


def refuse(what: str) -> None:
    raise UserError(what)


def kind_of(path: Path) -> str:
    """What a file of this name holds. Raises UserError for a name that does not say."""
    kind = SUFFIXES.get(Path(path.name.lower().removesuffix(".gz")).suffix)
    if not kind or (kind == "parquet" and path.suffix.lower() == ".gz"):
        raise UserError(f"{path} is of no known kind; give {KINDS} files")
    return kind


def matching(pattern: str, kinds: str) -> list[Path]:
    """The files of a glob, in order. Raises UserError, which names the kinds wanted, when there is none."""
    paths = files.matching(pattern)
    if not paths and Path(pattern).expanduser().is_dir():
        raise UserError(f"{pattern!r} is a folder; give a glob of {kinds} files, as in '{pattern.rstrip('/')}/*'")
    if not paths:
        raise UserError(f"no file matches {pattern!r}; give a glob of {kinds} files")
    return paths


def files_of(pattern: str) -> list[Path]:
    """The files of a glob, all of them of a kind that can be read. Raises UserError."""
    paths = matching(pattern, KINDS)
    for path in paths:
        kind_of(path)
    return paths


def read_text(path: Path) -> str:
    """The file as UTF-8, unpacked if its name ends in .gz. Raises UserError naming the file and the first bad byte."""
    try:
        return b"".join(lines_of(path)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid UTF-8 (byte {error.start}); convert it, or leave it out") from error


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file, unpacked if its name ends in .gz, without a byte order mark. Raises UserError."""
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
            for line in file:
                yield line.removeprefix(BOM)  # within a file too: others were joined to it
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is no whole gzip file ({error}); leave it out") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error


def read_documents(pattern: str) -> Iterator[dict]:
    """Documents of the files that match a glob, one file after another; a .txt is one.

    Raises UserError when nothing matches, a file is of another kind or not UTF-8, a record is no object with a `text`,
    or there are too many sources.
    """
    return few_sources(document_of(path, *found) for path in files_of(pattern) for found in read_records(path))


def few_sources(records: Iterable[dict]) -> Iterator[dict]:
    """The records as they come. Raises UserError where each of them seems to have a source of its own."""
    seen: dict[str, None] = {}
    for record in records:
        if record["source"] not in seen:
            seen[record["source"]] = None
            check_sources(seen)
        yield record


def check_sources(names: Iterable[str]) -> None:
    """Raises UserError when there are so many that they are none to mix."""
    if len(names := list(names)) > MOST_SOURCES:
        raise UserError(
            f"the records are of more than {MOST_SOURCES} sources ({names[0]}, {names[1]}, ...), and each would be a "
            "folder of rows with a share in the mixture; give all records of one set the same `source`"
        )


def read_records(path: Path, bad: Callable[[str], None] = refuse) -> Iterator[tuple[str, object]]:
    """(where, record) of a file, without holding the file in memory, unless it is one JSON list; a .txt is one record.

    `bad` is told of a line that is no JSON. Raises UserError when the file as a whole cannot be read.
    """
    kind = kind_of(path)
    if kind == "parquet":
        yield from ((f"{path} row {number}", record) for number, record in enumerate(read_parquet(path), 1))
    elif kind == "text":
        yield f"{path} line 1", {"id": path.name, "source": "text", "text": read_text(path)}
    elif kind == "json" and begins_a_whole(path):
        try:
            records = parsed(b"".join(lines_of(path)))
        except Invalid as error:
            raise UserError(f"{path}: {error}") from error
        records = records if isinstance(records, list) else [records]
        yield from ((f"{path} record {number}", record) for number, record in enumerate(records, 1))
    else:
        for number, line in enumerate(lines_of(path), 1):
            if line.strip():
                try:
                    record = parsed(line)
                except Invalid as error:
                    bad(f"{path} line {number}: {error}")
                    continue
                yield f"{path} line {number}", record


def begins_a_whole(path: Path) -> bool:
    """Whether a .json is one list, or one object on several lines. Others, such as C4's, have a record on each line."""
    first = next((line.strip() for line in lines_of(path) if line.strip()), b"")
    return first.startswith(b"[") or first == b"{"


def parsed(line: bytes) -> object:
    """Lone surrogates, which are no Unicode, become U+FFFD. Raises Invalid."""
    try:
        said = line.decode("utf-8")
        record = json.loads(said)
        if SURROGATE.search(said):
            said = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
            record = json.loads(said)
        return record
    except UnicodeDecodeError as error:
        raise Invalid(f"not valid UTF-8 (byte {error.start})") from error
    except RecursionError:
        raise Invalid("the record: is nested too deeply") from None
    except ValueError as error:
        raise Invalid(f"no JSON ({error})") from error


def read_parquet(path: Path) -> Iterator[dict]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} is no whole parquet file ({error}); leave it out") from error


def document_of(path: Path, where: str, record: object) -> dict:
    """A document; its split is empty where the record names none. Raises UserError."""
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise UserError(f"{where}: not a JSON object with a string `text`")
    try:
        made = {"id": id_of(record) or f"{path.name}:{where.rpartition(' ')[2]}", "source": source_of(path, record)}
        made |= {"text": record["text"].removeprefix("\ufeff"), "split": named_split(record)}
    except Invalid as error:
        raise UserError(f"{where}: {error}") from error
    language = record.get("language")
    return {**made, **({"language": language} if isinstance(language, str) else {})}


def id_of(record: dict, *names: str) -> str:
    """Empty where the record has none. Raises Invalid."""
    id_ = next((record[name] for name in ("id", *names) if record.get(name) is not None), "")
    if isinstance(id_, float):  # a column of numbers with gaps
        id_ = int(id_) if id_.is_integer() else ""
    if not isinstance(id_, str | int):
        raise Invalid("id: must be a string or a number")
    return str(id_)


def source_of(path: Path, record: dict) -> str:
    """What the record says, or its file's name without the number that files of one set have, as a folder's name."""
    name = SHARD_NUMBER.sub("", path.name.partition(".")[0]) or "text"
    said = record.get("source") if isinstance(record.get("source"), str | int) else None
    return folder_name(str(said or name))


def folder_name(source: str) -> str:
    return re.sub(r"[^\w-]", "_", source).encode()[:NAME_BYTES].decode("utf-8", "ignore")


def named_split(record: dict) -> str:
    """`train`, `val`, or nothing where the record has no split. Raises Invalid for a split that is neither."""
    said = record.get("split")
    if said is None or said == "":
        return ""
    word = re.match("[a-z]*", said.lower())[0] if isinstance(said, str) else ""
    if word not in SPLITS:
        raise Invalid(f"split: {said!r} is none of {', '.join(SPLITS)}; name one of them, or none")
    return SPLITS[word]


def split_of(text: str) -> str:
    percent = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 100
    return "val" if percent < VALIDATION_PERCENT else "train"


def content_of(record: dict) -> str:
    """What tells a document, or a conversation, from others."""
    return record["text"] if "text" in record else json.dumps(record["messages"], sort_keys=True)


def with_split(record: dict) -> dict:
    """The record with the split that it names, or else that of its hash."""
    return {**record, "split": record.get("split") or split_of(content_of(record))}


def with_splits(records: list[dict]) -> list[dict]:
    """The same of all; where all few of them fell to validation by their hash, the first is to be trained on.

    Raises UserError when there is none to train on because all of them name a split that is held out.
    """
    out = [with_split(record) for record in records]
    if out and all(record["split"] == "val" for record in out):
        first = next((number for number, record in enumerate(records) if not record.get("split")), None)
        if first is None:
            raise UserError(f"all {len(out)} records name a split that is held out; give some to train on")
        out[first]["split"] = "train"
    return out


def json_line(record: object) -> str:
    """JSON, which has no NaN and no infinity: they become null."""
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        return json.dumps(finite(record), ensure_ascii=False, allow_nan=False, default=str)


def finite(value):
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inside) for key, inside in value.items()}
    return [finite(inside) for inside in value] if isinstance(value, list | tuple) else value


def write_jsonl(path: Path, records: Iterable[dict]) -> None:
    """All lines or none: a reader never sees half a file."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json_line(record) + "\n")
    partial.replace(path)


def write_whole(path: Path, text: str) -> None:
    """All or nothing: a reader never sees half a file. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(path)
