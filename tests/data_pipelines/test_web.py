"""The pipeline on the planted crawl, on what is broken, and through kills."""

import dataclasses
import datetime
import gzip
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from data_pipelines.tiny_web.crawl import crawl, write_warc
from data_pipelines.tiny_web.grammar import paragraph
from data_pipelines.web import filters, pages, recipe, urls, words
from data_pipelines.web.extract import Extract
from tests import commands

ROOT = Path(__file__).resolve().parents[2]
PAGES = 600


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return commands.run("data_pipelines.web", *arguments, **environment)


def documents(output: Path) -> dict[str, dict]:
    texts = (gzip.decompress(path.read_bytes()).decode() for path in (output / "documents").glob("*.gz"))
    return {record["id"]: record for text in texts for record in map(json.loads, text.splitlines())}


def files(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "documents").iterdir()}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """(folder of two WARC files, labels by id)"""
    folder = tmp_path_factory.mktemp("crawl")
    records = list(crawl(PAGES, seed=3))
    labels = []
    for i in range(2):
        labels += write_warc(str(folder / f"{i}.warc.gz"), iter(records[i::2]))
    return folder, {label["id"]: label for label in labels}


@pytest.fixture(scope="module")
def finished(planted, tmp_path_factory):
    output = tmp_path_factory.mktemp("web") / "out"
    ended = run(f"--input={planted[0]}/*.warc.gz", f"--output={output}")
    assert ended.returncode == 0, ended.stderr
    return output


def test_the_same_seed_gives_the_same_crawl():
    first, second = ([(c.id, c.url, c.payload) for c in crawl(50, seed)] for seed in (7, 7))
    assert first == second
    assert first != [(c.id, c.url, c.payload) for c in crawl(50, 8)]


def test_planted_pages_are_found_and_clean_ones_are_kept(planted, finished):
    _, labels = planted
    kept, dropped, seen = documents(finished), Counter(), Counter()
    for id_, label in labels.items():
        kind = label["planted"][0].partition(":")[0]
        seen[kind] += 1
        dropped[kind] += id_ not in kept
    for kind in ("blocked_url", "foreign", "spam", "broken"):
        assert dropped[kind] >= 0.95 * seen[kind] > 0, kind
    pairs = [(id_, label["planted"][0].partition(":")[2]) for id_, label in labels.items()]
    pairs = [(a, b) for a, b in pairs if b]
    assert len(pairs) > 40
    assert sum(not (a in kept and b in kept) for a, b in pairs) >= 0.98 * len(pairs)
    # Of a page and its copies one is left, whichever came first in the files.
    copied = {b for _, b in pairs}
    alone = [id_ for id_, label in labels.items() if label["planted"] == ["clean"] and id_ not in copied]
    assert sum(id_ not in kept for id_ in alone) <= 0.15 * len(alone)


def test_each_kind_is_found_by_its_own_step_alone_and_our_steps_keep_clean_pages(planted):
    """Spam's own steps are the four that look at the text; broken pages' are the reader and the extraction."""
    folder, labels = planted
    english = words.ENGLISH
    blocks = {
        "blocked_url": [urls.Urls()],
        "foreign": [filters.Language("en", 0.65)],
        "spam": [
            filters.Repetition(),
            filters.Quality(),
            C4QualityFilter(filter_no_terminal_punct=False, language=english),
            FineWebQualityFilter(language=english),
        ],
    }
    extract, left, read_and_extracted = Extract(), {kind: set() for kind in blocks}, set()
    for doc in pages.Pages(sorted(map(str, folder.glob("*.warc.gz")))).run():
        if extract.filter(doc) is not True:
            continue
        read_and_extracted.add(doc.id)
        for kind, steps in blocks.items():
            if all(step.filter(dataclasses.replace(doc)) is True for step in steps):
                left[kind].add(doc.id)
    extract.stop()
    left["broken"] = read_and_extracted
    for kind, kept in left.items():
        with_label = {id_ for id_, label in labels.items() if label["planted"] == [kind]}
        clean = {id_ for id_, label in labels.items() if label["planted"] == ["clean"]}
        found = with_label - kept if kind == "broken" else with_label & read_and_extracted - kept
        of = with_label if kind == "broken" else with_label & read_and_extracted
        assert len(found) >= 0.95 * len(of) > 0, kind
        assert len(clean - kept) <= 0.02 * len(clean), kind


