"""Rates and their intervals, and pass@k."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_jax.evals import statistics


@pytest.mark.parametrize("n", [1, 4, 7])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n):
    for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
        right = [True] * correct + [False] * (n - correct)
        draws = [any(draw) for draw in itertools.combinations(right, k)]
        assert statistics.pass_at_k(n, correct, k) == pytest.approx(np.mean(draws), abs=1e-12)


@given(n=st.integers(1, 2000), p=st.floats(0, 1))
def test_wilson_holds_the_share_and_stays_in_bounds(n, p):
    low, high = statistics.wilson(p, n)
    assert 0 <= low <= p + 1e-9 and p - 1e-9 <= high <= 1
    mirrored = statistics.wilson(1 - p, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)
    wider = statistics.wilson(p, n + 100)
    assert wider[1] - wider[0] < high - low


@pytest.mark.parametrize("p, n", [(0.1, 30), (0.5, 50), (0.0, 10), (0.93, 400)])
def test_wilsons_ends_are_where_the_score_test_turns(p, n):
    """At an end q of the interval |p - q| is 1.96 standard errors *of q*: the interval's definition."""
    for q in statistics.wilson(p, n):
        if 0 < q < 1:
            assert abs(p - q) == pytest.approx(1.959964 * (q * (1 - q) / n) ** 0.5, rel=1e-6)


def test_a_rate_of_nothing_says_so():
    assert statistics.rate([], []) == {"value": None, "n": 0, "ci95": [None, None]}


@given(values=st.lists(st.sampled_from([0, 1]), min_size=1, max_size=60))
def test_a_rate_lies_in_its_interval(values):
    made = statistics.rate(values, range(len(values)))
    low, high = made["ci95"]
    assert made["n"] == len(values) and made["value"] == pytest.approx(np.mean(values), abs=1e-4)
    assert 0 <= low <= made["value"] <= high <= 1
    assert made == statistics.rate(values, range(len(values)))


@pytest.mark.parametrize("value", [0, 1])
def test_all_right_or_all_wrong_is_not_certain(value):
    low, high = statistics.rate([value] * 20, range(20))["ci95"]
    assert (low, high) == pytest.approx(statistics.wilson(value, 20), abs=1e-4)
    assert high - low > 0.1
    repeated = statistics.rate([value] * 20, [0] * 20)["ci95"]  # one item asked twenty times says less
    assert repeated[1] - repeated[0] > high - low


def test_answers_about_one_item_count_as_one():
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=40)
    values, items = np.repeat(truth, 10), np.repeat(np.arange(40), 10)
    together, apart = statistics.rate(values, items)["ci95"], statistics.rate(values, range(400))["ci95"]
    once = statistics.rate(truth, range(40))["ci95"]
    assert together == pytest.approx(once, abs=1e-9)
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


@pytest.mark.parametrize("p, n", [(0.5, 60), (0.2, 100)])
def test_the_bootstrap_interval_covers_the_truth(p, n):
    rng = np.random.default_rng(2)
    draws = rng.uniform(size=(150, n)) < p
    hits = [low <= p <= high for low, high in (statistics.bootstrap(row.astype(float), range(n)) for row in draws)]
    assert 0.88 <= np.mean(hits) <= 1.0
    missed = [
        low <= p + 0.3 <= high for low, high in (statistics.bootstrap(row.astype(float), range(n)) for row in draws)
    ]
    assert np.mean(missed) < 0.2


def test_the_bootstrap_is_as_wide_as_theory_says():
    values = np.random.default_rng(3).uniform(size=500)
    low, high = statistics.bootstrap(values, range(500))
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 500**0.5, rel=0.15)


def test_one_item_is_not_certain():
    low, high = statistics.rate([0, 1, 1, 0], ["a"] * 4)["ci95"]
    assert high - low > 0.5
