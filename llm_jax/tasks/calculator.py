"""Sums, differences and products of numbers of many digits: beyond a small model, easy with the python tool."""

import random

from llm_jax.tasks.base import Item, of_split

DIGITS = tuple(range(3, 7))
LEVELS = tuple(f"{n} digits" for n in DIGITS)

WORDINGS = (
    "What is {e}?",
    "Calculate {e}.",
    "Work out {e}.",
    "{e} = ?",
    "How much is {e}?",
    "Please compute {e}",
    "Find the value of {e}.",
)


def draw(rng: random.Random, level: int) -> Item:
    low, high = 10 ** (DIGITS[level] - 1), 10 ** DIGITS[level] - 1
    left, right, sign = rng.randint(low, high), rng.randint(low, high), rng.choice("+-*")
    if sign == "-" and right > left:
        left, right = right, left
    answer = {"+": left + right, "-": left - right, "*": left * right}[sign]
    expression = f"{left}{sign}{right}"
    return Item(expression, str(answer), {"e": expression}, program=expression)


make = of_split(draw)
