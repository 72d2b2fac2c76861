"""What a server sent -> the bytes of the page: transfer and content codings, in any order, undone within a page's size.

A header may name a coding that a crawler has taken off already: what does not unpack, and reads as text, is taken as it
is. What does not unpack and is no text, or ends before its end, is a cut page.
"""

import re
import zlib
from collections.abc import Callable

PAGE_BYTES = 8 * 2**20  # a larger page is not read to its end
GZIP_MAGIC = b"\x1f\x8b"
GZIP_MEMBERS = 100  # more than any server sends; each costs a copy of what follows
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\n]{0,100})?\r?\n")
# Bytes of no text, as browsers sniff it (mimesniff.spec.whatwg.org).
BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
NO_CODING = ("", "identity")


class Unreadable(Exception):
    """A page that is no document; the reason is counted."""


def unpacked(raw: bytes, headers: list[tuple[str, str]]) -> bytes:
    """The body without its codings, the last one first (RFC 9110 8.4, RFC 9112 6.1). Raises Unreadable."""
    content, transfer = (codings(headers, name) for name in ("content-encoding", "transfer-encoding"))
    names = content + transfer
    for name in reversed(names):
        raw = undone(name, raw)
    promised = [value.strip() for name, value in headers if name.lower() == "content-length"]
    if not names and promised and promised[0].isdigit() and len(raw) < int(promised[0]):
        raise Unreadable("truncated_body")
    if len(raw) > PAGE_BYTES:
        raise Unreadable("page_too_large")
    return raw


def codings(headers: list[tuple[str, str]], field: str) -> list[str]:
    """Of all headers of that name: what was put on first comes first; without the ones that change nothing."""
    values = [value for name, value in headers if name.lower() == field]
    names = [name.partition(";")[0].strip().lower().removeprefix("x-") for value in values for name in value.split(",")]
    return [name for name in names if name not in NO_CODING]


def undone(name: str, body: bytes) -> bytes:
    if name not in UNPACK:
        if is_plain(body):  # browsers, too, ignore a coding that they do not know
            return body
        raise Unreadable(f"unknown_coding_{name[:20]}")
    try:
        return UNPACK[name](body)
    except (zlib.error, OSError, EOFError) as error:
        if is_plain(body):
            return body
        raise Unreadable("truncated_body") from error


def is_plain(body: bytes) -> bool:
    return not BINARY.search(body, 0, 2048)


def unchunked(body: bytes) -> bytes:
    """Raises Unreadable when chunks end before the last one, of size 0."""
    parts, at = [], 0
    while size := CHUNK_SIZE.match(body, at):
        count = int(size[1], 16)
        if not count:
            return b"".join(parts)
        parts.append(body[size.end() : size.end() + count])
        at = size.end() + count
        end = body[at : at + 2]
        if end != b"\r\n" and end[:1] != b"\n":
            raise Unreadable("truncated_body")
        at += 2 if end == b"\r\n" else 1
    if parts:
        raise Unreadable("truncated_body")
    return body  # never was in chunks


def gunzipped(body: bytes) -> bytes:
    """All members; what follows them and is none is left out, as by gzip itself. Raises EOFError, zlib.error."""
    content = b""
    for number in range(GZIP_MEMBERS):
        if not body or (number and not body.startswith(GZIP_MAGIC)):
            break
        part, body = inflated(body, 31, PAGE_BYTES - len(content))
        content += part
    return content


def deflated(body: bytes) -> bytes:
    """With zlib's frame, as the standard has it, or without, as some servers do."""
    try:
        return inflated(body, zlib.MAX_WBITS, PAGE_BYTES)[0]
    except zlib.error:
        return inflated(body, -zlib.MAX_WBITS, PAGE_BYTES)[0]


def inflated(body: bytes, window: int, most: int) -> tuple[bytes, bytes]:
    """-> (content, what comes after it). Raises EOFError, zlib.error; Unreadable for more than `most` bytes."""
    if not body:
        return b"", b""
    unpacker = zlib.decompressobj(window)
    content = unpacker.decompress(body, most + 1)
    if len(content) > most:
        raise Unreadable("page_too_large")
    if not unpacker.eof:
        raise EOFError
    return content, unpacker.unused_data


def by_arrow(codec: str) -> Callable[[bytes], bytes]:
    def unpack(body: bytes) -> bytes:
        """Raises OSError."""
        import pyarrow as pa

        if not body:
            return b""
        with pa.CompressedInputStream(pa.BufferReader(body), codec) as stream:
            content = stream.read(PAGE_BYTES + 1)
        if len(content) > PAGE_BYTES:
            raise Unreadable("page_too_large")
        return content

    return unpack


UNPACK = {
    "chunked": unchunked,
    "gzip": gunzipped,
    "deflate": deflated,
    "br": by_arrow("brotli"),
    "zstd": by_arrow("zstd"),
}
