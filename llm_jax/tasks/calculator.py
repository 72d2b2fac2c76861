"""Sums and products of three- and four-digit numbers: beyond a small model, easy with the python tool."""

import random

from llm_jax.tasks.base import Item, split_of

LEVELS = ("3-digit + and -", "4-digit + and -", "3-4 digit x")

WORDINGS = (
    "What is {e}?",
    "Calculate {e}.",
    "Work out {e}.",
    "{e} = ?",
    "How much is {e}?",
    "Please compute {e}",
    "Find the value of {e}.",
)


def draw(rng: random.Random, level: int) -> str:
    low, high = ((100, 999), (1000, 9999), (100, 9999))[level]
    left, right = rng.randint(low, high), rng.randint(low, high)
    sign = "*" if level == 2 else rng.choice("+-")
    if sign == "-" and right > left:
        left, right = right, left
    return f"{left}{sign}{right}"


def make(rng: random.Random, level: int, split: str) -> Item:
    while True:
        expression = draw(rng, level)
        if split_of(expression) == split:
            break
    left, sign, right = expression.partition(next(s for s in "+-*" if s in expression))
    answer = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}[sign]
    return Item(expression, str(answer), {"e": expression}, program=expression)
