"""What the ablations share: an arm is a run beside a finished one, trained once, measured once, and kept as a file.

    WORKDIR/SEED/ARM/         the arm's run: it starts from the assistant of --base, whose data it reads
    WORKDIR/SEED/ARM.json     what was measured of it, with its wall seconds; an arm that has this file is done
    WORKDIR/NAME.json, .svg   what was found, and its plot

The same command goes on where it was stopped; an arm that failed is done again, from its last checkpoint.
"""

import atexit
import functools
import json
import random
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from data_pipelines.packing import pack_records
from llm_jax import checkpoint
from llm_jax.config import UserError
from llm_jax.evals.measure import Examiner
from llm_jax.evals.statistics import rate
from llm_jax.files import json_lines, read_json, replace, user_path, whole_lines
from llm_jax.prompts import Outcome, load_prompts
from llm_jax.rows import facts, row_sets
from llm_jax.runs import Run
from llm_jax.sampling.loaded import engine_for
from llm_jax.stage_table import STAGES
from llm_jax.tasks.records import records
from llm_jax.tasks.table import FAMILIES
from llm_jax.tasks.words import LISTS
from llm_jax.tokenizer import Tokenizer, path_in
from llm_jax.tools.table import Toolbox

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ("reward", "accuracy", "completion_length", "thinks", "calls", "entropy", "kl_reference")
DRAWS = 1000  # of the bootstrap over seeds and problems
# Of all arms. Nothing is scored within a run: the last checkpoint is measured.
RL = ("--config.rl.batch=128", "--config.rl.eval_every=0", "--config.rl.keep_best=False")
KEPT_ROLLOUTS = ("--config.log.transcripts=128",)  # all of a batch, for SFT to learn from
# Of SFT on conversations of its own, which are all that its stage `data` makes rows of.
SFT = (f"--config.data.prepare={__name__}:prepare",)
GENTLY = "--config.sft.learning_rate_scale=0.1"  # as it learns from what it has said itself

Measure = Callable[[Examiner, Any], dict]  # (examiner, parameters) -> figures


class Refused(UserError):
    """What a command says that does not begin."""


def define_flags(steps: int = 0, problems: int = 1000, seeds: str = "") -> None:
    """Of what all have; with `steps` an experiment trains by RL, and with `seeds` it has some."""
    flags.DEFINE_string("workdir", None, "Folder of the experiment; each seed and arm has a run in it.", required=True)
    flags.DEFINE_string("base", "runs/speedrun", "A finished run, whose assistant all arms start from.")
    flags.DEFINE_string("experiment", f"{ROOT}/experiments/speedrun.py", "Config of that run.")
    if seeds:
        flags.DEFINE_list("seeds", seeds.split(","), "Of the prompts and rollouts of each arm.")
    if steps:
        flags.DEFINE_integer("steps", steps, "Of RL.", lower_bound=1)
    flags.DEFINE_integer("problems", problems, "Held-out problems behind a rate.", lower_bound=1)


# Runs


def command(workdir: Path, config: str, stages: Sequence[str], *given: str) -> list[str]:
    main = [sys.executable, "-m", "llm_jax.main", f"--config={config}", f"--workdir={workdir}"]
    return [*main, f"--stages={','.join(stages)}", *given]


def train(workdir: Path, config: str, stages: Sequence[str], *given: str) -> None:
    """Runs or resumes stages in a process of their own.

    Raises Refused where the command does not begin. Exits where it fails or is stopped: the next try goes on.
    """
    done = subprocess.run(command(workdir, config, stages, *given), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    if done.returncode == 2:
        said = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
        raise Refused(f"{workdir.name}: {' '.join(said)}")
    if done.returncode:
        sys.exit(done.returncode)  # it has said why
    if not all((workdir / stage / "summary.json").exists() for stage in stages if STAGES[stage].trains):
        sys.exit(f"{workdir} was stopped; the same command goes on")


def beside(workdir: Path, base: Path, config: str, stages: Sequence[str], *given: str, of: Path | None = None) -> None:
    """A run that starts from the assistant of another one, `of` or the base, on the base's data if it makes none."""
    if "data" not in stages:
        share_data(workdir, base)
    train(workdir, config, stages, f"--config.init_from={of or base}:sft", *given)


def share_data(workdir: Path, base: Path) -> None:
    """Stages of a run read the data of another."""
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / "data").is_symlink():
        (workdir / "data").symlink_to(base / "data")


