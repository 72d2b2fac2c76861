"""What a model that sees tokens finds hard about letters: spelling, counting and reversing words."""

import random

from llm_jax.config import UserError
from llm_jax.tasks.base import Item, split_of

LEVELS = ("4-5 letters", "6-7 letters", "8-10 letters")
LENGTHS = ((4, 5), (6, 7), (8, 10))
TRIES = 100_000  # draws of a word; a list that has one gives it long before

SPELL = ("Spell the word {w}.", "How do you spell {w}?", "Spell out {w}.", "Write {w} letter by letter.")
COUNT = (
    "How many times does the letter {c} appear in {w}?",
    "Count the letter {c} in {w}.",
    "How many {c}'s are in {w}?",
    "In the word {w}, how often is there a {c}?",
)
REVERSE = ("Reverse the word {w}.", "Write {w} backwards.", "What is {w} spelled backwards?")


def pick_word(rng: random.Random, level: int, split: str, words: list[str]) -> str:
    """A word of the level's length whose split is `split`; the word itself is the held-out item."""
    low, high = LENGTHS[level]
    for _ in range(TRIES):
        word = rng.choice(words)
        if low <= len(word) <= high and split_of(f"word:{word}") == split:
            return word
    raise UserError(f"the list of words has none of {low} to {high} letters in the split {split!r}; give it more")


def spelled(word: str) -> str:
    return "-".join(word)


def make_spelling(rng: random.Random, level: int, split: str, words: list[str]) -> Item:
    word = pick_word(rng, level, split, words)
    return Item(f"word:{word}", spelled(word), {"w": word})


def make_counting(rng: random.Random, level: int, split: str, words: list[str]) -> Item:
    word = pick_word(rng, level, split, words)
    letter = rng.choice(word) if rng.random() < 0.8 else rng.choice("abcdefghijklmnoprstuw")
    running, lines = 0, []
    for character in word:
        running += character == letter
        lines.append(f"{character}{running}")
    program = f"'{word}'.count('{letter}')"
    return Item(f"word:{word}", str(running), {"c": letter, "w": word}, " ".join(lines), program)


def make_reversing(rng: random.Random, level: int, split: str, words: list[str]) -> Item:
    word = pick_word(rng, level, split, words)
    backwards = word[::-1]
    think = f"{spelled(word)}\n{spelled(backwards)}"
    return Item(f"word:{word}", backwards, {"w": word}, think, program=f"'{word}'[::-1]")
