"""Summaries of a text that stands in the prompt: who it is about, what they do, where they live."""

import random

from llm_jax.tasks.base import Problem, split_of

LEVELS = ("2 facts", "3 facts", "3 facts and a distraction")

ASK = (
    "Sum up this text in one sentence: {t}",
    "Here is a note. {t} Give a one-sentence summary.",
    "{t} Summarize that in one sentence.",
    "Read this: {t} What is the short version?",
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


def make(rng: random.Random, level: int, split: str, lists: dict[str, list[str]]) -> Problem:
    """`lists` holds first, last, job, city and hobby; the drawn name decides the split."""
    while True:
        name = f"{rng.choice(lists['first'])} {rng.choice(lists['last'])}"
        if split_of(f"summary:{name}") == split:
            break
    job, city, hobby = rng.choice(lists["job"]), rng.choice(lists["city"]), rng.choice(lists["hobby"])
    sentences = [rng.choice(JOB).format(n=name, j=job), rng.choice(CITY).format(n=name, c=city)]
    answer = f"{name} is a {job} in {city}"
    if level >= 1:
        sentences.append(rng.choice(PASTIME).format(n=name, h=hobby))
        answer += f" who likes {hobby}"
    if level == 2:
        sentences.append(rng.choice(DISTRACTION))
    rng.shuffle(sentences)
    prompt = rng.choice(ASK).format(t=" ".join(sentences))
    return Problem("summary", level, f"summary:{name}", prompt, answer + ".")
