"""Stage `evaluate`: measures the checkpoints of a run and writes report/report.json and report/samples.json.

The table of measurements says on which checkpoint each group is measured; `final` holds some of them on the last one.
"""

import contextlib
import json
import time
from collections.abc import Iterable
from pathlib import Path

import jax

from llm_jax import lineage
from llm_jax.config import UserError
from llm_jax.evals import knowledge, questions, samples, texts
from llm_jax.evals.bpb import xz_bits_per_byte
from llm_jax.evals.measure import Examiner
from llm_jax.evals.real import real_group
from llm_jax.evals.statistics import rate
from llm_jax.evals.table import MEASUREMENTS, Measurement
from llm_jax.files import read_json, replace, whole_lines
from llm_jax.frame.processes import say
from llm_jax.prompts import load_prompts, prompts_for
from llm_jax.runs import Run
from llm_jax.sampling.loaded import engine_for
from llm_jax.stage_table import STAGES
from llm_jax.tools.search import Place
from llm_jax.tools.table import Toolbox, absent
from llm_jax.training import loader


@contextlib.contextmanager
def examiner_of(run: Run, search: Place = None):
    """An Examiner of a run's held-out prompts, with an engine and the run's tools. What was imported may have none."""
    has_prompts = (run.workdir / "data" / "prepared.json").exists()
    prompts = prompts_for(run.config, run.workdir, "test") if has_prompts else []
    with contextlib.closing(Toolbox(run.workdir, search=search, python=run.config.tools.python)) as tools:
        engine = engine_for(run, run.config.eval.slots, tools)
        try:
            yield Examiner(run, engine, prompts)
        finally:
            engine.close()


def check(run: Run, stages: list[str]) -> None:
    """Raises UserError when what the stage reads beside checkpoints is not there and not to be made."""
    if "data" not in stages:
        read_json(run.workdir / "data" / "prepared.json")
        load_prompts(run.workdir, "test")
    check_files(run)
    absent(run.workdir, python=run.config.tools.python)


def check_files(run: Run) -> None:
    """Raises UserError for files of the user's own that are not there, or not as they must be."""
    if run.config.eval.texts:
        texts.read(run.config.eval.texts)
    if run.config.eval.questions:
        questions.files_of(run.config.eval.questions)


def evaluate(run: Run) -> None:
    """Measures the stages that have a checkpoint; writes the report's data. Raises UserError for a stale one."""
    stages = run.writing()
    for stage in run.trained():
        lineage.check(run, stage)
    report: dict = {"data": data_counts(run), "crawl": crawl_counts(run.workdir)}
    params = {stage: run.load_params(stage) for stage in stages}
    with examiner_of(run) as examiner:
        report |= measured(examiner, params)
        shown = samples.collect(examiner, params)
    if jax.process_index() != 0:  # they know the same, and the first one writes it
        return
    folder = run.workdir / "report"
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / "report.json", json.dumps(report, indent=1))
    replace(folder / "samples.json", json.dumps(shown, indent=1))


def measured(examiner: Examiner, params: dict[str, dict]) -> dict:
    """The groups of the report; `params` by stage, in the order of training."""
    run, report = examiner.run, {}
    rows = there(examiner, MEASUREMENTS.values())
    for stage in params:
        wanted = {row.name: [path for path, whose in places(row, list(params)) if whose == stage] for row in rows}
        asked = measure_stage(examiner, stage, params[stage], [row for row in rows if wanted[row.name]])
        for name, group in asked.items():
            for path in wanted[name]:
                put(report, path, group)
        if STAGES[stage].kind == "base":
            put(report, (stage,), of_training(run, stage))
    if "rl" in params:
        report["rl"] = rl_group(run.workdir, report.get("reasoning", {}))
    if "calls" in report:
        put_calls(report, report.pop("calls"))
    if "passk" in report:
        report["passk"]["problems"] = {"value": run.config.eval.passk_problems}
    if "real" in report:
        report["real"] = real_group(report["real"])
    if "abstain" in report:
        report["abstain"] = knowledge.group(report["abstain"], run.config.control.arm)
    report.pop("reasoning", None)
    return report


def places(row: Measurement, stages: list[str]) -> list[tuple[tuple[str, ...], str]]:
    """(where in the report, whose checkpoint) for each time that something is measured."""
    base, chat = ([stage for stage in stages if STAGES[stage].kind == kind] for kind in ("base", "chat"))
    after = [stage for stage in chat[-1:] if any(STAGES[other].kind == "chat" for other in STAGES[stage].follows)]
    found = {
        "base": [((stage,), stage) for stage in base],
        "assistant": [((row.name,), stage) for stage in chat[:1]],
        "last": [((row.name,), stage) for stage in chat[-1:]],
        "before and after": [((row.name, "before"), stage) for stage in chat[:1] if stage not in after]
        + [((row.name, "after"), stage) for stage in after],
        "assistants": [((row.name, stage), stage) for stage in chat],
        "every": [((row.name, stage), stage) for stage in stages],
    }[row.on]
    return found + [(("final", row.name), stage) for stage in chat[-1:] if row.final]


def put_calls(report: dict, calls: dict) -> None:
    """When it calls stands with what it calls: of the last checkpoint, and `before` reinforcement learning."""
    last = calls.get("after", calls["before"])
    put(report, ("tools",), last | ({"before": calls["before"]} if "after" in calls else {}))
    if "tools" in report.get("final", {}):
        put(report, ("final", "tools"), last)


