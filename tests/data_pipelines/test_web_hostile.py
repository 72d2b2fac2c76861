"""Pages and files built to exhaust the reader: time and memory stay capped, each is counted, the rest goes on."""

import gzip
import json
import subprocess
import sys
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datatrove.data import Document

from data_pipelines.web.extract import MEMORY_BYTES, Extract
from tests.commands import DEADLINE
from tests.data_pipelines.test_web import PAGE, read, run, warc_of

ROOT = Path(__file__).resolve().parents[2]
READ = """
import re, sys, json
from pathlib import Path
from data_pipelines.web import pages
reasons = []
reader = pages.Pages([sys.argv[1]], lambda doc: reasons.append(doc.metadata["filter_reason"]))
made = len(list(reader.run()))
most = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]  # ru_maxrss has the parent's, too
print(json.dumps([made, reasons, int(most) * 1024]))
"""
EXTRACT = """
import json, resource, sys
from datatrove.data import Document
from data_pipelines.web.extract import Extract
block, results = Extract(float(sys.argv[1]), int(sys.argv[2])), []
for html in json.load(sys.stdin):
    page = Document(text=html, id="page", metadata={"markup": "html"})
    results.append((block.filter(page), page.text[:100]))
block.stop()
print(json.dumps([results, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]))
"""


