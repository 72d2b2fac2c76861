"""Readers: files of a crawl -> one document a page. What cannot be read is counted, and the rest goes on."""

import codecs
import contextlib
import functools
import gzip
import io
import itertools
import json
import mmap
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import xxhash
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data_pipelines.web.bodies import GZIP_MAGIC, PAGE_BYTES, Unreadable, unpacked
from data_pipelines.web.encodings import decoded, is_text
from data_pipelines.web.records import from_record

HEADER_BYTES = 2**18  # of HTTP, and of the framing of chunks
LINE_BYTES = 64 * 2**20  # of one record of a jsonl file
PARQUET_ROWS = 64  # in memory at a time
PAGE_TYPES = ("response", "resource", "conversion")  # records of pages; other types, also unknown ones, are none
MEMBER, RECORD_LINE = re.compile(rb"\x1f\x8b\x08"), re.compile(rb"\n(WARC/\d\.\d+\r?\n)")
SUFFIXES = (".warc", ".warc.gz", ".wet", ".wet.gz", ".html", ".htm", ".txt", ".jsonl", ".jsonl.gz", ".parquet")


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


class Damaged(Exception):
    """A record at byte `at` of an archive that does not end where it says, or is none. `counted`: as a page."""

    def __init__(self, at: int, why: str, counted: bool = False):
        super().__init__(why)
        self.at, self.counted = at, counted


def warc(path: str) -> Iterator[Page]:
    """HTML responses and resources, and the plain text of WET files. Goes on with the next record after a damaged one;
    raises ValueError where none follows."""

    def broken() -> Document:
        raise Unreadable("broken_record")

    with open(path, "rb") as file:
        start, numbers = 0, itertools.count()
        while True:
            try:
                yield from records_from(file, path, start, numbers)
                return
            except Damaged as damage:
                start = next_record(file, damage.at + 1)
                if start is None and not damage.counted:
                    raise ValueError(str(damage)) from damage
                if start is None:
                    return
                if not damage.counted:
                    yield f"{path}:{next(numbers)}", broken


def records_from(file: BinaryIO, path: str, start: int, numbers: Iterator[int]) -> Iterator[Page]:
    """Pages of the records from byte `start` on. Raises Damaged."""
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    def make() -> Document:
        made = page(record, id_)
        made.metadata["warc_offset"] = at
        return made

    file.seek(start)
    records = ArchiveIterator(file, no_record_parse=True)  # which would end the file at a header that it cannot parse
    try:
        for number, record in zip(numbers, records, strict=False):
            at, is_page = records.offset, record.rec_type in PAGE_TYPES
            # warcio takes any line for the header of an ARC record, and half a header for a whole one.
            if record.format != "warc" or (record.rec_type is None and record.length is None):
                raise Damaged(at, "no WARC record, or one that is cut")
            if is_page:
                id_ = record.rec_headers.get_header("WARC-Record-ID") or f"{path}:{number}"
                yield id_, make
            records.read_to_end()
            if is_short(record):
                raise Damaged(at, "the file ends inside a record", is_page)
    except (ArchiveLoadFailed, AttributeError, TypeError, ValueError, zlib.error) as error:
        raise Damaged(records.offset, " ".join(str(error).split())) from error
    # A file may end so early in a record that warcio sees none.
    if records.offset < os.path.getsize(path):
        raise Damaged(records.offset, "the file ends inside a record")


def is_short(record) -> bool:
    """After it was read: it promises bytes that the file does not have, or its header is cut or broken."""
    promised = (record.rec_headers.get_header("Content-Length") or "").strip()
    return not promised.isdigit() or getattr(record.raw_stream, "limit", 0) > 0


def next_record(file: BinaryIO, start: int) -> int | None:
    """Where the first record from byte `start` on begins: at a gzip member, or at a line of an archive that is not
    packed."""
    if start >= os.fstat(file.fileno()).st_size:
        return None
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        packed = content[:2] == GZIP_MAGIC
        for match in (MEMBER if packed else RECORD_LINE).finditer(content, start):
            if not packed:
                return match.start(1)
            with contextlib.suppress(zlib.error):
                if zlib.decompressobj(31).decompress(content[match.start() : match.start() + 512], 5) == b"WARC/":
                    return match.start()
    return None


