"""Rules to follow and signs to keep track of: repeating, taking turns, counting dots, closing brackets."""

import random

from llm_jax.tasks.base import Item, of_split
from llm_jax.tasks.words import any_word, distinct

TIMES = tuple(range(2, 7))
TIMES_LEVELS = tuple(f"{n} times" for n in TIMES)
TURNS = tuple(range(3, 8))
TURN_LEVELS = tuple(f"{n} words" for n in TURNS)
SIGNS = (10, 12, 14, 16)
SIGN_LEVELS = tuple(f"{n} signs" for n in SIGNS)
BRACKETS = (8, 10, 12, 14)
BRACKET_LEVELS = tuple(f"{n} brackets" for n in BRACKETS)
CLOSERS = {"(": ")", "[": "]", "{": "}"}

REPEAT = (
    "Write the word {w} {n} times.",
    "Say {w} {n} times.",
    "Repeat {w} so that it stands there {n} times.",
    "Give me {n} times the word {w}.",
    "Answer with {w}, written {n} times.",
)
TURN = (
    "Write {a} and {b} in turn, {n} words in all.",
    "Take turns with {a} and {b}, and stop after {n} words.",
    "Begin with {a}, then {b}, and so on: {n} words.",
    "Alternate {a} and {b} until there are {n} words.",
    "Answer in {n} words: {a}, {b}, and again from the first.",
)
DOTS = (
    "How many dots are here: {l}",
    "Count the dots: {l}",
    "What is the number of dots in {l}",
    "Here are dots and dashes: {l} How many dots are there?",
    "In this row, how many signs are dots: {l}",
)
BALANCED = (
    "Are these brackets balanced: {l}",
    "Does every bracket have its partner: {l}",
    "Is this row of brackets in order: {l}",
    "Here are brackets: {l} Do they all match?",
    "Check these brackets. Are they closed rightly: {l}",
)


def draw_repeating(rng: random.Random, level: int) -> Item:
    word, times = any_word(rng), TIMES[level]
    return Item(
        f"times:{word}", " ".join([word] * times), {"w": word, "n": str(times)}, program=f"print(' {word}'*{times})"
    )


def draw_turns(rng: random.Random, level: int) -> Item:
    (a, b), count = distinct(rng, 2, any_word), TURNS[level]
    answer = " ".join((a, b)[place % 2] for place in range(count))
    program = f"print('', *(' {a} {b}'.split()*{count})[:{count}])"
    return Item(f"turn:{a}:{b}", answer, {"a": a, "b": b, "n": str(count)}, program=program)


def draw_dots(rng: random.Random, level: int) -> Item:
    signs = [rng.choice(".-") for _ in range(SIGNS[level])]
    count, steps = 0, []
    for sign in signs:
        count += sign == "."
        steps.append(f"{sign}{count}")
    text = " ".join(signs)
    return Item(f"dots:{text}", str(count), {"l": text}, " ".join(steps), f"' {text}'.count('.')")


def balanced(rng: random.Random, count: int) -> str:
    """So many brackets, each closed by its own."""
    text, opened = "", []
    while len(text) < count:
        if opened and (len(opened) == count - len(text) or rng.random() < 0.5):
            text += CLOSERS[opened.pop()]
        else:
            opened.append(rng.choice("([{"))
            text += opened[-1]
    return text


def followed(text: str) -> tuple[bool, list[str]]:
    """(whether it is balanced, a line for each bracket: it, and what is open after it, up to the first wrong one)"""
    opened, lines = "", []
    for sign in text:
        if sign in CLOSERS:
            opened += sign
        elif opened and CLOSERS[opened[-1]] == sign:
            opened = opened[:-1]
        else:
            return False, lines
        lines.append(f"{sign} {opened}".rstrip())
    return not opened, lines


def draw_brackets(rng: random.Random, level: int) -> Item:
    """Half of the rows have one bracket that is another."""
    text = balanced(rng, BRACKETS[level])
    if rng.random() < 0.5:
        place = rng.randrange(len(text))
        text = text[:place] + rng.choice([sign for sign in "()[]{}" if sign != text[place]]) + text[place + 1 :]
    fine, lines = followed(text)
    answer = "yes" if fine else "no"
    return Item(f"brackets:{text}", answer, {"l": " ".join(text)}, "\n".join([*lines, answer]))


make_repeating, make_turns = of_split(draw_repeating), of_split(draw_turns)
make_dots, make_brackets = of_split(draw_dots), of_split(draw_brackets)