def once(path: Path, make: Callable[[], dict | None], folder: Path | None = None, given: Sequence[str] = ()) -> dict:
    """What `make` gives, kept in a file with its wall seconds; what a run in `folder` took before counts, too.

    Raises UserError where it is there, and was made with other flags than are `given`.
    """
    if not path.exists():
        before, started = spent(folder), time.monotonic()
        found = make() or {}
        told = {**found, "given": list(given), "seconds": round(before + time.monotonic() - started)}
        replace(path, json.dumps(told, indent=1))
    found = read_json(path)
    if changed := sorted({*found.get("given", [])} ^ {*given}):
        raise UserError(f"{path} was made with other flags ({', '.join(changed)}); give those, or another --workdir")
    return found


def spent(folder: Path | None) -> float:
    """Wall seconds of the stages of a run so far."""
    noted = folder / "times.json" if folder else None
    return sum(read_json(noted)["seconds"].values()) if noted and noted.exists() else 0.0


def seconds_of(found: Any) -> int:
    """The sum of all `seconds` in what was found."""
    if not isinstance(found, dict):
        return 0
    return sum(found[key] if key == "seconds" else seconds_of(found[key]) for key in found)


class Lab:
    """The arms of an experiment, beside the finished run that they start from."""

    def __init__(self, f: Any):
        """`f` has the flags of `define_flags`. Raises UserError for a base that is no run with an assistant."""
        self.workdir = user_path(f.workdir, "--workdir").absolute()
        self.base, self.config, self.problems = user_path(f.base, "--base").absolute(), f.experiment, f.problems
        self.steps, self.seeds = getattr(f, "steps", 0), getattr(f, "seeds", [])
        self.run = Run.open(self.base)
        self.run.choose("sft")

    @functools.cached_property
    def examiner(self) -> Examiner:
        """Of the base's model and tools; parameters of any arm fit it."""
        tools = Toolbox(self.run.workdir, python=self.run.config.tools.python)
        engine = engine_for(self.run, self.run.config.eval.slots, tools)
        atexit.register(tools.close)
        atexit.register(engine.close)
        return Examiner(self.run, engine, [])

    def before(self, name: str, measure: Measure, of: Path | None = None) -> dict:
        """What is measured of an assistant, the base's or another run's, as it is."""
        make = lambda: measure(self.examiner, self.run.load_params("sft", of))  # noqa: E731
        return once(self.made(f"{name}.json"), make, given=[f"--problems={self.problems}"])

    def arm(
        self,
        name: str,
        measure: Measure,
        *given: str,
        stages: Sequence[str] = ("rl",),
        of: Path | None = None,
        by_step: bool = False,
    ) -> dict:
        """What is measured of an arm, trained with the flags that are given, from the base or the run `of`; with
        `by_step`, {"steps": {step: what is measured}} of each of its checkpoints. Of RL with the figures of its
        `batches`. Raises Refused as `train` does.
        """
        folder, stage = self.workdir / name, stages[-1]

        def make() -> dict:
            beside(folder, self.base, self.config, stages, *given, of=of)
            way = {"batches": batches(folder)} if stage == "rl" else {}
            if not by_step:
                return measure(self.examiner, self.run.load_params(stage, folder)) | way
            params = ((step, self.run.load_params(stage, folder, step)) for step in steps_of(folder, stage))
            return {"steps": {str(step): measure(self.examiner, at_step) for step, at_step in params}} | way

        return once(self.made(f"{name}.json"), make, folder, [*given, f"--problems={self.problems}"])

    def sft(self, name: str, measure: Measure, conversations: list[dict], *given: str, **options: Any) -> dict:
        """As `arm`, of stage `sft` on these conversations alone. Raises UserError where there is none."""
        if not conversations:
            raise UserError(f"{name} has no conversation to learn from: no rollout was right")
        path = self.made(f"{name}.jsonl")
        if not path.exists():
            replace(path, "".join(f"{json.dumps(talk)}\n" for talk in conversations))
        own = f"--config.data.conversations={path}"
        return self.arm(name, measure, own, *SFT, *given, stages=("data", "sft"), **options)

    def practise(self, shares: Mapping[str, float], seed: str, *given: str) -> list[str]:
        """Flags of RL on prompts in these shares, and on no others."""
        named = runpy.run_path(self.config)["get_config"]().rl.tasks
        tasks = {**dict.fromkeys(named, 0.0), **shares}
        shared = [f"--config.rl.tasks.{name}={share}" for name, share in tasks.items()]
        return [f"--config.seed={seed}", f"--config.rl.steps={self.steps}", *RL, *shared, *given]

    def facts(self, split: str, tiers: Sequence[int] = ()) -> list[dict]:
        """The base's questions about people, or those about facts that its pages state so often, in any order that is
        the same every time. Raises UserError where it has none: then its pages are not the tiny web's."""
        every = [prompt for prompt in load_prompts(self.base, split) if prompt["task"] == "facts"]
        found = [prompt for prompt in every if not tiers or prompt["tier"] in tiers]
        if not found:
            raise UserError(f"{self.base} has no questions about facts; --base must be a run on the tiny web")
        random.Random("facts").shuffle(found)
        return found

    def made(self, name: str) -> Path:
        path = self.workdir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, found: dict, figure: Figure) -> None:
        """The result, without the single outcomes behind it and the flags of this machine, and its plot."""
        trained = {"steps": self.steps} if self.steps else {}
        told = {**trained, "seconds": seconds_of(found), **without(found, "each", "given")}
        replace(self.made(f"{name}.json"), json.dumps(told, indent=1))
        figure.savefig(self.made(f"{name}.svg"))
        print(self.workdir / f"{name}.json", self.workdir / f"{name}.svg", sep="\n")


