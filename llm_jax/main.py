"""The launcher: reads a config, runs its stages in order in one workdir, resumes what is unfinished.

    python -m llm_jax.main --config=experiments/NAME.py --workdir=DIR [--config.a.b=c] [--stages=pretrain,sft,rl]

The same command after a crash or an interruption continues.
"""

import time

STARTED = time.monotonic()  # imports count, too

import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from absl import flags  # noqa: E402

from llm_jax.cli import quiet_logs, run_cli  # noqa: E402

quiet_logs()

import jax  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402
from ml_collections import ConfigDict, config_flags  # noqa: E402

from llm_jax import sharding, train  # noqa: E402
from llm_jax.calibrate import machine_gflops  # noqa: E402
from llm_jax.checkpoint import folder  # noqa: E402
from llm_jax.config import IDENTITY, STAGES, UserError, differences, flatten, identity, validate  # noqa: E402
from llm_jax.files import replace  # noqa: E402
from llm_jax.progress import console  # noqa: E402
from llm_jax.tokenizer import Tokenizer  # noqa: E402

TRAINING = ("pretrain", "sft", "rl")
ONE_PROCESS = ("rl", "evaluate", "report")
REFERENCE_GFLOPS = 110.0  # of the machine that the time bar of the speedrun is stated for


def define_flags() -> None:
    config_flags.DEFINE_config_file("config", None, "The experiment.", lock_config=True)
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_list("stages", list(STAGES), "Which stages, in order.")
    flags.DEFINE_bool("profile", False, "Trace five steps of each training stage for XProf.")
    flags.DEFINE_bool("distributed", False, "One process of several: found from the cluster, or the next three.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process, where no cluster tells it.")
    flags.DEFINE_integer("processes", None, "How many processes.")
    flags.DEFINE_integer("process", None, "Which one this is, from 0.")
    flags.mark_flag_as_required("config")


def main() -> None:
    f = flags.FLAGS
    config, workdir = f.config, Path(f.workdir)
    stages = check_stages(f.stages)
    validate(config)
    connect(f)
    if jax.process_count() > 1 and (alone := [s for s in stages if s in ONE_PROCESS]):
        raise UserError(f"stage {alone[0]!r} runs in one process; run it by itself with --stages={alone[0]}")
    if jax.process_index() == 0:
        claim(workdir, config)
    meet("claimed")
    times = Times(workdir)
    times.add("startup", time.monotonic() - STARTED)
    for stage in stages:
        times.calibrate()
        try:
            with times.of(stage):
                run_stage(stage, config, workdir, times)
        except train.Stopped as stopped:
            console.print(str(stopped))
            return
    times.calibrate()
    if "report" in stages:
        finish_report(workdir, times)


def connect(f) -> None:
    """Joins the other processes. Raises UserError without them, or without an accelerator that was asked for."""
    if f.coordinator and None in (f.processes, f.process):
        raise UserError("--coordinator needs --processes (how many) and --process (which one this is, from 0)")
    if f.distributed or f.coordinator:
        try:
            jax.distributed.initialize(f.coordinator, f.processes, f.process)
        except ValueError as error:
            mend = "give --coordinator, --processes and --process"
            raise UserError(f"--distributed finds no cluster here ({error}); {mend}") from error
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter without the plugin of a platform
        wanted = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(f"JAX_PLATFORMS={wanted} asks for a device that is not here {error}".strip()) from error


