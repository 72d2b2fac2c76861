"""When a model calls: where it must, where it need not, and what a call brings."""

import random
import re

from llm_jax.evals.measure import measure_calls, right_per_call
from llm_jax.evals.run import put_calls
from llm_jax.prompts import Outcome
from llm_jax.tasks.records import records
from llm_jax.tasks.table import FAMILIES
from llm_jax.tasks.words import LISTS
from tests.evals.scripted import examiner


def outcome(item: str, right: bool, calls: int) -> Outcome:
    parts = [{"type": "python", "text": "1"}] * calls
    return Outcome({"item": item}, parts, ended=True, right=right, well_formed=True, tokens=1)


def test_what_a_call_brings_is_of_those_that_call():
    asked = [outcome("a", True, 1), outcome("b", True, 3), outcome("c", False, 1), outcome("d", True, 0)]
    found = right_per_call(asked)
    assert found["value"] == 0.4 and found["n"] == 5
    assert found["ci95"][0] < 0.4 < found["ci95"][1]
    assert right_per_call(asked[3:]) == {"value": None, "n": 0, "ci95": [None, None]}


def test_big_numbers_need_it_and_three_small_ones_do_not(tokenizer, tmp_path):
    def answer(text, request, params):
        call = [{"type": "python", "text": "1"}] if re.search(r"\d{3}", text) else []
        return [*call, {"type": "answer", "text": " 0"}], -1.0

    e = examiner(tokenizer, tmp_path, answer)
    for family, level in (("calculator", 0), ("calculator", 1), ("arithmetic", 1), ("arithmetic", 2)):
        row = FAMILIES[family]
        for prompt in records(random.Random(0), row, level, "test", 4, LISTS):
            e.by_level[family, row.levels[level]].append(prompt)
    found = measure_calls(e, None)
    assert found["called_needed"]["value"] == 1 and found["called_needed"]["n"] == 8
    assert found["called_unneeded"]["value"] == 0 and found["called_unneeded"]["n"] == 4
    assert found["per_call"] == {"value": 0.0, "n": 8, "ci95": [0.0, 0.0]}


def test_it_stands_with_the_other_figures_of_tools():
    report = {"tools": {"with": 1}, "final": {"tools": {"with": 1}}}
    put_calls(report, {"before": {"per_call": 2}, "after": {"per_call": 3}})
    assert report["tools"] == {"with": 1, "per_call": 3, "before": {"per_call": 2}}
    assert report["final"]["tools"] == {"with": 1, "per_call": 3}
    alone: dict = {}
    put_calls(alone, {"before": {"per_call": 2}})
    assert alone == {"tools": {"per_call": 2}}