def page(record, id_: str) -> Document:
    """Raises Unreadable for what is no page of text."""
    headers = record.rec_headers
    http, body = response_of(record)
    sent = next((value for name, value in http if name.lower() == "content-type"), "")
    if record.rec_type == "resource":
        sent = headers.get_header("Content-Type") or ""
    kind = headers.get_header("WARC-Identified-Payload-Type") or sent
    kind = re.split(r"[;,\s]", kind.strip().lower(), maxsplit=1)[0]
    is_wet = record.rec_type == "conversion"
    if not is_wet and kind not in ("", "text/html", "application/xhtml+xml"):
        raise Unreadable(f"no_page_but_{kind[:60]}")
    # Also what the crawler itself cut, or spread over several records.
    if is_short(record) or any(headers.get_header(f"WARC-{name}") for name in ("Truncated", "Segment-Number")):
        raise Unreadable("truncated_record")
    content = unpacked(body, http)
    if not content.strip():
        raise Unreadable("empty_page")
    text = decoded(content, sent, markup=not is_wet)
    if not is_text(text):
        raise Unreadable("no_page_but_bytes")
    metadata = {
        "url": headers.get_header("WARC-Target-URI") or "",
        "date": headers.get_header("WARC-Date") or "",
        "markup": "text" if is_wet else "html",
    }
    return Document(text=text, id=id_, metadata=metadata)


def response_of(record) -> tuple[list[tuple[str, str]], bytes]:
    """(HTTP headers, body as it was sent) of a record; without headers where it is no HTTP response."""
    from warcio.statusandheaders import StatusAndHeadersParser

    raw, most = b"", PAGE_BYTES + HEADER_BYTES
    while len(raw) <= most and (part := record.raw_stream.read(most)):  # it may give less than asked for
        raw += part
    if len(raw) > most:
        raise Unreadable("page_too_large")
    if record.rec_type != "response" or not raw.startswith(b"HTTP/"):
        return [], raw
    stream = io.BytesIO(raw)
    http = StatusAndHeadersParser([], verify=False).parse(stream)
    return http.headers, stream.read()


def whole(path: str, markup: str) -> str:
    with open(path, "rb") as file:
        content = file.read(PAGE_BYTES + 1)
    if len(content) > PAGE_BYTES:
        raise Unreadable("page_too_large")
    if not content.strip():
        raise Unreadable("empty_page")
    text = decoded(content, markup=markup == "html")
    if not is_text(text):
        raise Unreadable("no_page_but_bytes")
    return text


def text_file(path: str, markup: str = "text") -> Iterator[Page]:
    yield path, lambda: Document(text=whole(path, markup), id=path, metadata={"markup": markup})


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

    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as raw:
        lines = raw
        if raw.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):  # as Windows' shells write
            lines = io.TextIOWrapper(raw, "utf-16", errors="replace", newline="\n")
        for number, line in enumerate(iter(lambda: lines.readline(LINE_BYTES), lines.read(0)), 1):
            if number == 1 and isinstance(line, bytes):
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                id_ = f"{path}:{number}"
                yield id_, make
            while len(line) == LINE_BYTES and line[-1:] not in ("\n", b"\n"):  # the rest of it
                line = lines.readline(LINE_BYTES)


def parquet(path: str) -> Iterator[Page]:
    """Raises ValueError where there is no column `text` of strings."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        columns = {field.name: field.type for field in file.schema_arrow}
        if "text" not in columns:
            raise ValueError(f"no column `text` of strings, but {', '.join(columns)}")
        if not is_string(columns["text"]):
            raise ValueError(f"column `text` is of {columns['text']}, not of strings")
        number = 0
        for batch in file.iter_batches(batch_size=PARQUET_ROWS):
            for record in batch.to_pylist():
                number += 1
                id_ = f"{path}:{number}"
                yield id_, functools.partial(from_record, record, id_)


def is_string(kind) -> bool:
    """Of an Arrow type: one of its types of strings, or a dictionary of them."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


READERS = {".jsonl": jsonl, ".parquet": parquet, ".txt": text_file, ".html": html_file, ".htm": html_file}
