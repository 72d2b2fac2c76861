"""The policy loss against TRL's and verl's own code, value and gradient in float64 (parity/make_fixtures.py).

The rollouts stand packed here, three to a row, and one to a row there.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.rl.advantages import advantages, gae, overlong, whiten
from llm_jax.rl.algorithms import Algorithm
from llm_jax.rl.loss import aggregation, kl_estimates, token_losses, value_losses

DATA = dict(np.load(Path(__file__).parent / "fixtures/losses.npz"))
SETTINGS = json.loads(str(DATA.pop("settings")))
CASES = SETTINGS["cases"]
GIVEN = {name[3:]: value for name, value in DATA.items() if name.startswith("in.")}
ROW = (2, -1)  # rollouts of one prompt in a row
SEGMENTS = np.repeat(np.arange(1, 4), 8)[None].repeat(2, axis=0)
AGGREGATE = {"grpo": "sequence", "bnpo": "token", "dapo": "token", "dr_grpo": "constant", "cispo": "token"}
EXACT = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def of_case(case: dict) -> Algorithm:
    """The parts that make one of TRL's settings."""
    parts = {"trust": "clip", "clip_low": SETTINGS["low"], "clip_high": SETTINGS["high"]}
    if case["loss"] == "cispo":
        parts = {"trust": "cispo", "clip_cap": SETTINGS["cispo"]}
    elif case["delta"]:
        parts |= {"trust": "two_sided", "clip_cap": case["delta"]}
    if case["beta"]:
        parts |= {"kl": "k3", "kl_weight": case["beta"]}
    if case["correct"]:
        level, kind = case["correct"].split("_")
        parts |= {"correct": kind, "correct_level": level, "correct_cap": SETTINGS["sampler"]}
    return Algorithm(name="x", source="x", ratio=case["level"], aggregate=AGGREGATE[case["loss"]], **parts)


def graded(algorithm: Algorithm, advantage=GIVEN["advantages"]) -> tuple[float, np.ndarray, dict]:
    """(value, gradient in the log-probabilities by rollout, metrics) of the batch's loss."""
    packed = {name: GIVEN[name].reshape(ROW) for name in ("logp", "old", "ref", "sampler", "mask")}
    mask_BT = packed["mask"]
    scale_N, count_N = aggregation(algorithm, GIVEN["mask"].sum(axis=1), SETTINGS["group"], SETTINGS["most"])
    scale_BT, advantage_BT = (np.repeat(x, 8).reshape(ROW) for x in (scale_N, advantage))

    def loss(logp_BT):
        losses_BT, metrics = token_losses(
            algorithm, logp_BT, packed["old"], advantage_BT, mask_BT, SEGMENTS, packed["ref"], packed["sampler"]
        )
        return jnp.sum(losses_BT * mask_BT * scale_BT) / count_N.sum(), metrics

    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(packed["logp"])
    return float(value), np.asarray(gradient).reshape(6, 8), metrics


def test_every_variant_is_trls():
    """Values and gradients of all cases, and that each part was at work in some of them."""
    at_work = dict.fromkeys(("clipped_low", "clipped_high", "corrected", "kl"), 0.0)
    for case, value, gradient in zip(CASES, DATA["values"], DATA["gradients"], strict=True):
        ours, ours_gradient, metrics = graded(of_case(case))
        assert ours == pytest.approx(value, rel=0, abs=1e-12), case
        np.testing.assert_allclose(ours_gradient, gradient, err_msg=str(case), **EXACT)
        at_work |= {name: at_work[name] + float(found) for name, found in metrics.items()}
    assert len(CASES) == 67 and all(at_work.values())


@pytest.mark.parametrize("kind", ["mean", "std", "batch"])
def test_advantages_are_trls(kind):
    rewards = GIVEN["rewards"].reshape(2, 3)
    ours = advantages(rewards, kind)
    if kind == "batch":  # there TRL's n / (n - 1) is float32, and 6 / 5 not exact: by the formula, and by TRL to that
        wanted = (rewards - rewards.mean(axis=1, keepdims=True)) / (np.std(rewards, ddof=1) + 1e-4)
        np.testing.assert_allclose(ours, wanted, **EXACT)
    np.testing.assert_allclose(ours.ravel(), DATA[f"trl.{kind}"], rtol=0, atol=1e-7 if kind == "batch" else 1e-12)


def test_the_soft_punishment_is_trls():
    np.testing.assert_allclose(overlong(DATA["lengths"], 20, 4), DATA["overlong"], **EXACT)


def test_rloo_is_verls():
    np.testing.assert_allclose(advantages(GIVEN["rewards"].reshape(2, 3), "rloo").ravel(), DATA["verl.rloo"], **EXACT)


def test_dual_clip_is_verls():
    parts = {"clip_low": SETTINGS["low"], "clip_high": SETTINGS["high"], "clip_cap": SETTINGS["delta"]}
    value, gradient, _ = graded(Algorithm(name="x", source="x", trust="two_sided", **parts))
    assert value == pytest.approx(DATA["verl.two_sided.value"], rel=0, abs=1e-12)
    np.testing.assert_allclose(gradient, DATA["verl.two_sided.gradient"], **EXACT)


def test_the_probability_shift_has_verls_gradient():
    """Its value differs: verl multiplies log p by the ratio as a constant, which has the same gradient."""
    _, gradient, metrics = graded(Algorithm(name="x", source="x", trust="shift", clip_low=0.05, clip_high=0.08))
    np.testing.assert_allclose(gradient, DATA["verl.shift.gradient"], **EXACT)
    assert metrics["clipped_low"] > 0 and metrics["clipped_high"] > 0


def test_values_and_their_advantages_are_verls():
    rewards, values, old, returns = (
        GIVEN[k].reshape(ROW) for k in ("token_rewards", "values", "old_values", "returns")
    )
    mask = GIVEN["mask"].reshape(ROW)
    advantage_BT, returns_BT = gae(rewards, values, mask, SEGMENTS, 0.98, 0.9)
    np.testing.assert_allclose(np.reshape(returns_BT, (6, 8)), DATA["verl.gae.returns"], **EXACT)
    np.testing.assert_allclose(advantage_BT, (returns_BT - values) * mask, **EXACT)
    whitened = np.reshape(whiten(advantage_BT, mask), (6, 8))
    np.testing.assert_allclose(whitened, DATA["verl.gae.whitened"], atol=1e-8)  # verl adds 1e-8 to the tokens' number
    loss = lambda v: jnp.sum(value_losses(v, old, returns, 0.2) * mask) / mask.sum()  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(values)
    assert float(value) == pytest.approx(DATA["verl.values.value"], rel=0, abs=1e-12)
    np.testing.assert_allclose(np.reshape(gradient, (6, 8)), DATA["verl.values.gradient"], **EXACT)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimates_are_verls(kind):
    np.testing.assert_allclose(kl_estimates(kind, GIVEN["logp"], GIVEN["ref"]), DATA[f"verl.{kind}"], **EXACT)
