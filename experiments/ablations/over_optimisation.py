"""How far can a reward model be followed?

Question    The more an answer is chosen, or trained, for a reward model's score, the higher the score: how long does
            what it stands for rise with it? Does it help to train the reward model on more comparisons, or to hold the
            policy to its parent?
Prediction  The gold, a taste that is known exactly, rises with the proxy, peaks and falls, as in Gao et al. 2022
            (2210.10760); later for the reward model of more comparisons, and for RL with a KL weight, which goes less
            far. A choice by lot from the same answers is flat.
Command     python experiments/ablations/over_optimisation.py --workdir=runs/over_optimisation [--seeds=0,1,2]
            It goes on where it was stopped.
Arms        reward models of 250 and of 8,000 comparisons, a fifth of which name the wrong answer. For each: the best of
            n = 1, 2, 4, ... of one pool, with a choice by lot beside it; RL without KL and with two weights of it.
            All of a seed share one assistant, and its held-out questions.
Result      in WORKDIR/over_optimisation.json and .svg: gold and proxy against sqrt(KL), where the gold peaks, and the
            answers that the proxy likes best. Not measured yet.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from llm_jax import checkpoint
from llm_jax.evals import best_of_n
from llm_jax.files import read_json, replace
from llm_jax.frame.cli import run_cli
from llm_jax.prompts import load_prompts
from llm_jax.rl.reward_model import RewardModel
from llm_jax.runs import Run
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.loaded import engine_for
from llm_jax.sampling.requests import Request
from llm_jax.tasks import taste

ROOT = Path(__file__).resolve().parents[2]
SHOWN = 5  # of the answers that each reward model likes best


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the experiment; each seed and arm has a run in it.", required=True)
    flags.DEFINE_string("experiment", f"{ROOT}/experiments/taste.py", "Config of the assistant.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Of everything.")
    flags.DEFINE_list("pairs", ["250", "8000"], "Comparisons behind each reward model.")
    flags.DEFINE_list("kl", ["0", "0.02", "0.1"], "Weights of the KL in RL.")
    flags.DEFINE_integer("pool", 256, "Answers to a question, from which the best of n is taken.", lower_bound=2)
    flags.DEFINE_integer("drawn", 8, "Answers to a question by which a checkpoint of RL is measured.", lower_bound=1)
    flags.DEFINE_integer("questions", 80, "Held-out questions, at most.", lower_bound=1)
    flags.DEFINE_integer("every", 8, "Steps of RL between the checkpoints that are measured.", lower_bound=1)


def main() -> None:
    f, workdir, started = flags.FLAGS, Path(flags.FLAGS.workdir).expanduser().absolute(), time.monotonic()
    for seed in f.seeds:
        folder = workdir / seed
        folder.mkdir(parents=True, exist_ok=True)
        train(folder / "base", f"--config.seed={seed}", "--stages=data,pretrain,sft")
        for pairs in f.pairs:
            beside(
                folder / f"reward_{pairs}", f"--config.seed={seed}", f"--config.pairs.most={pairs}", "--stages=reward"
            )
            once(folder / f"best_of_{pairs}.json", best_of, folder, pairs)
            for weight in f.kl:
                arm = folder / f"rl_{pairs}_{weight}"
                reward = [f"--config.rl.reward_model={folder}/reward_{pairs}:reward", "--config.rl.reward=model"]
                reward += held_back(weight) if float(weight) else []
                kept = [f"--config.checkpoint.every={f.every}", "--config.checkpoint.keep=1000"]
                beside(arm, f"--config.seed={seed}", *reward, *kept, "--stages=rl")
                once(folder / f"{arm.name}.json", by_checkpoint, arm, pairs)
    found = {seed: {path.stem: read_json(path) for path in sorted((workdir / seed).glob("*.json"))} for seed in f.seeds}
    peaks = {seed: {arm: peak(of_arm["points"]) for arm, of_arm in arms.items()} for seed, arms in found.items()}
    result = {"peaks": peaks, "seconds": round(time.monotonic() - started), "seeds": found}
    replace(workdir / "over_optimisation.json", json.dumps(result, indent=1))
    plot(found).savefig(workdir / "over_optimisation.svg")
    print(json.dumps(peaks, indent=1), workdir / "over_optimisation.svg", sep="\n")


# Runs


def train(workdir: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "llm_jax.main", f"--config={flags.FLAGS.experiment}", f"--workdir={workdir}"]
    if code := subprocess.run([*command, *arguments], cwd=ROOT).returncode:
        sys.exit(code)  # it has said why


def beside(workdir: Path, *arguments: str) -> None:
    """A run that starts from the seed's assistant, with the same data."""
    base = workdir.parent / "base"
    workdir.mkdir(exist_ok=True)
    if not (workdir / "data").is_symlink():
        (workdir / "data").symlink_to(base / "data")
    train(workdir, f"--config.init_from={base}:sft", *arguments)