def test_no_planted_address_is_left(planted, finished):
    _, labels = planted
    kept = documents(finished)
    with_pii = [label for label in labels.values() if label["pii"] and label["id"] in kept]
    assert len(with_pii) > 20
    assert not [s for label in with_pii for s in label["pii"] if s in kept[label["id"]]["text"]]
    assert all(kept[label["id"]]["pii"] >= 3 for label in with_pii)


def test_documents_say_where_they_are_from(planted, finished):
    _, labels = planted
    for record in documents(finished).values():
        assert record["url"] == labels[record["id"]]["url"]
        assert record["source"] == "web" and record["language"] == "en" and record["date"].startswith("2023-11-")
        assert record["file_path"].endswith(".warc.gz") and record["warc_offset"] >= 0


def test_the_funnel_adds_up_and_its_page_shows_why(planted, finished):
    steps = json.loads((finished / "funnel.json").read_text())["steps"]
    names = [step["name"] for step in steps]
    assert names[0] == "read" and names[-1] == "pii" and "near_duplicate" in names
    assert steps[0]["in"]["documents"] == PAGES
    for before, after in itertools.pairwise(steps):
        assert before["out"] == after["in"] or after["name"] == "extract"
    for step in steps:
        assert sum(step["reasons"].values()) == step["in"]["documents"] - step["out"]["documents"]
    assert steps[-1]["out"]["documents"] == len(documents(finished))
    assert all(step["out"]["tokens"] > 0 for step in steps[2:])
    page = (finished / "funnel.html").read_text()
    assert "hard_blacklisted" in page and "http" not in page.split("<style>")[0]


def test_the_same_command_again_does_nothing_and_another_recipe_is_refused(planted, finished):
    before = files(finished)
    assert run(f"--input={planted[0]}/*.warc.gz", f"--output={finished}").returncode == 0
    assert files(finished) == before
    other = run(f"--input={planted[0]}/*.warc.gz", f"--output={finished}", "--language=de")
    assert other.returncode == 2 and "another language" in other.stderr


def test_an_input_file_that_changed_is_refused_by_name(tmp_path):
    texts = [paragraph(random.Random(number), 12) for number in range(3)]
    for name, text in zip("ab", texts, strict=False):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, "text": text}) + "\n")
    command = f"--input={tmp_path}/*.jsonl", f"--output={tmp_path}/out"
    assert run(*command).returncode == 0
    before, grown = files(tmp_path / "out"), tmp_path / "b.jsonl"
    whole = grown.read_text()
    grown.write_text(whole + json.dumps({"id": "c", "text": texts[2]}) + "\n")
    refused = run(*command)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1, refused.stderr
    for told in (str(grown), f"{len(whole):,} bytes", f"{grown.stat().st_size:,} now", "another --output"):
        assert told in refused.stderr
    assert files(tmp_path / "out") == before
    grown.write_text(whole)
    assert run(*command).returncode == 0


