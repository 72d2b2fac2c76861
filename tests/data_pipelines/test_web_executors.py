"""Ray, Slurm and local processes give the same bytes; killed workers end a run with a line, and nothing is lost."""

import contextlib
import importlib.util
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from data_pipelines.tiny_web.crawl import crawl, write_warc
from tests.commands import DEADLINE, until
from tests.data_pipelines.test_web import ROOT, files, run

SHARDS = 3
no_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the package ray")
no_slurm = pytest.mark.skipif(
    not shutil.which("sbatch") or subprocess.run(["sinfo"], capture_output=True).returncode != 0,
    reason="needs a running Slurm: sbatch, and sinfo that answers",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """One file of a crawl, which three tasks share."""
    path = tmp_path_factory.mktemp("crawl") / "a.warc.gz"
    list(write_warc(str(path), iter(list(crawl(400, seed=5)))))
    return path


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("web") / "out"
    ended = run(f"--input={source}", f"--output={output}", f"--shards={SHARDS}")
    assert ended.returncode == 0, ended.stderr
    return output


def test_tasks_that_share_a_file_read_each_page_once(source, finished, tmp_path):
    ended = run(f"--input={source}", f"--output={tmp_path}/out")
    assert ended.returncode == 0, ended.stderr
    one, three = (json.loads((folder / "funnel.json").read_text())["steps"] for folder in (tmp_path / "out", finished))
    assert len(files(finished)) == SHARDS and len(files(tmp_path / "out")) == 1
    for a, b in zip(one, three, strict=True):
        assert (a["name"], a["in"], a["dropped"], a["reasons"]) == (b["name"], b["in"], b["dropped"], b["reasons"])
        if a["name"] == "fineweb":
            break  # of duplicates another copy may stay


@no_ray
@pytest.mark.slow
def test_ray_gives_the_same_bytes(source, finished, tmp_path):
    command = (f"--input={source}", f"--output={tmp_path}/out", f"--shards={SHARDS}", "--executor=ray")
    ended = run(*command)
    assert ended.returncode == 0, ended.stderr
    assert files(tmp_path / "out") == files(finished)
    assert (tmp_path / "out/funnel.json").read_bytes() == (finished / "funnel.json").read_bytes()


@no_slurm
@pytest.mark.slow
def test_slurm_gives_the_same_bytes_after_a_job_was_cancelled(source, finished, tmp_path):
    output = tmp_path / "out"
    partition = subprocess.run(["sinfo", "--noheader", "--format=%R"], capture_output=True, text=True).stdout.split()[0]
    command = (f"--input={source}", f"--output={output}", f"--shards={SHARDS}", "--executor=slurm")
    command = (*command, f"--slurm_partition={partition}")
    assert "submitted" in run(*command).stdout
    refused = run(*command)
    assert refused.returncode == 2 and "are in the queue" in refused.stderr
    done = output / "work/jobs/1_clean/completions"
    until(lambda: done.exists() and any(done.iterdir()))
    subprocess.run(["scancel", *json.loads((output / "work/slurm_jobs.json").read_text())], check=True)
    until(lambda: not subprocess.run(["squeue", "--noheader"], capture_output=True, text=True).stdout.strip())
    before = {path.name: path.stat().st_mtime_ns for path in done.iterdir()}
    assert "submitted" in run(*command).stdout
    until(lambda: not subprocess.run(["squeue", "--noheader"], capture_output=True, text=True).stdout.strip())
    ended = run(*command)
    assert ended.returncode == 0 and "submitted" not in ended.stdout, ended.stderr
    assert files(output) == files(finished)
    assert (output / "funnel.json").read_bytes() == (finished / "funnel.json").read_bytes()
    assert {name: (done / name).stat().st_mtime_ns for name in before} == before  # not done again


def workers_of(process: int) -> list[psutil.Process]:
    """Those of the pool, which have loaded the pipeline: children of the fork server. None when all have ended."""
    try:
        servers = [one for one in psutil.Process(process).children() if "forkserver" in " ".join(one.cmdline())]
        return [worker for server in servers for worker in server.children()]
    except psutil.NoSuchProcess:
        return []


def killed_worker(source: Path, output: Path, wait: float) -> subprocess.CompletedProcess:
    """A run of which one worker is killed some time after it began."""
    command = [sys.executable, "-m", "data_pipelines.web", f"--input={source}", f"--output={output}"]
    process = subprocess.Popen(
        [*command, f"--shards={SHARDS}"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: process.poll() is not None or workers_of(process.pid))
    time.sleep(wait)
    for worker in workers_of(process.pid)[-1:]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            worker.kill()
    out, err = process.communicate(timeout=DEADLINE)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def killed_workers(source: Path, finished: Path, output: Path, kills: int, seed: int) -> None:
    rng, failed = random.Random(seed), 0
    while failed < kills:
        ended = killed_worker(source, output, rng.uniform(0, 1))
        if not ended.returncode:
            shutil.rmtree(output)  # it ended before the kill: once more from the beginning
            continue
        assert ended.returncode == 1
        assert "a worker was killed, or had no memory left" in ended.stderr and "Traceback" not in ended.stderr
        failed += 1
    assert run(f"--input={source}", f"--output={output}", f"--shards={SHARDS}").returncode == 0
    assert files(output) == files(finished)
    assert (output / "funnel.json").read_bytes() == (finished / "funnel.json").read_bytes()


def test_a_killed_worker_ends_the_run_with_a_line_and_the_next_run_goes_on(source, finished, tmp_path):
    killed_workers(source, finished, tmp_path / "out", kills=1, seed=0)


@pytest.mark.slow
def test_ten_killed_workers_change_no_byte(source, finished, tmp_path):
    killed_workers(source, finished, tmp_path / "out", kills=10, seed=1)


def test_workers_end_when_the_command_is_killed(source, tmp_path):
    command = [sys.executable, "-m", "data_pipelines.web", f"--input={source}", f"--output={tmp_path}/out"]
    process = subprocess.Popen([*command, "--shards=2"], cwd=ROOT, stdout=subprocess.DEVNULL)
    workers = until(lambda: workers_of(process.pid))
    process.kill()
    process.wait()
    assert len(psutil.wait_procs(workers, timeout=DEADLINE)[1]) == 0


def test_slurm_without_its_commands_is_one_line(source, tmp_path):
    command = (f"--input={source}", f"--output={tmp_path}/out", "--executor=slurm")
    ended = run(*command)
    assert ended.returncode == 2 and "--slurm_partition" in ended.stderr
    ended = run(*command, "--slurm_partition=main", PATH="/nowhere")
    assert ended.returncode == 2 and "sbatch" in ended.stderr and "Traceback" not in ended.stderr
