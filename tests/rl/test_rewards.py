"""Named rewards: what earns, the controls, the price of calls, and what is no number."""

import dataclasses

import numpy as np
import pytest

from llm_jax.config import UserError
from llm_jax.prompts import Outcome
from llm_jax.rl.instruments import failures, figures
from llm_jax.rl.rewards import REWARDS, rewards_of, total
from llm_jax.sampling.requests import Completion

CALL, OUTPUT, ANSWER = ({"type": kind, "text": "2"} for kind in ("python", "output", "answer"))
DIRECT = Outcome({"task": "arithmetic", "answer": "2"}, [ANSWER], True, True, True, 4, score=1.0)
CALLED = dataclasses.replace(DIRECT, parts=[CALL, OUTPUT, CALL, {**OUTPUT, "text": "NameError: x"}, ANSWER])
WRONG = dataclasses.replace(DIRECT, right=False, score=0.0)
BROKEN = dataclasses.replace(WRONG, parts=[{"type": "text", "text": "2"}], well_formed=False)
ALL = [DIRECT, CALLED, WRONG, BROKEN]


def of(name: str, outcomes=ALL, no_tools=(), price=0.0):
    return rewards_of(outcomes, range(len(outcomes)), name, no_tools, price)


def test_right_and_format_are_what_they_say():
    assert total(of("right")).tolist() == [1, 1, 0, 0]
    assert total(of("format")).tolist() == [1, 1, 1, 0]


def test_a_call_earns_nothing_where_tools_are_not_allowed():
    assert total(of("right", no_tools=("arithmetic",))).tolist() == [1, 0, 0, 0]
    assert total(of("right", no_tools=("calculator",))).tolist() == [1, 1, 0, 0]


def test_a_reward_model_is_taken_at_its_word_and_a_score_that_is_no_number_is_not():
    scores = np.array([2.5, -1, 0, 0.5], np.float32)
    assert total(rewards_of(ALL, range(4), "model", (), 0.5, scores)).tolist() == [2.5, -2, 0, 0.5]
    with pytest.raises(UserError, match="'model' of an answer to task 'arithmetic' is nan"):
        rewards_of(ALL, range(4), "model", (), 0.0, scores * np.nan)


def test_a_call_has_its_price():
    parts = of("right", price=0.125)
    assert parts["calls"].tolist() == [0, -0.25, 0, 0] and total(parts).tolist() == [1, 0.75, 0, 0]


def test_the_random_control_is_a_coin_of_the_same_rate():
    """By the rollout's own seed: the same wherever the rollout stands, and nothing of what it says."""
    outcomes = [DIRECT, WRONG, WRONG, WRONG] * 500
    heads = total(of("random", outcomes))
    assert abs(heads.mean() - 0.25) < 4 * (0.25 * 0.75 / 2000) ** 0.5
    right = np.array([o.right for o in outcomes])
    assert abs(heads[right].mean() - heads[~right].mean()) < 0.08
    turned = rewards_of(outcomes[::-1], range(2000)[::-1], "random", (), 0.0)
    assert np.array_equal(total(turned)[::-1], heads)


def test_a_reward_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setitem(REWARDS, "right", lambda outcomes, seeds, no_tools: [float("nan")] * len(outcomes))
    with pytest.raises(UserError, match="'arithmetic' is nan"):
        of("right")


def test_figures_tell_calls_failures_and_what_was_cut():
    done = [Completion([1], [1], [-2.0], [-2.0], finish="stop") for _ in ALL]
    done[3].finish = "length"
    found = figures(ALL, done, of("right", price=0.125), group=2)
    assert failures(CALLED) == 1
    wanted = {"accuracy": 0.5, "calls": 0.25, "calls_each": 0.5, "calls_failed": 0.5, "right_per_call": 0.5}
    wanted |= {"cut": 0.25, "ended_length": 4, "abstained": 0, "entropy": 2, "tokens": 16, "well_formed": 0.75}
    wanted |= {"groups_all_right": 0.5, "groups_all_wrong": 0.5, "groups_same": 0.5, "reward_calls": -0.0625}
    assert {name: found[name] for name in wanted} == wanted
