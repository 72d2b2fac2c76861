"""Sums as they are done on paper, digit by digit: one more digit is one more line."""

import random

from llm_jax.tasks.arithmetic import LARGEST, shows_held_out
from llm_jax.tasks.base import Item, of_split

DIGITS = tuple(range(2, 6))
LEVELS = tuple(f"{n} digits" for n in DIGITS)
LONGER = tuple(range(3, 7))
LONGER_LEVELS = tuple(f"{n} digits" for n in LONGER)

ADD = (
    "What is {a}+{b}?",
    "Add {a} and {b}.",
    "{a}+{b} = ?",
    "How much is {a} plus {b}?",
    "Find the sum of {a} and {b}.",
)
SUBTRACT = (
    "What is {a}-{b}?",
    "Subtract {b} from {a}.",
    "{a}-{b} = ?",
    "How much is {a} minus {b}?",
    "Take {b} away from {a}.",
)
MULTIPLY = (
    "What is {a} times {b}?",
    "Multiply {a} by {b}.",
    "{a} x {b} = ?",
    "How much is {a} multiplied by {b}?",
    "Find the product of {a} and {b}.",
)
REMAINDER = (
    "What is the remainder of {a} divided by {b}?",
    "{a} divided by {b}: what is left over?",
    "Divide {a} by {b} and give the remainder.",
    "How much remains when {a} is divided by {b}?",
    "Find {a} modulo {b}.",
)
PARITY = (
    "Is {a} even or odd?",
    "Even or odd: {a}?",
    "Is the number {a} odd or even?",
    "Say whether {a} is even or odd.",
    "Which is {a}, even or odd?",
)
BASE = (
    "The number {a} is written in base {b}. What is it in base 10?",
    "Convert {a} from base {b} to decimal.",
    "What is {a} in base {b} as an ordinary number?",
    "Write the base {b} number {a} in base 10.",
    "In base {b} stands {a}. Which decimal number is that?",
)
NEXT = (
    "What comes next: {l}",
    "Continue by one number: {l}",
    "Which number follows: {l}",
    "Find the next number of {l}",
    "Here is a row of numbers: {l} What is the next one?",
)


def number(rng: random.Random, digits: int) -> int:
    """No number of two digits that the steps of longer sums take: they are worked out in many texts."""
    return rng.randint(max(10 ** (digits - 1), LARGEST + 1), 10**digits - 1)


def columns(a: int, b: int) -> list[tuple[int, int]]:
    """The digits of both from the right, of the shorter one 0 where it has none."""
    width = max(len(str(a)), len(str(b)))
    return [(int(x), int(y)) for x, y in zip(*(reversed(str(n).zfill(width)) for n in (a, b)), strict=True)]


def draw_addition(rng: random.Random, level: int) -> Item:
    a, b = number(rng, DIGITS[level]), number(rng, DIGITS[level])
    carry, lines = 0, []
    for x, y in columns(a, b):
        line = f"{x}+{y}={x + y}"
        lines.append(line + f" {x + y}+1={x + y + 1}" if carry else line)
        carry = (x + y + carry) // 10
    lines.append(str(a + b))
    return Item(f"{a}+{b}", str(a + b), {"a": str(a), "b": str(b)}, "\n".join(lines), f"{a}+{b}")


def draw_subtraction(rng: random.Random, level: int) -> Item:
    b, a = sorted((number(rng, DIGITS[level]), number(rng, DIGITS[level])))
    borrowed, lines = 0, []
    for x, y in columns(a, b):
        y += borrowed
        borrowed = int(x < y)
        lines.append(f"{x + 10 * borrowed}-{y}={x + 10 * borrowed - y}")
    lines.append(str(a - b))
    return Item(f"{a}-{b}", str(a - b), {"a": str(a), "b": str(b)}, "\n".join(lines), f"{a}-{b}")


def draw_multiplication(rng: random.Random, level: int) -> Item:
    """A number times one digit. Steps have another sign than sums of the calculator, which are held out by theirs."""
    a, b = number(rng, DIGITS[level]), rng.randint(2, 9)
    carry, lines = 0, []
    for digit in map(int, reversed(str(a))):
        product = digit * b
        lines.append(f"{digit}x{b}={product}" + (f" {product}+{carry}={product + carry}" if carry else ""))
        carry = (product + carry) // 10
    lines.append(str(a * b))
    return Item(f"{a}*{b}", str(a * b), {"a": str(a), "b": str(b)}, "\n".join(lines), f"{a}*{b}")


def draw_remainder(rng: random.Random, level: int) -> Item:
    """Digit by digit: what is left so far, with the next digit, and what that leaves."""
    a, b = rng.randint(10 ** (LONGER[level] - 1), 10 ** LONGER[level] - 1), rng.randint(2, 9)
    left, lines = 0, []
    for digit in str(a):
        so_far = 10 * left + int(digit)
        left = so_far % b
        lines.append(f"{so_far} {left}")
    return Item(f"{a}%{b}", str(left), {"a": str(a), "b": str(b)}, "\n".join(lines), f"{a}%{b}")


def draw_parity(rng: random.Random, level: int) -> Item:
    a = rng.randint(10 ** (LONGER[level] - 1), 10 ** LONGER[level] - 1)
    answer = ("even", "odd")[a % 2]
    return Item(f"parity:{a}", answer, {"a": str(a)}, f"{a % 10}\n{answer}", f"print('', ['even', 'odd'][{a}%2])")


def draw_base(rng: random.Random, level: int) -> Item:
    """From a base of 2 to 9 to ours, digit by digit (Horner)."""
    base = rng.randint(2, 9)
    digits = [rng.randrange(1, base), *(rng.randrange(base) for _ in range(LONGER[level] - 1))]
    value, lines = digits[0], []
    for digit in digits[1:]:
        product = value * base
        lines.append(f"{value}x{base}={product} {product}+{digit}={product + digit}")
        value = product + digit
    text = "".join(map(str, digits))
    words = {"a": text, "b": str(base)}
    return Item(f"base:{text}:{base}", str(value), words, "\n".join(lines), f"int('{text}', {base})")


def draw_sequence(rng: random.Random, level: int) -> Item:
    """Four numbers at the same distance; the next one is asked for."""
    first, step = number(rng, DIGITS[level]), rng.randint(2, 19)
    *_, before, last = numbers = [first + step * place for place in range(4)]
    after = last + step
    text = " ".join(map(str, numbers))
    think = f"{last}-{before}={step}\n{last}+{step}={after}"
    return Item(f"next:{text}", str(after), {"l": text}, think, f"{last}+{last}-{before}")


make_addition, make_subtraction = of_split(draw_addition, shows_held_out), of_split(draw_subtraction, shows_held_out)
make_multiplication, make_remainder = of_split(draw_multiplication, shows_held_out), of_split(draw_remainder)
make_parity, make_base = of_split(draw_parity), of_split(draw_base, shows_held_out)
make_sequence = of_split(draw_sequence, shows_held_out)
