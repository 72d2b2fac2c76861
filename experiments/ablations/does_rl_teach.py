"""Does RL teach, or only choose to think?

Question    An assistant that already thinks about every sum, and is right where the sum is short: does RL on longer
            sums make it right there, too? Do rewards that do not know the answer do so? Does SFT on the very rollouts
            that earned a reward?
Prediction  RL teaches where it is sometimes right already: pass@1 rises by 20 points or more at the edge, and less or
            not where nothing is right. A coin and a reward for form do nothing. SFT on the same right rollouts gains
            less than RL, for it never hears what is wrong. pass@64 rises less than pass@1.
Command     python experiments/ablations/does_rl_teach.py --workdir=runs/does_rl_teach --seeds=0,1,2
            It goes on where it was stopped.
Arms        `thinker`, one for all seeds: the assistant, after SFT on a few worked sums (COUNTS). Its levels are named
            by its pass@1 on training problems: easy from .8 on, too hard below .1, else edge. From it, on the edge (or
            what comes nearest):
            right          60 batches of 128 rollouts, 8 of a prompt; 1 for a right answer
            random_reward  the same, a coin that shows 1 as often as the batch is right
            format_only    the same, 1 for a well-formed answer
            sft            two passes over the rollouts of `right` that were right
            Whatever is measured is made to think first, so that no gain is one of choosing to.
Result      in WORKDIR/does_rl_teach.json and .svg: `teach` has pass@1 at the edge (1,000 problems, 2 samples each at
            temperature 1, without tools) before and after, pooled over seeds, with the verdict by the bar: twice of at
            least .10, or 20 points more, intervals apart from the parent's, and the two controls not; `pass_at` pass@k
            up to 64 (64 problems, 64 samples); `levels` all levels. In results/, from seed 1 of the speedrun: 0.449 ->
            0.664 (.636-.691; seeds .68 .67 .64), the coin 0.103, the form 0.072, and SFT 0.781 (.762-.800), n 3,006. So
            RL teaches, both controls destroy, and the prediction about SFT was wrong: two passes over 4,300 right
            rollouts at half of SFT's rate are worth more than the 60 steps that made them. pass@64 .97 -> .98: what was
            in reach has become likely. Sums of six numbers, never practised, stay at .03. 15 minutes a seed beside
            other work.
"""

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.ablations import arms
from llm_jax.evals.measure import Examiner, right
from llm_jax.evals.statistics import pass_at_k
from llm_jax.frame.cli import run_cli
from llm_jax.prompts import Outcome
from llm_jax.tasks.table import FAMILIES
from llm_jax.tasks.words import LISTS
from llm_jax.tools.table import TOOLS

COUNTS = {"2 numbers": 150, "3 numbers": 250, "4 numbers": 100, "5 numbers": 100}  # worked sums that it learns from
THINKER = "--config.sft.learning_rate_scale=0.8"  # at .3 one sum in six was not thought about
RATE = "--config.rl.learning_rate=2e-4"
LEVELS = tuple(f"arithmetic/{level}" for level in FAMILIES["arithmetic"].levels[1:])
EASY, HARD, MIDDLE = 0.8, 0.1, 0.4  # pass@1; what is practised where no level is between the first two: the nearest
ARMS = {"right": "right", "random_reward": "random", "format_only": "format"}
SAMPLES, PASS_AT = 2, (1, 2, 4, 8, 16, 32, 64)
ASKED = 400  # training problems by which the levels are named, over all
OF_OTHERS = 400  # problems of all other levels together, before and after
GAIN, FLOOR = 0.20, 0.10  # of the bar


def define_flags() -> None:
    arms.define_flags(steps=60, seeds="0,1,2")
    flags.DEFINE_integer("passk_problems", 64, "Problems of the pass@k curve.", lower_bound=1)


def main() -> None:
    lab = arms.Lab(flags.FLAGS)
    thinker = lab.workdir / "thinker"
    parent = lab.sft("thinker", survey, worked(), THINKER)
    edge = practised(parent["levels"])
    measure = measurer(edge, lab.problems, flags.FLAGS.passk_problems)
    found = {"before": {"0": lab.before("before", measure, thinker)}}
    for seed in lab.seeds:
        for name in (*ARMS, "sft"):
            found.setdefault(name, {})[seed] = arm(lab, name, seed, edge, measure)
    teach = {name: arms.pooled(of["pass@1"] for of in seeds.values()) for name, seeds in found.items()}
    teach = {"after" if name == "right" else name: metric for name, metric in teach.items()}
    pass_at = {
        name: {k: arms.pooled(of["pass_at"][k] for of in seeds.values()) for k in map(str, PASS_AT)}
        for name, seeds in found.items()
        if name in ("before", "right", "sft")
    }
    told = {"verdict": verdict(teach), "practised": edge, "thinker": parent, "teach": teach, "pass_at": pass_at}
    lab.write("does_rl_teach", {**told, "arms": found}, plot(teach, pass_at))
    print(told["verdict"])


