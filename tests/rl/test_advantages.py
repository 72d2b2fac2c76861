"""Advantages: centred in their group, none where rewards are equal; a value head's by their definition."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llm_jax.rl.advantages import advantages, gae, overlong

KINDS = ("mean", "rloo", "std", "batch", "maxrl")


@given(rewards=hnp.arrays(np.float32, (4, 6), elements=st.sampled_from([0.0, 0.1, 0.5, 1.0])))
def test_advantages_are_centred_within_their_group(rewards):
    of = {kind: advantages(rewards, kind) for kind in KINDS}
    for kind, found in of.items():
        assert found.shape == (4, 6) and found.dtype == np.float32
        np.testing.assert_allclose(found.sum(axis=1), 0, atol=2e-4, err_msg=kind)
        assert not found[rewards.min(axis=1) == rewards.max(axis=1)].any()  # exactly: 0.1 has no exact mean
    np.testing.assert_allclose(of["rloo"], of["mean"] * 6 / 5, atol=1e-6)  # G / (G - 1) times Dr. GRPO's
    for row, centred, scaled in zip(rewards, of["mean"], of["std"], strict=True):
        if row.min() != row.max():
            np.testing.assert_allclose(scaled, centred / (np.std(row, ddof=1) + 1e-4), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(centred, row - row.mean(), atol=1e-6)


def test_a_rare_success_weighs_more_by_the_groups_mean():
    found = advantages(np.array([[1.0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]), "maxrl")
    np.testing.assert_allclose(found, [[3, -1, -1, -1], [1 / 3, 1 / 3, 1 / 3, -1], [0] * 4, [0] * 4], atol=1e-12)


def test_an_unknown_advantage_is_no_advantage():
    with pytest.raises(ValueError, match="'gae'"):
        advantages(np.ones((2, 2)), "gae")


@pytest.mark.parametrize("discount, decay", [(1.0, 0.95), (0.9, 0.0), (0.97, 1.0)])
def test_generalised_advantages_are_their_definition(discount, decay):
    """In packed rows: for each sampled token the sum over those after it in its segment of (discount decay)^l delta."""
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 2, 12))
    segments = np.array([[1] * 5 + [2] * 4 + [0] * 3, [1] * 12])
    weights = np.array([[0, 1, 1, 0, 1, 0, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1.0]])
    wanted = np.zeros((2, 2, 12))
    for row, s in ((0, 1), (0, 2), (1, 1)):
        at = np.flatnonzero((segments[row] == s) & (weights[row] > 0))
        r, v = rewards[row, at], values[row, at]
        delta = r + discount * np.append(v[1:], 0) - v
        for k, t in enumerate(at):
            wanted[0, row, t] = sum((discount * decay) ** m * d for m, d in enumerate(delta[k:]))
        wanted[1, row, at] = wanted[0, row, at] + v
        if decay == 1:  # then the return is what was earned from there on
            assert wanted[1, row, at[0]] == pytest.approx(sum(discount**m * x for m, x in enumerate(r)))
    with jax.enable_x64(True):
        found = gae(rewards, values, weights, segments, discount, decay)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


def test_length_costs_only_near_the_limit():
    assert overlong(np.array([1, 80, 85, 100, 120]), 100, 20).tolist() == [0, 0, -0.25, -1, -1]
