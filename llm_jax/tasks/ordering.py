"""Comparing and sorting numbers: '9.11 or 9.9?' and short lists."""

import random
from fractions import Fraction

from llm_jax.tasks.base import Item, split_of

COMPARE_LEVELS = ("whole numbers", "one decimal", "mixed decimals")
SORT_LEVELS = ("3 numbers", "4 numbers", "5 numbers")

COMPARE = ("Which is larger, {a} or {b}?", "Which number is bigger: {a} or {b}?", "{a} or {b}, which is more?")
SORT = ("Sort these numbers: {l}", "Put in order from small to large: {l}", "Order {l} from smallest to largest.")


def draw_number(rng: random.Random, level: int, whole: int) -> str:
    if level == 0:
        return str(rng.randint(1, 99))
    if level == 1:
        return f"{whole + rng.randint(0, 1)}.{rng.randint(1, 9)}"
    return f"{whole}.{rng.randint(1, 9)}" if rng.random() < 0.5 else f"{whole}.{rng.randint(10, 99)}"


def comparison_key(a: str, b: str) -> str:
    """In either order, and 9.5 is 9.50."""
    return "compare:" + ",".join(sorted((str(Fraction(a)), str(Fraction(b)))))


def make_comparing(rng: random.Random, level: int, split: str) -> Item:
    while True:
        whole = rng.randint(1, 20)
        a, b = draw_number(rng, level, whole), draw_number(rng, level, whole)
        key = comparison_key(a, b)
        if Fraction(a) != Fraction(b) and split_of(key) == split:
            larger = a if Fraction(a) > Fraction(b) else b
            return Item(key, larger, {"a": a, "b": b})


def make_sorting(rng: random.Random, level: int, split: str) -> Item:
    while True:
        numbers = rng.sample(range(1, 100), level + 3)
        key = "sort:" + ",".join(map(str, sorted(numbers)))
        if split_of(key) == split:
            listed = ", ".join(map(str, numbers))
            return Item(key, ", ".join(map(str, sorted(numbers))), {"l": listed})
