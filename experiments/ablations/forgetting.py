"""What does a model forget while it learns, by RL and by SFT?

Question    RL on sums: what becomes of the other families, of facts and of the base model's text? Does a KL to the
            parent keep them, and what does it cost? And does SFT on the same right answers forget more, at equal gain?
Prediction  RL forgets little, as its own samples are near its parent ("RL's Razor", 2509.04259), and the less, the
            larger the KL's weight, which slows the gain. SFT on RL's right rollouts, which are near it too, forgets
            more at the same gain, for it is pulled by likelihood also where it is right already.
Command     python experiments/ablations/forgetting.py --workdir=runs/forgetting --seeds=0,1,2
            It goes on where it was stopped.
Arms        kl_0, kl_0.02, kl_0.1   30 batches of 128 rollouts, 8 of a prompt, of sums of 3 and 4 numbers; with k3 of
                                    the KL to the parent in the loss
            sft                     two passes over the rollouts of kl_0 that were right, nothing else beside them
            Each is measured ten steps of RL apart, SFT forty of its own.
Result      in WORKDIR/forgetting.json and .svg: of every checkpoint accuracy on the sums (256 problems, greedy), on the
            other families (the first two levels of each, 6 problems a level), on 128 facts that the pages state a
            hundred times, and bits per byte of the held-out pages; and what each arm has lost where all have gained as
            much, by straight lines between its checkpoints. Not measured yet.
"""

import sys
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.ablations import arms
from llm_jax.evals.bpb import bits_per_byte
from llm_jax.evals.measure import Examiner, right
from llm_jax.frame.cli import run_cli
from llm_jax.prompts import load_prompts
from llm_jax.tasks.table import FAMILIES
from llm_jax.tasks.words import LISTS
from llm_jax.training.nats import jitted_nats

TASKS = {"arithmetic/3 numbers": 0.5, "arithmetic/4 numbers": 0.5}
OWN = ("arithmetic", "calculator")  # their levels are practised, or need what is
EACH, FACTS = 6, 128
LEAST = 0.02  # a smaller gain is none
LOST = ("others", "facts", "bpb")


def define_flags() -> None:
    arms.define_flags(steps=30, problems=256, seeds="0,1,2")
    flags.DEFINE_list("kl", ["0", "0.02", "0.1"], "Weights of the KL; the first is the arm whose rollouts SFT learns.")
    flags.DEFINE_integer("every", 10, "Steps of RL between the checkpoints that are measured.", lower_bound=1)
    flags.DEFINE_integer("sft_every", 40, "The same, of SFT.", lower_bound=1)


def main() -> None:
    f = flags.FLAGS
    lab = arms.Lab(f)
    measure = measurer(lab)
    start = lab.before("sft", measure)
    names = [f"kl_{weight}" for weight in f.kl]
    found: dict[str, dict] = {name: {} for name in (*names, "sft")}
    for seed in lab.seeds:
        for name in names:
            found[name][seed] = lab.arm(f"{seed}/{name}", measure, *given(lab, name, seed, f.every), by_step=True)
        rollouts = arms.right_rollouts(lab.workdir / seed / names[0])
        more = (f"--config.seed={seed}", arms.GENTLY, *arms.kept_every(f.sft_every))
        found["sft"][seed] = lab.sft(f"{seed}/sft", measure, rollouts, *more, by_step=True)
    equal = {seed: at_equal_gain(start, {name: found[name][seed] for name in found}) for seed in lab.seeds}
    told = {"verdict": verdict(equal), "at_equal_gain": equal, "before": start, "arms": found}
    lab.write("forgetting", told, plot(start, found))
    print(told["verdict"])


def given(lab: arms.Lab, name: str, seed: str, every: int) -> list[str]:
    weight = name.removeprefix("kl_")
    held = [f"--config.rl.parts.{part}={value}" for part, value in (("kl", "k3"), ("kl_weight", weight))]
    kept = (*arms.kept_every(every), *arms.KEPT_ROLLOUTS)
    return lab.practise(TASKS, seed, *kept, *(held if float(weight) else ()))


# Measuring


