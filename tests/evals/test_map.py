"""The map: each cell asked its own way, in one call a way, of any model; what is told of it; and how lenient it is."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from llm_jax.evals.map import cliff, helped, measure_map, summary
from llm_jax.evals.measure import Examiner
from llm_jax.evals.real import said_right
from llm_jax.prompts import Outcome
from llm_jax.sampling.requests import Completion
from llm_jax.tasks.base import Item, of_split
from llm_jax.tasks.table import FAMILIES, Family
from llm_jax.tasks.words import LISTS
from tests.conftest import tiny_config

WORKS = {"direct": 2, "think": 3, "tool": 4}  # rungs, from the first, that the scripted model solves each way
SPANS = {"direct": "answer", "think": "think", "tool": "python"}


class Scripted:
    """An engine that answers each request from a table; it knows a prompt by its text, and a way by the opening."""

    def __init__(self, tokenizer, length: int, spans: bool):
        self.tokenizer, self.length, self.spans = tokenizer, length, spans
        self.tools, self.calls, self.known = {"python": str}, [], {}

    def close(self):
        pass

    def learn(self, problem):
        """What it says to the prompt, by the way in which it is asked."""
        for way, rungs in WORKS.items():
            solved = problem.level < rungs
            answer = problem.answer if solved else "nothing"
            parts = [*problem.solution(way)[:-1], {"type": "answer", "text": f" {answer}"}]
            plain = [{"type": "text", "text": f"I say: {answer}."}]
            self.known[problem.prompt, way] = parts if self.spans else plain

    def generate(self, params, requests):
        self.calls.append(len(requests))
        return [self.completion(request) for request in requests]

    def completion(self, request):
        t = self.tokenizer
        asked = t.decode(request.prompt).removesuffix(" Think step by step.")
        opened = {tuple(t.open[span]): way for way, span in SPANS.items()}
        way = opened[tuple(request.forced)] if request.forced else "direct"
        if not self.spans and t.decode(request.prompt) != asked:
            way = "think"
        assert (t.open["python"][0] in request.suppress) == (way != "tool")
        parts = self.known[asked, way]
        return Completion(ids=[*t.parts_to_ids(parts).ids, t.end], finish="stop")


@pytest.fixture
def families(monkeypatch):
    """Three: all ways, at once alone, and one whose list no run has."""

    def draw(rng, level):
        number = rng.randrange(100 * level + 100, 100 * level + 1100)
        text = f"{number} and {level}"
        return Item(f"plus:{text}", str(number + level), {"n": text}, f"{number}+{level}", f"{number}+{level}")

    rungs, wordings, none = tuple(f"plus {n}" for n in range(5)), ("Add {n}.", "What is {n}?"), (0,) * 5
    ways = {"direct": none, "think": none, "tool": none}
    row = {"levels": rungs, "make": of_split(draw), "wordings": wordings}
    for name in list(FAMILIES):
        monkeypatch.delitem(FAMILIES._rows, name)
    for family in (
        Family(name="adding", ways=ways, **row),
        Family(name="plain", ways={}, **{**row, "wordings": ("Plain {n}.",)}),
        Family(name="foreign", ways={}, lists=("nowhere",), **row),
    ):
        monkeypatch.setitem(FAMILIES._rows, family.name, family)


def examiner(tokenizer, spans: bool, length: int = 400, items: int = 8) -> Examiner:
    config = tiny_config()
    config.eval.map_items = items
    run = SimpleNamespace(config=config, tokenizer=tokenizer)
    e = Examiner(run, Scripted(tokenizer, length, spans), [])
    e.writes_spans = spans
    return e


def learned(e: Examiner, monkeypatch) -> Examiner:
    """Its engine learns each problem when it is drawn."""
    made = Family.problem

    def problem(family, *args):
        e.engine.learn(one := made(family, *args))
        return one

    monkeypatch.setattr(Family, "problem", problem)
    return e


def test_each_way_is_one_call_and_each_cell_has_its_own_answers(tokenizer, families, monkeypatch, capsys):
    e = learned(examiner(tokenizer, spans=True), monkeypatch)
    found = measure_map(e, None)
    assert e.engine.calls == [2 * 5 * 8, 5 * 8, 5 * 8]
    for number, (level, ways) in enumerate(found["adding"].items()):
        assert level == f"plus {number}" and list(ways) == ["direct", "think", "tool"]
        for way, metric in ways.items():
            assert (metric["value"], metric["n"]) == (float(number < WORKS[way]), 8), (level, way)
            assert metric["ci95"][0] < metric["ci95"][1] and metric["lenient"] == metric["value"]
            assert metric["well_formed"] == 1
    assert all(list(ways) == ["direct"] for ways in found["plain"].values())
    assert "foreign" not in found and "foreign is left out" in capsys.readouterr().out
    assert [told["family"] for told in found["families_working"]["found"]] == ["adding", "plain"]
    (helps,) = found["helped"]["found"]
    assert helps == {"family": "adding", "level": "plus 2", "way": "think", "value": 1.0, "direct": 0.0}
    assert found["cliffs"]["value"] == 2 and found["cliffs"]["found"][0]["works"] in ("plus 0", "plus 1")
    told = found["examples"]["found"]
    assert len(told) == found["examples"]["value"] == 2 * 4 and told[0]["right"] and not told[1]["right"]
    assert told[0]["parts"][-1]["text"].strip() == told[0]["answer"]
    json.dumps(found)


def test_a_model_without_spans_is_asked_plainly_and_graded_leniently(tokenizer, families, monkeypatch):
    e = learned(examiner(tokenizer, spans=False), monkeypatch)
    found = measure_map(e, None)
    assert e.engine.calls == [2 * 5 * 8, 5 * 8, 0]
    assert [ways["direct"]["value"] for ways in found["adding"].values()] == [1, 1, 0, 0, 0]
    assert [ways["think"]["value"] for ways in found["adding"].values()] == [1, 1, 1, 0, 0]
    assert not any("tool" in ways for ways in found["adding"].values())


def test_the_same_problems_are_asked_of_every_run(tokenizer, families, monkeypatch):
    asked = []
    for seed in (0, 1):
        e = learned(examiner(tokenizer, spans=True), monkeypatch)
        e.seed = seed
        measure_map(e, None)
        asked.append(list(e.engine.known))
    assert asked[0] == asked[1]


def test_a_family_on_demand_is_asked_where_the_run_trains_on_it(tokenizer, families, monkeypatch):
    monkeypatch.setitem(FAMILIES._rows, "plain", dataclasses.replace(FAMILIES["plain"], on_demand=True))
    e = learned(examiner(tokenizer, spans=True), monkeypatch)
    assert "plain" not in measure_map(e, None)
    e.run.config.rl.tasks = {"plain/plus 1": 1.0}
    assert "plain" in measure_map(e, None)


def test_what_is_too_long_is_left_out(tokenizer, families, monkeypatch, capsys):
    e = learned(examiner(tokenizer, spans=True, length=30), monkeypatch)
    assert not [name for name in measure_map(e, None) if name in FAMILIES]
    assert "plain, plus 4 is left out" in capsys.readouterr().out


def test_every_family_of_the_table_can_be_drawn_for_the_map():
    assert all(set(family.lists) <= set(LISTS) for family in FAMILIES.values())


def rungs(**ways) -> dict:
    """Rungs from the values of each way."""
    count = max(map(len, ways.values()))
    return {f"rung {n}": {way: {"value": values[n]} for way, values in ways.items()} for n in range(count)}


@pytest.mark.parametrize(
    "values, told",
    [
        ((1.0, 0.9, 0.2, 0.0), ("rung 1", "rung 3")),
        ((0.8, 0.5, 0.3), ("rung 0", "rung 2")),
        ((0.79, 0.0), None),
        ((0.9, 0.31, 0.31), None),
        ((0.9, 0.6, 0.4, 0.0), None),  # three rungs apart
        ((0.0, 0.9, 0.1), ("rung 1", "rung 2")),
    ],
)
def test_a_cliff_is_two_rungs_wide_at_most(values, told):
    found = cliff("f", rungs(direct=values))
    assert (found and (found["works"], found["fails"])) == told


def test_the_gain_is_over_an_answer_at_once_on_the_same_rung():
    found = helped("f", rungs(direct=(0.9, 0.2), think=(1.0, 0.5), tool=(0.9, 0.6)))
    assert (found["level"], found["way"], found["value"], found["direct"]) == ("rung 1", "tool", 0.6, 0.2)
    assert helped("f", rungs(direct=(0.9, 0.2), think=(0.2, 0.49))) is None
    assert summary({"f": rungs(direct=(0.1,), tool=(0.8,))})["families_working"]["found"][0]["way"] == "tool"


@pytest.mark.parametrize("said, fine", [
    ("3*8-5", True), ("It is 3*8-5.", True), ("3*8=24\n24-5=19\nSo: 3*8-5 = 19", True), ("3*8-5 or 3+8", False),
    ("19", False), ("The answer is 19.", False), ("3*8-5\nNo, 19", False), ("", False),
])  # fmt: skip
def test_lenient_asks_a_familys_own_grader(said, fine):
    prompt = {"task": "countdown", "answer": "8*3-5", "check": {"numbers": [3, 5, 8], "target": 19}}
    assert said_right(Outcome(prompt, [{"type": "text", "text": said}], True, False, False, 1)) is fine


@pytest.mark.parametrize(
    "answer, said, fine",
    [
        ("42", "17+25 is 42.", True),
        ("42", "42, or maybe 43", False),
        ("9.9", "The larger one is 9.90", True),
        ("yes", "Yes, they are.", True),
        ("yes", "yes and no", False),
        ("even", "It is not odd, it is even", False),
        ("odd", "oddly", False),
        ("t", "The letter is 't'.", True),
        ("t", "It is the t, no, the e", False),
        ("s", "That's t", False),
        ("a", "a consonant: b", False),
        ("kettle", "The word is **Kettle**.", True),
        ("kettle", "kettles", False),
        ("KETTLE", "kettle", False),
        ("k-e-t", "k-e-t-t-l-e", False),
        ("k-e-t", "It is spelled k-e-t.", True),
        ("cat dog", "The list: cat, dog.", True),
        ("cat dog", "cat dog", True),
        ("cat dog", "cat dog cat", False),
        ("cat dog", "dog cat dog", False),
        ("Anna is a cook.", "Anna is a cook.", True),
        ("Bamur", "bamur", False),
    ],
)
def test_lenient_finds_the_answer_in_a_sentence_and_no_other(answer, said, fine):
    outcome = Outcome({"answer": answer}, [{"type": "text", "text": said}], True, False, False, 1)
    assert said_right(outcome) is fine
    thought = [{"type": "think", "text": answer}, {"type": "answer", "text": " something"}]
    assert not said_right(Outcome({"answer": answer}, thought, True, False, False, 1))