def apart(script: str, *args: str, stdin: str = "") -> list:
    """What the script prints, run in a process of its own: a test's own memory would count as its children's, too."""
    ended = subprocess.run(
        [sys.executable, "-c", script, *args], cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=DEADLINE
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def read_apart(path: Path) -> tuple[int, list[str], int]:
    """-> (documents, reasons, most bytes of memory)"""
    return tuple(apart(READ, str(path)))


def extract_apart(*pages: str, seconds: float, memory_bytes: int = MEMORY_BYTES) -> tuple[list[bool | list], int]:
    """Pages, and a plain one that must come after each -> (their results, most bytes of memory of a parser)"""
    asked = [html for page in pages for html in (page, PAGE.decode())]
    results, memory = apart(EXTRACT, str(seconds), str(memory_bytes), stdin=json.dumps(asked))
    assert results[1::2] == [[True, "Some words."]] * len(pages)
    return [result for result, _ in results[::2]], memory


def gzipped(head: bytes, megabytes: int, tail: bytes) -> bytes:
    """A gzip member of so many MB of `a` between the two, made without holding them."""
    packer = zlib.compressobj(1, wbits=31)
    block = b"a" * 2**20
    parts = [packer.compress(head), *(packer.compress(block) for _ in range(megabytes)), packer.compress(tail)]
    return b"".join(parts) + packer.flush()


def record(megabytes: int) -> bytes:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
    head = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:large>\r\nWARC-Target-URI: http://a.test/\r\n"
    head += b"Content-Type: application/http; msgtype=response\r\nContent-Length: %d\r\n\r\n"
    return gzipped(head % (len(http) + megabytes * 2**20) + http, megabytes, b"\r\n\r\n")


@pytest.mark.parametrize(
    "name, content",
    [
        ("page.warc.gz", lambda: record(500)),
        ("member.warc.gz", lambda: record(1200)),
        ("body.warc.gz", lambda: warc_of([gzipped(b"", 1200, b"")], **{"Content-Encoding": "gzip"})),
    ],
)
def test_a_page_that_unpacks_to_a_gigabyte_is_counted_and_the_next_one_is_read(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content() + warc_of([PAGE]))
    assert path.stat().st_size < 10_000_000
    made, reasons, memory = read_apart(path)
    assert (made, reasons) == (1, ["page_too_large"])
    assert memory < 400 * 2**20


def test_a_line_that_unpacks_to_a_gigabyte_is_counted_once(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzipped(b'{"text": "', 1200, b'"}\n') + gzip.compress(b'{"text": "x y"}\n'))
    made, reasons, memory = read_apart(path)
    assert (made, reasons) == (1, ["record_too_large"])
    assert memory < 600 * 2**20


def test_an_html_file_of_half_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "a.html"
    with path.open("wb") as file:
        file.truncate(500 * 2**20)
    made, reasons, memory = read_apart(path)
    assert (made, reasons) == (0, ["page_too_large"])
    assert memory < 400 * 2**20


NASTY = {
    "nested tags": "<div>" * 100_000 + "deep",
    "nested and closed tags": "<div>" * 100_000 + "deep" + "</div>" * 100_000,
    "nested tables": "<table><tr><td>" * 30_000 + "deep",
    "unclosed formatting": "<b><i><u><a href=x>" * 20_000 + "x" + "<p>" * 20_000,
    "a giant attribute": f'<p title="{"a " * 3_000_000}">text</p>',
    "many attributes": "<p " + " ".join(f"a{i}=1" for i in range(200_000)) + ">text</p>",
    "a wide table": "<table>" + "<tr>" + "<td>x" * 300_000 + "</table>",
    "comments": "<!--" * 500_000,
    "entities": "&lt;" * 1_000_000,
    "open brackets": "<" * 2_000_000,
    "misnested": "<a><div></a>" * 50_000,
    "one line": "word " * 1_500_000,
}


REASONS = ("page_nested_too_deep", "page_too_slow", "page_breaks_the_parser", "no_text")


def test_a_page_built_against_its_parser_ends_and_the_next_one_is_read():
    results, memory = extract_apart(*(f"<html><body>{nasty}" for nasty in NASTY.values()), seconds=2)
    odd = {kind: r for kind, r in zip(NASTY, results, strict=True) if not (r is True or r[1] in REASONS)}
    assert not odd and memory < 400 * 2**20


def test_a_page_that_takes_more_memory_than_the_parser_may_have_is_dropped_and_the_next_one_is_read():
    table = NASTY["a wide table"]
    [result], memory = extract_apart(table, seconds=60)
    assert result is True and memory > 150 * 2**20
    [result], memory = extract_apart(table, seconds=60, memory_bytes=150 * 2**20)
    assert result == [False, "page_breaks_the_parser"] and memory < 150 * 2**20


def test_a_page_of_tags_that_never_close_is_dropped_before_the_parser_and_one_that_closes_them_is_not():
    block = Extract()
    for tags, closing, wanted in (("<div>", "", "page_nested_too_deep"), ("<div>x</div>", "</div>", True)):
        page = Document(text=tags * 600 + "deep" + closing, id=tags, metadata={"markup": "html"})
        result = block.filter(page)
        assert (result if result is True else result[1]) == wanted
        assert (block.worker is None) == (wanted is not True)
    block.stop()


@pytest.mark.parametrize(
    "before, after",
    [
        ("<script>var t = [" + "'<div class=a>'," * 600 + "]</script>", ""),
        ("<!-- " + "<div>" * 600 + " -->", ""),
        ('<script type="application/json">{"a": "' + "<table><tr>" * 600 + '"}</script>', ""),
        ("<style>/*" + "<span>" * 600 + "*/</style><textarea>" + "<ul>" * 600 + "</textarea>", ""),
        ("<p data-x='" + "<blockquote>" * 600 + "'>", "</p>"),
        ("", "<!-- never closed " + "<div>" * 600),
    ],
)
def test_markup_in_scripts_comments_and_attributes_is_no_nesting(before, after):
    block = Extract()
    page = Document(
        text=f"<body>{before}<article><p>Some words.</p></article>{after}", id="x", metadata={"markup": "html"}
    )
    assert block.filter(page) is True and page.text == "Some words."
    deep = Document(text=before + "<DIV>" * 300 + "<div>" * 600 + "deep", id="x", metadata={"markup": "html"})
    assert block.filter(deep) == (False, "page_nested_too_deep")
    block.stop()


def test_parquet_without_a_text_is_a_broken_file_that_says_its_columns(tmp_path):
    pq.write_table(pa.table({"body": ["x"], "id": ["1"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [5], "id": ["1"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"text": ["x", None], "id": ["1", "2"]}), tmp_path / "c.parquet")
    assert read(tmp_path / "a.parquet") == ([], ["broken_file"])
    assert read(tmp_path / "b.parquet") == ([], ["broken_file"])
    made, reasons = read(tmp_path / "c.parquet")
    assert [doc.text for doc in made] == ["x"] and reasons == ["no_object_with_a_text"]
    ended = run(f"--input={tmp_path}/*.parquet", f"--output={tmp_path}/out")
    assert ended.returncode == 0, ended.stderr
    assert "broken file" in ended.stdout and "no column `text` of strings, but body, id" in ended.stdout


def test_empty_input_gives_an_empty_output_and_a_funnel(tmp_path):
    for name in ("a.warc.gz", "b.jsonl", "c.txt"):
        (tmp_path / name).touch()
    ended = run(f"--input={tmp_path}/*", f"--output={tmp_path}/out")
    assert ended.returncode == 0, ended.stderr
    steps = json.loads((tmp_path / "out/funnel.json").read_text())["steps"]
    assert steps[0]["in"]["documents"] == 1 and steps[0]["reasons"] == {"empty_page": 1}  # the text file
    written = [gzip.decompress(path.read_bytes()) for path in (tmp_path / "out/documents").iterdir()]
    assert written == [b""] * 3