def without(found: Any, *names: str) -> Any:
    return {k: without(v, *names) for k, v in found.items() if k not in names} if isinstance(found, dict) else found


def prepare(config: ConfigDict, workdir: Path) -> None:
    """Stage `data` of SFT on conversations alone: their rows, by the tokenizer of the run that it starts from."""
    folder = workdir / "data"
    if (folder / "prepared.json").exists():
        return
    theirs = path_in(user_path(config.init_from.rpartition(":")[0], "init_from") / "data")
    tokenizer = Tokenizer.load(theirs)
    tokenizer.save(folder / theirs.name)
    spoken = json_lines(Path(config.data.conversations))
    pack_records(folder, spoken, tokenizer, config.data.sequence_length, seed=config.seed, threads=2)
    counts = {f"sft/{path.name}": facts(path) for path in row_sets(folder / "sft")}
    replace(folder / "prepared.json", json.dumps({"counts": counts}))


# What a run has left


def batches(folder: Path) -> dict[str, list[float]]:
    """Some figures of RL, of each batch in order."""
    lines = [line for line in whole_lines(folder / "rl" / "metrics.jsonl") if "reward" in line]
    return {name: [line[name] for line in lines if name in line] for name in FIGURES}


def right_rollouts(folder: Path) -> list[dict]:
    """The rollouts of RL that were right, as conversations; of all, where `log.transcripts` kept them all."""
    lines = [line for line in whole_lines(folder / "rl" / "transcripts.jsonl") if line["reward"] >= 1]
    return [conversation(f"rollout-{n}", line["prompt"], line["parts"]) for n, line in enumerate(lines)]


def kept_every(steps: int) -> tuple[str, ...]:
    """Flags that keep all checkpoints, so many steps apart."""
    return f"--config.checkpoint.every={steps}", "--config.checkpoint.keep=1000"


def conversation(id_: str, prompt: str, parts: list[dict]) -> dict:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": parts}]
    return {"id": id_, "source": "ablation", "split": "train", "messages": messages}


def steps_of(folder: Path, stage: str) -> list[int]:
    """Those whose checkpoints are there."""
    with checkpoint.existing(folder, stage) as store:
        return sorted(int(path.name) for path in store.path.glob("[0-9]*") if path.name.isdigit())


# Measuring


