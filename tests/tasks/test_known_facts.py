"""Files of questions on facts: read, refused by line, asked in several wordings, graded."""

import json

import pytest

from llm_jax.config import UserError
from llm_jax.tasks import knowledge
from llm_jax.tasks.refusals import ABSTAINED, RIGHT, TRAINED, WRONG


@pytest.fixture
def written(tmp_path):
    def write(*records):
        path = tmp_path / "mine.jsonl"
        path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records), encoding="utf-8")
        return path

    return write


def answered(text: str, kind: str = "answer") -> list[dict]:
    return [{"type": kind, "text": f" {text}"}]


def test_question_sets_and_our_own_records_are_read(written):
    open_set = {"question": "who wrote Emma", "answer": ["Jane Austen", "Austen"]}
    own = {"id": "k1", "item": "p1", "wordings": ["a?", "b?"], "answers": ["1972"], "tier": 3, "other": 1}
    nobody = {"question": "Who is X?", "answers": [], "cause": "never_seen"}
    one, two, three = knowledge.read(written(open_set, own, "", nobody))
    assert (one.id, one.item, one.answers) == ("mine-1", "who wrote Emma", ("Jane Austen", "Austen"))
    assert (two.id, two.item, two.wordings, two.tier) == ("k1", "p1", ("a?", "b?"), 3)
    assert (three.id, three.cause, three.answers) == ("mine-4", "never_seen", ())
    assert one.asked(3) == ("who wrote Emma", "Tell me: who wrote Emma", "I have a question: who wrote Emma")
    assert two.asked(3) == ("a?", "b?")


@pytest.mark.parametrize(
    "record, words",
    [
        ({"question": "who?"}, r"mine.jsonl line 2: it has no `answer` \(its fields: question\)"),
        ({"answer": "x"}, "line 2: it has no `question`"),
        ({}, "fields: none"),
        ({"question": "  ", "answer": "x"}, "line 2: `question` is '  '; it must be a text"),
        ({"question": "who?", "answer": []}, r"`answer` is \[\]"),
        ({"question": "who?", "answer": [3]}, r"`answer` is \[3\]"),
        ({"question": "who?", "answer": "the"}, "one without a word"),
        ({"question": "who?", "answer": "x", "cause": "luck"}, "`cause` is 'luck'.*never_seen"),
        ("[1]", "line 2 is damaged"),
    ],
)
def test_a_line_that_lacks_something_is_named(written, record, words):
    with pytest.raises(UserError, match=words):
        knowledge.read(written({"question": "who?", "answer": "x"}, record))


def test_a_file_of_nothing_is_refused(written):
    with pytest.raises(UserError, match="no line; give a file"):
        knowledge.read(written(""))


def test_an_answer_is_right_whatever_its_case_and_articles():
    fact = knowledge.fact_of({"question": "what?", "answer": ["The Beatles", "14 December 1972"]}, "x")
    assert fact.verdict(answered("beatles."), True) == RIGHT
    assert fact.verdict(answered("the beatles and others"), True) == WRONG
    assert fact.verdict(answered("It was The Beatles, I think", "text"), True) == RIGHT
    assert fact.verdict(answered("It was the Beatlesque", "text"), True) == WRONG
    assert fact.verdict(answered("14 December 1972"), False) == WRONG, "it never ended"
    assert fact.verdict([*answered("Beatles"), *answered("Stones")], True) == WRONG
    assert fact.verdict(answered(TRAINED[0]), True) == ABSTAINED
    assert fact.verdict([], True) == WRONG


def test_nothing_is_right_of_what_cannot_be_known():
    fact = knowledge.fact_of({"question": "who?", "cause": "unknowable", "answers": []}, "x")
    assert fact.verdict(answered("Paris"), True) == WRONG and fact.verdict(answered("I don't know."), True) == ABSTAINED


def test_the_split_of_a_users_file_goes_by_what_is_asked():
    facts = [knowledge.fact_of({"question": f"who is {n}?", "answer": "x"}, str(n)) for n in range(400)]
    parts = {split: knowledge.of_split(facts, split) for split in ("train", "dev", "test")}
    assert sum(map(len, parts.values())) == 400 and 300 < len(parts["train"]) < 380 and len(parts["test"]) > 20
    again = knowledge.fact_of({"question": "other words", "item": "who is 7?", "answer": "x"}, "y")
    assert [s for s in parts if facts[7] in parts[s]] == [s for s in parts if knowledge.of_split([again], s)]
