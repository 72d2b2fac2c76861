"""Stage `report`: adds the times to report.json and writes the page. The last stage, so that all times are known."""

import json
import os
import shlex
import sys

from llm_jax.config import UserError
from llm_jax.files import read_json, replace
from llm_jax.frame.cli import console
from llm_jax.frame.times import Times
from llm_jax.report.page import write_page
from llm_jax.runs import Run

REFERENCE_GFLOPS = 110.0  # of the machine that the time bar of the speedrun is stated for


def check(run: Run, stages: list[str]) -> None:
    """Raises UserError when stage `evaluate` has not left its figures, and is not to."""
    path = run.workdir / "report" / "report.json"
    if "evaluate" not in stages and not path.exists():
        raise UserError(f"no {path}; run stage `evaluate` first")


def finish(run: Run) -> None:
    path, times = run.workdir / "report" / "report.json", Times(run.workdir)
    report = read_json(path)
    with times.of("report"):  # matplotlib's start-up is most of it, so a first page is written to be timed
        write_page(run.workdir)
    times.calibrate()
    seconds, gflops = times.read().values()
    total, speed = sum(seconds.values()), sum(gflops) / len(gflops)
    report["seconds"] = {stage: {"value": round(value, 1)} for stage, value in seconds.items()}
    report["total_seconds"] = {"value": round(total, 1)}
    report["machine_gflops"] = {"value": round(speed, 1)}
    report["normalised_seconds"] = {"value": round(total * speed / REFERENCE_GFLOPS, 1)}
    replace(path, json.dumps(report, indent=1))
    page = write_page(run.workdir)
    python = os.path.relpath(sys.executable)
    python = "python" if python.startswith("..") else shlex.quote(python)
    workdir = shlex.quote(str(run.workdir))
    console.print(f"\n[bold]report[/bold]  {page}", soft_wrap=True)
    for command in ("chat", "serve"):
        console.print(f"[bold]{command:8}[/bold]{python} -m llm_jax.{command} --workdir={workdir}", soft_wrap=True)
