"""Write a world to a directory: its documents, its people, and the questions that test a reader of it."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from data_pipelines.tiny_web import pages
from data_pipelines.tiny_web.wordings import DEV_QUESTIONS, TEST_QUESTIONS, TRAIN_QUESTIONS, Wordings
from data_pipelines.tiny_web.world import ATTRIBUTES, Person, World, make_world

HOWTO_PAGES = 105
PROGRAM_PAGES = 195
TRAIN_WORDINGS = 30  # sampled for each asked fact
DEV_EXTRA_PEOPLE = 40
HELD_OUT_PERCENT = 6  # of the pages, for validation


def write_world(directory: str | Path, seed: int, scale: float = 1.0) -> None:
    """Write every file of the world; the same seed and scale give the same bytes."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    world = make_world(seed, *(_scaled(count, scale) for count in (12, 100, 12, 64)))
    _write(directory / "documents.jsonl", documents(world, seed, scale))
    _write(directory / "world.jsonl", (_person_record(person) for person in world.people))
    for split, records in question_sets(world, seed).items():
        _write(directory / f"questions_{split}.jsonl", records)


def _scaled(count: int, scale: float) -> int:
    return max(2, round(count * scale))


def documents(world: World, seed: int, scale: float) -> list[dict]:
    """All pages, source by source; each source draws from its own random numbers."""
    made = (
        pages.biography_pages(world, _rng(seed, "biography")),
        pages.question_pages(world, _rng(seed, "questions")),
        pages.howto_pages(world, _rng(seed, "howto"), _scaled(HOWTO_PAGES, scale)),
        pages.place_pages(world, _rng(seed, "place")),
        pages.program_pages(_rng(seed, "program"), _scaled(PROGRAM_PAGES, scale)),
    )
    extra = {person.id for person in world.of_kind("extra")}
    return [
        {"id": f"{page.source}-{number:05d}", "source": page.source, "text": page.text, "split": _split(page, extra)}
        for group in made
        for number, page in enumerate(group)
    ]


def _split(page: pages.Page, extra: set[str]) -> str:
    """Holds pages out by a hash of their text. Biographies of tier people never: their exposure is exact."""
    if not {person for person, _, _ in page.facts} <= extra:
        return "train"
    percent = int.from_bytes(hashlib.sha256(page.text.encode()).digest()[:4], "big") % 100
    return "val" if percent < HELD_OUT_PERCENT else "train"


def _rng(seed: int, purpose: str) -> random.Random:
    return random.Random(f"{seed}/{purpose}")


def _person_record(person: Person) -> dict:
    return {
        "id": person.id,
        "name": person.name,
        "kind": person.kind,
        "tier": person.tier,
        "asked": list(person.asked),
        "facts": person.facts,
    }


def question_sets(world: World, seed: int) -> dict[str, list[dict]]:
    """The questions of each split.

    Train asks what the question pages ask; dev and test also ask what no question page asks, and what
    nobody can know (held-out and near-miss people).
    """
    rng = _rng(seed, "train questions")
    everyone = world.of_kind("tier", "unasked", "heldout", "near_miss")
    extra = world.of_kind("extra")

    def sampled(person: Person, attribute: str) -> list[int]:
        count = TRAIN_WORDINGS if attribute in person.asked else 0
        return sorted(rng.sample(range(len(TRAIN_QUESTIONS[attribute])), count))

    return {
        "train": _questions("train", world.of_kind("tier", "extra"), TRAIN_QUESTIONS, sampled),
        "dev": _questions("dev", everyone + extra[:DEV_EXTRA_PEOPLE], DEV_QUESTIONS),
        "test": _questions("test", everyone, TEST_QUESTIONS),
    }


def _questions(
    split: str, people: list[Person], wordings: Wordings, choose: Callable[[Person, str], list[int]] | None = None
) -> list[dict]:
    """Records for every fact of the people, in the chosen wordings or in all of them."""
    records = []
    for person in people:
        for attribute in ATTRIBUTES:
            numbers = choose(person, attribute) if choose else range(len(wordings[attribute]))
            records += [
                {
                    "id": f"{split}-{person.id}-{attribute}-{number}",
                    "person": person.id,
                    "kind": person.kind,
                    "tier": person.tier,
                    "attribute": attribute,
                    "asked": attribute in person.asked,
                    "wording": number,
                    "question": wordings[attribute][number].format(name=person.name),
                    "answer": person.facts[attribute],
                }
                for number in numbers
            ]
    return records


def _write(path: Path, records: Iterable[dict]) -> None:
    """Write JSON lines in one step, so that a reader never sees half a file."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="ascii", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")
    os.replace(partial, path)
