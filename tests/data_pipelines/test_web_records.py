"""Records of other people's files: what is odd in one field is that record's own matter."""

import codecs
import datetime
import json
import math
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datatrove.data import Document

from data_pipelines.tiny_web.grammar import paragraph
from data_pipelines.web import urls
from data_pipelines.web.shards import Documents, Shard
from tests.data_pipelines.test_web import documents, read, run


def read_one(tmp_path, **fields) -> dict:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "Some words.", **fields}))
    ((doc,), reasons) = read(tmp_path / "a.jsonl")
    assert not reasons and doc.text == "Some words."
    return doc.metadata | {"id": doc.id}


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "http://a.test/x"},
        {"metadata": {"url": "http://a.test/x", "text": "other"}},
        {"meta": {"url": "http://a.test/x"}, "url": None},
        {"metadata": json.dumps({"url": "http://a.test/x"})},
        {"metadata": {"WARC-Target-URI": "http://a.test/x"}},
        {"source_url": "http://a.test/x"},
        {"url": ["http://a.test/x", "http://b.test"]},
    ],
)
def test_an_address_is_found_where_people_keep_it(fields, tmp_path):
    assert read_one(tmp_path, **fields)["url"] == "http://a.test/x"


@pytest.mark.parametrize("url", [5, math.nan, [], {}, {"href": "x"}, True, [[]], None, ""])
def test_an_address_that_is_none_is_left_out(url, tmp_path):
    metadata = read_one(tmp_path, url=url)
    assert not metadata.get("url")
    assert urls.Urls(("blocked.test",)).filter(Document(text="x", id="x", metadata=metadata)) is True


@pytest.mark.parametrize(
    "url",
    ["http://blocked.test/x", "https://a.BLOCKED.test:80", "blocked.test/x", "//blocked.test.", " http://blocked.test"],
)
def test_a_blocked_host_is_found_however_it_is_written(url, tmp_path):
    block = urls.Urls(("*.Blocked.test", "https://b\u00fccher.test/"))
    for fields in ({"url": url}, {"metadata": {"url": url}}):
        doc = Document(text="x", id="x", metadata=read_one(tmp_path, **fields))
        assert block.filter(doc) == (False, "blocked_host")
    other = Document(text="x", id="x", metadata={"url": "http://xn--bcher-kva.test/"})
    assert block.filter(other) == (False, "blocked_host")


def test_fields_of_the_pipeline_and_odd_values_break_nothing(tmp_path):
    odd = {"_size": 5, "filter_reason": 7, "markup": "html", "file_path": 3, "date": 20240101, "warc_offset": 1.5}
    odd |= {
        "pii": 2**80,
        "language_score": "high",
        "quality": True,
        "score": math.inf,
        "deep": [{"nan": [math.nan, 1]}],
    }
    metadata = read_one(tmp_path, id=math.nan, **odd)
    assert metadata["id"].endswith("a.jsonl:1") and metadata["file_path"] == "3" and metadata["date"] == "20240101"
    assert metadata["deep"] == [{"nan": [None, 1]}] and "score" not in metadata and "_size" not in metadata
    doc = Document(text="Some words.", id="a", metadata={key: value for key, value in metadata.items() if key != "id"})
    for kind in ("jsonl", "parquet"):
        assert list(Documents(str(tmp_path / kind), kind).run([doc])) == [doc]
    row = pq.read_table(tmp_path / "parquet/00000.parquet").to_pylist()[0]
    assert (row["warc_offset"], row["pii"], row["language_score"], row["file_path"]) == (None, None, None, "3")
    json.loads(next(iter(documents_of(tmp_path / "jsonl"))), parse_constant=pytest.fail)


def documents_of(folder):
    import gzip

    return gzip.decompress(next(folder.glob("*.gz")).read_bytes()).decode().splitlines()


@pytest.mark.parametrize("depth", [40, 60, 900, 100_000])
def test_what_is_nested_without_end_is_counted(depth, tmp_path):
    lines = ['{"text": "x", "deep": ' + "[" * depth + "]" * depth + "}", '{"text": "y"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    made, reasons = read(tmp_path / "a.jsonl")
    assert len(made) + len(reasons) == 2 and made[-1].text == "y"
    assert len(list(Shard(str(tmp_path)).run(iter(made)))) == len(made)  # what was read can be written
    assert bool(reasons) == (depth > 50)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_text(encoding, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "naïve"}\n{"text": "two\u2028lines"}\n', encoding=encoding)
    assert [doc.text for doc in read(tmp_path / "a.jsonl")[0]] == ["naïve", "two\u2028lines"]
    (tmp_path / "a.txt").write_text("naïve", encoding=encoding)
    assert [doc.text for doc in read(tmp_path / "a.txt")[0]] == ["naïve"]
    (tmp_path / "b.jsonl").write_bytes(codecs.BOM_UTF8 + b"\n" + b'{"text": "x"}')
    assert [doc.text for doc in read(tmp_path / "b.jsonl")[0]] == ["x"]


def test_parquet_with_any_of_arrows_strings_is_read(tmp_path):
    kinds = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
    for kind in kinds:
        column = (
            pa.array(["x y", "z"]).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(["x y", "z"], kind)
        )
        meta = pa.array([[("url", "http://a.test")], None], pa.map_(pa.string(), pa.string()))
        when = pa.array([datetime.datetime(2024, 1, 2), None])
        pq.write_table(
            pa.table({"text": column, "metadata": meta, "date": when, "n": [math.nan, 1.0]}), tmp_path / "a.parquet"
        )
        made, reasons = read(tmp_path / "a.parquet")
        assert [doc.text for doc in made] == ["x y", "z"] and not reasons
        assert (made[0].metadata["url"], made[0].metadata["date"]) == ("http://a.test", "2024-01-02 00:00:00")
        assert "n" not in made[0].metadata and made[1].metadata["n"] == 1.0


def test_one_run_over_odd_records_keeps_the_good_ones(tmp_path):
    """datatrove's own form, read back from our own parquet as well; no NaN in what is written."""
    texts = [paragraph(random.Random(number), 12) for number in range(4)]
    hosts = ("nice.test", "blocked.test", "nice.test", "nice.test")
    lines = [
        {"id": str(i), "text": t, "metadata": {"url": f"http://{h}/", "score": math.nan}}
        for i, (t, h) in enumerate(zip(texts, hosts, strict=True))
    ]
    lines[3]["metadata"] = {"url": 5, "deep": [[[[1]]]], "_size": 1}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    command = (f"--input={tmp_path}/a.jsonl", "--blocked_hosts=blocked.test")
    ended = run(*command, f"--output={tmp_path}/out", "--format=parquet")
    assert ended.returncode == 0, ended.stderr
    again = run(f"--input={tmp_path}/out/documents/*.parquet", f"--output={tmp_path}/again")
    assert again.returncode == 0, again.stderr
    kept = documents(tmp_path / "again")
    assert sorted(kept) == ["0", "2", "3"]
    assert kept["0"]["url"] == "http://nice.test/" and kept["3"]["deep"] == [[[[1]]]] and kept["3"]["url"] is None
