"""What stands in the prompt and nowhere else: a value under its key, and what takes two facts to know."""

import random

from llm_jax.tasks.base import Item, of_split
from llm_jax.tasks.words import any_word, distinct, name

PAIRS = (2, 4, 6, 8, 10)
PAIR_LEVELS = tuple(f"{n} pairs" for n in PAIRS)
FRIENDS = tuple(range(1, 6))
FRIEND_LEVELS = ("1 pair", *(f"{n} pairs" for n in FRIENDS[1:]))

LOOK_UP = (
    "{t}\nWhat belongs to {k}?",
    "{t}\nWhich word stands beside {k}?",
    "Here is a table.\n{t}\nWhat is the value of {k}?",
    "{t}\nLook up {k}.",
    "Read these pairs.\n{t}\nWhat goes with {k}?",
)
TWO_HOPS = (
    "{t} Where does {n}'s friend live?",
    "{t} In which town is {n}'s friend at home?",
    "{t} Name the town where the friend of {n} lives.",
    "Read this: {t} Where is the home of {n}'s friend?",
    "{t} What is the home town of {n}'s friend?",
)


def draw_look_up(rng: random.Random, level: int) -> Item:
    words = distinct(rng, 2 * PAIRS[level], any_word)
    pairs = [f"{key}: {value}" for key, value in zip(words[::2], words[1::2], strict=True)]
    pair = rng.choice(pairs)
    key, _, value = pair.partition(": ")
    return Item(f"pair:{pair}", value, {"t": "\n".join(pairs), "k": key}, pair)


def draw_two_hops(rng: random.Random, level: int) -> Item:
    """Each has a friend, and each friend a home; the sentences come in any order."""
    count = FRIENDS[level]
    names = distinct(rng, 3 * count, name)
    people, friends, towns = names[:count], names[count : 2 * count], names[2 * count :]
    known = [f"{person}'s friend is {friend}." for person, friend in zip(people, friends, strict=True)]
    lives = [f"{friend} lives in {town}." for friend, town in zip(friends, towns, strict=True)]
    chosen, sentences = rng.randrange(count), [*known, *lives]
    rng.shuffle(sentences)
    think = f"{known[chosen]}\n{lives[chosen].removesuffix('.')}"
    words = {"t": " ".join(sentences), "n": people[chosen]}
    return Item(f"friend:{people[chosen]}", towns[chosen], words, think)


make_look_up, make_two_hops = of_split(draw_look_up), of_split(draw_two_hops)
