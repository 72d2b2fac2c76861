"""Records on disk."""

import gzip
import json

import pytest

from data_pipelines.documents import keep_one_to_train, read_documents, read_jsonl, write_jsonl
from llm_jax.config import UserError

RECORDS = [
    {"id": str(i), "source": "web", "text": text} for i, text in enumerate(("one", "two\u2028lines\x85 here", "three"))
]


def test_texts_with_any_end_of_line_come_back(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", RECORDS)
    assert read_jsonl(tmp_path / "a.jsonl") == RECORDS
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    for name in ("a.jsonl", "b.jsonl.gz"):
        assert [d["text"] for d in read_documents(str(tmp_path / name))] == [r["text"] for r in RECORDS]


def test_half_a_gzip_file_is_refused_by_name(tmp_path):
    whole = gzip.compress(json.dumps({"text": "x" * 1000}).encode())
    (tmp_path / "b.jsonl.gz").write_bytes(whole[:-9])
    with pytest.raises(UserError, match=r"b\.jsonl\.gz is no whole gzip file"):
        list(read_documents(str(tmp_path / "*")))


def test_where_all_fell_to_validation_one_is_trained_on():
    splits = lambda *given: [r["split"] for r in keep_one_to_train([{"split": split} for split in given])]  # noqa: E731
    assert splits("val", "val") == ["train", "val"]
    assert splits("val", "train") == ["val", "train"] and splits() == []
