"""Countdown: to make a number from others, each used once. Any expression that does so is right."""

import ast
import operator
import random
import re
from fractions import Fraction

from llm_jax.tasks.arithmetic import shows_held_out
from llm_jax.tasks.base import Item, of_split

COUNTS = tuple(range(2, 6))
LEVELS = tuple(f"{n} numbers" for n in COUNTS)
LARGEST, FURTHEST = 25, 200  # of the numbers; of what they make on the way and at the end
LONGEST = 200  # characters of an expression that is read
WRITTEN = re.compile(r"[0-9+\-*/() ]+")
SIGNS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
SUM, PRODUCT, NUMBER = range(3)  # how firmly the parts of an expression hold together

WORDINGS = (
    "Make {t} from the numbers {l}. Use each of them once, with + - * / and brackets.",
    "Write an expression that equals {t}, with + - * / and brackets. It has each of these numbers once: {l}",
    "The numbers are {l} and the target is {t}. Reach it by + - * / and brackets, and use every number once.",
    "How do you get {t} out of {l}? Take each number once; + - * / and brackets are allowed.",
    "Use {l}, each once, and + - * / and brackets. The result must be {t}.",
)


def joined(rng: random.Random, left: tuple[int, str, int], right: tuple[int, str, int]) -> tuple[int, str, int, str]:
    """Two parts (value, text, how firm) -> a part of both by a sign that leaves a whole number, and the step's line."""
    (a, x, firm), (b, y, firm_right) = left, right
    made = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b > 1 and a % b == 0 else 0}
    sign = rng.choice([sign for sign, value in made.items() if 0 < value <= FURTHEST] or ["+"])
    if sign in "*/" and firm == SUM:
        x = f"({x})"
    if (sign in "*-" and firm_right == SUM) or (sign == "/" and firm_right != NUMBER):
        y = f"({y})"
    return made[sign], f"{x}{sign}{y}", SUM if sign in "+-" else PRODUCT, f"{a}{sign}{b}={made[sign]}"


def draw(rng: random.Random, level: int) -> Item:
    """Two parts are joined at a time until one is left, which is the target: so there is a way."""
    while True:
        numbers = [rng.randint(2, LARGEST) for _ in range(COUNTS[level])]
        parts, lines = [(number, str(number), NUMBER) for number in numbers], []
        while len(parts) > 1:
            left, right = (parts.pop(rng.randrange(len(parts))) for _ in range(2))
            *part, line = joined(rng, left, right)
            parts.append(tuple(part))
            lines.append(line)
        ((target, expression, _),) = parts
        if target <= FURTHEST and target not in numbers:
            break
    key = f"countdown:{','.join(map(str, sorted(numbers)))}:{target}"
    think = "\n".join([*lines, expression])
    check = {"numbers": numbers, "target": target}
    return Item(key, expression, {"l": " ".join(map(str, numbers)), "t": str(target)}, think, check=check)


def grade(prompt: dict, given: str) -> bool:
    """Whether the expression has each of the numbers once, nothing else but signs and brackets, and the target's value.

    It is parsed, never run; there is no power, no sign before a number and no joining of digits.
    """
    if len(given) > LONGEST or not WRITTEN.fullmatch(given):
        return False
    try:
        numbers: list[int] = []
        value = worked_out(ast.parse(given.strip(), mode="eval").body, numbers)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):  # the last two: deep brackets
        return False
    return sorted(numbers) == sorted(prompt["check"]["numbers"]) and value == prompt["check"]["target"]


def worked_out(node: ast.expr, numbers: list[int]) -> Fraction:
    """The value of a parsed expression; its numbers are put into the list. Raises ValueError for any other part."""
    if isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
        return SIGNS[type(node.op)](worked_out(node.left, numbers), worked_out(node.right, numbers))
    if isinstance(node, ast.Constant) and type(node.value) is int:
        numbers.append(node.value)
        return Fraction(node.value)
    raise ValueError("no sum, difference, product or quotient of numbers")


make = of_split(draw, shows_held_out)
