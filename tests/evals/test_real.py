"""How the answers of a model from elsewhere are graded, before and after."""

import pytest

from llm_jax.evals.real import WAYS_TO_ASK, last_number_right, put, real_group
from llm_jax.prompts import Outcome


def outcome(answer, *parts):
    made = [{"type": kind, "text": text} for kind, text in parts]
    return Outcome({"answer": answer}, made, True, False, False, 1)


@pytest.mark.parametrize(
    "parts, right",
    [
        ([("text", "17+25 is 42.")], True),
        ([("text", "The answer is **1,042**.")], False),
        ([("text", "42, or maybe 43")], False),
        ([("text", "It is 42.0")], True),
        ([("text", "It is -42")], False),
        ([("text", "forty-two")], False),
        ([], False),
        ([("think", "17+25=42"), ("text", "I know.")], False),
        ([("python", "17+25"), ("output", "42")], False),
        ([("think", "17+25=41"), ("answer", " 42")], True),
        ([("python", "17+25"), ("output", "42"), ("answer", " 24")], False),
    ],
)
def test_the_last_number_of_what_is_said_is_the_answer(parts, right):
    assert last_number_right(outcome("42", *parts)) is right


def test_thousands_may_have_commas():
    assert last_number_right(outcome("1042", ("text", "The answer is **1,042**.")))


def test_a_prompt_is_put_around_the_last_question_alone():
    prompt = {"messages": [{"role": "system", "content": "Hi {q}"}, {"role": "user", "content": "1+1?"}], "answer": "2"}
    for how in WAYS_TO_ASK:
        system, user = put(prompt, how)["messages"]
        assert system["content"] == "Hi {q}" and "1+1?" in user["content"] and "{q}" not in user["content"]
    assert prompt["messages"][1]["content"] == "1+1?" and put(prompt, "{q}") == prompt


def test_the_group_names_how_sums_are_solved():
    side = {"sums": {"value": 0.5}, "sums_called": {"value": 1}, "think": {"value": 0}, "bpb": {"value": 1.0}}
    group = real_group({"before": side, "after": side})
    assert {"sums_direct_before", "sums_tool", "think_before", "think_after", "bpb_before", "bpb_after"} <= set(group)
    assert group["peak_memory_bytes"]["value"] > 10**7
