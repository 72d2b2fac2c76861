"""Bodies as servers send them, records as crawlers write them: read, or counted; never half a page or a lost file."""

import functools
import gzip
import io
import zlib

import pyarrow as pa
import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from tests.data_pipelines.test_web import PAGE, read, warc_of

packed = functools.partial(gzip.compress, mtime=0)  # the same bytes in each worker of pytest
WORDS = PAGE.replace(b"Some words", b"Caf\xc3\xa9 words " * 40)


def chunked(body: bytes, size: int = 50) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


def zstd(body: bytes) -> bytes:
    return pa.Codec("zstd").compress(body, asbytes=True)


def brotli(body: bytes) -> bytes:
    return pa.Codec("brotli").compress(body, asbytes=True)


CODED = {
    "gzip": ({"Content-Encoding": "GZip"}, packed(WORDS)),
    "gzip under its old name": ({"content-encoding": "x-gzip"}, packed(WORDS)),
    "gzip in two members": (
        {"Content-Encoding": "gzip"},
        packed(WORDS[:99]) + packed(WORDS[99:]) + b"\n",
    ),
    "deflate": ({"Content-Encoding": "deflate"}, zlib.compress(WORDS)),
    "deflate without a frame": ({"Content-Encoding": "Deflate"}, raw_deflate(WORDS)),
    "brotli": ({"Content-Encoding": "br"}, brotli(WORDS)),
    "zstd": ({"Content-Encoding": "zstd"}, zstd(WORDS)),
    "two codings": ({"Content-Encoding": "gzip, br"}, brotli(packed(WORDS))),
    "one that changes nothing": ({"Content-Encoding": "identity,gzip"}, packed(WORDS)),
    "chunks": ({"Transfer-Encoding": "Chunked"}, chunked(WORDS)),
    "gzip, then chunks": ({"Transfer-Encoding": "gzip, chunked"}, chunked(packed(WORDS))),
    "both headers": ({"Content-Encoding": "br", "Transfer-Encoding": "chunked"}, chunked(brotli(WORDS))),
    "chunks with more in their lines": ({"Transfer-Encoding": "chunked"}, b"%x ;a=b\n%b\n0\n\n" % (len(WORDS), WORDS)),
    "taken off by the crawler": ({"Content-Encoding": "br, gzip", "Transfer-Encoding": "chunked"}, WORDS),
    "a coding that nobody knows": ({"Content-Encoding": "utf-8"}, WORDS),
}


@pytest.mark.parametrize("kind", CODED)
def test_codings_are_undone_by_name_in_any_case_and_order(kind, tmp_path):
    headers, body = CODED[kind]
    (tmp_path / "a.warc.gz").write_bytes(warc_of([body], **headers))
    made, reasons = read(tmp_path / "a.warc.gz")
    assert ([doc.text for doc in made], reasons) == ([WORDS.decode()], [])


@pytest.mark.parametrize(
    "headers, body, reason",
    [
        ({"Content-Encoding": "gzip"}, packed(WORDS)[:-30], "truncated_body"),
        (
            {"Content-Encoding": "gzip"},
            packed(WORDS)[:30] + bytes(20) + packed(WORDS)[50:],
            "truncated_body",
        ),
        ({"Content-Encoding": "deflate"}, zlib.compress(WORDS)[:-9], "truncated_body"),
        ({"Content-Encoding": "br"}, brotli(WORDS)[:-9], "truncated_body"),
        ({"Content-Encoding": "zstd"}, zstd(WORDS)[:-9], "truncated_body"),
        ({"Transfer-Encoding": "chunked"}, chunked(WORDS)[:-5], "truncated_body"),
        ({"Transfer-Encoding": "chunked"}, chunked(WORDS)[:120], "truncated_body"),
        ({"Content-Length": str(len(WORDS))}, WORDS[:-99], "truncated_body"),
        ({"Content-Encoding": "compress"}, packed(WORDS), "unknown_coding_compress"),
        ({"Content-Encoding": "br"}, brotli(b" " * 9_000_000), "page_too_large"),
        ({}, packed(WORDS), "no_page_but_bytes"),
    ],
)
def test_a_body_that_is_cut_broken_or_of_an_unknown_coding_is_counted_and_the_next_page_read(
    headers, body, reason, tmp_path
):
    (tmp_path / "a.warc.gz").write_bytes(warc_of([body], **headers) + warc_of([PAGE]))
    made, reasons = read(tmp_path / "a.warc.gz")
    assert ([doc.text for doc in made], reasons) == ([PAGE.decode()], [reason])


