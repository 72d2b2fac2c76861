"""The map of abilities: every task family, rung by rung, answered at once, after thinking and with the tool.

Problems are drawn from the families themselves, of their test split and with a fixed seed, so any run can be asked the
same ones, whatever it was made of.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Any

from llm_jax.config import UserError
from llm_jax.evals.measure import Examiner, right, share
from llm_jax.evals.real import put, said_right
from llm_jax.frame.processes import say
from llm_jax.prompts import Outcome
from llm_jax.tasks.base import WAYS
from llm_jax.tasks.records import record
from llm_jax.tasks.table import FAMILIES, Family
from llm_jax.tasks.words import LISTS
from llm_jax.tools.table import TOOLS

WORKS, FAILS, APART = 0.80, 0.30, 2  # of a cliff: what works, what fails, how many rungs further at most
HELPS = 0.30  # by how much thinking or the tool must be ahead of an answer at once
TOOL = "python"
OPENING = {"direct": "answer", "think": "think", "tool": TOOL}  # the span that each way begins with
THINK = "{q} Think step by step."  # to a model that knows no spans
ROOM = 16  # tokens that an answer must have room for
TRIES = 20  # draws for each problem wanted: a rung may have fewer
Map = dict[str, dict[str, dict[str, dict]]]  # family -> rung -> way -> metric

Cell = tuple[str, str, str]  # family, rung, way


def measure_map(e: Examiner, params) -> dict[str, Any]:
    """`FAMILY.RUNG.WAY`: the share of problems solved, and beside it `lenient`, the share by `said_right`, which
    is the value too where a model knows no spans, and `well_formed`, the share of answers in the form that is graded.
    And what `summary` makes of these, with examples. Families on demand are in it where the run trains on them."""
    found: Map = {}
    examples: list[dict] = []
    problems = dict(drawn(e))
    for way in WAYS:
        cells = [(family, level, way) for family, level in problems if asked_so(e, FAMILIES[family], way)]
        outcomes = answered(
            e, params, way, [problem for family, level, _ in cells for problem in problems[family, level]]
        )
        left = iter(outcomes)
        for cell in cells:
            family, level, _ = cell
            mine = [next(left) for _ in problems[family, level]]
            found.setdefault(family, {}).setdefault(level, {})[way] = graded(e, mine)
            if level in (FAMILIES[family].levels[0], FAMILIES[family].levels[-1]):
                examples.append(example(e, cell, mine[0]))
    return {**found, **summary(found), "examples": {"value": len(examples), "found": examples}}


def drawn(e: Examiner) -> Iterator[tuple[tuple[str, str], list[dict]]]:
    """(family, rung) -> `map_items` different problems as prompt records. What this model cannot read is left out, with
    a line that says so."""
    named = {name.partition("/")[0] for name in e.run.config.rl.tasks}
    for family in [family for family in FAMILIES.values() if not family.on_demand or family.name in named]:
        for number, level in enumerate(family.levels):
            try:
                problems = some(family, number, e.config.map_items)
            except UserError as error:
                say(f"evaluate  map: {family.name} is left out: {error}")
                break
            longest = max(len(e.tokenizer.render(p["messages"], for_generation=True).ids) for p in problems)
            if longest + ROOM > e.engine.length:
                say(f"evaluate  map: {family.name}, {level} is left out: {longest} tokens are too long")
            else:
                yield (family.name, level), problems


def some(family: Family, level: int, count: int) -> list[dict]:
    rng, found = random.Random(f"map/{family.name}/{level}"), {}
    for _ in range(TRIES * count):
        problem = family.problem(rng, level, "test", LISTS)
        found.setdefault(problem.key, record(problem, family.levels[level], "test", f"map-{len(found)}"))
        if len(found) == count:
            break
    return list(found.values())


def asked_so(e: Examiner, family: Family, way: str) -> bool:
    """At once always; the other ways where the family has them, and the tool where model and run have it."""
    has_tool = e.writes_spans and TOOL in e.engine.tools
    return way == "direct" or (way in family.ways and (way != "tool" or has_tool))


def answered(e: Examiner, params, way: str, prompts: list[dict]) -> list[Outcome]:
    """All of one way in one call of the engine, for full slots."""
    suppress = () if way == "tool" else tuple(TOOLS)
    if e.writes_spans:
        return e.ask(params, prompts, opening=OPENING[way], suppress=suppress)
    return e.ask(params, [put(prompt, THINK) if way == "think" else prompt for prompt in prompts], suppress=suppress)


def graded(e: Examiner, outcomes: list[Outcome]) -> dict:
    lenient, formed = share(outcomes, said_right), share(outcomes, lambda outcome: outcome.well_formed)
    beside = {"lenient": lenient["value"], "well_formed": formed["value"]}
    return (share(outcomes, right) if e.writes_spans else lenient) | beside


def example(e: Examiner, cell: Cell, outcome: Outcome) -> dict:
    family, level, way = cell
    asked, verdict = outcome.prompt["messages"][-1]["content"], right if e.writes_spans else said_right
    told = {"prompt": asked, "answer": outcome.prompt["answer"], "parts": outcome.parts, "right": verdict(outcome)}
    return {"family": family, "level": level, "way": way, **told}


def summary(found: Map) -> dict[str, dict]:
    """Families that work on their first rung; the sharpest cliff of each; where thinking or the tool helps the most."""
    named = lambda each: [told for family, rungs in found.items() if (told := each(family, rungs))]  # noqa: E731
    lists = {"families_working": named(working), "cliffs": named(cliff), "helped": named(helped)}
    return {name: {"value": len(told), "found": told} for name, told in lists.items()}


def working(family: str, rungs: dict) -> dict | None:
    level, ways = next(iter(rungs.items()))
    way = max(ways, key=lambda way: ways[way]["value"])
    told = {"family": family, "level": level, "way": way, "value": ways[way]["value"]}
    return told if told["value"] >= WORKS else None


def cliff(family: str, rungs: dict) -> dict | None:
    """Two rungs, at most APART, of which the lower one works and the higher one fails: those with the deepest fall."""
    pairs = [pair for pair in itertools.combinations(enumerate(rungs), 2) if pair[1][0] - pair[0][0] <= APART]
    found = []
    for (_, low), (_, high) in pairs:
        for way in [way for way in rungs[low] if way in rungs[high]]:
            value, failed = rungs[low][way]["value"], rungs[high][way]["value"]
            if value >= WORKS and failed <= FAILS:
                told = {"family": family, "way": way, "works": low, "value": value, "fails": high, "failed": failed}
                found.append(told)
    return max(found, key=lambda told: told["value"] - told["failed"], default=None)


def helped(family: str, rungs: dict) -> dict | None:
    """The rung and way by which an answer gains the most."""
    found = []
    for level, ways in rungs.items():
        direct = ways["direct"]["value"]
        for way, metric in ways.items():
            if round(metric["value"] - direct, 4) >= HELPS:
                value = metric["value"]
                found.append({"family": family, "level": level, "way": way, "value": value, "direct": direct})
    return max(found, key=lambda told: told["value"] - told["direct"], default=None)
