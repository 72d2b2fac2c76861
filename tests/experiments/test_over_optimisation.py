"""The taste from its comparisons to its report, and what the ablation reads off its curves."""

import json

import pytest

from experiments.ablations import over_optimisation
from tests.commands import ROOT, refused, run

POINTS = [{"kl": kl, "gold": gold, "proxy": kl, "random": 0.0} for kl, gold in ((0.0, 1.0), (1.0, 2.5), (4.0, 0.5))]


def test_where_the_gold_peaks_and_what_is_drawn():
    assert over_optimisation.peak(POINTS) == {"sqrt_kl": 1.0, "gold": 2.5, "gold_at_end": 0.5, "sqrt_kl_at_end": 2.0}
    best = {"points": POINTS, "proxy_of_parent": {"mean": 0.0, "deviation": 1.0}}
    figure = over_optimisation.plot({"0": {"best_of_250": best, "rl_250_0.1": {"points": POINTS[:2]}}})
    assert [axes.get_title() for axes in figure.axes[:2]] == ["RL, KL weight 0.1", "best of n"]


@pytest.mark.slow
def test_a_run_has_both_stages_and_the_best_of_n_in_its_report(tmp_path):
    config = f"--config={ROOT}/experiments/taste.py:tiny", f"--workdir={tmp_path}/run"
    made = run("llm_jax.main", *config)
    assert made.returncode == 0, made.stderr[-3000:]
    assert "60 pairs to learn from" in made.stdout
    found = json.loads((tmp_path / "run/report/report.json").read_text())["best_of_n"]
    assert found["gold"]["1"]["value"] == pytest.approx(found["random"]["1"]["value"], abs=1e-4)
    assert found["proxy"]["64"]["value"] > found["proxy"]["1"]["value"]
    assert json.loads((tmp_path / "run/config.json").read_text())["rl"]["preference.loss"] == "dpo"
    refused(run("llm_jax.chat", f"--workdir={tmp_path}/run", "--stage=reward", "--prompt=x"), "no model that writes")
