"""Lists of words in the prompt: to copy, turn around, pick from, sort, count and compare them.

The words are drawn fresh, so only the prompt tells what to answer. Programs have them as the prompt does, each after a
space.
"""

import random

from llm_jax.tasks.base import Item, of_split
from llm_jax.tasks.words import any_word, distinct, name

COPIED = (2, 4, 6, 8, 10)
COPY_LEVELS = tuple(f"{n} words" for n in COPIED)
SHORT = tuple(range(2, 7))
SHORT_LEVELS = tuple(f"{n} words" for n in SHORT)
LONG = tuple(range(3, 8))
LONG_LEVELS = tuple(f"{n} words" for n in LONG)
NAMED_LEVELS = tuple(f"{n} names" for n in LONG)

COPY = (
    "Repeat these words: {l}",
    "Say this again: {l}",
    "Copy the following list: {l}",
    "Write the same words once more: {l}",
    "Echo this: {l}",
)
REVERSE = (
    "Reverse the order of these words: {l}",
    "Write this list from the last word to the first: {l}",
    "Turn this list around: {l}",
    "Say these words in the opposite order: {l}",
    "List these backwards, word by word: {l}",
)
NTH = (
    "What is word number {n} of this list: {l}",
    "Which word stands at place {n}: {l}",
    "Give word {n} of these: {l}",
    "Here are some words: {l} Which one is number {n}?",
    "Here is a list: {l} What is its word number {n}?",
)
SORT = (
    "Sort these words from a to z: {l}",
    "Put these words in alphabetical order: {l}",
    "Order alphabetically: {l}",
    "Write these as a dictionary would order them: {l}",
    "Which order does the alphabet give these words: {l}",
)
KIND = (
    "How many {k} are in this list: {l}",
    "Count the {k}: {l}",
    "Here are some words: {l} How many of them are {k}?",
    "Of these words, how many are {k}: {l}",
    "What is the number of {k} among these: {l}",
)
MISSING = (
    "On the list: {l}. In the room: {r}. Who is on the list but not in the room?",
    "Invited: {l}. Came: {r}. Who did not come?",
    "The team: {l}. Here today: {r}. Who is not here?",
    "All children: {l}. On the bus: {r}. Who is not on the bus?",
    "Names: {l}. Crossed out: {r}. Which one is not crossed out?",
)
KINDS = {
    "animals": "cat dog horse sheep goat mouse tiger eagle whale rabbit camel frog".split(),
    "fruits": "apple lemon cherry orange peach pear plum melon grape banana fig mango".split(),
    "tools": "hammer spade rake chisel saw drill axe wrench shovel clamp anvil pliers".split(),
    "clothes": "shirt glove scarf sock coat dress boot hat jacket belt skirt apron".split(),
}


def draw_copying(rng: random.Random, level: int) -> Item:
    text = " ".join(distinct(rng, COPIED[level], any_word))
    return Item(f"copy:{text}", text, {"l": text})


def draw_reversing(rng: random.Random, level: int) -> Item:
    words = distinct(rng, SHORT[level], any_word)
    text = " ".join(words)
    return Item(f"turn:{text}", " ".join(words[::-1]), {"l": text}, program=f"print('', *' {text}'.split()[::-1])")


def draw_nth(rng: random.Random, level: int) -> Item:
    words = distinct(rng, LONG[level], any_word)
    place, text = rng.randint(1, len(words)), " ".join(words)
    think = "\n".join(f"{number} {word}" for number, word in enumerate(words[:place], 1))
    program = f"print('', ' {text}'.split()[{place - 1}])"
    return Item(f"nth:{text}", words[place - 1], {"l": text, "n": str(place)}, think, program)


def draw_sorting(rng: random.Random, level: int) -> Item:
    words = distinct(rng, SHORT[level], any_word)
    text = " ".join(words)
    key = f"order:{' '.join(sorted(words))}"
    return Item(key, " ".join(sorted(words)), {"l": text}, program=f"print('', *sorted(' {text}'.split()))")


def draw_kinds(rng: random.Random, level: int) -> Item:
    """As many of the kind as not, so that no count is the usual one."""
    count = LONG[level]
    kind, of_kind = rng.choice(list(KINDS)), rng.randint(0, count)
    others = [word for other, words in KINDS.items() if other != kind for word in words]
    words = rng.sample(KINDS[kind], of_kind) + rng.sample(others, count - of_kind)
    rng.shuffle(words)
    found, lines = 0, []
    for word in words:
        found += word in KINDS[kind]
        lines.append(f"{word} {found}")
    text = " ".join(words)
    return Item(f"kind:{kind}:{text}", str(found), {"k": kind, "l": text}, "\n".join(lines))


def draw_missing(rng: random.Random, level: int) -> Item:
    names = distinct(rng, LONG[level], name)
    absent = rng.choice(names)
    there = [one for one in names if one != absent]
    rng.shuffle(there)
    lines = [f"{one} yes" for one in names[: names.index(absent)]]
    think = "\n".join([*lines, f"{absent} no", absent])
    program = f"print('', *set(' {' '.join(names)}'.split())-set(' {' '.join(there)}'.split()))"
    return Item(f"missing:{absent}", absent, {"l": " ".join(names), "r": " ".join(there)}, think, program)


make_copying, make_reversing, make_nth = of_split(draw_copying), of_split(draw_reversing), of_split(draw_nth)
make_sorting, make_kinds, make_missing = of_split(draw_sorting), of_split(draw_kinds), of_split(draw_missing)
