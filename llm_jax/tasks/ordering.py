"""Comparing and sorting numbers: 47 or 74, 9.11 or 9.9, the largest of some, and short lists."""

import random
from fractions import Fraction

from llm_jax.tasks.base import Item, of_split

DIGITS = tuple(range(2, 7))
COMPARE_LEVELS = tuple(f"{n} digits" for n in DIGITS)
DECIMALS = tuple(range(1, 6))  # of the one number; the other has one
DECIMAL_LEVELS = ("1 decimal", *(f"{n} decimals" for n in DECIMALS[1:]))
NUMBERS = tuple(range(2, 7))
LIST_LEVELS = tuple(f"{n} numbers" for n in NUMBERS)

COMPARE = (
    "Which is larger, {a} or {b}?",
    "Which number is bigger: {a} or {b}?",
    "{a} or {b}, which is more?",
    "Name the larger of {a} and {b}.",
    "Of {a} and {b}, which is the greater number?",
)
SORT = (
    "Sort these numbers: {l}",
    "Put in order from small to large: {l}",
    "Order {l} from smallest to largest.",
    "Write these numbers in rising order: {l}",
    "Arrange from the smallest up: {l}",
)
EXTREME = (
    "What is the {w} of these numbers: {l}",
    "Find the {w} number: {l}",
    "Which number is the {w}: {l}",
    "Here are some numbers: {l} Which one is the {w}?",
    "Name the {w} among {l}.",
)


def comparison_key(a: str, b: str) -> str:
    """In either order, and 9.5 is 9.50."""
    return "compare:" + ",".join(sorted((str(Fraction(a)), str(Fraction(b)))))


def sort_key(numbers: list[int]) -> str:
    return "sort:" + ",".join(map(str, sorted(numbers)))


def compared(a: str, b: str, steps: list[str]) -> Item:
    larger = max(a, b, key=Fraction)
    think = "\n".join([*steps, larger])
    return Item(comparison_key(a, b), larger, {"a": a, "b": b}, think, f"max({a}, {b})")


def draw_comparing(rng: random.Random, level: int) -> Item:
    """Two numbers of as many digits, which begin alike as often as not."""
    digits = DIGITS[level]
    alike = rng.randint(0, digits - 1)
    while True:
        a, b = (str(rng.randint(10 ** (digits - 1), 10**digits - 1)) for _ in range(2))
        b = a[:alike] + b[alike:]
        if a != b:
            break
    until = next(place for place in range(digits) if a[place] != b[place]) + 1
    return compared(a, b, [f"{x} {y}" for x, y in zip(a[:until], b[:until], strict=True)])


def draw_decimals(rng: random.Random, level: int) -> Item:
    """The same whole part; the number with more decimals is the smaller one as often as not."""
    whole, decimals = rng.randint(1, 99), DECIMALS[level]
    while True:
        short = str(rng.randint(1, 9))
        long = f"{rng.randint(1, 10**decimals - 1):0{decimals}}"
        if not long.endswith("0") and short != long:
            break
    a, b = rng.sample([f"{whole}.{short}", f"{whole}.{long}"], 2)
    longest = len(str(whole)) + 1 + decimals
    return compared(a, b, [a.ljust(longest, "0"), b.ljust(longest, "0")] if decimals > 1 else [])


def draw_sorting(rng: random.Random, level: int) -> Item:
    numbers = rng.sample(range(1, 100), NUMBERS[level])
    answer = " ".join(map(str, sorted(numbers)))
    program = f"print('', *sorted([{', '.join(map(str, numbers))}]))"
    return Item(sort_key(numbers), answer, {"l": " ".join(map(str, numbers))}, program=program)


def draw_extreme(rng: random.Random, level: int) -> Item:
    numbers = rng.sample(range(10, 1000), NUMBERS[level])
    what, best = rng.choice((("largest", max), ("smallest", min)))
    think = "\n".join(str(best(numbers[:until])) for until in range(1, len(numbers) + 1))
    words = {"l": " ".join(map(str, numbers)), "w": what}
    program = f"{best.__name__}({', '.join(map(str, numbers))})"
    return Item(f"{what}:{sort_key(numbers)}", str(best(numbers)), words, think, program)


make_comparing, make_decimals = of_split(draw_comparing), of_split(draw_decimals)
make_sorting, make_extreme = of_split(draw_sorting), of_split(draw_extreme)
