"""The tiny web: the same bytes from the same seed, exact exposure of facts, and questions that stay apart."""

import contextlib
import io
import json
import random
import re
from collections import defaultdict

import pytest

from data_pipelines.tiny_web import grammar, lexicon, pages, wordings
from data_pipelines.tiny_web.generate import documents, question_sets, write_world
from data_pipelines.tiny_web.world import ATTRIBUTES, make_world

FILES = ("documents.jsonl", "world.jsonl", "questions_train.jsonl", "questions_dev.jsonl", "questions_test.jsonl")
TEST_WORDINGS = "41f132710fc9a74854ffa2b7e21a6190573d7fa36ca6c42edd7134acdf883555"


@pytest.fixture(scope="module")
def world():
    return make_world(5, people_per_tier=2, extra_people=4, unasked_people=4, heldout_people=4)


@pytest.fixture(scope="module")
def texts(world):
    return documents(world, 5, 0.1)


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_world(tmp_path / name, seed, scale=0.1)
    for file in FILES:
        first, again, other = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert first == again and first != other
        assert first.isascii() and all(json.loads(line) for line in first.splitlines())
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(FILES)
    ids = [json.loads(line)["id"] for file in FILES for line in (tmp_path / "a" / file).read_text().splitlines()]
    assert len(ids) == len(set(ids))


def test_facts_are_stated_as_often_as_the_tier_says(world):
    made = pages.biography_pages(world, random.Random(0))
    stated = defaultdict(set)
    people = {person.id: person for person in world.people}
    for page in made:
        for person, attribute, said in page.facts:
            assert said in page.text and people[person].facts[attribute] in said
            stated[person, attribute].add(said)
    assert sum(len(page.facts) for page in made) == sum(map(len, stated.values()))
    for person in world.people:
        for attribute in ATTRIBUTES:
            assert len(stated[person.id, attribute]) == person.tier


def test_no_other_sentence_states_a_fact(world):
    """Found by reading: a sentence with a name and one of its values is one of the recorded statements."""
    made = pages.biography_pages(world, random.Random(0)) + pages.place_pages(world, random.Random(0))
    for page in made:
        recorded = {said for _, _, said in page.facts}
        for said in re.split(r"(?<=[.?!])\s+", page.text):
            for person in world.people:
                if person.name in said and said not in recorded:
                    assert not any(re.search(rf"\b{value}\b", said) for value in person.facts.values()), said


def test_biographies_are_mostly_facts_and_of_page_length(world):
    made = pages.biography_pages(world, random.Random(0))
    for page in made:
        total = len(page.text.split())
        assert 50 <= total <= 180
        assert sum(len(said.split()) for _, _, said in page.facts) >= 0.74 * total
    sentences = [(person, said) for page in made for person, _, said in page.facts]
    names = {person.id: person.name for person in world.people}
    assert 0.7 < sum(names[person] in said for person, said in sentences) / len(sentences) < 0.9


def test_unseen_names_never_appear(world, texts):
    everything = "\n".join(document["text"] for document in texts)
    for person in world.people:
        assert (person.name in everything) == (person.tier > 0)


def test_near_misses_share_one_name_part_and_no_fact(world):
    often = [person for person in world.of_kind("tier") if person.tier >= 30]
    for miss, person in zip(world.of_kind("near_miss"), often, strict=True):
        shared = [a == b for a, b in zip(miss.name.split(), person.name.split(), strict=True)]
        assert sum(shared) == 1
        assert all(miss.facts[attribute] != person.facts[attribute] for attribute in ATTRIBUTES)
    assert len({person.name for person in world.people}) == len(world.people)


def test_question_pages_ask_the_asked_facts_only(world):
    text = "\n".join(page.text for page in pages.question_pages(world, random.Random(0), times=12)).lower()
    for person in world.people:
        is_asked = person.kind == "extra" or (person.kind == "tier" and person.tier > 0)
        assert len(person.asked) == (3 if is_asked else 0)
        for attribute in ATTRIBUTES:
            questions = {wording.format(name=person.name).lower() for wording in wordings.TRAIN_QUESTIONS[attribute]}
            found = sum(question in text for question in questions)
            assert found >= 12 if attribute in person.asked else found == 0


def test_question_files_cover_the_right_people(world):
    sets = question_sets(world, 5)
    assert {record["kind"] for record in sets["train"]} == {"tier", "extra"}
    assert all(record["asked"] for record in sets["train"])
    assert {record["kind"] for record in sets["test"]} == {"tier", "unasked", "heldout", "near_miss"}
    assert len(sets["test"]) == 8 * 6 * len(world.of_kind("tier", "unasked", "heldout", "near_miss"))
    assert len(sets["dev"]) == 6 * 6 * len(world.people)


def test_wordings_are_disjoint_and_enough():
    splits = [wordings.TRAIN_QUESTIONS, wordings.DEV_QUESTIONS, wordings.TEST_QUESTIONS]
    for attribute in ATTRIBUTES:
        assert len(set(wordings.STATEMENTS[attribute])) >= 30
        assert len(set(wordings.STATEMENTS[attribute])) * len(wordings.LEADS) >= 150
        assert [len(split[attribute]) for split in splits][1:] == [6, 8]
        assert len(splits[0][attribute]) >= 48
    plain = [
        re.sub("[^a-z{} ]", "", wording.lower()) for split in splits for group in split.values() for wording in group
    ]
    assert len(plain) == len(set(plain))
    assert all(wording.count("{name}") == 1 for split in splits for group in split.values() for wording in group)


def test_test_wordings_are_the_frozen_ones():
    assert wordings.test_wordings_sha256() == TEST_WORDINGS


def test_lexicon_is_large_and_inflects():
    assert len(set(lexicon.everyday_words())) >= 3000
    assert list(map(lexicon.plural, ("berry", "box", "wolf"))) == ["berries", "boxes", "wolves"]
    assert list(map(lexicon.past, ("stop", "carry", "buy"))) == ["stopped", "carried", "bought"]
    assert list(map(lexicon.ing, ("tie", "see", "run", "bake"))) == ["tying", "seeing", "running", "baking"]
    assert list(map(lexicon.comparative, ("big", "happy", "famous"))) == ["bigger", "happier", "more famous"]


def test_filler_sentences_are_sentences():
    rng = random.Random(0)
    made = [grammar.sentence(rng) for _ in range(300)]
    assert all(said[0].isupper() and said.endswith(".") and "  " not in said for said in made)
    assert len(set(made)) == len(made)


def test_programs_print_what_their_pages_say():
    rng = random.Random(0)
    for maker in pages.MAKERS:
        for _ in range(20):
            program = maker(rng)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(program.code, {})
            assert printed.getvalue().rstrip("\n") == program.output, program.code
