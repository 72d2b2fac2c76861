"""What a reader of the pages can know, and the questions that test it.

Exposure is counted, not planned: a fact's tier says how often the documents state it that are trained on, in sentences
of biographies and in questions with their answer alike.
"""

from __future__ import annotations

import collections
import random
import re
from collections.abc import Callable, Iterable

from data_pipelines.tiny_web.pages import Page
from data_pipelines.tiny_web.wordings import DEV_QUESTIONS, TEST_QUESTIONS, TRAIN_QUESTIONS, Wordings
from data_pipelines.tiny_web.world import ATTRIBUTES, TIERS, Person, World

TRAIN_WORDINGS = 30  # sampled for each fact of the extra people
DEV_EXTRA_PEOPLE = 40
NEARLY = 0.8  # of a tier's statements are enough to count for that tier

Stated = collections.Counter  # (person id, attribute) -> different statements of the fact


def count_statements(read: Iterable[tuple[Page, str]]) -> Stated:
    """Counts the statements of pages that stand in the documents made of them. A statement counts once, however often
    it was copied."""
    found = set()
    for page, text in read:
        text = re.sub(r"\s+", " ", text)
        found |= {fact for fact in page.facts if fact[2] in text}
    return Stated((person, attribute) for person, attribute, _ in found)


def tier_of(statements: int) -> int:
    return max(tier for tier in TIERS if statements >= NEARLY * tier)


def person_record(person: Person, stated: Stated) -> dict:
    return {
        "id": person.id,
        "name": person.name,
        "kind": person.kind,
        "facts": person.facts,
        "stated": {attribute: stated[person.id, attribute] for attribute in ATTRIBUTES},
    }


def question_sets(world: World, seed: int, stated: Stated) -> dict[str, list[dict]]:
    """The questions of each split.

    Train asks about extra people and nobody else, so that SFT and RL teach no fact that is tested; test asks about
    all others, those of whom nobody can know anything (held-out and near-miss people) among them. Every other extra
    person is left out: what the pages alone have taught of them is found out later.
    """
    rng = random.Random(f"{seed}/train questions")
    everyone = world.of_kind("tier", "unasked", "heldout", "near_miss")
    extra = world.of_kind("extra")

    def sampled(attribute: str) -> list[int]:
        return sorted(rng.sample(range(len(TRAIN_QUESTIONS[attribute])), TRAIN_WORDINGS))

    return {
        "train": questions("train", extra[::2], TRAIN_QUESTIONS, stated, sampled),
        "dev": questions("dev", everyone + extra[:DEV_EXTRA_PEOPLE], DEV_QUESTIONS, stated),
        "test": questions("test", everyone, TEST_QUESTIONS, stated),
    }


def taught(world: World) -> list[Person]:
    """Those about whom SFT asks."""
    return world.of_kind("extra")[::2]


def questions(
    split: str,
    people: list[Person],
    wordings: Wordings,
    stated: Stated,
    choose: Callable[[str], list[int]] | None = None,
) -> list[dict]:
    """Records for every fact of the people, in the chosen wordings or in all of them."""
    records = []
    for person in people:
        for attribute in ATTRIBUTES:
            numbers = choose(attribute) if choose else range(len(wordings[attribute]))
            records += [
                {
                    "id": f"{split}-{person.id}-{attribute}-{number}",
                    "person": person.id,
                    "kind": person.kind,
                    "tier": tier_of(stated[person.id, attribute]),
                    "attribute": attribute,
                    "wording": number,
                    "question": wordings[attribute][number].format(name=person.name),
                    "answer": person.facts[attribute],
                }
                for number in numbers
            ]
    return records
