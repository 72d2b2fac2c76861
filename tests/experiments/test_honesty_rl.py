"""What the ablation of RL for honesty trains, tells and draws."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.ablations import honesty_rl
from llm_jax.config import validate
from llm_jax.evals.knowledge import Answers
from llm_jax.tasks.knowledge import Fact
from llm_jax.tasks.refusals import ABSTAINED, RIGHT, WRONG

FACTS = [Fact(id=f"f{n}", item=f"p{n}", wordings=("?",), answers=("x",), tier=30, kind="tier") for n in range(20)]


def answers(verdicts: str, stated: float = np.nan) -> Answers:
    """Of R, A and W, one a fact."""
    names = [{"R": RIGHT, "A": ABSTAINED, "W": WRONG}[v] for v in verdicts]
    right = np.array([name == RIGHT for name in names], float)
    return Answers(FACTS, [[]] * 20, [[]] * 20, names, np.full(20, 0.5), right, np.full(20, stated))


@pytest.mark.parametrize("arm", honesty_rl.ARMS)
def test_each_arm_is_a_config_that_asks_for_facts_alone(arm):
    config = honesty_rl.get_config(f"{arm},runs/of,mine")
    validate(config)
    stage, reward = honesty_rl.ARMS[arm]
    assert config.init_from == f"runs/of,mine:{stage}" and config.rl.reward == reward
    assert dict(config.rl.tasks) == {"knowledge": 1.0}
    assert config.abstain.arm == ("confidence" if reward == "brier" else "none")


def test_the_figures_are_against_the_probe_question_by_question():
    first, probe = answers("R" * 10 + "W" * 10), answers("R" * 5 + "A" * 10 + "W" * 5)
    made = honesty_rl.figures(answers("R" * 8 + "A" * 12), first, probe)
    assert made["index"]["value"] == 0.4 and made["verdicts"][ABSTAINED]["value"] == 0.6
    assert made["above_probe"]["value"] == (3 + 5) / 20 and made["above_probe"]["n"] == 20
    low, high = made["above_probe"]["ci95"]
    assert 0 < low < 0.4 < high
    unsure = honesty_rl.figures(answers("R" * 8 + "W" * 12, stated=0.3), first, probe)
    assert unsure["index"]["value"] == -0.2 and unsure["stated"]["index"]["value"] == 0
    assert unsure["above_probe"]["value"] == 0, "what it is not sure of is no answer"


def test_what_is_told_and_drawn():
    first = answers("R" * 10 + "W" * 10)
    curve = [{"step": n, "facts_index": n / 10} for n in range(3)]
    of_seed = {name: honesty_rl.figures(first, first, first) | {"curve": []} for name in honesty_rl.ASSISTANTS}
    of_seed |= {
        arm: honesty_rl.figures(answers("R" * 20, 0.9), first, first) | {"curve": curve} for arm in honesty_rl.ARMS
    }
    told = honesty_rl.table({"0": of_seed})
    assert len(told) == 3 + 4 * 2 and told[0].startswith("0 sft ") and "(c-i)/N +0.000" in told[0]
    bars, curves = honesty_rl.plot({"0": of_seed, "1": of_seed}).axes
    assert [label.get_text() for label in bars.get_xticklabels()][:3] == ["sft", "probe", "confidence"]
    assert sum(len(line.get_xdata()) == 3 for line in curves.lines) == 2 * len(honesty_rl.ARMS)


def test_an_arm_shares_the_data_of_the_base_and_starts_from_it(tmp_path, monkeypatch):
    commands = []

    def run(words, **_):
        commands.append(words)
        folder = Path(words[4].removeprefix("--workdir="))
        for stage in words[5].removeprefix("--stages=").split(","):
            (folder / stage).mkdir(parents=True, exist_ok=True)
            (folder / stage / "summary.json").touch()
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(honesty_rl.arms.subprocess, "run", run)
    (tmp_path / "base" / "data").mkdir(parents=True)
    for arm in ("ternary", "brier", "brier"):
        honesty_rl.beside(tmp_path / "1" / arm, tmp_path / "base", arm, "1")
    assert (tmp_path / "1/brier/data").resolve() == (tmp_path / "base/data").resolve()
    assert commands[0][-2:] == ["--stages=rl", "--config.seed=1"] and commands[1] == commands[2]
    assert commands[1][-2] == "--stages=abstain,rl" and commands[1][3].endswith(f"honesty_rl.py:brier,{tmp_path}/base")
