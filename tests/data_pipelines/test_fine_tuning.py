"""What a model from elsewhere learns and is asked: nothing asked is taught, and choices have one right ending."""

import importlib
import re
import sys
from collections import Counter

import pytest

from llm_jax.tasks.base import split_of
from llm_jax.tasks.grading import grade
from llm_jax.tasks.table import FAMILIES


@pytest.fixture(scope="module")
def fine_tuning():
    """The module, whose family other tests are not to find."""
    yield importlib.import_module("data_pipelines.fine_tuning")
    FAMILIES.remove("sums")
    del sys.modules["data_pipelines.fine_tuning"]


@pytest.mark.parametrize("amount", [1.0, 0.05])
def test_each_level_is_taught_as_often_as_it_says(fine_tuning, amount):
    made = list(fine_tuning.conversations(0, amount))
    counts = Counter(record["source"] for record in made)
    for name in ("sums", "arithmetic"):
        wanted = sum(max(1, round(n * amount)) for (family, _, _), n in fine_tuning.TAUGHT.items() if family == name)
        assert counts[name] == wanted
    ways = {record["source"]: {part["type"] for part in record["messages"][-1]["content"]} for record in made}
    assert ways == {"sums": {"python", "output", "answer"}, "arithmetic": {"think", "answer"}}
    assert made == list(fine_tuning.conversations(0, amount)) != list(fine_tuning.conversations(1, amount))


def test_no_problem_that_is_asked_is_taught(fine_tuning):
    text = " ".join(str(record["messages"]) for record in fine_tuning.conversations(0, 1.0))
    taught = set(re.findall(r"[0-9]+(?:[+-][0-9]+)+", text))
    for split in ("train", "dev", "test"):
        asked = list(fine_tuning.prompts(0, split, 1.0))
        assert Counter((p["task"], p["level"]) for p in asked) == {
            (name, FAMILIES[name].levels[level]): fine_tuning.PROMPTS[split] for name, level, _ in fine_tuning.TAUGHT
        }
        assert all(split_of(p["item"]) == split for p in asked)
        if split != "train":
            assert not [p["item"] for p in asked if p["item"] in taught]


def test_a_sum_is_right_by_its_own_program(fine_tuning):
    for prompt in fine_tuning.prompts(3, "dev", 0.2):
        right = [{"type": "answer", "text": str(eval(prompt["item"]))}]
        assert grade(prompt, right, ended=True)
        digits = {len(number) for number in prompt["item"].split("+")}
        assert prompt["task"] != "sums" or digits == {int(prompt["level"][0])}


def test_a_choice_has_its_own_pages_next_sentence_and_three_of_other_pages(fine_tuning):
    sentence = "{} says at some length that the number is {} and so on it goes"
    page = lambda name: ". ".join(sentence.format(name, n) for n in range(6))  # noqa: E731
    documents = [{"id": name, "text": page(name)} for name in ("Anna", "Bert", "Cleo", "Dora", "Emil")]
    documents.append({"id": "short", "text": "Short says nothing."})
    made = list(fine_tuning.choices(0, documents))
    assert len(made) == 5 and len({question["label"] for question in made}) > 1
    for question in made:
        name = question["ctx"].split()[0]
        assert [ending.startswith(name) for ending in question["endings"]].count(True) == 1
        right = question["endings"][question["label"]]
        *_, last = (int(word) for word in question["ctx"].split() if word.isdigit())
        assert right.startswith(name) and f"is {last + 1} and" in right
