"""Texts about strangers: what they state, what is asked, and that nothing of the test stands in training."""

import itertools
import random
from collections import Counter

import pytest

from data_pipelines.tiny_web import reading, reading_talk
from data_pipelines.tiny_web.wordings import STATEMENTS, TEST_QUESTIONS, TRAIN_QUESTIONS
from data_pipelines.tiny_web.world import ATTRIBUTES, make_world
from llm_jax.runs import Run
from llm_jax.tasks import portrait
from llm_jax.tasks.base import split_of, uncited
from llm_jax.tasks.refusals import NOT_FOUND, SEARCH_FAILED
from llm_jax.tokenizer.sentencepiece import train_tokenizer
from llm_jax.training import loader


@pytest.fixture(scope="module")
def world():
    return make_world(0)


@pytest.mark.parametrize("people", reading.SHARES)
def test_a_text_states_each_fact_of_a_note_once_and_no_other(world, people):
    rng = random.Random(people)
    for _ in range(40):
        text = reading.fresh_text(rng, people, "train", world.values)
        assert len({part for person, *_ in text.notes for part in person.name.split()}) == 2 * people
        for person, attributes, note in text.notes:
            assert note.startswith(person.name) and split_of(f"reading:{person.name}") == "train"
            assert all(person.facts[attribute] in note for attribute in attributes)


def test_an_answer_stands_in_the_quoted_note_and_what_does_not_is_said_not_to(world):
    rng, counts = random.Random(0), Counter()
    for people in itertools.islice(itertools.cycle(reading.SHARES), 400):
        text = reading.fresh_text(rng, people, "train", world.values)
        asked = reading.ask(text, rng, TRAIN_QUESTIONS)
        _, attributes, note = text.about(asked.person)
        assert asked.person.name in asked.question and asked.quote in ("", note) and (people > 1) == bool(asked.quote)
        stated = asked.attribute in attributes
        assert asked.answer == (asked.person.facts[asked.attribute] if stated else reading.UNSTATED)
        counts[stated] += 1
    assert 0.03 < counts[False] / 400 < 0.25


WORDS = ["day", "of", "river", "sum", "town"]


def test_lists_are_the_same_line_again_short_ones_of_whole_tokens_alone():
    pages = list(reading.documents(0, {"short_lists": 40, "long_lists": 40}, {}, WORDS))
    for page in pages:
        lines = page["text"].split("\n")
        assert len(lines) == reading.COPIES and len(set(lines)) == 1
        least, most = reading.SHORT if page["source"] == "short_lists" else reading.LONG
        assert least <= len(lines[0].split()) <= most
        assert page["source"] == "long_lists" or set(lines[0].split()) <= set(WORDS)
    assert {page["source"] for page in pages} == {"short_lists", "long_lists"}


def test_pre_training_reads_the_short_lists_before_anything_else(prepared, tmp_path):
    run = Run.open(prepared(tmp_path / "run"))
    mixed = loader.wanted(run.workdir / "data", run.config.data)
    lists = mixed.quotas[0]
    assert mixed.folders[0].name == "short_lists" and mixed.first == 1 and lists == mixed.sizes[0]
    read = loader.batches(mixed, 1, 0, 0)
    texts = (texts_of(row, run.tokenizer) for row in itertools.islice(read, 2 * lists))
    assert [all(map(is_list, row)) for row in texts] == [True] * lists + [False] * lists


def texts_of(row: dict, tokenizer) -> list[str]:
    tokens, segments = row["tokens"][0], row["segment_ids"][0]
    return [tokenizer.decode(tokens[segments == number]) for number in range(1, segments.max() + 1)]


def is_list(text: str) -> bool:
    lines = text.split("\n")
    return len(lines) == reading.COPIES and len(set(lines)) == 1


def test_what_is_looked_up_stands_above():
    for page in reading.documents(0, {"look_ups": 60}, {}, WORDS):
        lines = page["text"].split("\n")
        value = dict(line.split(": ") for line in lines if ": " in line)
        asked = [line.split("? ") for line in lines if "? " in line]
        assert 1 <= len(asked) <= reading.LOOK_UPS and len(value) + len(asked) == len(lines)
        assert all(value[name] == said for name, said in asked) and len(dict(asked)) == len(asked)


def test_whole_words_are_one_token_each():
    tokenizer = train_tokenizer(["the river of the town, a day of the river"] * 50, 320)
    words = reading.whole_words(tokenizer)
    assert "the" in words and "river" in words and "Zanzibar" not in words
    assert all(len(tokenizer.encode(f" {word}")) == 1 for word in words)


def test_searches_answer_from_the_passage_they_name_or_say_that_there_is_none(world):
    rng, ends = random.Random(1), Counter()
    for _ in range(300):
        _, answer = reading_talk.looked_up(rng, world.values)
        kinds = [part["type"] for part in answer["content"]]
        assert kinds[:2] == ["search", "document"] and kinds[-1] == "answer"
        said, found = answer["content"][-1]["text"].strip(), answer["content"][1]["text"]
        if said in (NOT_FOUND, SEARCH_FAILED):
            ends[said] += 1
            continue
        passage = answer["content"][2]["text"]
        value, source = uncited(said), said.rpartition("[")[2].rstrip("]")
        assert passage in found.split("\n") and passage.endswith(f" [{source}]") and value in passage
    assert ends[NOT_FOUND] > 20 and ends[SEARCH_FAILED] > 5


def test_nobody_of_the_test_stands_in_a_conversation_and_their_pages_only_in_the_index(world):
    spoken = list(reading_talk.conversations(0, 0.3, world))
    said = "\n".join(str(message["content"]) for record in spoken for message in record["messages"])
    tested = world.of_kind("tier", "unasked", "heldout", "near_miss")
    assert not [person.name for person in tested if person.name in said]
    assert {record["source"] for record in spoken} == {"reading", "portrait", "memory", "search"}
    pages = "\n".join(page["text"] for page in reading_talk.indexed(0, world))
    for person in world.of_kind("heldout"):
        assert person.name in pages and all(person.facts[attribute] in pages for attribute in ATTRIBUTES)
    assert not [person.name for person in world.of_kind("near_miss", "tier") if person.name in pages]


def test_test_prompts_have_wordings_and_strangers_that_training_has_not(world):
    taught = {w.format(name="X") for wordings in TRAIN_QUESTIONS.values() for w in wordings}
    assert not taught & {w.format(name="X") for wordings in TEST_QUESTIONS.values() for w in wordings}
    prompts = list(reading_talk.prompts(0, 0.2, world))
    levels = Counter((p["task"], p["level"], p.get("kind", "")) for p in prompts)
    assert levels["reading", "5 in the text", "stranger"] == levels["reading", "1 in the text", "tier"] == 32
    assert levels["portrait", "from memory", ""] == len(world.of_kind("tier", "unasked"))
    for prompt in prompts:
        text = prompt["messages"][0]["content"]
        if prompt["task"] == "reading" and not prompt["unstated"]:
            assert prompt["answer"] in text
        if prompt["level"] == "of a text":
            assert prompt["facts"].keys() == portrait.FORM.keys()
            assert all(value in text for value in prompt["facts"].values())
    assert set(portrait.FORM) == set(ATTRIBUTES) == set(STATEMENTS)
