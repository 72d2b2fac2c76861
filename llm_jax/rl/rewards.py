"""What a rollout earns: a named reward, less a price for its calls and for being too long.

`model` is what a reward model says of it (`reward_model.py`); the others are of the graded answer. `random` and
`format` are controls: what a model gains from them it did not learn from right answers.
"""

import random
from collections.abc import Callable, Sequence

import numpy as np

from llm_jax.config import UserError
from llm_jax.prompts import Outcome
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


REWARDS: dict[str, Callable[[list[Outcome], Sequence[int], Sequence[str]], list[float]]] = {
    "right": right,
    "random": coin,
    "format": form,
}


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