def a_record(kind: str | None, body: bytes, http: bytes = b"", **more: str) -> bytes:
    """One record, not packed. A header of value "" is left out."""
    block = http + body
    headers = {
        "WARC-Type": kind or "",
        "WARC-Target-URI": "http://a.test/x",
        "Content-Type": "application/http",
        "Content-Length": str(len(block)),
    } | {name.replace("_", "-"): value for name, value in more.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
    return b"WARC/1.1\r\n" + lines.encode() + b"\r\n" + block + b"\r\n\r\n"


HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
ODD = {  # record -> how many pages it is, and what is counted of it
    "of no known type": (a_record("x-notes", b"{}"), 0, []),
    "of no type": (a_record(None, b"{}"), 0, []),
    "of no address": (a_record("response", PAGE, HTTP, WARC_Target_URI=""), 1, []),
    "of another scheme": (a_record("response", PAGE, HTTP, WARC_Target_URI="gopher://a.test"), 1, []),
    "without HTTP": (a_record("response", PAGE), 1, []),
    "of HTTP 2": (a_record("response", PAGE, HTTP.replace(b"1.1", b"2")), 1, []),
    "with headers that are none": (
        a_record("response", PAGE, b"HTTP/1.1\r\n:\r\n\xff\xfe\r\nno header\r\n\r\n"),
        1,
        [],
    ),
    "with a type that is written oddly": (
        a_record("response", PAGE, HTTP.replace(b"html", b"HTML charset=x, a")),
        1,
        [],
    ),
    "a resource": (a_record("resource", PAGE, Content_Type="text/html; charset=utf-8"), 1, []),
    "a resource that is an image": (
        a_record("resource", b"GIF", Content_Type="image/gif"),
        0,
        ["no_page_but_image/gif"],
    ),
    "a page that the crawler cut": (a_record("response", PAGE, HTTP, WARC_Truncated="length"), 0, ["truncated_record"]),
    "one of several": (a_record("response", PAGE, HTTP, WARC_Segment_Number="1"), 0, ["truncated_record"]),
    "of no length": (a_record("response", PAGE, HTTP, Content_Length=""), 0, ["truncated_record"]),
    "of a length that is none": (a_record("response", PAGE, HTTP, Content_Length="many"), 0, ["truncated_record"]),
    "that is no record": (b"junk and more\r\n\r\n", 0, ["broken_record"]),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_record_is_counted_and_the_others_are_read(kind, packed, tmp_path):
    odd, count, wanted = ODD[kind]
    pack, name = (gzip.compress, "a.warc.gz") if packed else (bytes, "a.warc")
    good = a_record("response", PAGE, HTTP)
    (tmp_path / name).write_bytes(pack(good) + pack(odd) + pack(good) + pack(good))
    made, reasons = read(tmp_path / name)
    assert [doc.text for doc in made] == [PAGE.decode()] * (3 + count)
    assert reasons == wanted


def test_a_damaged_member_costs_its_own_page_alone(tmp_path):
    members = [packed(a_record("response", WORDS + b"%d" % i, HTTP)) for i in range(4)]
    members[1] = members[1][:150] + bytes(40) + members[1][190:]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(members))
    made, reasons = read(tmp_path / "a.warc.gz")
    assert [doc.text[-1] for doc in made] == ["0", "2", "3"] and len(reasons) == 1
    assert [doc.metadata["warc_offset"] for doc in made] == [0, *(sum(map(len, members[:i])) for i in (2, 3))]


def test_tasks_that_share_a_damaged_file_count_each_page_once(tmp_path):
    from data_pipelines.web import pages

    good = packed(a_record("response", PAGE, HTTP))
    (tmp_path / "a.warc.gz").write_bytes(good + packed(b"junk\r\n\r\n") + good + good[:60] + good + good[:99])
    wanted, wanted_reasons = read(tmp_path / "a.warc.gz")
    made, reasons = [], []
    for rank in range(3):
        reader = pages.Pages(
            [str(tmp_path / "a.warc.gz")], lambda doc: reasons.append(doc.metadata["filter_reason"]), parts=3
        )
        made += reader.run(rank=rank, world_size=3)
    assert len(made) == len(wanted) == 3
    assert sorted(reasons) == sorted(wanted_reasons) and len(reasons) >= 2


def test_a_written_resource_is_a_page_with_its_address(tmp_path):
    file = io.BytesIO()
    writer = WARCWriter(file, gzip=True)
    latin = "<p>Ol\u00e9, \u201cquoted\u201d</p>".encode("cp1252")
    for uri, kind in (("file:///a/b.html", "text/html; charset=latin1"), ("metadata://x/log", "text/plain")):
        writer.write_record(
            writer.create_warc_record(uri, "resource", payload=io.BytesIO(latin), warc_content_type=kind)
        )
    writer.write_record(
        writer.create_warc_record(
            "http://a.test/", "request", http_headers=StatusAndHeaders("GET / HTTP/1.1", [], is_http_request=True)
        )
    )
    (tmp_path / "a.warc.gz").write_bytes(file.getvalue())
    made, reasons = read(tmp_path / "a.warc.gz")
    assert [(doc.text, doc.metadata["url"]) for doc in made] == [("<p>Olé, “quoted”</p>", "file:///a/b.html")]
    assert reasons == ["no_page_but_text/plain"]
