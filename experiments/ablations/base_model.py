"""What is a base model? It recites what it has read often, invents what it has not read, and answers if shown how.

Question    After how many readings does it go on a page word for word? What does it say of people who stand nowhere?
            How far does a prompt with a few examples make an assistant of it, beside one that SFT has made?
Prediction  A page read once is not recited, one read 16 times or more mostly is; a page never read is not, though it
            goes on as fluently: of strangers it states facts of the right kind nine times in ten. With examples it
            works sums nearly as well as the assistant and recalls people as well; with none it does neither.
Command     python experiments/ablations/base_model.py --workdir=runs/base_model [--base=runs/speedrun]
            It goes on where it was stopped.
Arms        recites: pre-training goes on with pages on people made up for this, 32 pages of each number of copies, one
            pass; then the first half of each page is given, and the rest must come, greedily, to the letter.
            invents: sentences on strangers, cut before the fact; whether what comes is any value of that kind.
            shots: questions with 0, 1, 4 and 8 examples before them, to the base model: as anybody would write
            them ("Question: ... Answer: ..."), and a line each, as on its pages; `assistant`: as a chat to stage `sft`.
Result      in WORKDIR/base_model.json and .svg, and in results/. Seed 1 of the speedrun, n 500 (504, 32 a point of
            `recites`): a page read up to 4 times is never recited, .03 of those read 8 times, .31 of 16, .91 of 32.
            Strangers are given a fact of the right kind .55 (university) to .93 (birth year) of the time. As on its
            pages, sums are right .84 with no example and .99 with one (the assistant .94), facts .27, and with four .77
            (.73-.80; the assistant .65): SFT has cost facts that a prompt still finds. As anybody would write them
            nothing helps: .09 and .17 with no example, less with more. So a model of this size does not learn a form
            from its context; examples tell it which of its pages it is on.
"""

import itertools
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path

from absl import flags
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_pipelines.tiny_web import reading
from data_pipelines.tiny_web.wordings import STATEMENTS
from data_pipelines.tiny_web.world import ATTRIBUTES, make_world
from experiments.ablations import arms
from llm_jax.evals.measure import right
from llm_jax.files import replace
from llm_jax.frame.cli import run_cli
from llm_jax.runs import Run
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.loaded import engine_for
from llm_jax.sampling.requests import Request
from llm_jax.tools.table import TOOLS

COPIES, PAGES = (0, 1, 2, 4, 8, 16, 32), 32
SHOTS = (0, 1, 4, 8)
FORMS = {"plain": "Question: {q}\nAnswer:", "as on its pages": "{q}"}  # which the answer follows after a space
SUMS = "arithmetic/2 numbers"
TIERS = (30, 100)  # statements of the facts that it is asked for
MOST = 16  # tokens of an answer


def define_flags() -> None:
    arms.define_flags(problems=500)


def main() -> None:
    lab = arms.Lab(flags.FLAGS)
    lab.run.choose("pretrain")
    rng, values = random.Random("base_model"), make_world(lab.run.config.seed).values
    pages = {copies: [page(rng, values) for _ in range(PAGES)] for copies in COPIES}
    found = {
        "recites": arms.once(lab.made("recites.json"), lambda: recites(lab, pages), lab.workdir / "read"),
        "invents": arms.once(lab.made("invents.json"), lambda: invents(lab, rng, values)),
        "shots": arms.once(lab.made("shots.json"), lambda: shots(lab)),
    }
    lab.write("base_model", found, plot(found))
    for name, of in found.items():
        print(name, {key: metric["value"] for key, metric in of.items() if isinstance(metric, dict)})


def continued(engine: Engine, params, texts: Iterable[str], most: Iterable[int]) -> list[str]:
    t = engine.tokenizer
    requests = [Request([t.bos, *t.encode(text)], max_new_tokens=n) for text, n in zip(texts, most, strict=True)]
    return [t.decode(done.ids) for done in engine.generate(params, requests)]


# Recites


def page(rng: random.Random, values: reading.Values) -> str:
    return f"{rng.choice(reading.TITLES)}\n\n{reading.fresh_text(rng, 2, 'train', values).text}"


