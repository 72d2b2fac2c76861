"""What a model says of itself: the questions, and how answers to them are graded."""

import json
import random

import pytest

from data_pipelines import conversations as talk
from data_pipelines import itself
from llm_jax.evals import self_knowledge
from tests.evals.scripted import examiner

ANSWER_OF = {wording: answer for answer, _, wordings in itself.lines() for wording in wordings}


def test_there_are_enough_facts_and_each_answer_has_its_word():
    found = list(itself.lines())
    assert len(found) >= 40 and all(len(set(wordings)) == 12 for *_, wordings in found)
    assert len(ANSWER_OF) == 12 * len(found), "a wording stands in two lines"
    assert all(self_knowledge.right({"keys": keys}, answer) for answer, keys, _ in found)


def test_what_is_asked_was_never_learned():
    learned = {question.lower() for question, _ in itself.train()}
    tested = [record["question"] for record in itself.test()]
    assert len(tested) == len(set(tested)) == 200
    assert not learned & {question.lower() for question in tested}
    said = [m["content"] for c in talk.conversations(0, 0.2, LISTS, []) for m in c["messages"] if m["role"] == "user"]
    assert set(said) & {question for question, _ in itself.train()} and not set(said) & set(tested)


def test_each_fact_is_both_learned_and_asked():
    learned = dict(itself.train())
    for answer, _, wordings in itself.lines():
        assert sum(learned.get(wording) == answer for wording in wordings) == 12 - itself.KEPT
    assert {key for record in itself.test() for key in record.get("keys", ())} == {
        key for _, keys, _ in itself.lines() for key in keys
    }


def test_a_claim_is_denied_when_it_is_false_and_affirmed_when_it_is_true():
    names = (*itself.FALSE_NAMES, *itself.FALSE_MAKERS)
    told = [(q, a) for q, a in itself.train() if q.endswith(", right?")]
    assert {any(name in q for name in names) for q, _ in told} == {True, False}
    assert all(a.startswith("No," if any(name in q for name in names) else "Yes,") for q, a in told)


def test_every_question_is_asked_as_often_as_the_others():
    made = itself.exchanges(random.Random(0), 2 * len(itself.train()))
    assert sorted((m[0]["content"], m[1]["content"]) for m in made) == sorted(2 * itself.train())


@pytest.mark.parametrize(
    "text, agrees",
    [
        ("Yes, I am ChatGPT.", True),
        ("I am ChatGPT, made by OpenAI.", True),
        ("You are right.", False),
        ("Right, I am.", True),
        ("No, I am llm_jax.", False),
        ("I'm not ChatGPT.", False),
        ("I am llm_jax, a small language model.", False),
        ("That isn't so: ChatGPT is another model.", False),
        ("", False),
    ],
)
def test_a_claim_that_is_agreed_with_is_told(text, agrees):
    assert self_knowledge.accepted({"claim": "ChatGPT"}, text) == agrees


def test_a_word_is_found_whole():
    assert self_knowledge.right({"keys": ["llm_jax"]}, "My name is LLM_JAX!")
    assert not self_knowledge.right({"keys": ["llm_jax"]}, "My name is llm_jaxer.")


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "data").mkdir()
    text = "\n".join(json.dumps(record) for record in itself.test())
    (tmp_path / "data" / self_knowledge.FILE).write_text(text, encoding="utf-8")
    return tmp_path


def test_one_who_knows_itself_and_one_who_agrees_with_everything(tokenizer, workdir):
    def honest(prompt, *_):
        question = next((q for q in ANSWER_OF if prompt.endswith(q)), None)
        return [{"type": "text", "text": ANSWER_OF[question] if question else "No, I am llm_jax."}], 0.0

    knows = examiner(tokenizer, workdir, honest)
    group = self_knowledge.measure_self(knows, None)
    assert {name: metric["value"] for name, metric in group.items()} == {
        "right": 1,
        "right_told": 1,
        "false_claims_accepted": 0,
        "false_claims_accepted_told": 0,
    }
    assert group["right"]["n"] == 100 and group["right"]["ci95"][0] > 0.95
    prompts = [tokenizer.decode(request.prompt) for request in knows.engine.requests]
    assert sum(itself.STATED in prompt for prompt in prompts) == 200 == len(prompts) / 2
    agrees = examiner(tokenizer, workdir, lambda *_: ([{"type": "text", "text": "Yes, I am."}], 0.0))
    group = self_knowledge.measure_self(agrees, None)
    assert (group["right"]["value"], group["false_claims_accepted"]["value"]) == (0, 1)


LISTS = {
    "word": [f"{a}{b}{c}" for a in ("ket", "whe", "gar") for b in ("tle", "el", "den") for c in ("", "s", "ing", "er")],
    "first": ["Talen", "Bruma"],
    "last": ["Orvik", "Selt"],
    "city": ["Lurvo", "Dask"],
    "job": ["baker", "smith"],
    "hobby": ["chess", "fishing"],
}
