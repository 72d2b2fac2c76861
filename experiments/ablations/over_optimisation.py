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
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.ablations import arms
from llm_jax.evals import best_of_n
from llm_jax.files import read_json, replace, user_path
from llm_jax.frame.cli import run_cli
from llm_jax.prompts import load_prompts
from llm_jax.rl.reward_model import RewardModel
from llm_jax.runs import Run
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.loaded import engine_for
from llm_jax.sampling.requests import Request
from llm_jax.tasks import taste

SHOWN = 5  # of the answers that each reward model likes best


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the experiment; each seed and arm has a run in it.", required=True)
    flags.DEFINE_string("experiment", f"{arms.ROOT}/experiments/taste.py", "Config of the assistant.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Of everything.")
    flags.DEFINE_list("pairs", ["250", "8000"], "Comparisons behind each reward model.")
    flags.DEFINE_list("kl", ["0", "0.02", "0.1"], "Weights of the KL in RL.")
    flags.DEFINE_integer("pool", 256, "Answers to a question, from which the best of n is taken.", lower_bound=2)
    flags.DEFINE_integer("drawn", 8, "Answers to a question by which a checkpoint of RL is measured.", lower_bound=1)
    flags.DEFINE_integer("questions", 80, "Held-out questions, at most.", lower_bound=1)
    flags.DEFINE_integer("every", 8, "Steps of RL between the checkpoints that are measured.", lower_bound=1)


def main() -> None:
    f, workdir = flags.FLAGS, user_path(flags.FLAGS.workdir, "--workdir").absolute()
    found = {seed: of_seed(workdir / seed, f"--config.seed={seed}") for seed in f.seeds}
    peaks = {
        seed: {arm: peak(of_arm["points"]) for arm, of_arm in measured.items()} for seed, measured in found.items()
    }
    kept = [path for seed in f.seeds for path in (workdir / seed).glob("*.json")]
    result = {"peaks": peaks, "seconds": sum(read_json(path)["seconds"] for path in kept), "seeds": found}
    replace(workdir / "over_optimisation.json", json.dumps(result, indent=1))
    plot(found).savefig(workdir / "over_optimisation.svg")
    print(json.dumps(peaks, indent=1), workdir / "over_optimisation.svg", sep="\n")


# Runs


def of_seed(folder: Path, seed: str) -> dict[str, dict]:
    """{arm: what was measured}, of arms that share an assistant and, where they follow one, a reward model."""
    f, found = flags.FLAGS, {}
    folder.mkdir(parents=True, exist_ok=True)
    kept_once(folder / "base", lambda base: arms.train(base, f.experiment, ("data", "pretrain", "sft"), seed))
    for pairs in f.pairs:
        most = f"--config.pairs.most={pairs}"
        kept_once(folder / f"reward_{pairs}", lambda model, most=most: beside(model, "reward", seed, most))
        best = arms.once(folder / f"best_of_{pairs}.json", lambda pairs=pairs: best_of(folder, pairs))
        found[f"best_of_{pairs}"] = best
        for weight in f.kl:
            given = [seed, *followed(folder, pairs, weight)]
            measure = lambda arm, pairs=pairs, given=given: by_checkpoint(arm, pairs, given)  # noqa: E731
            found[f"rl_{pairs}_{weight}"] = kept_once(folder / f"rl_{pairs}_{weight}", measure)
    return found


def kept_once(run: Path, make: Callable[[Path], dict | None]) -> dict:
    return arms.once(run.with_name(f"{run.name}.json"), lambda: make(run), run)


def beside(run: Path, stage: str, *given: str) -> None:
    """A run that starts from the seed's assistant, with the same data."""
    arms.beside(run, run.parent / "base", flags.FLAGS.experiment, (stage,), *given)


def followed(folder: Path, pairs: str, weight: str) -> list[str]:
    """Flags of RL for a reward model, its checkpoints kept; the KL from the parent is a part of the reward, so that it
    counts for the answer as a whole."""
    held = (("kl", "k1"), ("kl_in", "reward"), ("kl_weight", weight)) if float(weight) else ()
    parts = [f"--config.rl.parts.{name}={value}" for name, value in held]
    reward = [f"--config.rl.reward_model={folder}/reward_{pairs}:reward", "--config.rl.reward=model"]
    return [*reward, *parts, *arms.kept_every(flags.FLAGS.every)]


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


def by_checkpoint(arm: Path, pairs: str, given: list[str]) -> dict:
    """Points of a run of RL: each of its checkpoints by fresh answers to the held-out questions."""
    beside(arm, "rl", *given)
    run = Run.open(arm)
    asked, model, engine = questions(run), RewardModel(run, f"{arm.parent}/reward_{pairs}:reward"), engine_of(run)
    parent = Run.open(arm.parent / "base").load_params("sft")
    points, shown = [], []
    for step in arms.steps_of(arm, "rl"):
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
    names = sorted({arm for of_arms in found.values() for arm in of_arms})
    kinds = sorted({kind_of(name) for name in names})
    sizes = sorted({size_of(name) for name in names})
    figure = Figure(figsize=(4 * len(kinds), 6), layout="constrained")
    grid = figure.subplots(2, len(kinds), squeeze=False, sharex="col", sharey="row")
    for of_arms in found.values():
        for name, of_arm in of_arms.items():
            column, colour = kinds.index(kind_of(name)), f"C{sizes.index(size_of(name))}"
            x = [max(point["kl"], 0) ** 0.5 for point in of_arm["points"]]
            spread = of_arms[f"best_of_{size_of(name)}"]["proxy_of_parent"]
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
