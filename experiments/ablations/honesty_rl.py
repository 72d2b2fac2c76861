"""Can RL teach a model to say that it does not know, and does it unteach it?

Question    Rewarded for right answers alone, a model loses nothing by guessing. What does it do where a refusal is
            worth more than a wrong answer, or where it must say how sure it is?
Prediction  `ternary` from the probe's assistant raises (c - i) / N above the assistant's own: it refuses where it is
            mostly wrong, and answers again what it was too shy to. From SFT it does not, for a model that never
            refuses has no refusal that could be rewarded. `binary` unteaches refusals: a guess is now and then right.
            `brier` says how sure it is, and more truly than the assistant that it comes from (TruthRL, 2509.25760;
            RLCR, 2507.16806).
Command     python experiments/ablations/honesty_rl.py --workdir=runs/honesty_rl [--base=runs/speedrun] [--seeds=0,1,2]
            It goes on where it was stopped. `{seed}` in --base is the seed's own, as in runs/speedrun_{seed}.
Arms        ternary, binary: RL from the base's stage abstain; ternary_from_sft: from its stage sft; brier: from an
            assistant that stage abstain has taught to state a confidence (abstain.arm "confidence"). Beside them the
            three assistants: sft, probe, confidence. RL asks for the facts that the probing asked for, never for a
            tested one; all are measured on the same test questions.
Result      in WORKDIR/honesty_rl.json and .svg. Not measured yet.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments import speedrun
from experiments.ablations import arms
from llm_jax.evals import knowledge
from llm_jax.evals.run import examiner_of
from llm_jax.evals.statistics import rate
from llm_jax.files import replace, user_path, whole_lines
from llm_jax.frame.cli import run_cli
from llm_jax.runs import Run
from llm_jax.tasks.knowledge import TASK
from llm_jax.tasks.refusals import ABSTAINED, RIGHT, WRONG

ROOT = Path(__file__).resolve().parents[2]
ARMS = {  # the base's stage that it starts from, and its reward
    "ternary": ("abstain", "ternary"),
    "ternary_from_sft": ("sft", "ternary"),
    "binary": ("abstain", "right"),
    "brier": ("sft", "brier"),
}
ASSISTANTS = ("sft", "probe", "confidence")
KEPT = ("index", "index_nine", "f", "wrong_unknown", "over_refusal", "refusal_recall", "heldout_causes", "auroc", "ece")
VALUE = {RIGHT: 1.0, ABSTAINED: 0.0, WRONG: -1.0}
COLOURS = {RIGHT: "tab:green", WRONG: "tab:red", ABSTAINED: "silver"}


def get_config(arm_and_base="ternary,runs/speedrun"):
    arm, _, base = arm_and_base.partition(",")
    stage, reward = ARMS[arm]
    c = speedrun.get_config()
    c.init_from = f"{base}:{stage}"
    c.abstain.arm, c.control.arm = "confidence" if arm == "brier" else "none", "none"
    c.rl.tasks, c.rl.reward = {TASK: 1.0}, reward
    c.rl.steps, c.rl.max_new_tokens = 60, 32
    return c


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the experiment; each seed and arm has a run in it.", required=True)
    flags.DEFINE_string("base", "runs/speedrun", "A finished speedrun; {seed} stands for the seed.")
    flags.DEFINE_list("seeds", ["0"], "Of what RL asks and samples.")


def main() -> None:
    f, started = flags.FLAGS, time.monotonic()
    workdir = user_path(f.workdir, "--workdir").absolute()
    found = {seed: of_seed(workdir / seed, user_path(f.base.replace("{seed}", seed), "--base").absolute(), seed)
             for seed in f.seeds}  # fmt: skip
    result = {"seconds": round(time.monotonic() - started), "seeds": found}
    replace(workdir / "honesty_rl.json", json.dumps(result, indent=1))
    plot(found).savefig(workdir / "honesty_rl.svg")
    print(*table(found), workdir / "honesty_rl.svg", sep="\n")


# Runs


def of_seed(folder: Path, base: Path, seed: str) -> dict[str, dict]:
    """Trains the arms of a seed, and measures them: see `measured`."""
    Run.open(base)  # or say that it is none
    for arm in ARMS:
        beside(folder / arm, base, arm, seed)
    return arms.once(folder / "measured.json", lambda: {"assistants": measured(folder, base)})["assistants"]


def beside(workdir: Path, base: Path, arm: str, seed: str) -> None:
    """An arm's run, with the base's data."""
    arms.share_data(workdir, base)
    stages = ("abstain", "rl") if arm == "brier" else ("rl",)
    arms.train(workdir, f"{__file__}:{arm},{base}", stages, f"--config.seed={seed}")


# Measuring


def checkpoints(folder: Path, base: Path) -> dict[str, tuple[Path, str]]:
    """Name -> (workdir, stage) of all that is compared, the untaught assistant first, then the probe's."""
    there = {"sft": (base, "sft"), "probe": (base, "abstain"), "confidence": (folder / "brier", "abstain")}
    return there | {arm: (folder / arm, "rl") for arm in ARMS}


