"""Does fine-tuning on facts that a model does not know make it invent?

Question    An assistant learns from questions whose answers it knows already, or from as many whose answers it does
            not. What becomes of what it knew of other people?
Prediction  As in Gekhman et al. 2024 (2405.05904): the unknown answers are fitted later, and as they are, recall of
            other facts falls, while the known ones leave it as it was: who learns to state what it has no ground for
            states more of it.
Command     python experiments/ablations/unknown_facts.py --workdir=runs/unknown_facts --seeds=0,1,2
            It goes on where it was stopped.
Arms        known: --facts training questions that the assistant answers rightly; unknown: the same questions, each
            about somebody who stands nowhere, with any answer of the kind. 12 passes over them, at the rate of SFT.
Result      in WORKDIR/unknown_facts.json and .svg: by step, the share of the taught answers that it gives (`taught`),
            and of held-out questions about other people whose facts the pages state 30 and 100 times (`recall`),
            500 of them, pooled over seeds. In results/, three seeds, from seed 1 of the speedrun: of recall .65 before
            .63 (.59-.68) is left after the known ones, .57 (.53-.62) after the unknown: less in each seed (by .08, .01
            and .09), intervals overlap. The unknown are fitted late (.08 at step 15, .83 at 60), and recall falls as
            they are. At step 15 both arms recall more than before, .70. 9 minutes beside other work.
"""

import random
import sys
from pathlib import Path

from absl import flags
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_pipelines.tiny_web import reading
from data_pipelines.tiny_web.world import make_world
from experiments.ablations import arms
from llm_jax.evals.measure import Examiner, right
from llm_jax.files import json_lines
from llm_jax.frame.cli import run_cli
from llm_jax.prompts import Outcome
from llm_jax.tools.table import TOOLS

ARMS = ("known", "unknown")
GIVEN = ("--config.sft.epochs=12", "--config.sft.learning_rate_scale=0.2")
SURE = (30, 100)  # statements of the facts that it is asked for


def define_flags() -> None:
    arms.define_flags(problems=500, seeds="0,1,2")
    flags.DEFINE_integer("facts", 600, "Questions that each arm learns from, at most.", lower_bound=5)
    flags.DEFINE_integer("every", 15, "Steps between the checkpoints that are measured.", lower_bound=1)


def main() -> None:
    lab = arms.Lab(flags.FLAGS)
    asked = lab.facts("test", SURE)[: lab.problems]
    known = [o.prompt for o in ask(lab.examiner, lab.run.load_params("sft"), lab.facts("train")) if o.right]
    before = lab.before("before", lambda e, params: {"recall": recalled(e, params, asked)})
    found = {name: {} for name in ARMS}
    for seed in lab.seeds:
        rng = random.Random(f"{seed}/unknown_facts")
        chosen = rng.sample(known, min(len(known), flags.FLAGS.facts))
        taught = {"known": chosen, "unknown": about_strangers(lab, chosen, rng)}
        for name in ARMS:
            found[name][seed] = arm(lab, name, seed, taught[name], asked)
    curves = {name: pooled(seeds) for name, seeds in found.items()}
    told = {"verdict": verdict(before["recall"], curves), "before": before, "curves": curves, "arms": found}
    lab.write("unknown_facts", told, plot(before["recall"], curves))
    print(told["verdict"])


def verdict(before: dict, curves: dict[str, dict]) -> str:
    """What is left of its knowledge after the last step of each arm."""
    known, unknown = (list(curves[name].values())[-1]["recall"] for name in ARMS)
    said = f"it recalls {before['value']:.2f}; having learned what it knew {known['value']:.2f}, what it did not know "
    return f"{said}{unknown['value']:.2f}: intervals {'overlap' if arms.overlap(known, unknown) else 'apart'}"


def ask(e: Examiner, params, prompts: list[dict]) -> list[Outcome]:
    return e.ask(params, prompts, suppress=tuple(TOOLS))


def recalled(e: Examiner, params, prompts: list[dict]) -> dict:
    return arms.share(ask(e, params, prompts), right)


def about_strangers(lab: arms.Lab, prompts: list[dict], rng: random.Random) -> list[dict]:
    """The same questions, each about another person, whom no page knows, with an answer that is made up."""
    values = make_world(lab.run.config.seed).values
    names = {person["id"]: person["name"] for person in json_lines(lab.base / "data/world.jsonl")}
    attributes = {q["id"]: q["attribute"] for q in json_lines(lab.base / "data/questions_train.jsonl")}
    found = []
    for prompt in prompts:
        stranger = reading.stranger(rng, "train", values)
        asked = prompt["messages"][0]["content"].replace(names[prompt["item"]], stranger.name)
        answer = stranger.facts[attributes[prompt["id"]]]
        found.append(
            {**prompt, "messages": [{"role": "user", "content": asked}], "answer": answer, "item": stranger.id}
        )
    return found


def arm(lab: arms.Lab, name: str, seed: str, prompts: list[dict], asked: list[dict]) -> dict:
    talks = [
        arms.conversation(
            prompt["id"], prompt["messages"][0]["content"], [{"type": "answer", "text": f" {prompt['answer']}"}]
        )
        for prompt in prompts
    ]

    def measure(e: Examiner, params) -> dict:
        return {"taught": recalled(e, params, prompts), "recall": recalled(e, params, asked)}

    words = (f"--config.seed={seed}", *GIVEN, *arms.kept_every(flags.FLAGS.every))
    return lab.sft(f"{seed}/{name}", measure, talks, *words, by_step=True)


def pooled(seeds: dict[str, dict]) -> dict[str, dict]:
    """Step -> metric, over seeds; of the steps that all have: the last one depends on the length of the questions."""
    runs = [of["steps"] for of in seeds.values()]
    steps = [step for step in runs[0] if all(step in of for of in runs)]
    return {step: {key: arms.pooled(of[step][key] for of in runs) for key in ("taught", "recall")} for step in steps}


def plot(before: dict, curves: dict[str, dict]) -> Figure:
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, key in zip(figure.subplots(1, 2, sharey=True), ("taught", "recall"), strict=True):
        for name, curve in curves.items():
            arms.draw_curve(axes, {step: of[key] for step, of in curve.items()}, name)
        axes.set(title={"taught": "answers that it is taught", "recall": "what it knew of others"}[key], xlabel="step")
    axes.axhline(before["value"], color="grey", linestyle=":", label="before")
    axes.legend(fontsize=8)
    axes.set_ylim(0, 1)
    return figure


if __name__ == "__main__":
    run_cli(main, define_flags)
