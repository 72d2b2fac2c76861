"""Readers: files of a crawl -> one document a page. What cannot be read is counted, and the rest goes on."""

import codecs
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

PAGE_BYTES = 8 * 2**20  # a larger page is not read to its end
LINE_BYTES = 64 * 2**20  # of one record of a jsonl file
RECORD_TYPES = "warcinfo response resource request metadata revisit conversion continuation".split()  # of WARC 1.1
SUFFIXES = (".warc", ".warc.gz", ".wet", ".wet.gz", ".html", ".htm", ".txt", ".jsonl", ".jsonl.gz", ".parquet")


class Unreadable(Exception):
    """A page that is no document; the reason is counted."""


class Pages(PipelineStep):
    """Documents of the rank-th of the files. `text` is HTML where metadata["markup"] is "html".

    `dropped` is called with each page that gives no document, and its reason. `current` names the page that is on its
    way through the pipeline, for the message when a step fails on it.
    """

    name, type = "read", "reader"

    def __init__(self, files: list[str], dropped=None):
        super().__init__()
        self.files, self.dropped, self.current = files, dropped, ""

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for path in self.files[rank::world_size]:
            seen: set[str] = set()
            for document in self.read(path):
                self.current = f"{document.id} of {path}"
                if document.id in seen:
                    self.drop(document.id, path, "duplicate_id")
                    continue
                seen.add(document.id)
                yield document

    def drop(self, id_: str, path: str, reason: str) -> None:
        document = Document(text="", id=id_, metadata={"file_path": path, "filter_reason": reason})
        if self.dropped:
            self.dropped(document)

    def read(self, path: str) -> Iterator[Document]:
        """Pages until the end of the file, or until it is broken: then what came before stays."""
        kind = Path(path.removesuffix(".gz")).suffix
        reader = {".jsonl": jsonl, ".parquet": parquet, ".txt": text_file, ".html": html_file, ".htm": html_file}
        try:
            for id_, made in reader.get(kind, warc)(path):
                if isinstance(made, Unreadable):
                    self.drop(id_, path, str(made))
                else:
                    made.metadata.setdefault("file_path", path)
                    yield made
        except (EOFError, OSError, zlib.error, ValueError) as error:
            self.drop(path, path, "broken_file: " + " ".join(str(error).split())[:120])


def warc(path: str) -> Iterator[tuple[str, Document | Unreadable]]:
    """HTML responses, and the plain text of WET files. Raises ValueError where the archive is damaged."""
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    with open(path, "rb") as file:
        records, cut = ArchiveIterator(file), False
        try:
            for number, record in enumerate(records):
                # warcio takes any line for the header of an ARC record, and half a header for a whole one.
                if record.format != "warc" or record.rec_type not in RECORD_TYPES:
                    raise ValueError("no WARC record, or one that is cut")
                if record.rec_type not in ("response", "conversion"):
                    continue
                id_ = record.rec_headers.get_header("WARC-Record-ID") or f"{path}:{number}"
                try:
                    made = page(record, id_)
                    made.metadata["warc_offset"] = records.get_record_offset()  # which reads the record to its end
                    yield id_, made
                except Unreadable as reason:
                    cut = str(reason) == "truncated_record"
                    yield id_, reason
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
    return decoded(content)


def text_file(path: str, markup: str = "text") -> Iterator[tuple[str, Document | Unreadable]]:
    try:
        yield path, Document(text=whole(path), id=path, metadata={"markup": markup})
    except Unreadable as reason:
        yield path, reason


def html_file(path: str) -> Iterator[tuple[str, Document | Unreadable]]:
    return text_file(path, "html")


def jsonl(path: str) -> Iterator[tuple[str, Document | Unreadable]]:
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(LINE_BYTES), b""), 1):
            if line.strip():
                id_ = f"{path}:{number}"
                try:
                    yield id_, from_record(json.loads(line), id_)
                except (ValueError, Unreadable):
                    yield id_, Unreadable("no_object_with_a_text")


def parquet(path: str) -> Iterator[tuple[str, Document | Unreadable]]:
    import pyarrow.parquet as pq

    number = 0
    for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
        for record in batch.to_pylist():
            number += 1
            try:
                yield f"{path}:{number}", from_record(record, f"{path}:{number}")
            except Unreadable as reason:
                yield f"{path}:{number}", reason


def from_record(record: dict, id_: str) -> Document:
    """A document record, of ours or of FineWeb's columns. Raises Unreadable without a string `text`."""
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise Unreadable("no_object_with_a_text")
    metadata = {key: value for key, value in record.items() if key not in ("text", "id") and value is not None}
    return Document(text=record["text"], id=str(record.get("id") or id_), metadata={**metadata, "markup": "text"})