def worked() -> list[dict]:
    """Sums of the training split with their steps written out."""
    rng, family, found = random.Random("does_rl_teach"), FAMILIES["arithmetic"], []
    for level, count in COUNTS.items():
        for number in range(count):
            problem = family.problem(rng, family.levels.index(level), "train", LISTS)
            found.append(arms.conversation(f"{level}-{number}", problem.prompt, problem.solution("think")))
    return found


def practised(levels: dict[str, dict]) -> list[str]:
    """The levels on the edge; of none, the one that comes nearest."""
    edge = [level for level, metric in levels.items() if HARD <= metric["value"] < EASY]
    return edge or [min(levels, key=lambda level: abs(levels[level]["value"] - MIDDLE))]


def arm(lab: arms.Lab, name: str, seed: str, edge: list[str], measure: Callable[..., dict]) -> dict:
    thinker = lab.workdir / "thinker"
    measure_arm = lambda e, params: measure(e, params, name in ("right", "sft"))  # noqa: E731
    if name == "sft":
        rollouts = arms.right_rollouts(lab.workdir / seed / "right")
        found = lab.sft(f"{seed}/sft", measure_arm, rollouts, f"--config.seed={seed}", arms.GENTLY, of=thinker)
        return {**found, "conversations": len(rollouts)}
    return lab.arm(f"{seed}/{name}", measure_arm, *given(lab, name, seed, edge), of=thinker)


def given(lab: arms.Lab, name: str, seed: str, edge: list[str]) -> list[str]:
    every = arms.KEPT_ROLLOUTS if name == "right" else ()
    return lab.practise(dict.fromkeys(edge, 1.0), seed, RATE, f"--config.rl.reward={ARMS[name]}", *every)


# Measuring


def sampled(e: Examiner, params, prompts: list[dict], samples: int, opening: str = "think") -> list[Outcome]:
    """Made to think, but where the opening is left to it: what is measured is the thought, not the choice."""
    return e.ask(params, prompts, opening=opening, suppress=tuple(TOOLS), temperature=1.0, samples=samples)


def survey(e: Examiner, params) -> dict:
    """pass@1 of each level on training problems, and the share that is thought about."""
    asked = {level: arms.problems([level], ASKED // len(LEVELS), "train") for level in LEVELS}
    levels = {level: arms.share(sampled(e, params, prompts, 1), right) for level, prompts in asked.items()}
    freely = {level: sampled(e, params, prompts, 1, "") for level, prompts in asked.items()}
    return {"levels": levels, "thinks": {level: arms.share(of, thinks) for level, of in freely.items()}}


def thinks(outcome: Outcome) -> bool:
    return outcome.has("think")


def measurer(edge: list[str], count: int, of_curve: int) -> Callable[..., dict]:
    others = [level for level in LEVELS if level not in edge]
    at_edge, elsewhere = arms.problems(edge, count), {x: arms.problems([x], OF_OTHERS // len(LEVELS)) for x in others}

    def measure(e: Examiner, params, curve: bool = True) -> dict:
        outcomes = sampled(e, params, at_edge, SAMPLES)
        found = {
            "pass@1": arms.share(outcomes, right, SAMPLES),
            "thinks": arms.share(sampled(e, params, at_edge, 1, ""), thinks),
            "well_formed": arms.share(outcomes, lambda o: o.well_formed, SAMPLES),
            "levels": {x: arms.share(sampled(e, params, asked, 1), right) for x, asked in elsewhere.items()},
        }
        return found | ({"pass_at": curve_of(e, params, at_edge[:: -(-len(at_edge) // of_curve)])} if curve else {})

    return measure


def curve_of(e: Examiner, params, prompts: list[dict]) -> dict[str, dict]:
    samples = max(PASS_AT)
    outcomes = sampled(e, params, prompts, samples)
    correct = np.reshape([o.right for o in outcomes], (len(prompts), samples)).sum(axis=1)
    return {str(k): arms.mean_of([pass_at_k(samples, int(c), k) for c in correct]) for k in PASS_AT}


def verdict(teach: dict[str, dict]) -> str:
    """By the bar of the docstring."""
    before, after = teach["before"], teach["after"]
    controls = [name for name in ("random_reward", "format_only") if rises(before, teach[name])]
    if not rises(before, after):
        said = f"RL does not teach here: {before['value']:.2f} -> {after['value']:.2f}"
    elif controls:
        said = f"what rises with RL rises with {' and '.join(controls)}, too: it is not learned from right answers"
    else:
        said = f"RL teaches: {before['value']:.2f} -> {after['value']:.2f}, and the controls do not"
    return f"{said}; beside SFT on the same rollouts: {arms.winner({'RL': after, 'SFT': teach['sft']})}"


def rises(before: dict, after: dict) -> bool:
    low, high = before["value"], after["value"]
    enough = high - low >= GAIN or (low >= FLOOR and high >= 2 * low)
    return enough and not arms.overlap(before, after)


def plot(teach: dict[str, dict], pass_at: dict[str, dict]) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, curves = figure.subplots(1, 2)
    arms.draw_bars(left, {name: {"pass@1": metric} for name, metric in teach.items()}, "pass@1 at the edge")
    for name, curve in pass_at.items():
        arms.draw_curve(curves, curve, name)
    curves.set(xlabel="samples k", ylabel="pass@k", xscale="log")
    curves.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    run_cli(main, define_flags)
