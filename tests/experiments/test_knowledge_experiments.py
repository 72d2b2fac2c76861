"""Experiments on what a base model is, and on fine-tuning with facts that it does not know: their parts."""

import random

import pytest

from data_pipelines.tiny_web.world import make_world
from experiments.ablations import base_model, unknown_facts
from tests.evals.scripted import Scripted


def test_both_arms_learn_as_many_answers_of_each_kind():
    kinds = {f"{name}{n}": "job" if n % 3 else "hobby" for name in unknown_facts.ARMS for n in range(30)}
    by_answer = {name: [{"id": f"{name}{n}"} for n in range(30)] for name in unknown_facts.ARMS}
    by_answer["known"] += [{"id": "known-year"}]
    chosen = unknown_facts.alike(by_answer, kinds | {"known-year": "birth_year"}, 12, random.Random(0))
    for name, prompts in chosen.items():
        assert all(p["id"].startswith(name) for p in prompts)
        assert sorted(kinds[p["id"]] for p in prompts) == ["hobby"] * 6 + ["job"] * 6


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
