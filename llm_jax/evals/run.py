"""Stage `evaluate`: measures the checkpoints of a run and writes report/report.json and report/samples.json.

Each group is measured on the checkpoint that it is about (`sft` and `think` on SFT's, the rest on the last), and
`final` holds the same groups on the last checkpoint.
"""

import json
import time
from pathlib import Path

import jax

from llm_jax import train
from llm_jax.evals import measure, samples
from llm_jax.evals.bpb import bits_per_byte, xz_bits_per_byte
from llm_jax.evals.statistics import rate
from llm_jax.prompts import load_prompts
from llm_jax.sampling.engine import Engine
from llm_jax.tokenizer import Tokenizer
from llm_jax.tools.python import PythonTool

GROUPS = {
    "sft": measure.measure_sft,
    "think": measure.measure_think,
    "tools": measure.measure_tools,
    "grid": measure.measure_grid,
    "passk": measure.measure_passk,
    "reasoning": measure.measure_reasoning,
}


def make_examiner(context: train.Context, tokenizer: Tokenizer, tool: PythonTool) -> measure.Examiner:
    config, tools = context.config, {"python": tool.answer}
    engine = Engine(context.model, tokenizer, context.mesh, config.eval.slots, config.data.sequence_length, tools)
    return measure.Examiner(engine, tokenizer, load_prompts(context.workdir, "test"), config.eval, config.seed)


def run(context: train.Context, stages: list[str], tokenizer: Tokenizer) -> None:
    """Measures the stages that have a checkpoint; writes the report's data."""
    report: dict = {"data": data_counts(context.workdir), "crawl": crawl_counts(context.workdir)}
    params = {stage: context.load_params(stage) for stage in stages}
    if "pretrain" in stages:
        report["pretrain"] = measure_pretrain(context, params["pretrain"])
    tool = PythonTool()
    examiner = make_examiner(context, tokenizer, tool)
    measured = {s: measure_stage(examiner, params[s]) for s in stages if s != "pretrain"}
    if "sft" in measured:
        report |= {name: measured["sft"][name] for name in ("sft", "think", "tools")}
    if "rl" in measured:
        before = measured["sft"]["reasoning"] if "sft" in measured else {}
        report["rl"] = rl_group(context.workdir, before, measured["rl"]["reasoning"])
        report["tools"] = measured["rl"]["tools"]
    if measured:
        last = measured[list(measured)[-1]]
        names = {"sft": "before", "rl": "after"}
        for group in ("passk", "grid"):
            report[group] = {names[s]: measured[s][group] for s in measured}
        report["passk"]["problems"] = {"value": context.config.eval.passk_problems}
        report["final"] = {name: last[name] for name in ("sft", "think", "tools")} | {"reasoning": last["reasoning"]}
    folder = context.workdir / "report"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    shown = samples.collect(context, params, examiner, tokenizer)
    (folder / "samples.json").write_text(json.dumps(shown, indent=1))
    tool.close()


def measure_stage(examiner: measure.Examiner, params, groups: dict = GROUPS) -> dict:
    return {name: timed(name, measure_group, examiner, params) for name, measure_group in groups.items()}


def timed(name: str, function, *args):
    started = time.monotonic()
    result = function(*args)
    print(f"evaluate  {name}: {time.monotonic() - started:.1f} s", flush=True)
    return result


def data_counts(workdir: Path) -> dict:
    counts = json.loads((workdir / "data" / "prepared.json").read_text())["counts"]["pretrain"]
    return {
        name: {"value": counts[name]} for name in ("documents", "bytes", "bytes_per_token", "tokens", "rows", "padding")
    }


def crawl_counts(workdir: Path) -> dict:
    """Pages left after each step, and the share of each kind of planted page that was treated as it should be."""
    path = workdir / "data" / "crawl.json"
    if not path.exists():  # documents of the user's own
        return {}
    noted = json.loads(path.read_text())
    found = {}
    for kind, count in noted["found"].items():
        values = [1.0] * count["right"] + [0.0] * (count["planted"] - count["right"])
        found[kind] = rate(values, range(len(values)))
    return {"left": {step: {"value": count} for step, count in noted["left"].items()}, "found": found}


def measure_pretrain(context: train.Context, params) -> dict:
    summary = json.loads((context.workdir / "pretrain" / "summary.json").read_text())
    size = sum(leaf.size for leaf in jax.tree.leaves(context.abstract_params()))
    return {
        **timed("bits per byte", bits_per_byte, context, params),
        "xz_bpb": {"value": timed("xz", xz_bits_per_byte, context.workdir)},
        "parameters": {"value": size},
        **{name: {"value": summary[name]} for name in ("tokens", "first_step_seconds", "tokens_per_second")},
    }


def rl_group(workdir: Path, before: dict, after: dict) -> dict:
    lines = [json.loads(line) for line in (workdir / "rl" / "metrics.jsonl").read_text().splitlines()]
    group = {f"{n}_{when}": values[n] for when, values in (("before", before), ("after", after)) for n in values}
    group["logp_gap_max"] = {"value": max(line["logp_gap_max"] for line in lines)}
    group["steps"] = {"value": len(lines)}
    if before:
        group["kind_of_gain"] = {"value": kind_of_gain(before, after)}
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
