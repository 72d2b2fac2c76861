"""Two real processes of four simulated devices each train as one process of eight does, and keep one checkpoint."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from llm_jax.times import Times
from tests.commands import DEADLINE, ENVIRONMENT, ROOT, TINY, refused, run

MESH = ("--config.mesh.data=2", "--config.mesh.fsdp=4", "--config.log.eval_every=6")
STEPS = 8


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def trained(workdir, processes: int, steps: int = STEPS) -> list[subprocess.CompletedProcess]:
    """`--stages=pretrain` by that many processes, which share eight devices."""
    port = free_port()
    devices = 8 // processes
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "llm_jax.main", f"--config={TINY}", f"--workdir={workdir}", "--stages=pretrain"]
    command += [*MESH, f"--config.pretrain.steps={steps}"]
    started = []
    for process in range(processes):
        several = [f"--coordinator=localhost:{port}", f"--processes={processes}", f"--process={process}"]
        line = command + (several if processes > 1 else [])
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(line, cwd=ROOT, env=env, text=True, **pipes))
    outputs = [p.communicate(timeout=DEADLINE) for p in started]
    return [subprocess.CompletedProcess(p.args, p.returncode, *o) for p, o in zip(started, outputs, strict=True)]


def lines(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "pretrain/metrics.jsonl").read_text().splitlines()]


def losses(workdir) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in lines(workdir) if "loss" in line}


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory, prepared):
    """(one process, two processes), each with the same rows."""
    folders = [prepared(tmp_path_factory.mktemp(name) / "run") for name in ("one", "two")]
    for processes, workdir in enumerate(folders, 1):
        for result in trained(workdir, processes):
            assert result.returncode == 0, result.stderr[-3000:]
    return folders


def test_the_losses_are_those_of_one_process(workdirs):
    one, two = map(losses, workdirs)
    assert list(one) == list(two) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(list(two.values()), list(one.values()), atol=1e-4)
    assert one[STEPS] < one[1] - 0.2  # it learns, so errors would grow


def test_validation_sees_every_row_once(workdirs):
    one, two = ([line["val_loss"] for line in lines(w) if "val_loss" in line] for w in workdirs)
    assert len(one) == len(two) == 2
    np.testing.assert_allclose(two, one, atol=1e-4)


def test_one_process_continues_what_two_began(workdirs):
    (result,) = trained(workdirs[1], 1, STEPS + 2)
    assert result.returncode == 0 and f"continuing after step {STEPS}" in result.stdout, result.stderr[-2000:]
    assert list(losses(workdirs[1])) == list(range(1, STEPS + 3))


@pytest.mark.parametrize("devices", [1, 8])
def test_a_reader_takes_the_devices_at_hand(workdirs, devices):
    """What eight devices trained is measured on one and on eight; the validation loss is that of training."""
    env = {**ENVIRONMENT, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-m", "llm_jax.evaluate", f"--workdir={workdirs[0]}", "--stage=pretrain", "--tasks=bpb"]
    result = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr[-2000:]
    measured = json.loads(result.stdout.splitlines()[-1])["bpb"]
    counts = json.loads((workdirs[0] / "data/prepared.json").read_text())["counts"]
    nats = [line["val_loss"] for line in lines(workdirs[0]) if "val_loss" in line][-1] * counts["validation"]["targets"]
    sources = [m for name, m in measured.items() if name.startswith("val_bpb_")]
    np.testing.assert_allclose(sum(m["value"] * m["bytes"] for m in sources) * np.log(2), nats, rtol=1e-3)


def test_half_said_clusters_are_refused(tmp_path):
    alone = ("llm_jax.main", f"--config={TINY}", f"--workdir={tmp_path}/run")
    refused(run(*alone, "--coordinator=localhost:1"), "--processes", "--process")
    refused(run(*alone, "--distributed"), "no cluster", "--coordinator")
    assert not (tmp_path / "run").exists()


def test_only_the_first_process_reads_and_writes_the_times(tmp_path, monkeypatch):
    """Another one may come while the first writes."""
    times = tmp_path / "times.json"
    times.write_text('{"sec')
    monkeypatch.setattr("jax.process_index", lambda: 1)
    Times(tmp_path).add("startup", 1.0)
    assert times.read_text() == '{"sec'
    times.unlink()
    monkeypatch.setattr("jax.process_index", lambda: 0)
    Times(tmp_path).add("startup", 1.0)
    assert Times(tmp_path).read()["seconds"] == {"startup": 1.0} and [p.name for p in tmp_path.iterdir()] == [
        times.name
    ]
