"""Canaries: each fires on figures that are broken its way, and none on those of a good run."""

import json

import numpy as np
import pytest

from llm_jax.rl import canaries


def good(steps: int = 36) -> list[dict]:
    """As in the speedrun: the reward rises, few groups are left that differ, and the held-out score is noisy."""
    rng, lines = np.random.default_rng(0), [{"step": 0, "held_out": 0.2, "held_out_problems": 64}]
    for step in range(1, steps + 1):
        reward = min(0.97, 0.2 + 0.03 * step + rng.normal() * 0.03)
        lines.append(
            {
                "step": step,
                "reward": reward,
                "grad_norm": 0.3,
                "cut": 0.1,
                "groups_same": min(0.9, 0.3 + 0.02 * step),
                "groups_all_right": min(0.9, 0.02 * step),
                "logp_gap_k3": 1e-9,
                "logp_gap_max": 2e-5,
                "moved": 1.0,
            }
        )
        if step % 4 == 0:
            lines.append({"step": step, "held_out": reward - 0.05, "held_out_problems": 64})
    return lines


BROKEN = {
    "weights unmoved": {"moved": 0.0},
    "reward constant": {"groups_same": 1.0, "groups_all_right": 0.0},
    "rollouts cut": {"cut": 0.31},
    "sampler and trainer apart": {"logp_gap_k3": 0.02},
}


def fired(lines: list[dict]) -> set[str]:
    return {name for at in range(len(lines)) for name in canaries.look(lines[: at + 1])}


def test_none_fires_on_a_good_run():
    assert not fired(good())


@pytest.mark.parametrize("name", BROKEN)
def test_each_fires_on_what_is_broken_its_way_alone(name):
    broken = [{**line, **BROKEN[name]} if "reward" in line else line for line in good()]
    assert fired(broken) == {name}
    assert not fired(broken[: canaries.FEW - 1]) or name == "sampler and trainer apart"


def test_a_held_out_score_that_falls_by_more_than_its_noise_fires():
    lines = good()
    last = [line for line in lines if "held_out" in line][-1]
    last["held_out"] -= 0.3
    assert fired(lines) == {"held-out falling"}


def test_what_is_meant_to_be_so_is_no_fault():
    """Everything solved; rollouts that lag; no gradient, so no weight moves."""
    assert not fired([{**line, "groups_same": 1.0, "groups_all_right": 1.0} for line in good() if "reward" in line])
    assert not fired([{**line, "logp_gap_k3": 0.5, "lag": 1} for line in good() if "reward" in line])
    assert not fired([{**line, "moved": 0.0, "grad_norm": 0.0} for line in good() if "reward" in line])


def test_it_warns_once_stops_or_is_still(tmp_path, capsys):
    lines = [{**line, "cut": 0.5} for line in good() if "reward" in line]
    for mode in ("warn", "off"):
        watch = canaries.Watch(tmp_path, mode, tells=True)
        for line in lines:
            watch(line["step"], line)
        said = capsys.readouterr().err
        assert said.count("warning: rl: step 3: rollouts cut: 50% of") == said.count("\n") == (mode == "warn")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:3]))
    with pytest.raises(canaries.Fired, match=r"rollouts cut: .*raise it"):  # the two before are read from the file
        canaries.Watch(tmp_path, "stop", tells=True)(3, lines[2])