def held_back(weight: str) -> list[str]:
    """The KL from the parent as a part of the reward, so that it counts for the answer as a whole."""
    return [f"--config.rl.parts.{name}={value}" for name, value in
            (("kl", "k1"), ("kl_in", "reward"), ("kl_weight", weight))]  # fmt: skip


def once(path: Path, measure: Callable[..., dict], *arguments) -> None:
    if not path.exists():
        replace(path, json.dumps(measure(*arguments), indent=1))


# Measuring


def questions(run: Run) -> list[dict]:
    asked = [prompt for prompt in load_prompts(run.workdir, "test") if prompt["task"] == taste.TASK]
    return asked[:: max(1, len(asked) // flags.FLAGS.questions)][: flags.FLAGS.questions]


def best_of(folder: Path, pairs: str) -> dict:
    """Points of the best of n, of the choice by lot, and the answers of the pool that the proxy likes best."""
    run = Run.open(folder / "base")
    asked, model, engine = questions(run), RewardModel(run, f"{folder}/reward_{pairs}:reward"), engine_of(run)
    most, size = run.config.rl.max_new_tokens, flags.FLAGS.pool
    answers = best_of_n.sampled(engine, run.load_params("sft"), asked, size, most, run.config.seed)
    engine.close()
    gold_PN, proxy_PN = best_of_n.scores(model, asked, answers)
    curves = best_of_n.curves(gold_PN, proxy_PN, run.config.seed)
    points = [
        {"n": n, "kl": best_of_n.kl(n), **{name: round(float(curve[n].mean()), 4) for name, curve in curves.items()}}
        for n in curves["gold"]
    ]
    likes = sorted(range(len(answers)), key=lambda i: -proxy_PN.ravel()[i])[:SHOWN]
    shown = [{"text": answers[i][1], "gold": gold_PN.ravel()[i], "proxy": round(proxy_PN.ravel()[i], 3)} for i in likes]
    alike = float(np.nanmean(best_of_n.agreement(gold_PN, proxy_PN)))
    spread = {"mean": float(proxy_PN.mean()), "deviation": float(proxy_PN.std())}
    return {"points": points, "ordered_alike": round(alike, 4), "proxy_of_parent": spread, "likes_best": shown}


def by_checkpoint(arm: Path, pairs: str) -> dict:
    """Points of a run of RL: each of its checkpoints by fresh answers to the held-out questions."""
    run = Run.open(arm)
    asked, model, engine = questions(run), RewardModel(run, f"{arm.parent}/reward_{pairs}:reward"), engine_of(run)
    parent = Run.open(arm.parent / "base").load_params("sft")
    with checkpoint.existing(arm, "rl") as store:
        steps = sorted(int(path.name) for path in store.path.glob("[0-9]*") if path.name.isdigit())
    points, shown = [], []
    for step in steps:
        point, shown = measured(engine, run.load_params("rl", step=step), parent, asked, model, run)
        points.append({"step": step, **point})
    engine.close()
    return {"points": points, "ends_with": shown}


def measured(engine: Engine, params, parent, asked: list[dict], model: RewardModel, run: Run) -> tuple[dict, list]:
    """({kl, gold, proxy, tokens} of the answers of some parameters, the first few of the answers)"""
    t, requests = engine.tokenizer, []
    for number, prompt in enumerate(asked):
        ids = t.render(prompt["messages"], for_generation=True).ids
        seeds = range(number * flags.FLAGS.drawn, (number + 1) * flags.FLAGS.drawn)
        requests += [Request(ids, seed, 1.0, run.config.rl.max_new_tokens) for seed in seeds]
    done = engine.generate(params, requests)
    before = engine.score(
        parent, [(request.prompt, answer.ids) for request, answer in zip(requests, done, strict=True)]
    )
    kl = np.mean([sum(answer.logprob) - logp for answer, (logp, _) in zip(done, before, strict=True)])
    answers = [(r.prompt + c.ids, taste.said(t.parse(c.ids)[0])) for r, c in zip(requests, done, strict=True)]
    gold_PN, proxy_PN = best_of_n.scores(model, asked, answers)
    tokens = np.mean([len(answer.ids) for answer in done])
    figures = {"kl": kl, "gold": gold_PN.mean(), "proxy": proxy_PN.mean(), "tokens": tokens}
    shown = [{"text": text, "gold": gold} for (_, text), gold in zip(answers, gold_PN.ravel().tolist(), strict=True)]
    return {name: round(float(value), 4) for name, value in figures.items()}, shown[:: flags.FLAGS.drawn][:SHOWN]


def engine_of(run: Run) -> Engine:
    return engine_for(run, run.config.eval.slots)


def peak(points: list[dict]) -> dict:
    """Where the gold is highest, and whether it falls from there by the last point."""
    best = max(points, key=lambda point: point["gold"])
    last = points[-1]
    return {
        "sqrt_kl": round(max(best["kl"], 0) ** 0.5, 3),
        "gold": best["gold"],
        "gold_at_end": last["gold"],
        "sqrt_kl_at_end": round(max(last["kl"], 0) ** 0.5, 3),
    }


def plot(found: dict[str, dict]) -> Figure:
    """A column for the best of n and for each KL weight, gold above and proxy below; a colour for each reward model."""
    names = sorted({arm for arms in found.values() for arm in arms})
    kinds = sorted({kind_of(name) for name in names})
    sizes = sorted({size_of(name) for name in names})
    figure = Figure(figsize=(4 * len(kinds), 6), layout="constrained")
    grid = figure.subplots(2, len(kinds), squeeze=False, sharex="col", sharey="row")
    for arms in found.values():
        for name, of_arm in arms.items():
            column, colour = kinds.index(kind_of(name)), f"C{sizes.index(size_of(name))}"
            x = [max(point["kl"], 0) ** 0.5 for point in of_arm["points"]]
            spread = arms[f"best_of_{size_of(name)}"]["proxy_of_parent"]
            proxy = [(point["proxy"] - spread["mean"]) / spread["deviation"] for point in of_arm["points"]]
            grid[0][column].plot(x, [point["gold"] for point in of_arm["points"]], "o-", color=colour, markersize=3)
            grid[1][column].plot(x, proxy, "o-", color=colour, markersize=3)
            if "random" in of_arm["points"][0]:
                grid[0][column].plot(x, [point["random"] for point in of_arm["points"]], ":", color="grey")
    for column, kind in enumerate(kinds):
        grid[0][column].set(title=kind)
        grid[1][column].set(xlabel="sqrt(KL), nats")
    grid[0][0].set(ylabel="gold")
    grid[1][0].set(ylabel="proxy, deviations of the parent's answers")
    for number, size in enumerate(sizes):
        grid[0][0].plot([], [], "o-", color=f"C{number}", label=f"{size:,} comparisons")
    grid[0][0].plot([], [], ":", color="grey", label="by lot")
    grid[0][0].legend(fontsize=8)
    return figure


def kind_of(arm: str) -> str:
    """Of an arm's name, best_of_PAIRS or rl_PAIRS_WEIGHT."""
    return "best of n" if arm.startswith("best_of_") else f"RL, KL weight {arm.rpartition('_')[2]}"


def size_of(arm: str) -> int:
    return int(arm.removeprefix("best_of_").removeprefix("rl_").partition("_")[0])


if __name__ == "__main__":
    run_cli(main, define_flags)
