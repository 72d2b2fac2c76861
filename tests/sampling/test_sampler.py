"""Cuts and penalties against plain loops in float64; draws against the distribution that they claim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from llm_jax.sampling import sampler

V, DRAWS = 40, 4000


def logits(seed: int, rows: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=2, size=(rows, V)).astype(np.float32)


def kept_ids(row: np.ndarray, k: int, p: float, low: float) -> set[int]:
    """The ids that stay, one at a time from the likeliest down."""
    order = [int(i) for i in np.argsort(-row)]
    order = order[: k or V]
    shares = np.exp(row[order].astype(np.float64) - row.max())
    shares /= shares.sum()
    kept, total = set(), 0.0
    for i, share in zip(order, shares, strict=True):
        if total >= p and kept:
            break
        kept.add(i)
        total += share
    return {i for i in kept if np.exp(float(row[i]) - float(row.max())) >= low}


@pytest.mark.parametrize("k", [0, 1, 3, 25])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("low", [0.0, 0.2, 1.0])
def test_cuts_keep_what_a_loop_keeps(k, p, low):
    rows = logits(k, 5)
    out = sampler.cut(jnp.asarray(rows), jnp.full(5, k), jnp.full(5, p), jnp.full(5, low))
    for row, ours in zip(rows, np.asarray(out), strict=True):
        assert set(np.flatnonzero(ours > sampler.NEVER / 2)) == kept_ids(row, k, p, low)
        np.testing.assert_array_equal(ours[ours > sampler.NEVER / 2], row[ours > sampler.NEVER / 2])


def test_a_row_without_cuts_keeps_its_whole_tail():
    flat = np.full((1, V), -60.0, np.float32)
    flat[0, 0] = 10.0  # the others' shares are lost in rounding
    out = sampler.cut(jnp.asarray(flat), jnp.array([0]), jnp.array([1.0]), jnp.array([0.0]))
    np.testing.assert_array_equal(out, flat)


def test_penalties_and_bias_change_what_they_name():
    rows = logits(3, 2)
    read, written, bias = np.zeros((2, V), bool), np.zeros((2, V), np.int32), np.zeros((2, V), np.float32)
    read[0, [1, 5]], written[0, 7], written[1, [2, 8]], bias[1, 2] = True, 1, (3, 1), 4.0
    penalties = {"repetition": [1.5, 1.0], "presence": [0.0, 0.7], "frequency": [0.0, -0.2]}
    asked = {"read": read, "written": written, "bias": bias} | {k: np.float32(v) for k, v in penalties.items()}
    ours = np.asarray(sampler.adjusted(jnp.asarray(rows), jax.tree.map(jnp.asarray, asked)))
    expected = rows.copy()
    for i in (1, 5, 7):
        expected[0, i] = rows[0, i] / 1.5 if rows[0, i] > 0 else rows[0, i] * 1.5
    expected[1, 2] += 4 - 0.7 + 0.2 * 3
    expected[1, 8] += -0.7 + 0.2
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_a_mask_leaves_guided_rows_what_their_words_have_bits_for():
    rows, guided = logits(4, 3), np.array([True, False, True])
    allowed = np.zeros((3, 2), np.uint32)
    allowed[0], allowed[2] = (1 << 31 | 1, 1 << 5), (0xFFFFFFFF, 0xFF)
    ours = np.asarray(sampler.masked(jnp.asarray(rows), jnp.asarray(guided), jnp.asarray(allowed)))
    assert np.flatnonzero(np.isfinite(ours[0])).tolist() == [0, 31, 37]
    np.testing.assert_array_equal(ours[0, [0, 31, 37]], rows[0, [0, 31, 37]])
    np.testing.assert_array_equal(ours[1:], rows[1:])


def draws(row: np.ndarray, **settings) -> np.ndarray:
    """How often each id comes, over many seeds; checks the log-probability that is told of each."""
    fields = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | settings
    rows = {name: jnp.full(DRAWS, value) for name, value in fields.items()} | {
        "seed": jnp.arange(DRAWS, dtype=jnp.uint32)
    }
    many = jnp.broadcast_to(jnp.asarray(row), (DRAWS, V))
    ids, log_p = jax.jit(sampler.sample)(many, rows, jnp.full(DRAWS, 3))
    p = probabilities(row, **fields)
    np.testing.assert_allclose(np.exp(log_p), p[np.asarray(ids)], rtol=1e-4)
    return np.bincount(np.asarray(ids), minlength=V)


def probabilities(row: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    tempered = row.astype(np.float64) / temperature
    kept = sorted(kept_ids(tempered, top_k, top_p, min_p))
    p = np.zeros(V)
    p[kept] = np.exp(tempered[kept] - tempered.max())
    return p / p.sum()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 7},
        {"top_p": 0.7},
        {"min_p": 0.1},
        {"top_k": 9, "top_p": 0.8},
    ],
    ids=str,
)
def test_draws_follow_the_distribution(settings):
    row = logits(11)[0]
    counts = draws(row, **settings)
    p = probabilities(row, **({"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | settings))
    assert not counts[p == 0].any()
    likely = DRAWS * p >= 5
    seen, expected = [*counts[likely], counts[~likely].sum()], [*(DRAWS * p[likely]), DRAWS * p[~likely].sum()]
    keep = np.array(expected) > 0
    assert stats.chisquare(np.array(seen)[keep], np.array(expected)[keep]).pvalue > 1e-3
    assert keep.sum() > 3


def test_a_greedy_row_takes_the_likeliest_beside_hot_ones():
    rows = logits(5, 3)
    fields = {
        "temperature": [0.0, 1.0, 0.0],
        "top_k": [0, 2, 5],
        "top_p": [1.0, 0.9, 0.1],
        "min_p": [0.0] * 3,
    }
    ids, log_p = sampler.sample(
        jnp.asarray(rows),
        {k: jnp.array(v) for k, v in fields.items()} | {"seed": jnp.arange(3, dtype=jnp.uint32)},
        jnp.zeros(3, jnp.int32),
    )
    assert [int(ids[0]), int(ids[2])] == rows[[0, 2]].argmax(axis=1).tolist() and log_p[0] == log_p[2] == 0


@pytest.mark.parametrize("size", [512, 2048])
def test_an_id_of_no_mass_is_never_drawn(size):
    """Sums in parallel are rounded so that they may fall, here with numbers drawn just where they do."""
    rng = np.random.default_rng(0)
    p = rng.exponential(size=size).astype(np.float32) ** 4
    p[rng.random(size) < 0.9] = p[-40:] = 0
    p /= p.sum()
    sums = np.asarray(jax.jit(jnp.cumsum)(p))
    ticks = np.unique(np.floor(sums / [[sums[-1]], [sums.max()]] * 2**23) + np.arange(-3, 4)[:, None, None])
    uniform = (ticks[(ticks >= 0) & (ticks < 2**23)] * 2**-23).astype(np.float32)
    ids = np.asarray(jax.jit(sampler.inverted)(np.broadcast_to(p, (len(uniform), size)), uniform))
    assert p[ids].all() and len(set(ids)) > 0.9 * np.count_nonzero(p)
