"""Days of the week and months, some steps on: a rung more is a step more."""

import random

from llm_jax.tasks.base import Item, of_split

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
STEPS = tuple(range(2, 6))
LEVELS = tuple(f"{n} steps" for n in STEPS)
FURTHEST = 11

WEEKDAY = (
    "It is {f}. {s} Which day is it now?",
    "Today is {f}. {s} What day of the week is it then?",
    "We begin on a {f}. {s} Name the weekday.",
    "A trip starts on {f}. {s} Which day of the week is it?",
    "Starting from {f}: {s} What is the weekday?",
)
MONTH = (
    "It is {f}. {s} Which month is it now?",
    "This month is {f}. {s} What month is it then?",
    "We begin in {f}. {s} Name the month.",
    "A journey starts in {f}. {s} Which month is it?",
    "Starting from {f}: {s} What is the month?",
)


def draw(rng: random.Random, level: int, unit: str, names: list[str]) -> Item:
    steps = [rng.randint(2, FURTHEST) for _ in range(STEPS[level])]
    at = start = rng.randrange(len(names))
    lines = []
    for step in steps:
        at = (at + step) % len(names)
        lines.append(f"{step} {names[at]}")
    said = " ".join(f"{step} {unit} pass." for step in steps)
    key = f"{unit}:{names[start]}:{','.join(map(str, steps))}"
    return Item(key, names[at], {"f": names[start], "s": said}, "\n".join(lines))


make_weekday = of_split(lambda rng, level: draw(rng, level, "days", DAYS))
make_month = of_split(lambda rng, level: draw(rng, level, "months", MONTHS))
