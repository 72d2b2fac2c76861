"""The sweep's own part: depths, folders, and a law where there are points enough for one."""

import json
import runpy
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags

from llm_jax.config import UserError
from tests.commands import ROOT

SCRIPT = ROOT / "experiments/ablations/scaling_law.py"


@pytest.fixture
def script(monkeypatch):
    """The script's names, with runs that end at once: loss falls with the depth."""
    asked = []

    def train(command, **options):
        run = next(word.partition("=")[2] for word in command if word.startswith("--workdir="))
        depth = int(next(word for word in command if word.startswith("--config=")).rpartition(":")[2])
        asked.append((depth, run))
        assert Path(run).is_absolute()
        folder = Path(run) / "pretrain"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps({"flops_per_step": 10.0**depth, "steps": 3}))
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 3, "val_loss": 3 * 10 ** (-0.1 * depth)}) + "\n")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", train)
    names = runpy.run_path(str(SCRIPT))
    return SimpleNamespace(asked=asked, **names)


def go(script, monkeypatch, **values):
    monkeypatch.setattr(flags, "FLAGS", SimpleNamespace(**values))
    script.main()


@pytest.mark.parametrize("depths", [["3"], ["3", "2"], ["2", "3", "4", "3"]])
def test_any_number_of_depths_from_any_folder(script, monkeypatch, tmp_path, depths):
    monkeypatch.chdir(tmp_path)
    go(script, monkeypatch, workdir="sweep", depths=depths)
    wanted = sorted(set(map(int, depths)))
    assert script.asked == [(depth, f"{tmp_path}/sweep/{depth}") for depth in wanted]
    found = json.loads((tmp_path / "sweep/scaling_law.json").read_text())
    assert [point["depth"] for point in found["points"]] == wanted and (tmp_path / "sweep/scaling_law.svg").exists()
    assert ("b" in found) == (len(wanted) > 1)
    if len(wanted) > 1:
        assert np.isclose(found["b"], 0.1, atol=0.01)


@pytest.mark.parametrize("depths", [[], ["0"], ["-1"], ["two"], ["2", ""]])
def test_depths_that_are_none(script, monkeypatch, tmp_path, depths):
    with pytest.raises(UserError, match="--depths"):
        go(script, monkeypatch, workdir=str(tmp_path), depths=depths)
    assert not script.asked


def test_a_run_that_fails_ends_the_sweep_with_its_code(script, monkeypatch, tmp_path):
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: SimpleNamespace(returncode=2))
    with pytest.raises(SystemExit) as ended:
        go(script, monkeypatch, workdir=str(tmp_path), depths=["2", "3"])
    assert ended.value.code == 2
