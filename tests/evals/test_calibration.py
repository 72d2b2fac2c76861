"""Right, wrong, abstained and confidence: each figure against a second derivation of it."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_jax.evals import calibration as cal
from llm_jax.evals.statistics import estimate, rate

LEVELS = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
ANSWERS = st.lists(st.tuples(st.booleans(), LEVELS), min_size=1, max_size=7)


def columns(answers) -> tuple[np.ndarray, np.ndarray]:
    right, confidence = zip(*answers, strict=True)
    return np.array(right, float), np.array(confidence)


@given(c=st.integers(0, 30), i=st.integers(0, 30), a=st.integers(0, 30))
def test_f_is_the_harmonic_mean_of_right_of_all_and_right_of_attempted(c, i, a):
    right, wrong = np.repeat([1.0, 0.0, 0.0], [c, i, a]), np.repeat([0.0, 1.0, 0.0], [c, i, a])
    if not c:
        assert cal.f_score(right, wrong) == 0 or not i + a
        return
    overall, attempted = Fraction(c, c + i + a), Fraction(c, c + i)
    assert cal.f_score(right, wrong) == pytest.approx(float(2 / (1 / overall + 1 / attempted)))
    assert cal.index(right, wrong) == pytest.approx((c - i) / (c + i + a))
    assert cal.nine(right, wrong) == pytest.approx((c - 9 * i) / (c + i + a))


@given(ANSWERS)
def test_auroc_is_the_share_of_pairs_in_order(answers):
    right, confidence = columns(answers)
    pairs = [(a > b) + 0.5 * (a == b) for a in confidence[right > 0] for b in confidence[right == 0]]
    made = cal.auroc(right, confidence)
    assert math.isnan(made) if not pairs else made == pytest.approx(np.mean(pairs))


@given(ANSWERS)
def test_the_area_of_risk_and_coverage_is_the_mean_over_every_order_of_equals(answers):
    orders = [order for order in itertools.permutations(answers) if list(order) == sorted(order, key=lambda x: -x[1])]
    areas = [np.mean([1 - np.mean([right for right, _ in order[:k]]) for k in range(1, len(order) + 1)])
             for order in orders]  # fmt: skip
    assert cal.aurc(*columns(answers)) == pytest.approx(np.mean(areas))


@given(ANSWERS)
def test_brier_is_calibration_less_resolution_and_uncertainty(answers):
    """Murphy's decomposition (1973) with a bin for each level of confidence."""
    right, confidence = columns(answers)
    base, total = right.mean(), right.mean() * (1 - right.mean())
    for level in np.unique(confidence):
        inside = right[confidence == level]
        total += len(inside) / len(right) * ((level - inside.mean()) ** 2 - (inside.mean() - base) ** 2)
    assert cal.brier(right, confidence) == pytest.approx(total)


def test_bins_hold_equally_many_and_part_no_equals():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=1000)
    right = (rng.uniform(size=1000) < confidence**2).astype(float)
    bins = cal.reliability(right, confidence)
    assert [count for *_, count in bins] == [100] * 10
    order = np.argsort(confidence)
    tenths = [(confidence[part].mean(), right[part].mean()) for part in np.split(order, 10)]
    assert np.allclose([bin_[:2] for bin_ in bins], tenths)
    assert cal.ece(right, confidence) == pytest.approx(np.mean([abs(sure - share) for sure, share in tenths]))
    shuffled = rng.permutation(1000)
    coarse = np.round(confidence, 1)
    bins = cal.reliability(right, coarse)
    assert len(bins) < 11 and sum(count for *_, count in bins) == 1000
    assert np.allclose(bins, cal.reliability(right[shuffled], coarse[shuffled]))


def test_the_error_of_a_calibrated_confidence_is_small_and_of_a_boaster_large():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(size=20_000)
    right = (rng.uniform(size=20_000) < confidence).astype(float)
    assert cal.ece(right, confidence) < 0.02
    assert cal.ece(right, np.ones(20_000)) == pytest.approx(1 - right.mean())


def test_refusals_are_told_from_what_was_right_and_wrong_before():
    abstained, right_before = np.array([1.0, 0, 1, 1, 0]), np.array([1.0, 1, 0, 0, 0])
    assert cal.over_refusal(abstained, right_before) == 1 / 2
    assert cal.refusal_recall(abstained, 1 - right_before) == 2 / 3
    assert math.isnan(cal.over_refusal(abstained, np.zeros(5)))


def test_nothing_can_be_said_of_nothing():
    none = np.zeros(0)
    for statistic in (*cal.OF_VERDICTS.values(), *cal.OF_CONFIDENCE.values()):
        assert math.isnan(statistic(none, none))
        assert estimate(statistic, (none, none), []) == {"value": None, "n": 0, "ci95": [None, None]}


def test_an_estimate_of_a_mean_has_the_interval_of_a_rate():
    rng = np.random.default_rng(2)
    items = rng.integers(40, size=300)
    values = (rng.uniform(size=300) < 0.3 + 0.4 * (items > 20)).astype(float)
    ours, theirs = estimate(np.mean, (values,), items), rate(values, items)
    assert ours["value"] == theirs["value"] and ours["n"] == theirs["n"]
    assert ours["ci95"] == pytest.approx(theirs["ci95"], abs=0.02)
    apart = estimate(np.mean, (values,), range(300))["ci95"]
    assert apart[1] - apart[0] < 0.7 * (ours["ci95"][1] - ours["ci95"][0])  # people, not questions, are resampled


def test_the_interval_of_an_area_is_as_wide_as_theory_says():
    """Hanley and McNeil's variance (1982), of confidences that are exponential."""
    rng = np.random.default_rng(3)
    confidence = np.concatenate([rng.exponential(2, 150), rng.exponential(1, 150)])
    right = np.repeat([1.0, 0.0], 150)
    made = cal.trusted(right, confidence / confidence.max(), range(300))["auroc"]
    a = made["value"]
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = math.sqrt((a * (1 - a) + 149 * (q1 - a * a) + 149 * (q2 - a * a)) / 150**2)
    assert made["ci95"][1] - made["ci95"][0] == pytest.approx(2 * 1.96 * error, rel=0.2)
