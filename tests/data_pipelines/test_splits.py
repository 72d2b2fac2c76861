"""What is held out stays out: no test item in lessons or conversations, in any wording."""

import re
from collections import defaultdict

import pytest

from data_pipelines import conversations as talk
from data_pipelines.lessons import lesson_documents
from data_pipelines.speedrun import texts_of, word_lists
from data_pipelines.tiny_web import lexicon
from llm_jax.tasks import arithmetic, letters, ordering, summary, words
from llm_jax.tasks.base import split_of
from llm_jax.tasks.table import FAMILIES

LISTS = word_lists(0)
WORDINGS = (*letters.SPELL, *letters.REVERSE, *letters.LAST, *letters.CAPITALS)


@pytest.fixture(scope="module")
def lessons():
    return "\n\n".join(d["text"] for d in lesson_documents(0, 0.08, LISTS))


@pytest.fixture(scope="module")
def spoken():
    return list(talk.conversations(0, 0.08, LISTS, []))


@pytest.fixture(scope="module")
def said(spoken):
    return "\n\n".join(text for c in spoken for m in c["messages"] for text in texts_of(m["content"]))


@pytest.fixture(params=["lessons", "said"])
def corpus(request):
    return request.getfixturevalue(request.param)


def asked(corpus: str, wordings, **patterns: str) -> list[dict[str, str]]:
    """Every place where one of the wordings stands, as {name: what fills it}."""
    found = []
    for wording in wordings:
        pattern = re.escape(wording)
        for name, inner in patterns.items():
            pattern = pattern.replace(re.escape("{" + name + "}"), f"(?P<{name}>{inner})", 1)
        found += [match.groupdict() for match in re.finditer(pattern, corpus)]
    return found


def is_item(expression: str) -> bool:
    """Whether a family asks this; steps such as 41-18 come up on the way, and are no problem of two small numbers."""
    numbers = [int(n) for n in re.split(r"[+*-]", expression)]
    return len(numbers) > 2 or max(numbers) <= arithmetic.LARGEST or min(numbers) > arithmetic.LARGEST


def key_of(expression: str) -> str:
    small = re.fullmatch(r"(\d{1,2})([+-])(\d{1,2})", expression)
    return arithmetic.sum_key(int(small[1]), small[2], int(small[3])) if small else expression


def test_every_sum_is_of_the_train_split(corpus):
    sums = [found for found in re.findall(r"(?<![\d.])\d+(?:[+*-]\d+)+", corpus) if is_item(found)]
    assert len(sums) > 300
    assert not [expression for expression in sums if split_of(key_of(expression)) != "train"]


def test_every_word_asked_about_is_of_the_train_split(corpus):
    found = {place["w"] for place in asked(corpus, WORDINGS, w="[a-z]+")}
    assert len(found) > 30
    assert not [word for word in found if split_of(f"word:{word}") != "train"]


def test_no_held_out_word_is_spelled_anywhere(corpus):
    spelled = {run.replace("-", "") for run in re.findall(r"\b(?:[a-z]-){3,}[a-z]\b", corpus)}
    assert len(spelled) > 20
    held = {word for word in (*lexicon.EVERYDAY, *words.WORDS) if len(word) > 3 and split_of(f"word:{word}") != "train"}
    assert held and not spelled & held and not spelled & {word[::-1] for word in held}


def test_every_comparison_and_order_is_of_the_train_split(corpus):
    number = r"\d+(?:\.\d+)?"
    pairs = asked(corpus, ordering.COMPARE, a=number, b=number)
    lists = asked(corpus, ordering.SORT, l=r"\d+(?: \d+)+")
    assert len(pairs) > 10 and len(lists) > 10
    keys = [ordering.comparison_key(p["a"], p["b"]) for p in pairs]
    keys += [ordering.sort_key([int(number) for number in place["l"].split()]) for place in lists]
    assert not [key for key in keys if split_of(key) != "train"]


def test_every_summary_is_of_the_train_split(said):
    names = {place["n"] for place in asked(said, summary.JOB, n="[A-Z][a-z]+ [A-Z][a-z]+", j="[a-z ]+")}
    assert len(names) > 10
    assert not [name for name in names if split_of(f"summary:{name}") != "train"]


def test_prompts_keep_to_their_split():
    made = {split: list(talk.prompts(0, split, 0.03, LISTS, [])) for split in ("train", "dev", "test")}
    for split, prompts in made.items():
        assert all(split_of(p["item"]) == split == p["split"] for p in prompts)
        texts = [p["messages"][0]["content"] for p in prompts]
        assert len(set(texts)) == len(texts) and len({p["id"] for p in prompts}) == len(prompts)
        assert {p["task"] for p in prompts} == {name for name, family in FAMILIES.items() if not family.on_demand}
    assert not {p["item"] for p in made["train"]} & {p["item"] for p in made["test"]}


def test_no_test_prompt_was_seen_in_training(said):
    for prompt in talk.prompts(0, "test", 0.03, LISTS, []):
        assert prompt["messages"][0]["content"] not in said.split("\n\n")


def test_conversations_are_whole_and_follow_the_seed(spoken):
    assert spoken == list(talk.conversations(0, 0.08, LISTS, [])) != list(talk.conversations(1, 0.08, LISTS, []))
    assert len({c["id"] for c in spoken}) == len(spoken)
    for conversation in spoken:
        roles = [m["role"] for m in conversation["messages"] if m["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles


def test_every_kind_of_exchange_stands_in_every_turn(spoken):
    turns = defaultdict(set)
    for conversation in spoken:
        for turn, message in enumerate(m for m in conversation["messages"] if m["role"] == "assistant"):
            if isinstance(message["content"], list):
                turns[turn].add(" ".join(part["type"] for part in message["content"]))
    kinds = {"answer", "think answer", "python output answer"}
    assert turns[0] == turns[1] == turns[2] == kinds


def test_only_train_questions_about_the_world_are_spoken():
    questions = [{"question": f"Where does P{n} live?", "answer": f"C{n}"} for n in range(30)]
    made = list(talk.conversations(0, 0.004, LISTS, questions))
    facts = [m["content"] for c in made for m in c["messages"] if "does P" in str(m["content"])]
    openings = f"^({'|'.join(map(re.escape, talk.LEADS))})"
    assert facts and {re.sub(openings, "", fact) for fact in facts} <= {q["question"] for q in questions}
