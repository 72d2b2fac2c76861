"""Several real processes are one run: the losses of one process, one checkpoint, one stop, one end when one fails."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llm_jax import rows
from llm_jax.checkpoint import Checkpoints
from llm_jax.frame.times import Times
from tests.commands import DEADLINE, ENVIRONMENT, FEWER_PASSES, ROOT, TINY, refused, run, until
from tests.mesh_worker import VOCAB

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


def lines(workdir, stage: str = "pretrain") -> list[dict]:
    return [json.loads(line) for line in (workdir / stage / "metrics.jsonl").read_text().splitlines()]


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


class Worker:
    """Runs orders for processes with a device each, one after the other; see process_worker.py."""

    def __init__(self, folder):
        self.folder = folder
        env = {**ENVIRONMENT, FEWER_PASSES: "1", "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
        command = [sys.executable, str(ROOT / "tests/process_worker.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, **pipes)

    def __call__(self, processes: int, **order) -> list[dict]:
        """[{"code", "seconds", "out", "err"}] of each process."""
        self.process.stdin.write(json.dumps({"processes": processes, "folder": str(self.folder), **order}) + "\n")
        self.process.stdin.flush()
        results = json.loads(self.process.stdout.readline())
        for number, result in enumerate(results):
            result |= {name: (self.folder / f"{number}.{name}").read_text() for name in ("out", "err")}
        return results

    def fit(self, workdir, processes: int, *flags: str, **order) -> list[dict]:
        """`--stages=fit`, the quick one, by that many processes."""
        common = ["--config=tests/fit.py", f"--workdir={workdir}", "--stages=fit"]
        return self(processes, flags=[*common, *flags], metrics=f"{workdir}/fit/metrics.jsonl", **order)


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    worker = Worker(tmp_path_factory.mktemp("processes"))
    yield worker
    worker.process.stdin.close()
    worker.process.wait()


@pytest.fixture(scope="module")
def row_folder(tmp_path_factory):
    """Sequences that count up, in two sources, and another one to validate on."""
    folder, rng = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    for name, count in (("train/a", 17), ("train/b", 40), ("validation/a", 11)):
        tokens = (rng.integers(VOCAB, size=(count, 1)) + 3 * np.arange(17)) % VOCAB
        ones, places = np.ones_like(tokens), np.broadcast_to(np.arange(17), tokens.shape)
        mask = rng.uniform(size=tokens.shape) < np.linspace(0.2, 1, count)[:, None]
        counts = {"targets": int(mask.sum()), "bytes": 1}
        rows.write_shard(folder / name / "00000.array_record", np.stack([tokens, ones, places, mask], 1), counts)
    return str(folder)


def check_meshes(worker, row_folder, processes: int, meshes: list[dict], **order) -> None:
    results = worker(processes, rows=row_folder, meshes=meshes, **order)
    assert [result["code"] for result in results] == [0] * processes, results[0]["err"][-2000:]
    (alone,) = worker(1, rows=row_folder, meshes=[{}], **order)
    ((expected, *sampled),) = json.loads(alone["out"].splitlines()[-1])
    assert len(expected) == 5 and min(np.abs(np.diff(expected))) > 1e-3  # other rows would show
    for result in results:
        measured = json.loads(result["out"].splitlines()[-1])
        for mesh, (losses, *samples) in zip(meshes, measured, strict=True):
            np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5, err_msg=str(mesh))
            if sampled:
                check_sampled(*samples, *sampled)


def check_sampled(ours: dict, theirs: dict) -> None:
    """What several processes have sampled and scored together, and one alone."""
    assert ours["ids"] == theirs["ids"] and len({tuple(ids) for ids in ours["ids"]}) == 15
    for name in ("logprob", "scores"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-5, err_msg=name)
    assert [number for number, _ in ours["who"]] == [number for number, _ in theirs["who"]]
    assert len({process for _, process in ours["who"]}) > len({process for _, process in theirs["who"]})


AXES = ("data", "fsdp", "tensor", "context")


def test_an_axis_that_cuts_no_rows_may_cross_processes(worker, row_folder):
    """Both read the same rows: the losses of one process, of the batches of some steps and of validation. And from
    parameters of which each has a half, both sample what one process samples."""
    check_meshes(worker, row_folder, 2, [{"tensor": 2}, {"context": 2}], samples=True)


@pytest.mark.slow
def test_any_mesh_over_four_processes_gives_the_losses_of_one(worker, row_folder):
    pairs = [{a: 2, b: 2} for i, a in enumerate(AXES) for b in AXES[i + 1 :]]
    check_meshes(worker, row_folder, 4, [{axis: 4} for axis in ("data", "fsdp", "context")] + pairs, train=True)
    check_meshes(worker, row_folder, 2, [{axis: 2} for axis in AXES], train=True)


def check_stop(worker, workdir, processes: int, terminate: list[int], gap: float, *mesh: str) -> None:
    """SIGTERM to these: all save one step and end well; what goes on from there is what was never stopped."""
    results = worker.fit(workdir, processes, *mesh, terminate=terminate, gap=gap)
    assert [result["code"] for result in results] == [0] * processes, [r["err"][-2000:] for r in results]
    (step,) = (int(path.name) for path in (workdir / "fit/checkpoints").iterdir())
    said = "".join(result["out"] for result in results)
    assert said.count(f"fit: saved at step {step}; the same command continues") == 1
    steps = f"--config.fit.steps={step + 3}"
    whole = workdir.with_name(f"{workdir.name}_whole")
    for folder in (workdir, whole):
        assert {result["code"] for result in worker.fit(folder, processes, *mesh, steps)} == {0}
    fits = [[(line["step"], line["loss"]) for line in lines(folder, "fit")] for folder in (workdir, whole)]
    assert fits[0] == fits[1] and len(fits[0]) == step + 3
    assert checksums(workdir, step + 3) == checksums(whole, step + 3)


def checksums(workdir, step: int, stage: str = "fit") -> dict:
    with Checkpoints(workdir, stage) as store:
        return store.meta(step)["checksums"]


def test_sigterm_to_one_process_stops_all_after_the_same_step(worker, tmp_path):
    check_stop(worker, tmp_path / "run", 2, [1], 0.0, "--config.mesh.tensor=2")


@pytest.mark.slow
@pytest.mark.parametrize("gap, terminate", [(0, [2]), (0, [0, 1, 2, 3]), (0.3, [3, 0, 2, 1])])
def test_sigterm_to_any_of_four_ten_times(worker, tmp_path, gap, terminate):
    for turn in range(10):
        check_stop(worker, tmp_path / str(turn), 4, terminate, gap, "--config.mesh.fsdp=2", "--config.mesh.tensor=2")


def check_failure(results: list[dict], reason: str, code: int) -> None:
    """All end soon, none by an abort; the reason is told once, by the process that failed."""
    assert [result["code"] for result in results] == [code] * len(results), [r["err"][-2000:] for r in results]
    assert "".join(result["out"] + result["err"] for result in results).count(reason) == 1
    assert max(result["seconds"] for result in results) < 60


@pytest.mark.parametrize(
    "failure, reason, code",
    [
        ("mistake 1 3", "error: the moon is full", 2),
        ("error all 0", "RuntimeError: the moon has gone", 1),
        pytest.param("error 0 3", "RuntimeError: the moon has gone", 1, marks=pytest.mark.slow),
        pytest.param("nan all 3", "FloatingPointError: fit: step 4 has a loss of nan", 1, marks=pytest.mark.slow),
        pytest.param("mistake all 2", "error: the moon is full", 2, marks=pytest.mark.slow),
    ],
)
def test_a_failure_of_one_process_ends_all(worker, tmp_path, failure, reason, code):
    results = worker.fit(tmp_path / "run", 2, "--config.mesh.data=2", environment={"FAIL": failure})
    check_failure(results, reason, code)


def test_processes_with_other_flags_are_refused(worker, tmp_path):
    other = {"1": ["--config.seed=7"]}
    results = worker.fit(tmp_path / "run", 2, "--config.mesh.data=2", own_flags=other)
    check_failure(results, "error: process 1 has other flags than the first (seed: 0 -> 7)", 2)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_mistake_in_the_flags_of_one_process_ends_all(worker, tmp_path):
    wrong = {"1": ["--config.fit.stpes=3"]}
    results = worker.fit(tmp_path / "run", 2, "--config.mesh.data=2", own_flags=wrong)
    check_failure(results, "error: unknown config key 'fit.stpes'", 2)


@pytest.mark.slow
def test_a_killed_process_ends_all(worker, tmp_path):
    killed, *others = worker.fit(tmp_path / "run", 2, "--config.mesh.data=2", environment={"FAIL": "kill 1 3"})[::-1]
    assert killed["code"] == -9 and max(other["seconds"] for other in others) < 60
    assert all(other["code"] for other in others)


@pytest.mark.slow
def test_processes_that_do_not_come_are_told(tmp_path):
    code = f"from llm_jax.frame import processes as p; p.ARRIVAL = 3; p.connect('localhost:{free_port()}', 3, 0)"
    result = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, cwd=ROOT, text=True, capture_output=True)
    assert result.returncode == 1, result.stderr
    assert len(result.stderr.splitlines()) == 1 and "error: not all processes came within 3 s" in result.stderr


def test_stages_of_one_process_are_refused_once(worker, tmp_path):
    flags = ["--config=tests/fit.py", f"--workdir={tmp_path}/run", "--stages=fit,alone", "--config.mesh.data=2"]
    check_failure(worker(2, flags=flags), "error: stage 'alone' runs in one process", 2)
    assert not (tmp_path / "run").exists()


def slurm_recipe() -> str:
    """The script of docs/launch.md for a job of Slurm."""
    text = (ROOT / "docs/launch.md").read_text().partition("## GPUs under Slurm")[2]
    return re.search(r"```bash\n(.*?)```", text, re.S)[1]


def test_the_slurm_recipe_has_a_process_for_each_shard():
    value = lambda name: int(re.search(rf"{name}=(\d+)", slurm_recipe())[1])  # noqa: E731
    assert value("--nodes") * value("--ntasks-per-node") == value("mesh.fsdp")
    assert "#SBATCH --signal=TERM@" in slurm_recipe()  # to the processes, not to the script, which would be "B:TERM@"


@pytest.mark.slow
def test_the_slurm_recipe_saves_before_its_time_is_up(tmp_path):
    """As it stands in the docs, but for the experiment, the paths and the number of tasks; twice, to go on."""
    checkout, workdir = tmp_path / "home/llm_jax", tmp_path / "run"
    (checkout / "experiments").mkdir(parents=True)
    for name in ("llm_jax", "data_pipelines", "tests"):
        (checkout / name).symlink_to(ROOT / name)
    (checkout / "experiments/mine.py").write_text("from tests.fit import get_config")
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/srun").write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/srun.py "$@"\n')
    (checkout / ".venv/bin/srun").chmod(0o755)
    paths = f"{checkout}/.venv/bin:{Path(sys.executable).parent}"
    (checkout / ".venv/bin/activate").write_text(f"export PATH={paths}:$PATH\n")
    script = (
        slurm_recipe().replace("/shared/runs/mine", str(workdir)).replace("--distributed", "--stages=fit --distributed")
    )
    script = re.sub(r"mesh.fsdp=\d+", "mesh.fsdp=2", script).replace(
        "srun ", "exec srun ", 1
    )  # it has our signal, then
    assert "continuing after step" not in slurm_job(script, tmp_path / "home", workdir)
    assert "continuing after step" in slurm_job(script, tmp_path / "home", workdir)
    steps = [line["step"] for line in lines(workdir, "fit")]
    assert steps == list(range(1, len(steps) + 1))


def slurm_job(script: str, home: Path, workdir: Path) -> str:
    """What a job said whose time was up after a few steps."""
    job = free_port() % 4096  # JAX makes its port from the job's number
    env = {**ENVIRONMENT, "HOME": str(home), "TASKS": "2", "SLURM_JOB_ID": str(job)}
    env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
    metrics = workdir / "fit/metrics.jsonl"
    count = lambda: len(metrics.read_text().splitlines()) if metrics.exists() else 0  # noqa: E731
    before = count()
    process = subprocess.Popen(["bash", "-c", script], env=env, text=True, **dict.fromkeys(("stdout", "stderr"), -1))
    until(lambda: process.poll() is not None or count() > before + 5)
    process.terminate()
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0 and out.count("saved at step") == 1, (out, err[-2000:])
    return out


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