def measurer(lab: arms.Lab) -> arms.Measure:
    sums, others = arms.problems(TASKS, lab.problems), other_families()
    stated = [p for p in load_prompts(lab.base, "test") if p["task"] == "facts" and p["level"] == "tier 100"]
    facts = stated[:: max(1, len(stated) // FACTS)][:FACTS]
    nats = jitted_nats(lab.run)

    def measure(e: Examiner, params) -> dict:
        asked = {"sums": sums, "others": others, "facts": facts}
        found = {name: arms.share(e.ask(params, prompts), right) for name, prompts in asked.items() if prompts}
        return found | {"bpb": bits_per_byte(lab.run, params, nats)["val_bpb"]}

    return measure


def other_families() -> list[dict]:
    rows = [row for row in FAMILIES.values() if row.name not in OWN and not row.on_demand]
    drawn = [row for row in rows if set(row.lists) <= set(LISTS)]
    levels = [f"{row.name}/{level}" for row in drawn for level in row.levels[:2]]
    return arms.problems(levels, EACH * len(levels))


def at_equal_gain(start: dict, paths: dict[str, dict]) -> dict:
    """What each arm has lost where it has gained as much as the one that gained the least: of accuracy, and bits per
    byte more. Arms that gained less than LEAST are left out, by name."""
    gained = {name: max(gains(start, of)) for name, of in paths.items()}
    there = {name: of for name, of in paths.items() if gained[name] >= LEAST}
    found: dict = {"left_out": sorted(set(paths) - set(there))}
    if there:
        found["gain"] = round(min(gained[name] for name in there), 4)
        found["lost"] = {name: lost_at(found["gain"], start, of) for name, of in there.items()}
    return found


def points(start: dict, of_arm: dict) -> list[dict]:
    """The parent and the checkpoints of an arm, in order."""
    return [start, *(of_arm["steps"][step] for step in sorted(of_arm["steps"], key=int))]


def gains(start: dict, of_arm: dict) -> list[float]:
    return [point["sums"]["value"] - start["sums"]["value"] for point in points(start, of_arm)]


def lost_at(gain: float, start: dict, of_arm: dict) -> dict[str, float]:
    """Where the arm first has that gain, by a straight line from the checkpoint before."""
    gained, path = gains(start, of_arm), points(start, of_arm)
    after = next(place for place, value in enumerate(gained) if value >= gain - 1e-4)
    before = max(after - 1, 0)
    way = (gain - gained[before]) / (gained[after] - gained[before]) if after else 0.0
    at = {key: path[before][key]["value"] + way * (path[after][key]["value"] - path[before][key]["value"])
          for key in LOST if key in start}  # fmt: skip
    return {key: round((at[key] - start[key]["value"]) * (1 if key == "bpb" else -1), 4) for key in at}


def verdict(equal: dict[str, dict]) -> str:
    """SFT beside RL without a KL, seed by seed."""
    lost = [of.get("lost", {}) for of in equal.values()]
    both = [(of["kl_0"], of["sft"]) for of in lost if {"kl_0", "sft"} <= set(of)]
    if not both:
        return "SFT or RL gained nothing: there is no equal gain to compare at"
    said = []
    for key, what in zip(LOST, ("other families", "facts", "bits per byte"), strict=True):
        pairs = [(rl[key], sft[key]) for rl, sft in both if key in rl]
        more = sum(sft > rl for rl, sft in pairs)
        if pairs:
            rl, sft = np.mean(pairs, axis=0)
            said.append(f"{what}: RL loses {rl:.3f}, SFT {sft:.3f}, more in {more} of {len(pairs)} seeds")
    return "; ".join(said)


def plot(start: dict, found: dict[str, dict]) -> Figure:
    """What is left against what is gained; a colour for each arm, a line for each seed."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    labels = ("accuracy on other families", "accuracy on facts", "bits per byte of held-out pages")
    for axes, key, label in zip(figure.subplots(1, len(LOST)), LOST, labels, strict=True):
        for colour, (name, seeds) in enumerate(found.items()):
            for number, of in enumerate(seeds.values()):
                y = [point[key]["value"] for point in points(start, of) if key in point]
                name_once = {} if number else {"label": name}
                axes.plot(gains(start, of)[: len(y)], y, "o-", color=f"C{colour}", markersize=3, **name_once)
        axes.set(xlabel="gain on the sums", ylabel=label)
    figure.axes[0].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    run_cli(main, define_flags)
