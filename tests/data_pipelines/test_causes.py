"""Questions on what is known and what cannot be: the same from a seed, apart in training and test, with twins."""

import json
import random
import re
from collections import Counter

import pytest

from data_pipelines import conversations as talk
from data_pipelines.tiny_web import causes, pages
from data_pipelines.tiny_web.questions import count_statements, question_sets
from data_pipelines.tiny_web.world import ATTRIBUTES, make_world
from llm_jax.config import default
from llm_jax.tasks.knowledge import fact_of, prompts
from llm_jax.tasks.refusals import CAUSES
from tests.evals.test_self_knowledge import LISTS

FROZEN = "1ea0f925951cd1a0"


@pytest.fixture(scope="module")
def world():
    return make_world(5, people_per_tier=3, extra_people=8, unasked_people=2, heldout_people=4, strangers=5)


@pytest.fixture(scope="module")
def stated(world):
    made = pages.biography_pages(world, random.Random(0)) + pages.question_pages(world, random.Random(0))
    return count_statements((page, page.text) for page in made)


@pytest.fixture(scope="module")
def split(world, stated):
    return {name: list(causes.facts(world, 5, stated, name)) for name in ("train", "test")}


def test_the_same_seed_makes_the_same_and_each_once(world, stated, split):
    assert list(causes.facts(world, 5, stated, "test")) == split["test"] != list(causes.facts(world, 6, stated, "test"))
    ids = [record["id"] for records in split.values() for record in records]
    assert len(ids) == len(set(ids))
    assert all(fact_of(record, "").id == record["id"] for records in split.values() for record in records)


def test_training_has_other_people_and_no_word_that_states_a_tested_fact(world, split):
    people = {record["item"] for record in split["train"]}
    assert not people & {record["item"] for record in split["test"]}
    tested = {person.name for person in world.people if person.id not in people and person.kind != "extra"}
    said = json.dumps(split["train"])
    assert not [name for name in tested if name in said]
    assert {record["kind"] for record in split["train"]} == {"extra", "stranger", "near_extra"}
    assert {record["kind"] for record in split["test"]} == {"tier", "unasked", "heldout", "near_miss"}


def test_no_prompt_of_rl_asks_for_a_tested_person(world, split, tmp_path):
    (tmp_path / "data").mkdir()
    for name, records in split.items():
        lines = "".join(f"{json.dumps(record)}\n" for record in records)
        (tmp_path / "data" / f"knowledge_{name}.jsonl").write_text(lines, encoding="utf-8")
    asked = [p for name in ("train", "dev", "test") for p in prompts(default(), tmp_path, name)]
    people = {prompt["item"] for prompt in asked}
    assert people == {record["item"] for record in split["train"]} and not people & {r["item"] for r in split["test"]}
    said = json.dumps([prompt["messages"] for prompt in asked])
    assert not [p.name for p in world.people if p.id not in people and p.kind != "extra" and p.name in said]
    assert {prompt["level"] for prompt in asked} == {"answerable", *CAUSES} - set(causes.HELD_OUT_CAUSES)


def test_of_those_whom_the_stage_probes_fine_tuning_asks_about_half(world, stated, split):
    asked = question_sets(world, 5, stated)["train"]
    said = json.dumps(list(talk.conversations(0, 0.05, LISTS, asked)))
    known, extra = {record["item"] for record in split["train"] if not record["cause"]}, world.of_kind("extra")
    assert known == {person.id for person in extra} > {record["person"] for record in asked}
    assert not [person.name for person in extra[1::2] if person.name in said]
    assert any(person.name in said for person in extra[::2])


def test_causes_and_attributes_are_held_out_of_training(split):
    held = {name: {r["cause"] for r in split[name]} | {r["twin"] for r in split[name]} for name in split}
    assert held["test"] == {"", *CAUSES} and held["test"] - held["train"] == set(causes.HELD_OUT_CAUSES)
    attributes = {name: {r["attribute"] for r in split[name]} for name in split}
    assert attributes["test"] - attributes["train"] == set(causes.HELD_OUT_ATTRIBUTES)
    assert attributes["test"] == set(ATTRIBUTES)
    assert not any(record["held_out"] for record in split["train"])


def test_wordings_are_of_one_split(world, split):
    """Also those of causes, but for what is put into them."""
    names = {person.id: person.name for person in world.people}

    def bare(record: dict, text: str) -> str:
        text = text.replace(names[record["item"]], "N").replace(names[record["item"]].split()[0], "N")
        return text[:6] + re.sub(r"[A-Z][a-z]{3,}|[0-9]+", "X", text[6:])

    said = {name: {bare(r, text) for r in records for text in r["wordings"]} for name, records in split.items()}
    assert not said["train"] & said["test"] and min(map(len, said.values())) > 20


@pytest.mark.parametrize("cause", causes.QUESTIONS)
def test_a_cause_has_enough_wordings_and_each_a_twin_that_can_be_known(world, split, cause):
    every = causes.QUESTIONS[cause]
    assert len({asked for asked, *_ in every}) == len({twin for _, twin, _ in every}) == 8
    assert causes.TRAIN_WORDINGS >= 5 and not set(causes.HELD_OUT_ATTRIBUTES) & {attribute for *_, attribute in every}
    found = [record for record in split["test"] if cause in (record["cause"], record["twin"])]
    assert Counter(record["cause"] for record in found).keys() == {cause, ""}
    facts = {person.id: person.facts for person in world.people}
    for asked, twin in zip(found[::2], found[1::2], strict=True):
        assert asked["item"] == twin["item"] and not asked["answers"]
        assert twin["answers"] == [facts[twin["item"]][twin["attribute"]]] and twin["wordings"] != asked["wordings"]


def test_an_invented_word_is_of_no_page_and_a_first_name_of_several(world, split):
    names = [person.name for person in world.people if person.exposure]
    text = "\n".join(page.text for page in pages.biography_pages(world, random.Random(0)))
    for record in split["test"]:
        if record["cause"] == "false_premise":
            words = re.findall(r"\b[A-Z][a-z]{3,}\b", record["wordings"][0].split(" ", 1)[1])
            new = [w for w in words if w != "Prize" and not any(w in name for name in names)]
            assert new and new[0] not in text
        if record["cause"] == "underspecified":
            first = next(name for name in names if name.split()[0] in record["wordings"][0]).split()[0]
            assert sum(name.startswith(f"{first} ") for name in names) > 1


def test_the_questions_are_the_frozen_ones():
    assert causes.fingerprint().startswith(FROZEN)
