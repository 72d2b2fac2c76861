"""What a model that sees tokens finds hard about letters. A word that is held out is so in all of these families.

Programs have a space before a word, as prompts do: to copy it is to write the same tokens. So its letters count from 1.
"""

import random

from llm_jax.tasks.base import Item
from llm_jax.tasks.words import word_key, word_of

LETTERS = tuple(range(3, 8))  # of a word, rung by rung
LEVELS = tuple(f"{n} letters" for n in LETTERS)
WORDS = tuple(range(1, 5))
WORD_LEVELS = ("1 word", *(f"{n} words" for n in WORDS[1:]))
PLACES = tuple(range(2, 7))  # of the letter that is asked for, in a word of PLACED letters
PLACE_LEVELS = tuple(f"letter {n}" for n in PLACES)
PLACED = 7

SPELL = (
    "Spell the word {w}.",
    "How do you spell {w}?",
    "Spell out {w}.",
    "Write {w} letter by letter.",
    "Put a hyphen between the letters of {w}.",
)
COUNT = (
    "How many times does the letter {c} appear in {w}?",
    "Count the letter {c} in {w}.",
    "How many {c}'s are in {w}?",
    "In {w}, how often is there a {c}?",
    "What is the number of {c}'s in {w}?",
)
REVERSE = (
    "Reverse the word {w}.",
    "Write {w} backwards.",
    "What is {w} spelled backwards?",
    "Turn the letters of {w} around.",
    "Write the letters of {w} from the last to the first.",
)
PLACE = (
    "What is letter number {n} of {w}?",
    "Which letter stands at place {n} in {w}?",
    "Give letter {n} of the word {w}.",
    "In {w}, what is letter number {n}?",
    "Name the letter at place {n} of {w}.",
)
LAST = (
    "What is the last letter of {w}?",
    "Which letter does {w} end with?",
    "Give the last letter of {w}.",
    "In the word {w}, which letter comes last?",
    "Name the letter at the end of {w}.",
)
LENGTH = (
    "How many letters are in {w}?",
    "Count the letters of {w}.",
    "How many letters does it take to write {w}?",
    "What is the number of letters in {w}?",
    "How long is {w}, in letters?",
)
REPLACE = (
    "Replace every {a} in {w} by {b}.",
    "Write {w} with {b} in place of {a}.",
    "Change each {a} of {w} to {b}.",
    "In {w}, turn {a} into {b}.",
    "What is {w} when every {a} becomes {b}?",
)
CAPITALS = (
    "Write {w} in capitals.",
    "Put {w} into capital letters.",
    "What is {w} in capital letters?",
    "Turn {w} into upper case.",
    "Give me {w} all in capitals.",
)


def spelled(word: str) -> str:
    return "-".join(word)


def make_spelling(rng: random.Random, level: int, split: str) -> Item:
    word = word_of(rng, LETTERS[level], split)
    return Item(word_key(word), spelled(word), {"w": word}, program=f"print('', '-'.join(' {word}'[1:]))")


def make_reversing(rng: random.Random, level: int, split: str) -> Item:
    word = word_of(rng, LETTERS[level], split)
    backwards = word[::-1]
    think = f"{spelled(word)}\n{spelled(backwards)}"
    return Item(word_key(word), backwards, {"w": word}, think, program=f"print('', ' {word}'[:0:-1])")


def make_last_letter(rng: random.Random, level: int, split: str) -> Item:
    word = word_of(rng, LETTERS[level], split)
    return Item(word_key(word), word[-1], {"w": word}, spelled(word), program=f"print('', ' {word}'[-1])")


def make_capitals(rng: random.Random, level: int, split: str) -> Item:
    word = word_of(rng, LETTERS[level], split)
    think = f"{spelled(word)}\n{spelled(word.upper())}"
    return Item(word_key(word), word.upper(), {"w": word}, think, program=f"print(' {word}'.upper())")


def make_replacing(rng: random.Random, level: int, split: str) -> Item:
    word = word_of(rng, LETTERS[level], split)
    old = rng.choice(word)
    new = rng.choice([letter for letter in "aeioutr" if letter != old])
    answer = word.replace(old, new)
    think = f"{spelled(word)}\n{spelled(answer)}"
    program = f"print(' {word}'.replace('{old}', '{new}'))"
    return Item(word_key(word), answer, {"w": word, "a": old, "b": new}, think, program)


def make_nth_letter(rng: random.Random, level: int, split: str) -> Item:
    word, place = word_of(rng, PLACED, split), PLACES[level]
    think = "\n".join(f"{number} {letter}" for number, letter in enumerate(word[:place], 1))
    return Item(word_key(word), word[place - 1], {"w": word, "n": str(place)}, think, f"print('', ' {word}'[{place}])")


def some_words(rng: random.Random, level: int, split: str) -> list[str]:
    return [word_of(rng, rng.randint(3, 5), split) for _ in range(WORDS[level])]


def make_counting(rng: random.Random, level: int, split: str) -> Item:
    words = some_words(rng, level, split)
    letter = rng.choice("".join(words)) if rng.random() < 0.8 else rng.choice("abcdefghijklmnoprstuw")
    running, steps = 0, []
    for character in "".join(words):
        running += character == letter
        steps.append(f"{character}{running}")
    text = " ".join(words)
    program = f"' {text}'.count('{letter}')"
    return Item(word_key(words[0]), str(running), {"c": letter, "w": text}, " ".join(steps), program)


def make_word_length(rng: random.Random, level: int, split: str) -> Item:
    words = some_words(rng, level, split)
    text, letters = " ".join(words), "".join(words)
    think = " ".join(f"{letter}{number}" for number, letter in enumerate(letters, 1))
    return Item(word_key(words[0]), str(len(letters)), {"w": text}, think, f"len(' {text}'.replace(' ', ''))")