def meet(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def check_stages(names: list[str]) -> list[str]:
    for name in names:
        if name not in STAGES:
            raise UserError(f"unknown stage {name!r}; choose from {', '.join(STAGES)}")
    return [stage for stage in STAGES if stage in names]


def claim(workdir: Path, config: ConfigDict) -> None:
    """Notes the config in the workdir; refuses a workdir whose finished parts came from another one."""
    path = workdir / "config.json"
    if path.exists():
        old = json.loads(path.read_text())
        for stage in IDENTITY:
            started = (workdir / "data/prepared.json").exists() if stage == "data" else folder(workdir, stage).is_dir()
            changed = started and differences(old.get(stage, {}), json.loads(json.dumps(identity(config, stage))))
            if changed:
                raise UserError(
                    f"{workdir} holds a run of another config: {'; '.join(changed)}. "
                    "Use another --workdir, or the old values"
                )
    workdir.mkdir(parents=True, exist_ok=True)
    noted = {"config": flatten(config), **{stage: identity(config, stage) for stage in IDENTITY}}
    replace(path, json.dumps(noted, indent=1))


def run_stage(stage: str, config: ConfigDict, workdir: Path, times: "Times") -> None:
    console.rule(f"[bold]{stage}")
    if stage == "data":
        if jax.process_index() == 0:
            module, _, function = config.data.prepare.partition(":")
            getattr(importlib.import_module(module), function)(config, workdir)
        meet("data")
        return
    if stage == "report":
        return  # written at the very end, when all times are known
    tokenizer = Tokenizer.load(workdir / "data" / "tokenizer.model")
    mesh, profile = sharding.make_mesh(config.mesh), flags.FLAGS.profile
    context = train.Context(config, workdir, mesh, tokenizer.vocab_size, tokenizer.sha256, profile)
    with jax.set_mesh(context.mesh):
        if stage == "evaluate":
            from llm_jax.evals import run as evaluation

            evaluation.run(context, [s for s in TRAINING if folder(workdir, s).is_dir()], tokenizer)
            return
        module = importlib.import_module(f"llm_jax.stages.{stage}")
        params = starting_params(context, stage)
        module.run(context, params, tokenizer) if stage == "rl" else module.run(context, params)


def starting_params(context: train.Context, stage: str):
    """Fresh ones for pre-training; else the stage before, or what `init_from` names when there is none."""
    before = {"pretrain": "", "sft": "pretrain", "rl": "sft"}[stage]
    if before and folder(context.workdir, before).is_dir():
        return context.load_params(before)
    if context.config.init_from:
        source, _, source_stage = context.config.init_from.rpartition(":")
        return context.load_params(source_stage, Path(source))
    if before:
        raise UserError(
            f"stage {stage!r} starts from {before!r}, which has not run here; run it, or set --config.init_from"
        )
    return context.init_params()


class Times:
    """Wall seconds of each stage and the machine's speed, kept in the workdir over restarts by the first process."""

    def __init__(self, workdir: Path):
        self.path, self.writes = workdir / "times.json", jax.process_index() == 0
        known = self.writes and self.path.exists()
        self.data = json.loads(self.path.read_text()) if known else {"seconds": {}, "gflops": []}
        self._stage = ""

    def of(self, stage: str) -> "Times":
        self._stage = stage
        return self

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_) -> None:
        self.add(self._stage, time.monotonic() - self._started)

    def add(self, stage: str, seconds: float) -> None:
        before = 0.0 if stage in ("evaluate", "report") else self.data["seconds"].get(stage, 0.0)  # those begin anew
        self.data["seconds"][stage] = before + seconds
        self._write()

    def calibrate(self) -> None:
        self.data["gflops"].append(machine_gflops())
        self._write()

    def _write(self) -> None:
        if self.writes:
            replace(self.path, json.dumps(self.data, indent=1))


def finish_report(workdir: Path, times: Times) -> None:
    """Adds the times to report.json and writes the page."""
    from llm_jax.report.page import write_page

    path = workdir / "report" / "report.json"
    if not path.exists():
        raise UserError(f"no {path}; run stage `evaluate` first")
    report, gflops = json.loads(path.read_text()), times.data["gflops"]
    with times.of("report"):  # matplotlib's start-up is most of it, so a first page is written to be timed
        write_page(workdir)
    seconds = times.data["seconds"]
    total, speed = sum(seconds.values()), sum(gflops) / len(gflops)
    report["seconds"] = {stage: {"value": round(value, 1)} for stage, value in seconds.items()}
    report["total_seconds"] = {"value": round(total, 1)}
    report["machine_gflops"] = {"value": round(speed, 1)}
    report["normalised_seconds"] = {"value": round(total * speed / REFERENCE_GFLOPS, 1)}
    path.write_text(json.dumps(report, indent=1))
    page = write_page(workdir)
    python = os.path.relpath(sys.executable)
    python = "python" if python.startswith("..") else python
    console.print(f"\n[bold]report[/bold]  {page}", soft_wrap=True)
    for command in ("chat", "serve"):
        console.print(f"[bold]{command:8}[/bold]{python} -m llm_jax.{command} --workdir={workdir}", soft_wrap=True)


if __name__ == "__main__":
    run_cli(main, define_flags)