def killed_runs(planted, finished, output: Path, kills: int, seed: int) -> None:
    rng, command, landed = random.Random(seed), [sys.executable, "-m", "data_pipelines.web"], 0
    command += [f"--input={planted[0]}/*.warc.gz", f"--output={output}"]
    while landed < kills:
        process = subprocess.Popen(
            command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(rng.uniform(0.2, 3))
            shutil.rmtree(output)  # it ended before the kill: once more from the beginning
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            landed += 1
    ended = run(*command[3:])
    assert ended.returncode == 0, ended.stderr
    assert files(output) == files(finished)
    assert (output / "funnel.json").read_bytes() == (finished / "funnel.json").read_bytes()


def test_kills_change_no_byte(planted, finished, tmp_path):
    killed_runs(planted, finished, tmp_path / "out", kills=2, seed=0)


@pytest.mark.slow
def test_ten_kills_change_no_byte(planted, finished, tmp_path):
    killed_runs(planted, finished, tmp_path / "out", kills=10, seed=1)


class Breaks(PipelineStep):
    """Raises on the third document."""

    name, type = "breaks", "test"

    def run(self, data, rank=0, world_size=1):
        for number, doc in enumerate(data):
            if number == 2:
                raise ZeroDivisionError("as planned")
            yield doc


def test_an_exception_in_one_of_two_workers_ends_the_run_and_names_the_document(planted, tmp_path):
    reader = pages.Pages(sorted(map(str, planted[0].glob("*.warc.gz"))))
    pipeline = [reader, Extract(), recipe.Named(Breaks(), reader)]
    started = time.monotonic()
    with pytest.raises(
        recipe.BrokenStep, match=r"document <urn:uuid:.*> of .*\.warc\.gz: ZeroDivisionError: as planned"
    ):
        LocalPipelineExecutor(pipeline, tasks=2, workers=2, logging_dir=str(tmp_path)).run()
    assert time.monotonic() - started < 120


def warc_of(payloads: list[bytes], **headers: str) -> bytes:
    file = io.BytesIO()
    writer = WARCWriter(file, gzip=True)
    for i, payload in enumerate(payloads):
        fields = {"Content-Type": "text/html", **headers}
        http = StatusAndHeaders("200 OK", list(fields.items()), protocol="HTTP/1.1")
        writer.write_record(
            writer.create_warc_record(f"http://a.test/{i}", "response", payload=io.BytesIO(payload), http_headers=http)
        )
    return file.getvalue()


def read(path: Path) -> tuple[list[Document], list[str]]:
    """(documents, reasons of what is none)"""
    reasons = []
    reader = pages.Pages([str(path)], lambda doc: reasons.append(doc.metadata["filter_reason"]))
    return list(reader.run()), reasons


PAGE = b"<html><body><p>Some words.</p></body></html>"


@pytest.mark.parametrize(
    "content, count, reason",
    [
        (b"this is no gzip at all", 0, "broken_file"),
        (warc_of([PAGE, b"  ", PAGE]), 2, "empty_page"),
        (warc_of([gzip.compress(b" x" * 20_000_000)], **{"Content-Encoding": "gzip"}), 0, "page_too_large"),
    ],
)
def test_damaged_archives_give_what_they_have_and_a_reason(tmp_path, content, count, reason):
    path = tmp_path / "a.warc.gz"
    path.write_bytes(content)
    made, reasons = read(path)
    assert len(made) == count
    assert len(reasons) == 1 and reasons[0].startswith(reason)


@pytest.mark.parametrize("name", ["a.warc.gz", "a.warc"])
def test_a_file_that_ends_anywhere_in_its_last_record_says_so(name, tmp_path):
    content, begins = warc_of([PAGE] * 2), b"\x1f\x8b\x08"
    if name == "a.warc":
        content, begins = gzip.decompress(content), b"WARC/1.0"
    path = tmp_path / name
    for end in range(content.index(begins, 1) + 12, len(content)):
        path.write_bytes(content[:end])
        made, reasons = read(path)
        lost = len(made) == 1 and len(reasons) == 1
        # Of the last bytes, check sums and blank lines, none belongs to the page.
        assert lost or (len(made) == 2 and not reasons and end > len(content) - 40), end
    path.write_bytes(content)
    assert len(read(path)[0]) == 2 and not read(path)[1]


def test_an_empty_archive_is_no_error(tmp_path):
    (tmp_path / "a.warc.gz").touch()
    assert read(tmp_path / "a.warc.gz") == ([], [])


def test_other_encodings_are_read(tmp_path):
    latin = "<p>Über die Brücke, señor</p>".encode("latin-1")
    (tmp_path / "a.warc.gz").write_bytes(warc_of([latin], **{"Content-Type": "text/html; charset=iso-8859-1"}))
    (tmp_path / "b.html").write_bytes(b'<meta charset="windows-1252"><p>It\x92s a caf\xe9</p>')
    (tmp_path / "c.html").write_bytes("\ufeff<p>naïve</p>".encode())
    (tmp_path / "d.html").write_bytes("<p>naïve</p>".encode("utf-16"))
    assert "Brücke, señor" in read(tmp_path / "a.warc.gz")[0][0].text
    assert "It’s a café" in read(tmp_path / "b.html")[0][0].text
    assert read(tmp_path / "c.html")[0][0].text == read(tmp_path / "d.html")[0][0].text == "<p>naïve</p>"


def test_records_of_text_are_read_and_the_wrong_ones_counted(tmp_path):
    lines = ['{"id": "a", "text": "x y"}', "{", '{"text": 5}', "[]", '{"id": "a", "text": "again"}', ""]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    made, reasons = read(tmp_path / "a.jsonl")
    assert [doc.text for doc in made] == ["x y"]
    assert Counter(reasons) == {"no_object_with_a_text": 3, "duplicate_id": 1}


def test_documents_of_one_id_in_several_files_are_one_document_and_the_others_are_counted(tmp_path):
    for i, (id_, number) in enumerate([("a", 0), ("b", 1), ("a", 2), ("a", 0)]):
        text = paragraph(random.Random(number), 12)
        (tmp_path / f"{i}.jsonl").write_text(json.dumps({"id": id_, "text": text, "n": i}) + "\n")
    ended = run(f"--input={tmp_path}/*.jsonl", f"--output={tmp_path}/out")
    assert ended.returncode == 0, ended.stderr
    assert sorted(documents(tmp_path / "out")) == ["a", "b"]
    assert sum(len(gzip.decompress(data).splitlines()) for data in files(tmp_path / "out").values()) == 2
    steps = {step["name"]: step for step in json.loads((tmp_path / "out/funnel.json").read_text())["steps"]}
    assert steps["near_duplicate"]["reasons"] == {"duplicate_id": 2}


def test_parquet_holds_the_same_documents_and_is_read_back(planted, finished, tmp_path):
    first = tmp_path / "first"
    ended = run(f"--input={planted[0]}/*.warc.gz", f"--output={first}", "--format=parquet")
    assert ended.returncode == 0, ended.stderr
    rows = {row["id"]: row for path in first.glob("documents/*.parquet") for row in pq.read_table(path).to_pylist()}
    wanted = documents(finished)
    assert rows.keys() == wanted.keys()
    assert all(rows[id_][key] == value for id_, record in wanted.items() for key, value in record.items())
    assert next(first.glob("documents/*")).name == "00000.parquet"
    again = [doc for path in sorted(first.glob("documents/*.parquet")) for doc in read(path)[0]]
    assert {doc.id: doc.text for doc in again} == {id_: record["text"] for id_, record in wanted.items()}
    assert all(doc.metadata["url"] == wanted[doc.id]["url"] for doc in again)


def test_other_columns_of_the_input_stay(tmp_path):
    text, when = paragraph(random.Random(0), 12), datetime.datetime(2024, 1, 2)
    pq.write_table(pa.table({"text": [text], "id": ["a"], "dump": ["CC-1"], "when": [when]}), tmp_path / "a.parquet")
    for kind in ("jsonl", "parquet"):
        ended = run(f"--input={tmp_path}/a.parquet", f"--output={tmp_path}/{kind}", f"--format={kind}")
        assert ended.returncode == 0, ended.stderr
    record = documents(tmp_path / "jsonl")["a"]
    assert (record["dump"], record["when"]) == ("CC-1", str(when))
    row = pq.read_table(tmp_path / "parquet/documents/00000.parquet").to_pylist()[0]
    assert json.loads(row["metadata"]) == {"dump": "CC-1", "when": str(when)}


DATA = ROOT.parent / "shared" / "data"


@pytest.mark.skipif(not (DATA / "warc").is_dir(), reason=f"needs the public texts in {DATA}")
@pytest.mark.slow
def test_public_pages_and_books_go_through(tmp_path):
    for name, pattern in (("warc", "warc/*.warc*"), ("books", "books/[fm]*.txt")):
        ended = run(f"--input={DATA}/{pattern}", f"--output={tmp_path}/{name}")
        assert ended.returncode == 0, ended.stderr
    steps = json.loads((tmp_path / "warc/funnel.json").read_text())["steps"]
    assert steps[0]["out"]["documents"] > 200 and steps[0]["reasons"] == {
        "no_page_but_application/json": 3,
        "no_page_but_text/plain": 2,  # a crawler's own log
        "truncated_body": 1,
    }
    assert steps[-1]["out"]["documents"] == len(documents(tmp_path / "warc")) > 15
    books = json.loads((tmp_path / "books/funnel.json").read_text())["steps"]
    assert books[0]["out"]["documents"] == 2  # novels are longer than the Gopher rules let a page be
    assert sum(sum(step["reasons"].values()) for step in books) + books[-1]["out"]["documents"] == 2


@pytest.mark.parametrize("block", [Extract(seconds=1e-6), Extract(memory_bytes=2**20)])
def test_a_page_that_exhausts_the_parser_is_dropped_and_the_rest_goes_on(block):
    made = [Document(text=PAGE.decode(), id=str(i), metadata={"markup": "html"}) for i in range(2)]
    results = [block.filter(doc) for doc in made]
    assert results[0] in ((False, "page_too_slow"), (False, "page_breaks_the_parser"))
    block.seconds, block.memory_bytes = 30, 2**31
    again = Document(text=PAGE.decode(), id="again", metadata={"markup": "html"})
    assert block.filter(again) is True and again.text == "Some words."
    block.stop()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--input=nothing*.warc", "--output=out"], "no file matches"),
        (["--input=setup.py", "--output=out"], "is of no known kind"),
        (["--input=setup.py", "--output=out", "--language=english"], "--language=english: no stop words"),
        (["--output=out"], "--input"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, message):
    ended = run(*arguments)
    assert ended.returncode == 2 and message in ended.stderr and "Traceback" not in ended.stderr
