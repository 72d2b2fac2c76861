"""What a rollout earns: a named reward, less a price for its calls and for being too long.

`model` is what a reward model says of it (`reward_model.py`); the others are of the graded answer. `ternary` and
`brier` pay for honesty: with `right`, whoever guesses loses nothing. `random` and `format` are controls: what a model
gains from them it did not learn from right answers.
"""

import random
from collections.abc import Callable, Sequence

import numpy as np

from llm_jax.config import UserError
from llm_jax.prompts import Outcome
from llm_jax.tasks.confidence import apart
from llm_jax.tasks.refusals import ABSTAINED, OURS, RIGHT, WRONG
from llm_jax.tools.table import TOOLS

Parts = dict[str, np.ndarray]  # what the reward is the sum of: name -> float32 [N], one for each rollout


def right(outcomes: list[Outcome], seeds: Sequence[int], no_tools: Sequence[str]) -> list[float]:
    """What the answer earns, 1 when it is right; 0 for a call where the problem is to be solved without tools."""
    return [0.0 if o.prompt["task"] in no_tools and o.has(*TOOLS) else o.score for o in outcomes]


def coin(outcomes: list[Outcome], seeds: Sequence[int], no_tools: Sequence[str]) -> list[float]:
    """A coin for each rollout, by its seed, which shows 1 as often as these rollouts are right."""
    rate = float(np.mean(right(outcomes, seeds, no_tools)))
    return [float(random.Random(f"{seed}/coin").random() < rate) for seed in seeds]


def form(outcomes: list[Outcome], seeds: Sequence[int], no_tools: Sequence[str]) -> list[float]:
    """1 for a well-formed answer, whatever it says."""
    return [float(o.well_formed) for o in outcomes]


def verdict(o: Outcome) -> str:
    """RIGHT, ABSTAINED or WRONG. A refusal is one of ours by the letter and nothing beside it: one in other words could
    hold an answer, too."""
    if o.right:
        return RIGHT
    return ABSTAINED if o.well_formed and OURS.holds(o.parts[-1]["text"].strip()) else WRONG


def ternary(outcomes: list[Outcome], seeds: Sequence[int], no_tools: Sequence[str]) -> list[float]:
    """What a right answer earns, 0 for a refusal, -1 for whatever else (TruthRL, 2509.25760)."""
    earned = right(outcomes, seeds, no_tools)
    return [e or (0.0 if verdict(o) == ABSTAINED else -1.0) for o, e in zip(outcomes, earned, strict=True)]


def brier(outcomes: list[Outcome], seeds: Sequence[int], no_tools: Sequence[str]) -> list[float]:
    """Correctness c less the Brier score (q - c)^2 of the stated confidence q (RLCR, 2507.16806): 1 for who is right
    and sure, -1 for who is wrong and sure. Best where q is the chance to be right. A refusal is sure of nothing, and
    earns 0; an answer that is malformed, or states no confidence, earns the worst, -1."""
    earned = right(outcomes, seeds, no_tools)
    return [calibrated(o, e) for o, e in zip(outcomes, earned, strict=True)]


def calibrated(o: Outcome, correct: float) -> float:
    if verdict(o) == ABSTAINED:
        return 0.0
    sure = confidence(o)
    return -1.0 if sure is None else correct - (sure - correct) ** 2


def confidence(o: Outcome) -> float | None:
    """From 0 to 1, where a well-formed answer states it."""
    return apart(o.parts[-1]["text"].strip())[1] if o.well_formed else None


REWARDS: dict[str, Callable[[list[Outcome], Sequence[int], Sequence[str]], list[float]]] = {
    "right": right,
    "ternary": ternary,
    "brier": brier,
    "random": coin,
    "format": form,
}


HONEST = ("ternary", "brier")  # those of which a wrong answer is the worst, at -1, and 0 is between


def held_out(outcomes: list[Outcome], name: str, no_tools: Sequence[str]) -> list[float]:
    """What answers to held-out problems score, from 0 to 1: an honest reward, or 1 for those that are right."""
    if name not in HONEST:
        return [float(o.right) for o in outcomes]
    return [(1 + reward) / 2 for reward in REWARDS[name](outcomes, (), no_tools)]


def rewards_of(
    outcomes: list[Outcome],
    seeds: Sequence[int],
    name: str,
    no_tools: Sequence[str],
    call_price: float,
    scores: np.ndarray | None = None,
) -> Parts:
    """Part -> float32 [N]: `answer`, the named reward, or the `scores` of a reward model, and `calls` where they have a
    price.

    Raises UserError for a reward that is no number, naming the task.
    """
    answer = REWARDS[name](outcomes, seeds, no_tools) if scores is None else scores
    parts = {"answer": np.array(answer, np.float32)}
    if call_price:
        parts["calls"] = np.array([-call_price * o.count(*TOOLS) for o in outcomes], np.float32)
    for outcome, reward in zip(outcomes, total(parts), strict=True):
        if not np.isfinite(reward):
            raise UserError(f"reward {name!r} of an answer to task {outcome.prompt['task']!r} is {reward}: mend it")
    return parts


def total(parts: Parts) -> np.ndarray:
    """The reward of each rollout, float32 [N]."""
    first, *others = parts.values()
    return sum(others, first)