def put(report: dict, path: tuple[str, ...], group: dict) -> None:
    for name in path:
        report = report.setdefault(name, {})
    report |= group


def there(examiner: Examiner, rows: Iterable[Measurement]) -> list[Measurement]:
    """Those that this run has what they need for; a line tells of the others, if they were to be."""
    rows = [row for row in rows if not row.key or examiner.config[row.key]]
    lacking = {row.name: row.missing(examiner) for row in rows}
    for name, missing in lacking.items():
        if missing:
            say(f"evaluate  {name}: left out, for this run has not {missing}")
    return [row for row in rows if not lacking[row.name]]


def measure_stage(examiner: Examiner, stage: str, params, rows: Iterable[Measurement]) -> dict:
    examiner.stage = stage
    examiner.talks = STAGES[stage].kind == "chat" and examiner.tokenizer.talks
    examiner.writes_spans = not STAGES[stage].reads
    return {row.name: timed(row.name, row.measure, examiner, params) for row in rows}


def measure(run: Run, stage: str, names: list[str], search: Place = None) -> dict[str, dict]:
    """Group -> metrics of a stage's newest checkpoint: the named ones, or all that suit it. It searches where `search`
    says.

    Raises UserError for a name that is unknown, or what the run has not the parts for.
    """
    suits = lambda row: row.on in ("base", "every") or run.kind_of(stage) == "chat"  # noqa: E731
    rows = [MEASUREMENTS.find(name) for name in names] or [row for row in MEASUREMENTS.values() if suits(row)]
    check_files(run)
    params = run.load_params(stage)
    with examiner_of(run, search) as examiner:
        for row in rows:
            if names and (missing := row.missing(examiner)):
                raise UserError(f"task {row.name!r} needs {missing}, which {run.workdir} has not")
        return measure_stage(examiner, stage, params, there(examiner, rows))


def timed(name: str, function, *args):
    started = time.monotonic()
    result = function(*args)
    say(f"evaluate  {name}: {time.monotonic() - started:.1f} s")
    return result


def data_counts(run: Run) -> dict:
    counts = read_json(run.workdir / "data" / "prepared.json")["counts"]["pretrain"]
    names = ("documents", "bytes", "bytes_per_token", "tokens", "rows", "padding")
    read = loader.epochs_of(run.workdir / "data", run.config.data)
    epochs = {source: {"value": times} for source, times in read.items()}
    return {name: {"value": counts[name]} for name in names if name in counts} | {"epochs": epochs}


def crawl_counts(workdir: Path) -> dict:
    """Pages left after each step, and the share of each kind of planted page that was treated as it should be."""
    path = workdir / "data" / "crawl.json"
    if not path.exists():  # documents of the user's own
        return {}
    noted = read_json(path)
    found = {}
    for kind, count in noted["found"].items():
        values = [1.0] * count["right"] + [0.0] * (count["planted"] - count["right"])
        found[kind] = rate(values, range(len(values)))
    return {"left": {step: {"value": count} for step, count in noted["left"].items()}, "found": found}


def of_training(run: Run, stage: str) -> dict:
    """What training noted of itself, and a compressor's bits on the same text."""
    log = lineage.newest(run.workdir, stage)["log"]
    speed = log["tokens"] / log["seconds"]
    size = sum(leaf.size for leaf in jax.tree.leaves(run.abstract_params()))
    return {
        "xz_bpb": {"value": timed("xz", xz_bits_per_byte, run.workdir)},
        "parameters": {"value": size},
        **{name: {"value": log[name]} for name in ("tokens", "first_step_seconds")},
        "tokens_per_second": {"value": speed},
    }


def rl_group(workdir: Path, reasoning: dict[str, dict]) -> dict:
    before = reasoning.get("before", {})
    lines = [line for line in whole_lines(workdir / "rl" / "metrics.jsonl") if "loss" in line]
    group = {f"{n}_{when}": values[n] for when, values in reasoning.items() for n in values}
    group["logp_gap_max"] = {
        "value": max((line["logp_gap_max"] for line in lines if "logp_gap_max" in line), default=None)
    }
    group["steps"] = {"value": len(lines)}
    if before and "after" in reasoning:
        group["kind_of_gain"] = {"value": kind_of_gain(before, reasoning["after"])}
    return group


def kind_of_gain(before: dict, after: dict) -> str:
    """One honest sentence: how much of the gain is choosing to think and how much is thinking better."""
    thinks, accuracy, made = (
        [g[k]["value"] for g in (before, after)] for k in ("thinks", "accuracy", "accuracy_made_to_think")
    )
    gain, better = accuracy[1] - accuracy[0], made[1] - made[0]
    if gain < 0.05:
        return f"RL changed the accuracy by {100 * gain:+.0f} points: too little to say what kind of gain it is."
    part = better / gain
    kind = "mostly choosing to think" if part < 0.25 else "mostly thinking better" if part > 0.75 else "some of both"
    return (
        f"The gain of {100 * gain:.0f} points is {kind}: the model thinks first on {thinks[0]:.0%} of these problems "
        f"before RL and on {thinks[1]:.0%} after; made to think, it was right on {made[0]:.0%} of them before already, "
        f"and is on {made[1]:.0%} after."
    )
