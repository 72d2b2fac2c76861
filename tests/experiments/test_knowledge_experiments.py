"""Experiments on what a base model is, and on fine-tuning with facts that it does not know: their parts."""

import importlib
import json
import random
import re
from types import SimpleNamespace

import pytest

from data_pipelines.tiny_web.world import make_world
from experiments.ablations import arms, base_model, unknown_facts
from tests.evals.scripted import Scripted


def test_the_unknown_arm_asks_the_same_of_people_whom_nobody_knows(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/world.jsonl").write_text('{"id": "p1", "name": "Ada Byron"}\n')
    (tmp_path / "data/questions_train.jsonl").write_text('{"id": "q1", "attribute": "job"}\n')
    lab = SimpleNamespace(base=tmp_path, run=SimpleNamespace(config=SimpleNamespace(seed=0)))
    known = {
        "id": "q1",
        "item": "p1",
        "messages": [{"role": "user", "content": "Job of Ada Byron?"}],
        "answer": "baker",
    }
    first, second = unknown_facts.about_strangers(lab, [known] * 2, random.Random(0))
    asked = re.fullmatch(r"Job of (\w+ \w+)\?", first["messages"][0]["content"])
    assert asked[1] != "Ada Byron" and first["messages"] != second["messages"] and known["answer"] == "baker"
    assert first["answer"] in make_world(0).values["job"] and first["item"] != "p1"


def test_the_verdict_compares_the_last_steps():
    at = lambda low, high: {"recall": {"value": (low + high) / 2, "ci95": [low, high]}}  # noqa: E731
    curves = {"known": {"8": at(0.1, 0.2), "16": at(0.7, 0.8)}, "unknown": {"8": at(0.7, 0.8), "16": at(0.2, 0.4)}}
    assert unknown_facts.verdict({"value": 0.76}, curves) == (
        "it recalls 0.76; having learned what it knew 0.75, what it did not know 0.30: intervals apart"
    )


@pytest.mark.parametrize(("last", "recited"), [("", 1.0), ("x", 0.0)], ids=["to the letter", "but for one letter"])
def test_a_page_is_recited_to_the_letter(tokenizer, last, recited):
    page = base_model.page(random.Random(0), make_world(0, 1, 1, 1, 1, 1).values)
    begin, rest = base_model.halved(page)
    said = lambda text, request, params: ([{"type": "answer", "text": rest[: len(rest) - len(last)] + last}], -1.0)  # noqa: E731
    engine = Scripted(tokenizer, said)
    assert begin + rest == page and base_model.recited(engine, {}, [page]) == [recited]
    assert tokenizer.decode(engine.requests[0].prompt).endswith(begin)


def test_examples_stand_before_the_question_and_its_answer_does_not():
    asked = lambda text, answer: {"messages": [{"content": text}], "answer": answer}  # noqa: E731
    two = [asked("What is 1+2?", "3")], asked("What is 4+5?", "9")
    assert base_model.prompted("plain", *two) == "Question: What is 1+2?\nAnswer: 3\n\nQuestion: What is 4+5?\nAnswer:"
    assert base_model.prompted("as on its pages", *two) == "What is 1+2? 3\nWhat is 4+5?"


def test_what_is_kept_of_an_experiment_is_told_in_its_docstring():
    kept = sorted((arms.ROOT / "experiments/ablations/results").iterdir())
    assert {path.suffix for path in kept} == {".json", ".svg"}
    for path in kept:
        assert "results/" in importlib.import_module(f"experiments.ablations.{path.stem}").__doc__, path
        assert path.with_suffix(".json").exists() and path.with_suffix(".svg").exists()
    for path in kept[::2]:
        assert json.loads(path.read_text())["seconds"] > 0 and "/tmp/" not in path.read_text()
