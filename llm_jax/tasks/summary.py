"""Summaries of a text that stands in the prompt: who it is about, what they do, where they live."""

import random

from llm_jax.tasks.base import Item, split_of

LEVELS = ("nothing else", "1 distraction", "2 distractions", "3 distractions")

ASK = (
    "Sum up this text in one sentence: {t}",
    "Here is a note. {t} Give a one-sentence summary.",
    "{t} Summarize that in one sentence.",
    "Read this: {t} What is the short version?",
    "Say in one sentence what this says: {t}",
)
JOB = ("{n} works as a {j}.", "For a living, {n} is a {j}.", "Most people know {n} as the local {j}.")
CITY = ("{n} lives in {c}.", "The home of {n} is in {c}.", "{n} has a small flat in {c}.")
PASTIME = ("On Sundays {n} enjoys {h}.", "{n} spends free hours on {h}.", "After work there is {h} for {n}.")
DISTRACTION = (
    "The weather has been mild this week.",
    "Nobody expected the bridge to close so early.",
    "There was a long queue at the bakery.",
    "The meeting took place in the afternoon.",
)


def make(
    rng: random.Random,
    level: int,
    split: str,
    firsts: list[str],
    lasts: list[str],
    jobs: list[str],
    cities: list[str],
    hobbies: list[str],
) -> Item:
    """The drawn name decides the split. Three facts, among as many sentences about nothing as the level says."""
    while True:
        name = f"{rng.choice(firsts)} {rng.choice(lasts)}"
        if split_of(f"summary:{name}") == split:
            break
    job, city, hobby = rng.choice(jobs), rng.choice(cities), rng.choice(hobbies)
    sentences = [
        rng.choice(JOB).format(n=name, j=job),
        rng.choice(CITY).format(n=name, c=city),
        rng.choice(PASTIME).format(n=name, h=hobby),
        *rng.sample(DISTRACTION, level),
    ]
    rng.shuffle(sentences)
    answer = f"{name} is a {job} in {city} who likes {hobby}."
    return Item(f"summary:{name}", answer, {"t": " ".join(sentences)})
