"""Records on disk: every kind of file, what is wrong in them, names and splits."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.documents import (
    MOST_SOURCES,
    id_of,
    read_documents,
    source_of,
    split_of,
    with_splits,
    write_jsonl,
)
from llm_jax.config import UserError
from llm_jax.files import json_lines

RECORDS = [
    {"id": str(i), "source": "web", "text": text} for i, text in enumerate(("one", "two\u2028lines\x85 here", "three"))
]
TEXTS = [record["text"] for record in RECORDS]
BOM = b"\xef\xbb\xbf"


def lines(records: list[dict], end: str = "\n") -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + end for record in records).encode()


def test_texts_with_any_end_of_line_come_back(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", RECORDS)
    assert json_lines(tmp_path / "a.jsonl") == RECORDS
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    for name in ("a.jsonl", "b.jsonl.gz"):
        assert [d["text"] for d in read_documents(str(tmp_path / name))] == TEXTS


@pytest.mark.parametrize("mark", [b"", BOM])
@pytest.mark.parametrize(
    "name, content",
    [
        ("a.jsonl", lines(RECORDS)),
        ("a.ndjson", lines(RECORDS, "\r\n\r\n")),
        ("a.json", lines(RECORDS)),  # as C4's
        ("a.json", json.dumps(RECORDS).encode()),
        ("a.json", b"\n " + json.dumps(RECORDS, indent=1).encode()),
        ("A.JSONL", lines(RECORDS[:1]) + BOM + lines(RECORDS[1:])),  # two files that were joined
    ],
)
def test_records_are_read_from_every_form_of_json(name, content, mark, tmp_path):
    (tmp_path / name).write_bytes(mark + content)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(mark + content))
    read = list(read_documents(f"{tmp_path}/*"))
    assert [d["text"] for d in read] == TEXTS * 2
    assert [d["id"] for d in read] == ["0", "1", "2"] * 2


def test_an_empty_file_has_no_records(tmp_path):
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text("\n")
    assert not list(read_documents(f"{tmp_path}/*"))


def test_one_object_over_several_lines_is_one_record(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(RECORDS[0], indent=1))
    assert [d["text"] for d in read_documents(f"{tmp_path}/*")] == TEXTS[:1]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(BOM + b"plain")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(BOM + b"packed"))
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "\ufeffinside"}))
    assert [d["text"] for d in read_documents(f"{tmp_path}/*")] == ["plain", "packed", "inside"]


@pytest.mark.parametrize("name", ["a.md", "a", "a.csv", "a.jsonl.zst", "a.parquet.gz", "a.jsonl.gz.part"])
def test_a_file_of_another_kind_is_refused_by_name_before_any_is_read(name, tmp_path):
    (tmp_path / "0.jsonl").write_text("no JSON")
    (tmp_path / name).write_text('{"text": "x"}')
    with pytest.raises(UserError, match=rf"{name} is of no known kind; give \.txt, \.jsonl"):
        read_documents(f"{tmp_path}/*")


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "a.jsonl",
            b'{"text": "x"}\n{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            "line 2: .*nested too deeply",
        ),
        ("a.json", b"[" * 100_000, "a.json: .*nested too deeply"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}', r"line 2: not valid UTF-8 \(byte 10\)"),
        ("a.txt", b"x\xff", r"not valid UTF-8 \(byte 1\)"),
        ("a.jsonl", b'{"text": "x"}\n{"text"', "line 2: no JSON"),
        ("a.json", b'[{"text": "x"}, ]', r"a\.json: no JSON"),
        ("a.json", b'{"data": []}', "line 1: not a JSON object with a string `text`"),
        ("a.jsonl", b'{"text": null}', "line 1: not a JSON object with a string `text`"),
        ("a.jsonl", b'{"text": "x", "id": []}', "line 1: id: must be"),
        ("a.jsonl.gz", b'{"text": "x"}', "no whole gzip file"),
        ("a.parquet", b"PAR1", "no whole parquet file"),
    ],
)
def test_what_cannot_be_read_is_one_line(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_documents(f"{tmp_path}/*"))


def test_half_a_gzip_file_is_refused_by_name(tmp_path):
    whole = gzip.compress(json.dumps({"text": "x" * 1000}).encode())
    (tmp_path / "b.jsonl.gz").write_bytes(whole[:-9])
    with pytest.raises(UserError, match=r"b\.jsonl\.gz is no whole gzip file"):
        list(read_documents(str(tmp_path / "*")))


def test_brackets_in_a_name_that_is_there_are_brackets(tmp_path):
    folder = tmp_path / "sets [v1]"
    folder.mkdir()
    for name in ("a[1].jsonl", "a1.jsonl"):
        (folder / name).write_text(json.dumps({"text": name}))
    texts = lambda pattern: [d["text"] for d in read_documents(str(pattern))]  # noqa: E731
    assert texts(folder / "a[1].jsonl") == ["a[1].jsonl"]
    assert texts(folder / "*") == ["a1.jsonl", "a[1].jsonl"]
    assert texts(folder / "a[0-9].jsonl") == ["a1.jsonl"]
    with pytest.raises(UserError, match=r"is a folder; give a glob .*v1\]/\*'"):
        texts(folder)


def test_every_string_type_of_arrow_is_text(tmp_path):
    for number, kind in enumerate((pa.string(), pa.large_string(), pa.string_view())):
        pq.write_table(pa.table({"text": pa.array(["one"], kind)}), tmp_path / f"{number}.parquet")
    pq.write_table(pa.table({"text": pa.array(["one"]).dictionary_encode()}), tmp_path / "3.parquet")
    assert [d["text"] for d in read_documents(f"{tmp_path}/*")] == ["one"] * 4


def test_what_is_written_is_json(tmp_path):
    inside = {"a": [float("nan"), 1.5], "b": {"c": -float("inf")}}
    write_jsonl(tmp_path / "a.jsonl", [inside, {"d": Path("x")}])

    def refuse(name):
        raise AssertionError(name)

    read = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert read == [{"a": [None, 1.5], "b": {"c": None}}, {"d": "x"}]


def test_a_split_that_a_record_names_is_its_split(tmp_path):
    named = ["train", "validation", "test", "dev", "Valid", "test_sft", "train[:90%]", "held_out", "", None]
    records = [{"text": f"text {n}", "split": split} for n, split in enumerate(named)]
    (tmp_path / "a.jsonl").write_bytes(lines(records))
    splits = [d["split"] for d in with_splits(list(read_documents(f"{tmp_path}/*")))]
    assert splits == ["train", *["val"] * 5, "train", "val", split_of("text 8"), split_of("text 9")]
    for wrong in ("fold 3", 3, "vall"):
        (tmp_path / "a.jsonl").write_bytes(lines([{"text": "x", "split": wrong}]))
        with pytest.raises(UserError, match=f"line 1: split: {wrong!r} is none of train, "):
            list(read_documents(f"{tmp_path}/*"))


def test_where_all_fell_to_validation_one_is_trained_on():
    held = [text for text in map(str, range(200)) if split_of(text) == "val"][:2]
    splits = lambda *given: [r["split"] for r in with_splits([{"text": t, "split": s} for t, s in given])]  # noqa: E731
    assert splits((held[0], ""), (held[1], "")) == ["train", "val"]
    assert splits((held[0], "val"), (held[1], "")) == ["val", "train"]
    assert splits((held[0], "val"), ("x", "train")) == ["val", "train"] and splits() == []
    with pytest.raises(UserError, match="all 2 records name a split that is held out"):
        splits((held[0], "val"), ("x", "val"))


def test_a_source_for_each_document_is_refused(tmp_path):
    records = [{"text": "x", "source": f"https://{n}.test/"} for n in range(MOST_SOURCES + 1)]
    (tmp_path / "a.jsonl").write_bytes(lines(records[:-1]))
    assert len(list(read_documents(f"{tmp_path}/*"))) == MOST_SOURCES
    (tmp_path / "b.jsonl").write_bytes(lines(records[-1:]))
    with pytest.raises(UserError, match=f"more than {MOST_SOURCES} sources .*the same `source`"):
        list(read_documents(f"{tmp_path}/*"))


def test_a_source_names_a_folder():
    name = lambda source: source_of(Path("x/set-00001-of-00002.jsonl.gz"), {"source": source})  # noqa: E731
    assert [name(odd) for odd in (None, "", {}, float("nan"), [1])] == ["set"] * 5
    assert name("web/x") == "web_x" and name(7) == "7"
    assert len(name("é" * 999).encode()) <= 255


def test_an_id_that_is_missing_is_none():
    assert [id_of({"id": id_}) for id_ in (None, float("nan"), 3.0, 0, "x")] == ["", "", "3", "0", "x"]
