"""Expressions of two and more small numbers: one step each, worth thinking about."""

import random
import re

from llm_jax.tasks.base import Item, split_of

LEVELS = ("2 numbers", "3 numbers", "4 numbers", "5 numbers", "6 numbers")
LARGEST = 25
EXPRESSION = re.compile(r"(?<![\d.])\d+(?:[+*-]\d+)+")

WORDINGS = (
    "What is {e}?",
    "Calculate {e}.",
    "Work out {e}.",
    "{e} = ?",
    "How much is {e}?",
    "Please compute {e}",
    "Can you solve {e}?",
    "Find the value of {e}.",
)


def steps(numbers: list[int], signs: list[str]) -> list[tuple[int, str, int, int]]:
    """The left-to-right steps of an expression: (left, sign, right, result)."""
    total, out = numbers[0], []
    for sign, number in zip(signs, numbers[1:], strict=True):
        result = total + number if sign == "+" else total - number
        out.append((total, sign, number, result))
        total = result
    return out


def sum_key(left: int, sign: str, right: int) -> str:
    """The item is what is written: 5+7 and 7+5 are two."""
    return f"{left}{sign}{right}"


def worked(numbers: list[int], signs: list[str]) -> str:
    """The steps as text, one a line: '12+7=19'."""
    return "\n".join(f"{a}{s}{b}={r}" for a, s, b, r in steps(numbers, signs))


def draw(rng: random.Random, count: int) -> tuple[list[int], list[str]]:
    """`count` numbers and the signs between them, with no negative total on the way."""
    while True:
        numbers = [rng.randint(1, LARGEST) for _ in range(count)]
        signs = [rng.choice("+-") for _ in range(count - 1)]
        if all(result >= 0 for *_, result in steps(numbers, signs)):
            return numbers, signs


def is_held_out(left: int, sign: str, right: int) -> bool:
    """True if a step is itself a two-number problem that is kept for testing: no text to train on may show it."""
    return left <= LARGEST and split_of(sum_key(left, sign, right)) != "train"


def shows_held_out(item: Item) -> bool:
    """True if a sum that some family keeps for testing stands in the text of an item: of two small numbers, of large
    ones, or of more than two. Others come up on the way only."""
    for expression in EXPRESSION.findall(f"{item.words} {item.think} {item.program}"):
        numbers = [int(number) for number in re.split("[+*-]", expression)]
        asked = len(numbers) > 2 or max(numbers) <= LARGEST or min(numbers) > LARGEST
        if asked and split_of(expression) != "train":
            return True
    return False


def leaks(numbers: list[int], signs: list[str]) -> bool:
    return any(is_held_out(left, sign, right) for left, sign, right, _ in steps(numbers, signs))


def make(rng: random.Random, level: int, split: str) -> Item:
    while True:
        numbers, signs = draw(rng, level + 2)
        expression = str(numbers[0]) + "".join(f"{s}{n}" for s, n in zip(signs, numbers[1:], strict=True))
        if split_of(expression) != split or (split == "train" and leaks(numbers, signs)):
            continue
        answer = str(steps(numbers, signs)[-1][-1])
        return Item(expression, answer, {"e": expression}, worked(numbers, signs), program=expression)
