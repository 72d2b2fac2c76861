"""Does it matter which policy loss?

Question    Nine named algorithms (llm_jax/rl/algorithms.py) from one assistant, with the same prompts, rollouts a
            batch, updates and learning rate: which of them ends highest on held-out problems, and which learns soonest?
Prediction  None wins. Their baselines, clips and means differ by less than seeds do, where rewards are 0 or 1, a batch
            serves two updates and Adam divides the gradient's scale away; those that divide by the group's deviation
            or mean (grpo, dapo, maxrl) learn the rare problems a little sooner.
Command     python experiments/ablations/rl_variants.py --workdir=runs/rl_variants --seeds=0,1,2,3,4
            It goes on where it was stopped.
Arms        the rows of the table, each as it stands there; one that is refused is listed with its line. Each has 24
            batches of 128 rollouts, 8 of a prompt, half of three numbers and half of four; two updates a batch, one on
            each half of its groups, so that ratios leave 1 and there is something to clip. dapo draws further prompts
            in place of groups without a difference.
Result      in WORKDIR/rl_variants.json and .svg: held-out accuracy (1,000 problems, greedy) pooled over seeds, the
            share right of all rollouts on the way, and a verdict that is drawn from the intervals. Not measured yet.
"""

import sys
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.ablations import arms
from llm_jax.evals.measure import Examiner, right
from llm_jax.frame.cli import run_cli
from llm_jax.rl.algorithms import ALGORITHMS
from llm_jax.tools.table import TOOLS

TASKS = {"arithmetic/3 numbers": 0.5, "arithmetic/4 numbers": 0.5}
UPDATES = ("--config.rl.updates=2", "--config.rl.minibatches=2")


def define_flags() -> None:
    arms.define_flags(steps=48, seeds="0,1,2,3,4")


def main() -> None:
    lab = arms.Lab(flags.FLAGS)
    asked = arms.problems(TASKS, lab.problems)

    def measure(e: Examiner, params) -> dict:
        return {"accuracy": arms.share(e.ask(params, asked, suppress=tuple(TOOLS)), right)}

    found, curves, refused = {"sft": {"0": lab.before("sft", measure)}}, {}, {}
    for seed in lab.seeds:
        for name in ALGORITHMS:
            try:
                of_arm = lab.arm(f"{seed}/{name}", measure, *given(lab, name, seed))
            except arms.Refused as error:
                refused[name] = str(error)
                continue
            found.setdefault(name, {})[seed] = of_arm
            curves.setdefault(name, []).append(of_arm["batches"]["accuracy"])
    if not curves:
        raise arms.Refused(next(iter(refused.values())))
    accuracy = {name: arms.pooled(of["accuracy"] for of in seeds.values()) for name, seeds in found.items()}
    verdict = arms.winner({name: accuracy[name] for name in curves})
    on_the_way = {name: round(float(np.mean([np.mean(c) for c in runs])), 4) for name, runs in curves.items()}
    told = {"verdict": verdict, "accuracy": accuracy, "on_the_way": on_the_way, "refused": refused, "arms": found}
    lab.write("rl_variants", told, plot(accuracy, curves))
    print(verdict, *refused.values(), sep="\n")


def given(lab: arms.Lab, name: str, seed: str) -> list[str]:
    return lab.practise(TASKS, seed, *UPDATES, f"--config.rl.algorithm={name}")


def plot(accuracy: dict[str, dict], curves: dict[str, list[list[float]]]) -> Figure:
    """Held-out accuracy at the end, and below it the share right of each batch, the mean over seeds."""
    figure = Figure(figsize=(8, 7), layout="constrained")
    ends, way = figure.subplots(2)
    arms.draw_bars(ends, {name: {"accuracy": metric} for name, metric in accuracy.items()}, "held-out accuracy")
    for name, runs in curves.items():
        shortest = min(map(len, runs))
        way.plot(range(1, shortest + 1), np.mean([run[:shortest] for run in runs], axis=0), label=name)
    way.set(xlabel="batch", ylabel="share of the rollouts that are right")
    way.legend(fontsize=8, ncol=3)
    return figure


if __name__ == "__main__":
    run_cli(main, define_flags)
