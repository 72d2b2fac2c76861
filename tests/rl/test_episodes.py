"""Rollouts of several turns: one sequence that reads as a rendered conversation, with what nobody sampled masked."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from llm_jax.config import UserError
from llm_jax.rl import episodes
from llm_jax.rl.episodes import between, play
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.requests import Completion, Request
from llm_jax.tasks.second_try import AGAIN, DISCOUNT

ANSWER = {"type": "answer", "text": " 7"}
CALL = [{"type": "python", "text": "1"}, {"type": "output", "text": "1"}]


class Scripted:
    """Says to each prompt record, which is known by its text, the next of its turns."""

    def __init__(self, tokenizer, length: int = 400):
        self.tokenizer, self.length, self.calls, self.turns = tokenizer, length, [], {}

    def generate(self, params, requests):
        self.calls.append(requests)
        return [self.complete(request) for request in requests]

    def complete(self, request) -> Completion:
        (turns,) = (turns for asked, turns in self.turns.items() if asked in self.tokenizer.decode(request.prompt))
        parts, n = turns.pop(0), len(request.prompt)
        ids = [*self.tokenizer.parts_to_ids(parts).ids, *([self.tokenizer.end] if parts else ())]
        return Completion(ids, [1] * len(ids), [-0.5 * n] * len(ids), [-1.0 * n] * len(ids), finish="stop")


def asked(engine, *tasks_and_turns):
    """(prompts, requests) of (task, turns), in order; the right answer is 7."""
    prompts, requests = [], []
    for number, (task, *turns) in enumerate(tasks_and_turns):
        text = f"Number {number}?"
        engine.turns[text] = [list(parts) for parts in turns]
        prompts.append({"task": task, "answer": "7", "item": text, "messages": [{"role": "user", "content": text}]})
        ids = engine.tokenizer.render(prompts[-1]["messages"], for_generation=True).ids
        requests.append(Request(ids, seed=number, temperature=1.0, max_new_tokens=9))
    return prompts, requests


def wrong(text: str = " 8") -> dict:
    return {"type": "answer", "text": text}


def test_a_second_turn_is_read_as_a_conversation_is_rendered(tokenizer):
    engine = Scripted(tokenizer)
    prompts, requests = asked(engine, ("arithmetic", [wrong()]), ("second_try", [*CALL, wrong()], [ANSWER]))
    completions, outcomes = play(engine, None, prompts, requests)
    first, (second,) = engine.calls
    assert first == requests and second.seed != requests[1].seed
    assert (second.temperature, second.max_new_tokens) == (1.0, 9)
    talk = [*prompts[1]["messages"], {"role": "assistant", "content": [*CALL, wrong()]}]
    again = {"role": "user", "content": AGAIN}
    assert second.prompt == tokenizer.render([*talk, again], for_generation=True).ids
    done = completions[1]
    assert (
        requests[1].prompt + done.ids
        == tokenizer.render([*talk, again, {"role": "assistant", "content": [ANSWER]}]).ids
    )
    said = len(between(tokenizer, AGAIN))
    own, rest = len(tokenizer.parts_to_ids([*CALL, wrong()]).ids) + 1, len(tokenizer.parts_to_ids([ANSWER]).ids) + 1
    assert done.sampled_mask == [1] * own + [0] * said + [1] * rest
    n = len(requests[1].prompt)
    assert done.sampling_logprob == [-0.5 * n] * own + [0] * said + [-0.5 * len(second.prompt)] * rest
    assert done.logprob == [-1.0 * n] * own + [0] * said + [-1.0 * len(second.prompt)] * rest
    outcome = outcomes[1]
    assert outcome.parts == [ANSWER] and outcome.before == [*CALL, wrong(), {"type": "user", "text": AGAIN}]
    assert outcome.has("python") and outcome.turns == 2 and outcome.tokens == len(done.ids)
    assert completions[0].ids == engine.tokenizer.parts_to_ids([wrong()]).ids + [tokenizer.end]
    assert outcomes[0].turns == 1


def test_the_last_answer_counts_and_a_second_one_less(tokenizer):
    engine = Scripted(tokenizer)
    told = play(
        engine,
        None,
        *asked(
            engine,
            ("second_try", [ANSWER]),
            ("second_try", [wrong()], [ANSWER]),
            ("second_try", [wrong()], [wrong(" 9")]),
            ("second_try", [wrong()], [{"type": "text", "text": "7"}]),
            ("second_try", [{"type": "text", "text": "7"}]),
            ("second_try", []),
            ("arithmetic", [ANSWER]),
            ("arithmetic", [wrong()]),
        ),
    )[1]
    assert [o.score for o in told] == [1, DISCOUNT, 0, 0, 0, 0, 1, 0]
    assert [o.right for o in told] == [True, True, False, False, False, False, True, False]
    assert [o.turns for o in told] == [1, 2, 2, 2, 1, 1, 1, 1]
    assert [len(call) for call in engine.calls] == [8, 3]


def test_without_room_for_an_answer_it_is_over(tokenizer):
    engine = Scripted(tokenizer)
    prompts, requests = asked(engine, ("second_try", [wrong()], [ANSWER]))
    ids = [*requests[0].prompt, *tokenizer.parts_to_ids([wrong()]).ids, tokenizer.end, *between(tokenizer, AGAIN)]
    engine.length = len(ids)
    completions, (outcome,) = play(engine, None, prompts, requests)
    assert outcome.turns == 1 and len(engine.calls) == 1 and 0 not in completions[0].sampled_mask


def test_a_template_may_write_more_after_a_turn_but_not_change_it():
    """By a stub: ids are the letters' codes, and "." ends a turn."""

    def render(talk, for_generation=False):
        told = "".join(f"<{m['role'][0]}>{m['content']}.\n" for m in talk) + ("<a>" if for_generation else "")
        return SimpleNamespace(ids=list(map(ord, told)))

    t = SimpleNamespace(render=render, ends=(ord("."),))
    assert "".join(map(chr, between(t, "No"))) == "\n<u>No.\n<a>"
    t.render = lambda talk, for_generation=False: render(talk[-1:] if len(talk) > 2 else talk, for_generation)
    with pytest.raises(UserError, match="tasks of one turn"):
        between(t, "No")


