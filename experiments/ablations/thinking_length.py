"""How long does a model think, as RL goes on?

Question    Do thoughts grow longer under RL? With the difficulty of the problem, or everywhere? Is it the right answers
            that make them so?
Prediction  Thoughts are worked steps, so their length follows the number of steps of a problem, not of RL: what grows
            is the share of problems that are thought about, and with it the mean length of a rollout. Under a coin
            neither grows. GRPO's mean over each sequence lets long wrong answers grow (Dr. GRPO, 2503.20783): not here,
            where wrong ones are no longer than right ones.
Command     python experiments/ablations/thinking_length.py --workdir=runs/thinking_length --seeds=0,1,2
            It goes on where it was stopped.
Arms        36 batches of 128 rollouts, 8 of a prompt, of sums of 3, 4 and 5 numbers alike:
            right   the project's own loss, a mean over tokens
            grpo    a mean over sequences, and a KL
            random  as `right`, with a coin for the reward
Result      in WORKDIR/thinking_length.json and .svg: of every sixth step and each of 2 to 6 numbers, the share that
            thinks, the tokens of a thought, and accuracy (64 problems of each, greedy); `batches` has the length of all
            rollouts by step. Not measured yet.
"""

import sys
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.ablations import arms
from llm_jax.evals.best_of_n import mean
from llm_jax.evals.measure import Examiner, right
from llm_jax.frame.cli import run_cli
from llm_jax.prompts import Outcome
from llm_jax.tasks.table import FAMILIES
from llm_jax.tools.table import TOOLS

LEVELS = tuple(f"arithmetic/{level}" for level in FAMILIES["arithmetic"].levels)
PRACTISED = LEVELS[1:4]
ARMS = {"right": (), "grpo": ("--config.rl.algorithm=grpo",), "random": ("--config.rl.reward=random",)}


def define_flags() -> None:
    arms.define_flags(steps=36, problems=320, seeds="0,1,2")
    flags.DEFINE_integer("every", 6, "Steps of RL between the checkpoints that are measured.", lower_bound=1)


def main() -> None:
    lab = arms.Lab(flags.FLAGS)
    asked = {level: arms.problems([level], lab.problems // len(LEVELS)) for level in LEVELS}

    def measure(e: Examiner, params) -> dict:
        return {level: of_level(e, params, prompts) for level, prompts in asked.items()}

    start = lab.before("sft", measure)
    found: dict[str, dict] = {name: {} for name in ARMS}
    for seed in lab.seeds:
        for name in ARMS:
            given = flags_of(lab, name, seed, flags.FLAGS.every)
            found[name][seed] = lab.arm(f"{seed}/{name}", measure, *given, by_step=True)
    told = {"verdict": verdict(start, found), "before": start, "arms": found}
    lab.write("thinking_length", told, plot(start, found))
    print(told["verdict"])


def flags_of(lab: arms.Lab, name: str, seed: str, every: int) -> list[str]:
    return lab.practise(dict.fromkeys(PRACTISED, 1.0), seed, *arms.kept_every(every), *ARMS[name])


def of_level(e: Examiner, params, prompts: list[dict]) -> dict:
    outcomes = e.ask(params, prompts, suppress=tuple(TOOLS))
    thought = [tokens(e, outcome) for outcome in outcomes if outcome.has("think")]
    return {
        "right": arms.share(outcomes, right),
        "thinks": arms.share(outcomes, lambda o: o.has("think")),
        "thought_tokens": mean(np.array(thought), list(range(len(thought)))),
    }


def tokens(e: Examiner, outcome: Outcome) -> int:
    """Of its thoughts."""
    return sum(len(e.tokenizer.encode(part["text"])) for part in outcome.parts if part["type"] == "think")


def verdict(start: dict, found: dict[str, dict]) -> str:
    """Of each arm, on what it practised: tokens of a thought and the share that thinks, before and at the end."""
    said = []
    for name, seeds in found.items():
        ends = [of["steps"][max(of["steps"], key=int)] for of in seeds.values()]
        length, thinking = ((mean_over([start], key), mean_over(ends, key)) for key in ("thought_tokens", "thinks"))
        said.append(f"{name}: thoughts {length[0]:.1f} -> {length[1]:.1f} tokens, "
                    f"of {thinking[0]:.2f} -> {thinking[1]:.2f} of the problems")  # fmt: skip
    return "; ".join(said)


def mean_over(measured: list[dict], key: str) -> float:
    """Over the practised levels where there is anything to count."""
    values = [of[level][key]["value"] for of in measured for level in PRACTISED]
    return float(np.mean([value for value in values if value is not None] or [0.0]))


def plot(start: dict, found: dict[str, dict]) -> Figure:
    """A column for each arm: tokens of a thought, share that thinks, accuracy; a line for each level."""
    figure = Figure(figsize=(4 * len(found), 8), layout="constrained")
    rows = ("thought_tokens", "thinks", "right")
    grid = figure.subplots(len(rows), len(found), squeeze=False, sharex=True, sharey="row")
    for column, (name, seeds) in enumerate(found.items()):
        grid[0][column].set(title=name)
        for of in seeds.values():
            points = [(0, start), *sorted((int(step), levels) for step, levels in of["steps"].items())]
            for row, key in enumerate(rows):
                for colour, level in enumerate(LEVELS):
                    values = [levels[level][key]["value"] for _, levels in points]
                    shown = [np.nan if value is None else value for value in values]
                    grid[row][column].plot([step for step, _ in points], shown, color=f"C{colour}")
    for row, label in enumerate(("tokens of a thought", "share that thinks", "accuracy")):
        grid[row][0].set(ylabel=label)
    for colour, level in enumerate(LEVELS):
        grid[0][0].plot([], [], color=f"C{colour}", label=level.partition("/")[2])
    grid[0][0].legend(fontsize=8)
    grid[-1][0].set(xlabel="step of RL")
    return figure


if __name__ == "__main__":
    run_cli(main, define_flags)
