"""Sums of two turns: who was wrong is told so, and may try again for a little less."""

import random

from llm_jax.tasks import arithmetic
from llm_jax.tasks.base import Item, same

LEVELS = arithmetic.LEVELS[1:]
AGAIN = "That is wrong, try again."
DISCOUNT = 0.9


def make(rng: random.Random, level: int, split: str) -> Item:
    """The very problems of `arithmetic`: what is held out there is so here."""
    return arithmetic.make(rng, level + 1, split)


def step(prompt: dict, answers: list[str]) -> str | None:
    return AGAIN if len(answers) == 1 and not same(prompt, answers[0]) else None