def test_what_was_sampled_in_any_turn_has_the_trainers_probability(
    tiny_model, tokenizer, mesh, params, forward, monkeypatch
):
    """With a real engine; its random model is told to go on whatever it says."""
    engine = Engine(tiny_model, tokenizer, mesh, 4, 64)
    judged = episodes.judge_all

    def judge_all(*args):
        outcomes = judged(*args)
        for outcome in outcomes:
            outcome.well_formed, outcome.parts = True, [ANSWER]
        return outcomes

    monkeypatch.setattr(episodes, "judge_all", judge_all)
    monkeypatch.setattr(episodes, "next_message", lambda prompt, answers: "No." if len(answers) < 3 else None)
    texts = ("The cat", "7 + 5", "dog")
    requests = [Request([tokenizer.bos, *tokenizer.encode(text)], seed, 1.0, 5) for seed, text in enumerate(texts)]
    completions, outcomes = play(engine, params, [{"task": "", "answer": ""}] * 3, requests)
    engine.close()
    said = len(between(tokenizer, "No."))
    for request, done, outcome in zip(requests, completions, outcomes, strict=True):
        ids = request.prompt + done.ids
        assert outcome.turns == 3 and done.sampled_mask.count(0) == 2 * said and len(ids) <= 64
        _, logits = forward(tiny_model, tokenizer.vocab_size, params, [ids + [tokenizer.pad] * (64 - len(ids))])
        told = np.asarray(jax.nn.log_softmax(logits[0]))[np.arange(len(ids) - 1), ids[1:]][len(request.prompt) - 1 :]
        mask = np.array(done.sampled_mask)
        np.testing.assert_allclose(told * mask, np.array(done.logprob) * mask, atol=1e-4)
        assert len({tuple(done.ids[start : start + 5]) for start in (0, 5 + said)}) == 2  # other numbers are drawn
