"""What becomes of answers as ids: the grader fails what no conversation is rendered to, whatever parts it makes."""

import pytest

from llm_jax.prompts import judge
from llm_jax.sampling.requests import Completion
from llm_jax.tokenizer import Tokenizer
from llm_jax.tokenizer.sentencepiece import SPECIALS

PROMPT = {"task": "arithmetic", "answer": "42"}


def judged(t: Tokenizer, *said: str):
    """The outcome of a completion: names of special tokens, and texts."""
    ids = {name: i for i, name in t.special_names.items()}
    done = [i for part in said for i in ([ids[part]] if part in ids else t.encode(part))]
    return judge(t, PROMPT, Completion(done, [1] * len(done)))


THOUGHT, ANSWER = ("<|think|>", "40+2", "<|/think|>"), ("<|answer|>", " 42", "<|/answer|>")
CALL = ("<|python|>", "40+2", "<|/python|>", "<|output|>", "42", "<|/output|>")


@pytest.mark.parametrize("before", [(), THOUGHT, CALL, (*THOUGHT, *CALL), ("so",)])
def test_what_a_conversation_is_rendered_to_is_right(tokenizer, before):
    outcome = judged(tokenizer, *before, *ANSWER, "<|end|>")
    assert outcome.right and outcome.well_formed


@pytest.mark.parametrize("name", SPECIALS)
@pytest.mark.parametrize("at", range(1, 7))
def test_no_special_token_may_stand_where_none_does(tokenizer, name, at):
    """Inside the thought, between the spans, inside the answer, before and after the end."""
    said = [*THOUGHT[:2], *THOUGHT[2:], "<|answer|>", " 4", "2", "<|/answer|>", "<|end|>"]
    outcome = judged(tokenizer, *said[:at], name, *said[at:])
    assert not outcome.right and not outcome.well_formed, said


@pytest.mark.parametrize("said", [
    ("<|answer|>", "42", "<|/think|>", "<|end|>"),
    ("<|answer|>", "42", "<|end|>"),
    ("<|think|>", "x", "<|/answer|>", *ANSWER, "<|end|>"),
    ("<|think|>", *ANSWER, "<|/think|>", "<|end|>"),
    ("<|/answer|>", *ANSWER, "<|end|>"),
    ANSWER,
    (*ANSWER, "<|end|>", "<|end|>"),
    ("<|end|>",),
    (),
])  # fmt: skip
def test_spans_are_closed_by_their_own_tokens_and_the_turn_is_ended(tokenizer, said):
    outcome = judged(tokenizer, *said)
    assert not outcome.right and not outcome.well_formed
