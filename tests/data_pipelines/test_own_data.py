"""Documents and conversations of the user's own in stage `data` and `pack`: splits, sources, the tokenizer's sample."""

import gzip
import json
import random
from collections import Counter, defaultdict

import pytest

from data_pipelines import pack, speedrun
from data_pipelines.documents import MOST_SOURCES
from llm_jax import rows
from llm_jax.config import UserError

BOM = "\ufeff"


def talk(number: int, **more) -> dict:
    said = [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": f"Answer {number}."}]
    return {"messages": said, **more}


def write(path, records) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_some_of_every_source_is_held_out_whatever_the_order_of_files(tiny, tmp_path):
    counts = {"a_short": 200, "b_long": 1000, "c_long": 600}
    for name, count in counts.items():
        write(tmp_path / f"{name}.jsonl", (talk(n, source=name) for n in range(count)))
    tiny.data.conversations = f"{tmp_path}/*.jsonl"
    spoken = speedrun.make_conversations(tiny, {}, [], None)
    held = Counter(record["source"] for record in spoken if record["split"] == "val")
    assert Counter(record["source"] for record in spoken) == counts
    for name, count in counts.items():
        assert 0.02 < held[name] / count < 0.09


def test_records_that_name_a_split_are_held_out_or_trained_on_as_it_says(tiny, tmp_path):
    splits = ["train", "validation"] * 15
    write(tmp_path / "talk.jsonl", (talk(n, split=split) for n, split in enumerate(splits)))
    write(tmp_path / "text.jsonl", ({"text": f"Text {n}.", "split": split} for n, split in enumerate(splits)))
    tiny.data.conversations, tiny.data.documents = f"{tmp_path}/talk.jsonl", f"{tmp_path}/text.jsonl"
    documents, *_ = speedrun.make_documents(tiny, tmp_path, {})
    for made in (documents, speedrun.make_conversations(tiny, {}, [], None)):
        assert [record["split"] for record in made] == ["train", "val"] * 15
    pair = {"prompt": "a", "chosen": "b", "rejected": "c", "split": "test"}
    write(tmp_path / "talk.jsonl", [talk(0), pair])
    assert [record["split"] for record in speedrun.make_conversations(tiny, {}, [], None)] == ["train", "val"]
    write(tmp_path / "talk.jsonl", [talk(0, split="dev"), pair])
    with pytest.raises(UserError, match="all 2 records name a split that is held out"):
        speedrun.make_conversations(tiny, {}, [], None)


def test_a_source_for_each_conversation_is_refused(tiny, tmp_path, tokenizer):
    tokenizer.save(tmp_path / "a.model")
    write(tmp_path / "talk.jsonl", (talk(n, source=f"page {n}") for n in range(MOST_SOURCES + 1)))
    tiny.data.conversations = f"{tmp_path}/*.jsonl"
    with pytest.raises(UserError, match=f"more than {MOST_SOURCES} sources"):
        speedrun.make_conversations(tiny, {}, [], None)
    with pytest.raises(UserError, match=f"more than {MOST_SOURCES} sources"):
        pack.pack_task([tmp_path / "talk.jsonl"], 0, tmp_path, str(tmp_path / "a.model"), 64, "best_fit")


def test_a_source_is_one_folder(tmp_path, tokenizer):
    said = talk(0, split="train")["messages"]
    records = [{"messages": said, "source": source, "split": "train"} for source in ("web/x", "../../up", "a b")]
    speedrun.pack_records(tmp_path / "out", records, tokenizer, 64)
    assert {path.name for path in rows.row_sets(tmp_path / "out/sft")} == {"web_x", "______up", "a_b"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def small_sample(monkeypatch) -> dict[str, int]:
    sizes = {"SAMPLE_CHARACTERS": 60_000, "LEAST_CHARACTERS": 900, "LONG_CHARACTERS": 10_000}
    for name, size in sizes.items():
        monkeypatch.setattr(speedrun, name, size)
    return sizes


def test_the_tokenizer_reads_some_of_every_source_and_language(tiny, tmp_path, small_sample, tokenizer, monkeypatch):
    """Also where one source is a book that is longer than the sample."""
    write(tmp_path / "book.jsonl", [{"text": "English words. " * 30_000, "language": "en"}])
    pages = [{"text": f"Deutsche Worte {n}. " * 9, "language": "de", "source": "web"} for n in range(40)]
    pages += [{"text": f"English page {n}. " * 9, "language": "en", "source": "web"} for n in range(3000)]
    write(tmp_path / "web.jsonl", pages)
    (tmp_path / "a.txt").write_text("Texte en français. " * 30_000)
    (tmp_path / "b.txt").write_text("Русский текст. " * 30_000)
    write(tmp_path / "rare.jsonl", [{"text": "Quite rare."}])
    write(tmp_path / "talk.ndjson", map(talk, range(30)))
    tiny.data.documents, tiny.data.conversations = f"{tmp_path}/*[lt]", f"{tmp_path}/*.ndjson"
    seen: list[str] = []
    monkeypatch.setattr(speedrun, "train_tokenizer", lambda sample, size: seen.extend(sample) or tokenizer)
    documents, *_ = speedrun.make_documents(tiny, tmp_path, {})
    for document in documents:
        document["split"] = "train"
    speedrun.make_tokenizer(tiny, tmp_path, documents, speedrun.make_conversations(tiny, {}, [], None))
    of = defaultdict(int)
    for text in seen:
        of[
            next(
                word
                for word in ("Deut", "page", "words", "Text", "Рус", "текст", "rare", "tion", "swer")
                if word in text
            )
        ] += len(text)
    assert of["Deut"] >= 900 and of["page"] >= 900 and of["words"] >= 900 and of["rare"] == len("Quite rare.")
    assert of["Text"] >= 900 and of["Рус"] + of["текст"] >= 900 and of["tion"] + of["swer"] >= 500
    assert of["words"] < 0.6 * sum(of.values()) and sum(of.values()) < 1.5 * small_sample["SAMPLE_CHARACTERS"]


def test_a_sample_is_the_texts_where_they_are_few():
    texts = [("", "one"), ("", "two"), ("other", "three")]
    assert sorted(speedrun.sample_of(texts, random.Random(0))) == ["one", "three", "two"]


def test_every_form_of_records_is_packed(tmp_path, tokenizer):
    """Which were once trained on as the text of one document."""
    tokenizer.save(tmp_path / "a.model")
    documents = [{"text": f"the cat {n}", "source": "cats", "split": "train"} for n in range(8)]
    text = "".join(json.dumps(record) + "\n" for record in documents)
    (tmp_path / "a.json").write_text(BOM + json.dumps(documents))
    (tmp_path / "b-00000-of-00002.json.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.ndjson").write_text(BOM + text)
    turns = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "12"}]
    pair = {
        "prompt": "x",
        "chosen": talk(1)["messages"],
        "rejected": talk(1)["messages"],
        "messages": talk(1)["messages"],
    }
    lines = [talk(0, text=None, split="train"), {"conversations": turns, "split": "dev"}, {**pair, "split": "train"}]
    write(tmp_path / "talk.jsonl", lines)
    pack.pack_task(sorted(tmp_path.glob("*.*s*n*")), 0, tmp_path / "out", str(tmp_path / "a.model"), 64, "back_to_back")
    of = {name: rows.facts(*rows.row_sets(tmp_path / "out" / name)).get("documents", 0) for name in pack.SETS}
    assert of == {"pretrain": 24, "validation": 0, "sft": 2, "sft_validation": 1}
    assert [path.name for path in (tmp_path / "out/pretrain").iterdir()] == ["cats"]
