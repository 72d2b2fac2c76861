"""Later turns of a conversation begin as people go on; first ones, and the answers, are as they are alone."""

import random
import re

from data_pipelines import conversations as talk
from data_pipelines import itself
from llm_jax.tasks.words import LISTS

OPENINGS = re.compile(f"And (?=[a-z])|{'|'.join(map(re.escape, talk.LEADS))}")


def users(record: dict) -> list[str]:
    return [message["content"] for message in record["messages"] if message["role"] == "user"]


def test_some_later_turns_begin_as_people_go_on_and_no_first_one_does():
    questions = [{"question": f"Where was Ana {n} born?", "answer": "Rome"} for n in range(500)]
    records = list(talk.conversations(0, 0.2, LISTS, questions))
    first = [users(record)[0] for record in records]
    later = [text for record in records for text in users(record)[1:]]
    led = [text for text in later if OPENINGS.match(text)]
    assert not any(text.startswith(talk.LEADS) for text in first)
    assert 0.15 < len(led) / len(later) < 0.25
    alone = {question for question, _ in itself.train()}
    restored = [text[4].upper() + text[5:] for text in led if text.startswith("And ") and text not in alone]
    about_itself = [text for text in restored if text in alone]
    assert len(about_itself) > 10


def test_a_name_keeps_its_capital():
    rng = random.Random(0)
    claims = [claim for claim, *_ in itself.claims(test=False)]
    for claim in claims:
        for _ in range(20):
            (asked,) = talk.going_on(rng, talk.ITSELF, [{"role": "user", "content": claim}])
            assert not re.match(f"And ({'|'.join(itself.FALSE_MAKERS)})", asked["content"], re.IGNORECASE)


def test_no_question_that_is_kept_for_the_test_comes_about():
    kept = {record["question"] for record in itself.test()}
    assert not kept & {f"And {question[0].lower()}{question[1:]}" for question, _ in itself.train()}
