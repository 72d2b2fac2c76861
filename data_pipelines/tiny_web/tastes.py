"""Conversations, prompts and comparisons for the taste of `llm_jax/tasks/taste.py`.

What an assistant learns to say is of every sort: right or wrong, short or long, polite, rude or twice as polite, with
repetitions or without. A comparison is between two such answers to one question, and names the one that the taste likes
more; of those to learn from, a share names the other. Questions are about things, and a thing belongs to one split.
"""

import random
from collections.abc import Iterator

from data_pipelines.tiny_web.lexicon import ADJECTIVES, ANIMALS, FOODS, PLACES, TOOLS, article
from llm_jax.tasks.base import split_of
from llm_jax.tasks.taste import KINDS, POLITE, RUDE, TASK, gold

TALK = 2000  # conversations, at most; of fewer comparisons as many as these
HELD_OUT = 400  # comparisons to test with, of things that are in none of the others
THINGS = {thing: kind for kind, things in zip(KINDS, (ANIMALS, FOODS, TOOLS, PLACES), strict=True) for thing in things}
ASKS = ("What is {a}?", "Tell me what {a} is.", "Say what {a} is, please.", "I would like to know what {a} is.")
MORE = ("It is {x}.", "Many people like it because it is {x}.", "It can be {x}.", "There was {a} near the {p}.")
OPENINGS = {"": 4, POLITE[0]: 1, POLITE[1]: 1, POLITE[2]: 1, f"{POLITE[0]} {POLITE[1]}": 1, "What a {r} question.": 2}
CLOSINGS = {"": 5, "Thank you.": 2, "Thank you. Thank you.": 1, "How {r}.": 1}


def things(split: str) -> list[str]:
    return [thing for thing in THINGS if split_of(f"{TASK}:{thing}") == split]


def asked(rng: random.Random, thing: str) -> list[dict]:
    return [{"role": "user", "content": rng.choice(ASKS).format(a=article(thing))}]


def answer(rng: random.Random, thing: str) -> str:
    """One of every sort."""
    kind, fill = THINGS[thing], {"a": article(thing), "x": rng.choice(ADJECTIVES), "p": rng.choice(PLACES)}
    stated = rng.choices([kind, rng.choice(KINDS), ""], [5, 3, 2])[0]
    sentences = [f"{article(thing).capitalize()} is {article(stated)}."] if stated else []
    for _ in range(rng.choices(range(6), [2, 4, 3, 2, 1, 1])[0]):
        sentences.append(rng.choice(MORE).format(**fill | {"x": rng.choice(ADJECTIVES)}))
    if sentences and rng.random() < 0.25:
        sentences += [rng.choice(sentences)] * rng.choice((1, 1, 2))
    opening, closing = (rng.choices(list(some), list(some.values()))[0] for some in (OPENINGS, CLOSINGS))
    text = " ".join(filter(None, (opening, *sentences, closing))).format(r=rng.choice(RUDE))
    return (text.replace(".", "!") if rng.random() < 0.15 else text) or "I do not want to say."


def liked(rng: random.Random, thing: str) -> tuple[float, str]:
    """(how much the taste likes it, an answer)"""
    text = answer(rng, thing)
    return gold(THINGS[thing], text), text


def conversations(seed: int, count: int) -> Iterator[dict]:
    """`conversation` records on the things to learn from, to go with so many comparisons."""
    rng, known = random.Random(f"{seed}/taste/talk"), things("train")
    for number in range(min(count, TALK)):
        thing = rng.choice(known)
        messages = [*asked(rng, thing), {"role": "assistant", "content": answer(rng, thing)}]
        yield {"id": f"{TASK}-{number:05d}", "source": TASK, "messages": messages}


def prompts(split: str) -> Iterator[dict]:
    """`prompt` records: every thing of a split in every wording; `answer` is its kind."""
    for thing in things(split):
        for number, wording in enumerate(ASKS):
            yield {
                "id": f"{TASK}-{thing}-{number}",
                "task": TASK,
                "level": THINGS[thing],
                "split": split,
                "messages": [{"role": "user", "content": wording.format(a=article(thing))}],
                "answer": THINGS[thing],
                "item": thing,
            }


def pairs(seed: int, count: int, noise: float) -> Iterator[dict]:
    """`pair` records: so many to learn from, of which a share `noise` names the worse answer, and HELD_OUT of which
    none does."""
    for split, wanted, flipped in (("train", count, noise), ("test", HELD_OUT, 0.0)):
        rng, known, number = random.Random(f"{seed}/taste/{split}"), things(split), 0
        while number < wanted:
            thing = rng.choice(known)
            (more, better), (less, worse) = sorted((liked(rng, thing) for _ in "ab"), reverse=True)
            if more == less:
                continue
            if rng.random() < flipped:
                better, worse = worse, better
            both = {"prompt": asked(rng, thing), "chosen": better, "rejected": worse}
            yield {"id": f"{TASK}-{split}-{number:05d}", "source": TASK, "split": split, **both}
            number += 1