def problems(names: Iterable[str], count: int, split: str = "test") -> list[dict]:
    """`count` over all these "family/level", fewer where there are fewer: the same ones in every run. Their keys hold
    them out, so that no stage has learned from them."""
    names, found = list(names), []
    for name in names:
        family, _, level = name.partition("/")
        row = FAMILIES.find(family)
        rng = random.Random(f"ablations/{name}/{split}")
        found += records(rng, row, row.levels.index(level), split, -(-count // len(names)), LISTS)
    return found


def share(outcomes: list[Outcome], what: Callable[[Outcome], bool], samples: int = 1) -> dict:
    """The rate of outcomes with a property; `samples` of each problem in a row."""
    return mean_of(np.reshape([float(what(o)) for o in outcomes], (-1, samples)).mean(axis=1))


def mean_of(values: Sequence[float]) -> dict:
    """{"value", "n", "ci95"} of a figure of each problem, bootstrapped over them; `each` has them all."""
    each = [round(float(value), 4) for value in values]
    return {**rate(each, range(len(each))), "each": each}


def pooled(metrics: Iterable[dict]) -> dict:
    """One metric of those of several seeds, of the same problems. Seeds and problems are resampled, each by itself (the
    pigeonhole bootstrap, Owen 2007): the interval is of other seeds and other problems."""
    values_SP = np.array([metric["each"] for metric in metrics], float)
    seeds, count = values_SP.shape
    found = rate(values_SP.ravel(), list(range(count)) * seeds)
    if seeds > 1 and np.ptp(values_SP):
        rng = np.random.default_rng(0)
        drawn = [
            values_SP[rng.integers(seeds, size=seeds)][:, rng.integers(count, size=count)].mean() for _ in range(DRAWS)
        ]
        found["ci95"] = [round(float(bound), 4) for bound in np.percentile(drawn, [2.5, 97.5])]
    return {**found, "seeds": [round(float(value), 4) for value in values_SP.mean(axis=1)]}


def overlap(one: dict, other: dict) -> bool:
    return one["ci95"][0] <= other["ci95"][1] and other["ci95"][0] <= one["ci95"][1]


def winner(rates: Mapping[str, dict]) -> str:
    """The honest sentence: who is ahead of all others, intervals apart, if anybody is."""
    best = max(rates, key=lambda name: rates[name]["value"])
    level = [name for name in rates if name != best and overlap(rates[name], rates[best])]
    if not level:
        return f"{best} is ahead of all others, intervals apart"
    behind = [name for name in rates if name not in (best, *level)]
    said = f"none wins: the interval of {best}, the highest, overlaps with {', '.join(level)}"
    return said + (f"; behind: {', '.join(behind)}" if behind else "")


def bars(groups: Mapping[str, Mapping[str, dict]], label: str) -> Figure:
    """A bar with its interval for each metric, in groups side by side: {group: {bar: metric}}."""
    figure = Figure(figsize=(max(6, 0.4 * sum(map(len, groups.values()))), 4), layout="constrained")
    draw_bars(figure.subplots(), groups, label)
    return figure


def draw_curve(axes: Axes, curve: Mapping[str, dict], label: str) -> None:
    """{number: metric} as a line with its interval."""
    x, metrics = list(map(int, curve)), list(curve.values())
    line = axes.plot(x, [m["value"] for m in metrics], "o-", label=label)[0]
    low, high = zip(*(m["ci95"] for m in metrics), strict=True)
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15)


def draw_bars(axes: Axes, groups: Mapping[str, Mapping[str, dict]], label: str) -> None:
    names = list(dict.fromkeys(name for of_group in groups.values() for name in of_group))
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        there = [(place, group[name]) for place, group in enumerate(groups.values()) if name in group]
        x, y = [place + (number + 0.5) * width - 0.4 for place, _ in there], [m["value"] for _, m in there]
        ends = [[m["value"] - m["ci95"][0] for _, m in there], [m["ci95"][1] - m["value"] for _, m in there]]
        axes.bar(x, y, width, yerr=np.maximum(ends, 0), capsize=2, label=name)
    axes.set_xticks(range(len(groups)), [name.replace("_", "\n") for name in groups])
    axes.set(ylabel=label)
    if len(names) > 1:
        axes.legend(fontsize=8)
