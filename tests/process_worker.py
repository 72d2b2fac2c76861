"""Starts processes of one run that have imported all already, and says how they ended. For test_multihost.py.

python tests/process_worker.py FOLDER < JSON     # {"command": [...], "processes": 2, ...}; see `Order`

A process is a fork of this one before JAX has looked for devices: real, but without seconds of imports for each.
Its output goes to FOLDER/N.out and FOLDER/N.err.
"""

import dataclasses
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from llm_jax import main, sharding
from llm_jax.frame import processes
from llm_jax.frame.cli import run_cli
from llm_jax.runs import Run
from llm_jax.sampling import shared
from llm_jax.sampling.loaded import engine_for
from llm_jax.sampling.requests import Request
from llm_jax.stages.supervised import supervised_job
from llm_jax.training import loader, loop
from llm_jax.training.nats import jitted_nats
from tests.mesh_worker import VOCAB, tiny

import jax  # isort: skip

STEPS = 4


@dataclasses.dataclass
class Order:
    """What to run: flags of llm_jax.main, or a folder of rows and meshes on which to train on them."""

    processes: int
    folder: str
    flags: list[str] = dataclasses.field(default_factory=list)
    own_flags: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # of one process
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    metrics: str = ""  # once this file has five lines of metrics,
    terminate: list[int] = dataclasses.field(default_factory=list)  # these processes get SIGTERM,
    gap: float = 0.0  # so many seconds one after the other
    rows: str = ""
    meshes: list[dict[str, int]] = dataclasses.field(default_factory=list)
    train: bool = False
    samples: bool = False  # also decode with the parameters


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def ended(order: Order) -> list[dict]:
    """[{"code": ..., "seconds": ...}] of each process, the seconds from the first SIGTERM or end of a process on."""
    port = free_port()
    pids = [start(order, process, port) for process in range(order.processes)]
    results: dict[int, dict] = {}
    since = None
    waiting = list(order.terminate)
    while len(results) < len(pids):
        if waiting and lines(Path(order.metrics)) >= 5:
            since = since or time.monotonic()
            os.kill(pids[waiting.pop(0)], signal.SIGTERM)
            time.sleep(order.gap)
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            since = since or time.monotonic()
            code = os.waitstatus_to_exitcode(status)
            results[pids.index(pid)] = {"code": code, "seconds": round(time.monotonic() - since, 2)}
        else:
            time.sleep(0.02)
    return [results[process] for process in range(order.processes)]


def start(order: Order, process: int, port: int) -> int:
    if pid := os.fork():
        return pid
    for fd, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{order.folder}/{process}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), fd)
    os.environ.update(order.environment)
    flags = [f"--coordinator=localhost:{port}", f"--processes={order.processes}", f"--process={process}"]
    sys.argv = ["llm_jax.main", *order.flags, *order.own_flags.get(str(process), ())]
    sys.argv += flags if order.processes > 1 else []
    code = 1
    try:
        if order.rows:
            if order.processes > 1:
                processes.connect(f"localhost:{port}", order.processes, process)
            print(json.dumps([measured(order, mesh) for mesh in order.meshes]))
            sys.exit(0)
        run_cli(main.main, main.define_flags)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        if code == 0 and jax.distributed.is_initialized():
            jax.distributed.shutdown()  # as JAX does when a process ends
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def measured(order: Order, mesh: dict[str, int]) -> list:
    """[the loss of each of some steps, and the validation loss after them; without `train`, of the first parameters],
    and with `samples` what is `sampled`."""
    c = tiny([mesh.get(axis, 1) for axis in ("data", "fsdp", "tensor", "context")], "adamw")
    c.train.microbatch, c.data.sequence_length = (4 if order.train else 0), 16
    run = Run(c, Path(order.folder), sharding.make_mesh(c.mesh), VOCAB)
    with jax.set_mesh(run.mesh):
        rows = Path(order.rows)
        job = supervised_job(run, "pretrain", loader.mixture(rows / "train"), rows / "validation")
        params, losses, nats = drawn_params(run), [], jitted_nats(run)
        state, step_fn = loop.prepare(job, params, run.mesh) if order.train else (None, None)
        for step in range(STEPS):
            batch = sharding.put_batch(run.mesh, job.batches.next(step, params)[0], c.train.microbatch)
            if order.train:
                params, state, metrics = step_fn(params, {}, state, batch)
                losses.append(float(metrics["loss"]))
            else:
                total, targets = nats(params, batch)
                losses.append(float(total / targets))
        losses.append(job.validate(params)["val_loss"])
        return [losses, sampled(run, params)] if order.samples else [losses]


def sampled(run: Run, params) -> dict[str, list]:
    """What all processes get from their engines: ids, their log-probabilities, log p of some pairs; who did what."""
    run.tokenizer = SimpleNamespace(
        vocab_size=VOCAB, ends=(1,), pad=0, close={}
    )  # all that an engine without tools has
    engine, rng = engine_for(run, 8), np.random.default_rng(0)
    prompts = rng.integers(2, VOCAB, (5, 4)).tolist()
    requests = [Request(prompt, 100 * n + s, 1.0, 11) for n, prompt in enumerate(prompts) for s in range(1 + n)]
    engine.generate(params, requests[:1])  # nothing for the others to do
    done = engine.generate(params, requests)
    scores = engine.score(params, [(r.prompt, c.ids[:5]) for r, c in zip(requests, done, strict=True)])
    engine.close()
    who = shared.each(lambda number: [number, jax.process_index()], range(5))
    logprobs = [p for c in done for p in c.logprob]
    return {"ids": [c.ids for c in done], "logprob": logprobs, "scores": [s for s, _ in scores], "who": who}


def drawn_params(run: Run):
    """The same on any mesh, without a program to compile."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        values = rng.normal(size=leaf.shape).astype(leaf.dtype) / 4
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: values[index])

    return jax.tree.map(draw, run.abstract_params())


if __name__ == "__main__":
    for order in sys.stdin:
        print(json.dumps(ended(Order(**json.loads(order)))), flush=True)