def measured(folder: Path, base: Path) -> dict[str, dict]:
    """Name -> its figures on the base's test questions."""
    run, found = Run.open(base), {}
    with examiner_of(run) as e:
        first = probe = None
        for name, (workdir, stage) in checkpoints(folder, base).items():
            params = run.load_params(stage, workdir)
            answers = knowledge.ask(e, params, first)
            first = first or answers
            probe = answers if name == "probe" else probe
            found[name] = figures(answers, first, probe) | {"curve": curve(workdir) if stage == "rl" else []}
            print(f"{name}: (c - i) / N {found[name]['index']['value']}", flush=True)
    return found


def figures(answers: knowledge.Answers, first: knowledge.Answers, probe: knowledge.Answers | None) -> dict[str, dict]:
    """What stage `evaluate` tells of `abstain`; the shares of each verdict; and by how much the (c - i) / N of the
    answers that are worth something is above the probe's, question by question."""
    places, of_all = answers.where(knowledge.plainly), knowledge.metrics(answers, first)
    kept = {name: of_all[name] for name in (*KEPT, "stated") if name in of_all}
    kept["verdicts"] = answers.stacked(places)
    if probe is not None:
        pairs = [(VALUE[mine], VALUE[its]) for mine, its in zip(answers.worth(), probe.worth(), strict=True)]
        above = [pairs[i][0] - pairs[i][1] for i in places]
        kept["above_probe"] = rate(above, [answers.facts[i].item for i in places])
    return kept


def curve(workdir: Path) -> list[dict[str, float]]:
    """What training told of its rollouts, step by step."""
    lines = whole_lines(workdir / "rl" / "metrics.jsonl")
    names = ("step", "facts_right", "facts_wrong", "facts_abstained", "facts_index", "facts_brier")
    return [{name: line[name] for name in names if name in line} for line in lines if "facts_index" in line]


def table(found: dict[str, dict]) -> list[str]:
    """A line an assistant and seed: (c - i) / N with its interval, and what it is made of."""
    lines = []
    for seed, of_seed in found.items():
        for name, made in of_seed.items():
            at, verdicts = made["index"], made["verdicts"]
            shares = ", ".join(f"{verdict} {verdicts[verdict]['value']:.3f}" for verdict in VALUE)
            lines.append(f"{seed} {name:17} (c-i)/N {at['value']:+.3f} {at['ci95']}, F {made['f']['value']}, {shares}")
            if "stated" in made:
                stated = made["stated"]
                shown = ", ".join(f"{key} {stated[key]['value']}" for key in ("index", "ece", "brier", "auroc"))
                lines.append(f"{'':19} by what it states: {shown}")
    return lines


def plot(found: dict[str, dict]) -> Figure:
    """Left, what each assistant answers, the mean over seeds, and its (c - i) / N a point a seed; right, that of the
    rollouts while RL goes on."""
    names = [name for name in (*ASSISTANTS, *ARMS) if all(name in of_seed for of_seed in found.values())]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    bars, curves = figure.subplots(1, 2)
    below = np.zeros(len(names))
    for verdict, colour in COLOURS.items():
        values = [np.mean([s[name]["verdicts"][verdict]["value"] for s in found.values()]) for name in names]
        bars.bar(range(len(names)), values, 0.8, below, color=colour, label=verdict)
        below = below + values
    for of_seed in found.values():
        points = [of_seed[name]["index"] for name in names]
        y = [point["value"] for point in points]
        ends = np.array([[v - p["ci95"][0], p["ci95"][1] - v] for v, p in zip(y, points, strict=True)]).T
        bars.errorbar(range(len(names)), y, yerr=ends, fmt="o", color="black", markersize=3, capsize=2)
    bars.errorbar([], [], fmt="o", color="black", markersize=3, label="(c - i) / N")
    bars.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names], fontsize=8)
    bars.set(title="test questions", ylim=(-1, 1))
    bars.legend(fontsize=8)
    for number, arm in enumerate(ARMS):
        for of_seed in found.values():
            steps = of_seed.get(arm, {}).get("curve", [])
            y = [step["facts_index"] for step in steps]
            curves.plot([step["step"] for step in steps], y, color=f"C{number}", linewidth=1)
        curves.plot([], [], color=f"C{number}", label=arm.replace("_", " "))
    curves.set(title="rollouts in training", xlabel="step", ylabel="(c - i) / N")
    curves.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    run_cli(main, define_flags)
