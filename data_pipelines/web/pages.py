"""Readers: files of a crawl -> one document a page. What cannot be read is counted, and the rest goes on."""

import codecs
import functools
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import xxhash
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

PAGE_BYTES = 8 * 2**20  # a larger page is not read to its end
LINE_BYTES = 64 * 2**20  # of one record of a jsonl file
PARQUET_ROWS = 64  # in memory at a time
RECORD_TYPES = "warcinfo response resource request metadata revisit conversion continuation".split()  # of WARC 1.1
SUFFIXES = (".warc", ".warc.gz", ".wet", ".wet.gz", ".html", ".htm", ".txt", ".jsonl", ".jsonl.gz", ".parquet")


class Unreadable(Exception):
    """A page that is no document; the reason is counted."""


class Pages(PipelineStep):
    """Documents of the rank-th of the files, or of its share of a file that `parts` tasks read. `text` is HTML where
    metadata["markup"] is "html".

    `dropped` is called with each page that gives no document, and its reason. `current` names the page that is on its
    way through the pipeline, for the message when a step fails on it.
    """

    name, type = "read", "reader"

    def __init__(self, files: list[str], dropped=None, parts: int = 1):
        super().__init__()
        self.files, self.dropped, self.parts, self.current = files, dropped, parts, ""

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        seen: set[int] = set()  # hashes of the ids of this task; those of other tasks are compared later
        shares = [(path, part) for path in self.files for part in range(self.parts)]
        for path, part in shares[rank::world_size]:
            for document in self.read(path, part):
                self.current = f"{document.id} of {path}"
                hashed = xxhash.xxh64_intdigest(document.id.encode("utf-8", "replace"))
                if hashed in seen:
                    self.drop(document.id, path, "duplicate_id")
                    continue
                seen.add(hashed)
                yield document

    def drop(self, id_: str, path: str, reason: str, why: str = "") -> None:
        document = Document(text=why, id=id_, metadata={"file_path": path, "filter_reason": reason})
        if self.dropped:
            self.dropped(document)

    def read(self, path: str, part: int) -> Iterator[Document]:
        """Pages until the end of the file, or until it is broken: then what came before stays. Every parts-th page is
        ours, and what is wrong with the file is counted by the task that has the page before."""
        kind, last = Path(path.removesuffix(".gz")).suffix, 0
        self.current = path
        try:
            for number, (id_, make) in enumerate(READERS.get(kind, warc)(path)):
                last = number
                if number % self.parts != part:
                    continue
                try:
                    made = make()
                except Unreadable as reason:
                    self.drop(id_, path, str(reason))
                    continue
                made.metadata.setdefault("file_path", path)
                yield made
        except (EOFError, OSError, zlib.error, ValueError) as error:
            if last % self.parts == part:
                self.drop(path, path, "broken_file", " ".join(str(error).split())[:300])


# What a reader gives for each page: its id, and a function that makes the document or raises Unreadable, to be called
# before the next page is asked for.
Page = tuple[str, Callable[[], Document]]


def warc(path: str) -> Iterator[Page]:
    """HTML responses, and the plain text of WET files. Raises ValueError where the archive is damaged."""
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    with open(path, "rb") as file:
        records, cut = ArchiveIterator(file), False

        def make() -> Document:
            nonlocal cut
            try:
                made = page(record, id_)
            except Unreadable as reason:
                cut = str(reason) == "truncated_record"
                raise
            made.metadata["warc_offset"] = records.get_record_offset()  # which reads the record to its end
            return made

        try:
            for number, record in enumerate(records):
                # warcio takes any line for the header of an ARC record, and half a header for a whole one.
                if record.format != "warc" or record.rec_type not in RECORD_TYPES:
                    raise ValueError("no WARC record, or one that is cut")
                if record.rec_type in ("response", "conversion"):
                    cut, id_ = False, record.rec_headers.get_header("WARC-Record-ID") or f"{path}:{number}"
                    yield id_, make
        except (ArchiveLoadFailed, AttributeError, TypeError) as error:  # warcio trips over headers that are cut
            raise ValueError(str(error)) from error
        # A file may end so early in a record that warcio sees none.
        if not cut and records.offset < os.path.getsize(path):
            raise ValueError("the file ends inside a record")


