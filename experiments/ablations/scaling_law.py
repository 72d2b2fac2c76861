"""How does loss fall with compute, when model and data grow together?

Question    Is held-out loss a power law of training compute over a family of models of this project?
Prediction  loss = floor + a x compute^-b, with b between 0.05 and 0.4: a straight line on log-log axes once the floor
            is taken away, as in Kaplan et al. 2020 and Hoffmann et al. 2022.
Command     python experiments/ablations/scaling_law.py --workdir=runs/scaling [--depths=2,3,4,6]
Arms        depths; width, feed-forward, rate and steps follow from it (experiments/scaling.py). One run each.
Result      in WORKDIR/scaling_law.json and .svg. Seed 0, ten minutes on two cores: 1.647, 1.558, 1.528 and 1.024 nats a
            token at 1.2e12, 1.7e12, 2.3e12 and 3.1e13 FLOPs; exponent 0.148, as predicted. The range is too short to
            show a floor: the best one is 0.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from llm_jax.config import UserError
from llm_jax.frame.cli import run_cli

ROOT = Path(__file__).resolve().parents[2]
FLOORS = 200  # candidates for the floor of the fit


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the sweep; each depth has a run in it.", required=True)
    flags.DEFINE_list("depths", ["2", "3", "4", "6"], "Layers of each model.")


def main() -> None:
    workdir, points = Path(flags.FLAGS.workdir).expanduser().absolute(), []
    for depth in layers(flags.FLAGS.depths):
        run = workdir / str(depth)
        command = [sys.executable, "-m", "llm_jax.main", f"--config={ROOT}/experiments/scaling.py:{depth}"]
        if code := subprocess.run([*command, f"--workdir={run}", "--stages=data,pretrain"], cwd=ROOT).returncode:
            sys.exit(code)  # it has said why
        summary = json.loads((run / "pretrain/summary.json").read_text())
        lines = map(json.loads, (run / "pretrain/metrics.jsonl").read_text().splitlines())
        loss = [line["val_loss"] for line in lines if "val_loss" in line][-1]
        points.append({"depth": depth, "flops": summary["flops_per_step"] * summary["steps"], "loss": loss})
        print(points[-1])
    result: dict = {"points": points}
    if len(points) > 1:
        result |= zip(("floor", "a", "b"), fit(*([p[k] for p in points] for k in ("flops", "loss"))), strict=True)
    (workdir / "scaling_law.json").write_text(json.dumps(result, indent=1))
    draw(result, workdir / "scaling_law.svg")
    law = "loss = {floor:.3f} + {a:.3g} x FLOPs^-{b:.3f}" if len(points) > 1 else "one point makes no law"
    print(f"{law.format(**result)}   {workdir / 'scaling_law.svg'}")


def layers(depths: list[str]) -> list[int]:
    """Each depth once, in order. Raises UserError."""
    if not depths or not all(depth.isdecimal() and int(depth) for depth in depths):
        raise UserError(f"--depths={','.join(depths)}: it must be whole numbers from 1 on, as in 2,3,4,6")
    return sorted(set(map(int, depths)))


def fit(flops: list[float], losses: list[float]) -> tuple[float, float, float]:
    """(floor, a, b) of loss = floor + a x flops^-b with the least squares of the log, floors by a grid. Two points
    lie on a law with any floor; theirs has none."""
    x, y = np.log(flops), np.array(losses)
    best = (np.inf, 0.0, 0.0, 0.0)
    for floor in np.linspace(0, min(losses), FLOORS if len(flops) > 2 else 1, endpoint=False):
        slope, intercept = np.polyfit(x, np.log(y - floor), 1)
        error = np.sum((floor + np.exp(intercept + slope * x) - y) ** 2)
        best = min(best, (error, floor, float(np.exp(intercept)), -slope))
    return best[1:]


def draw(result: dict, path: Path) -> None:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    flops = np.array([p["flops"] for p in result["points"]])
    axes.loglog(flops, [p["loss"] for p in result["points"]], "o", label="held-out loss")
    if "b" in result:
        line = np.geomspace(flops.min(), flops.max(), 50)
        axes.loglog(line, result["floor"] + result["a"] * line ** -result["b"], label=f"exponent {result['b']:.2f}")
    axes.set(xlabel="training compute (model FLOPs)", ylabel="nats per token")
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    run_cli(main, define_flags)