def recites(lab: arms.Lab, pages: dict[int, list[str]]) -> dict:
    """Goes on with pre-training on copies of pages -> number of copies -> share recited."""
    folder, path = lab.workdir / "read", lab.made("pages.jsonl")
    copied = [text for copies, texts in pages.items() for text in texts for _ in range(copies)]
    random.Random("copies").shuffle(copied)
    replace(path, "".join(f"{json.dumps({'id': f'{n}', 'text': text})}\n" for n, text in enumerate(copied)))
    given = (f"--config.init_from={lab.base}:pretrain", f"--config.data.documents={path}")
    arms.train(folder, lab.config, ("data", "pretrain"), *given)
    run = Run.open(folder)
    engine, params = engine_for(run, run.config.eval.slots), run.load_params("pretrain")
    found = {str(copies): arms.mean_of(recited(engine, params, texts)) for copies, texts in pages.items()}
    engine.close()
    return found


def recited(engine: Engine, params, texts: list[str]) -> list[float]:
    """1 for each text whose second half comes to the letter."""
    halves = [halved(text) for text in texts]
    lengths = [len(engine.tokenizer.encode(rest)) + 2 for _, rest in halves]
    said = continued(engine, params, (begin for begin, _ in halves), lengths)
    return [float(text.startswith(rest)) for text, (_, rest) in zip(said, halves, strict=True)]


def halved(text: str) -> tuple[str, str]:
    """Before and after the space in its middle."""
    middle = text.index(" ", len(text) // 2)
    return text[:middle], text[middle:]


# Invents


def invents(lab: arms.Lab, rng: random.Random, values: reading.Values) -> dict:
    """For each kind of fact, how often a sentence on a stranger goes on with a value of that kind."""
    params, found = lab.run.load_params("pretrain"), {}
    for attribute in ATTRIBUTES:
        ends = [said.partition(" {value}")[0] for said in STATEMENTS[attribute] if said.endswith(" {value}.")]
        people = [reading.stranger(rng, "train", values) for _ in range(-(-lab.problems // len(ATTRIBUTES)))]
        texts = [rng.choice(ends).format(name=person.name) for person in people]
        said = continued(lab.examiner.engine, params, texts, [MOST] * len(texts))
        starts = tuple(f" {value}" for value in values[attribute])
        found[attribute] = arms.mean_of([float(text.startswith(starts)) for text in said])
    return found


# Answers, if shown how


def shots(lab: arms.Lab) -> dict:
    """{"TASK, FORM, N shots": share right}, and of the assistant."""
    base, assistant = lab.run.load_params("pretrain"), lab.run.load_params("sft")
    found = {}
    for task, (examples, asked) in tasks(lab).items():
        rng = random.Random(f"shots/{task}")
        for form, count in itertools.product(FORMS, SHOTS):
            texts = [prompted(form, rng.sample(examples, count), prompt) for prompt in asked]
            said = continued(lab.examiner.engine, base, texts, [MOST] * len(texts))
            first = (text.strip().split("\n")[0] for text in said)
            correct = [float(line == prompt["answer"]) for line, prompt in zip(first, asked, strict=True)]
            found[f"{task}, {form}, {count} shots"] = arms.mean_of(correct)
        found[f"{task}, assistant"] = arms.share(lab.examiner.ask(assistant, asked, suppress=tuple(TOOLS)), right)
    return found


def tasks(lab: arms.Lab) -> dict[str, tuple[list[dict], list[dict]]]:
    """Task -> (examples, held-out problems): sums, and what the pages state often."""
    sums = arms.problems([SUMS], 200, "train"), arms.problems([SUMS], lab.problems)
    return {"sums": sums, "facts": (lab.facts("train", TIERS), lab.facts("test", TIERS)[: lab.problems])}


def prompted(form: str, examples: list[dict], prompt: dict) -> str:
    asked = lambda record: FORMS[form].format(q=record["messages"][-1]["content"])  # noqa: E731
    between = "\n\n" if "\n" in FORMS[form] else "\n"
    return between.join([*(f"{asked(one)} {one['answer']}" for one in examples), asked(prompt)])


def plot(found: dict[str, dict]) -> Figure:
    figure = Figure(figsize=(15, 4), layout="constrained")
    for axes, (name, label) in zip(
        figure.subplots(1, 3),
        (("recites", "copies read"), ("invents", "kind of fact"), ("shots", "")),
        strict=True,
    ):
        shown = {key: {name: metric} for key, metric in found[name].items() if isinstance(metric, dict)}
        arms.draw_bars(axes, shown, "share")
        axes.set(title=name, xlabel=label)
        axes.tick_params("x", labelrotation=90 if name != "recites" else 0)
    return figure


if __name__ == "__main__":
    run_cli(main, define_flags)