def page(record, id_: str) -> Document:
    """Raises Unreadable for what is no page of text."""
    headers = record.rec_headers
    kind = record.http_headers.get_header("Content-Type", "") if record.http_headers else ""
    kind = (headers.get_header("WARC-Identified-Payload-Type") or kind).partition(";")[0].strip().lower()
    is_text = record.rec_type == "conversion"
    if not is_text and kind not in ("", "text/html", "application/xhtml+xml"):
        raise Unreadable(f"no_page_but_{kind}")
    stream, content = record.content_stream(), b""
    while len(content) <= PAGE_BYTES and (part := stream.read(PAGE_BYTES)):  # it may give less than asked for
        content += part
    if len(content) > PAGE_BYTES:
        raise Unreadable("page_too_large")
    # Bytes that the record promises and the file does not have, or a header that is cut.
    if record.length is None or getattr(record.raw_stream, "limit", 0) > 0:
        raise Unreadable("truncated_record")
    if not content.strip():
        raise Unreadable("empty_page")
    if b"\0" in content[:2048] and not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise Unreadable("no_page_but_bytes")
    metadata = {
        "url": headers.get_header("WARC-Target-URI") or "",
        "date": headers.get_header("WARC-Date") or "",
        "markup": "text" if is_text else "html",
    }
    return Document(text=decoded(content, charset_of(record)), id=id_, metadata=metadata)


def charset_of(record) -> str:
    kind = record.http_headers.get_header("Content-Type", "") if record.http_headers else ""
    return kind.lower().partition("charset=")[2].strip("\"' ;")


def decoded(content: bytes, charset: str = "") -> str:
    """UTF-8 if it is that; else what the header says; else what the page's own tags or its bytes look like."""
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for name in ("utf-16" if utf16 else "utf-8", charset):
        try:
            return content.decode(name).removeprefix("\ufeff")
        except (UnicodeDecodeError, LookupError):
            continue
    return bytes_to_str(content, detect_encoding(content) or "utf-8", errors="replace")


def whole(path: str) -> str:
    with open(path, "rb") as file:
        content = file.read(PAGE_BYTES + 1)
    if len(content) > PAGE_BYTES:
        raise Unreadable("page_too_large")
    if not content.strip():
        raise Unreadable("empty_page")
    return decoded(content)


def text_file(path: str, markup: str = "text") -> Iterator[Page]:
    yield path, lambda: Document(text=whole(path), id=path, metadata={"markup": markup})


def html_file(path: str) -> Iterator[Page]:
    return text_file(path, "html")


def jsonl(path: str) -> Iterator[Page]:
    def make() -> Document:
        if len(line) == LINE_BYTES:
            raise Unreadable("record_too_large")
        try:
            return from_record(json.loads(line), id_)
        except (ValueError, RecursionError) as error:
            raise Unreadable("no_object_with_a_text") from error

    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(LINE_BYTES), b""), 1):
            if line.strip():
                id_ = f"{path}:{number}"
                yield id_, make
            while len(line) == LINE_BYTES and not line.endswith(b"\n"):  # the rest of it
                line = lines.readline(LINE_BYTES)


def parquet(path: str) -> Iterator[Page]:
    """Raises ValueError where there is no column `text` of strings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        columns = {field.name: field.type for field in file.schema_arrow}
        if not any(columns.get("text") == kind for kind in (pa.string(), pa.large_string())):
            raise ValueError(f"no column `text` of strings, but {', '.join(columns)}")
        number = 0
        for batch in file.iter_batches(batch_size=PARQUET_ROWS):
            for record in batch.to_pylist():
                number += 1
                id_ = f"{path}:{number}"
                yield id_, functools.partial(from_record, record, id_)


def from_record(record: dict, id_: str) -> Document:
    """A document record, of ours or of FineWeb's columns. Raises Unreadable without a string `text`."""
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise Unreadable("no_object_with_a_text")
    if len(record["text"]) > PAGE_BYTES:
        raise Unreadable("page_too_large")
    metadata = {key: value for key, value in record.items() if key not in ("text", "id") and value is not None}
    return Document(text=record["text"], id=str(record.get("id") or id_), metadata={**metadata, "markup": "text"})


READERS = {".jsonl": jsonl, ".parquet": parquet, ".txt": text_file, ".html": html_file, ".htm": html_file}
