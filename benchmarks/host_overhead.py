"""What the train loop costs the host: `loop.train` at the speedrun's size against its own step with nothing around it.

    python -m benchmarks.host_overhead [--rounds=8] [--steps=40]

The two take turns in one process: when the loop asks for the batch that begins a round, it is held until the bare step,
on parameters of its own and a batch that is on the device already, has done as many steps as the loop did before. Where
the wall clock is too noisy for a millisecond, the main thread's own work tells: the device's work is on other threads.
"""

import json
import tempfile
import time
from pathlib import Path

from absl import flags

from benchmarks.common import random_batches, shown, spread
from llm_jax.frame.cli import quiet_logs, run_cli

quiet_logs()

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.ours import context_of, job_of  # noqa: E402
from experiments import speedrun  # noqa: E402
from llm_jax import rows, sharding  # noqa: E402
from llm_jax.runs import Run  # noqa: E402
from llm_jax.stages.supervised import RowBatches  # noqa: E402
from llm_jax.training import loader, loop  # noqa: E402

ROWS = 1024  # on disk; the loader goes round and round


def define_flags() -> None:
    flags.DEFINE_integer("rounds", 8, "Pairs of measurements.", lower_bound=2)
    flags.DEFINE_integer("steps", 40, "Steps in a measurement.", lower_bound=10)


def clocks() -> np.ndarray:
    """Seconds: [of the wall, that this thread has worked]."""
    return np.array([time.perf_counter(), time.thread_time()])


class BareStep:
    """The step of a job, with nothing around it."""

    def __init__(self, context: Run, job: loop.Job):
        config = context.config
        self.params = context.init_params()
        self.state, self.step = loop.prepare(job, self.params, context.mesh)
        batch = next(random_batches(context.vocab_size, config.pretrain.batch, config.data.sequence_length))
        self.batch = sharding.put_batch(context.mesh, batch, config.train.microbatch)

    def seconds(self, steps: int) -> np.ndarray:
        started = clocks()
        for _ in range(steps):
            self.params, self.state, metrics = self.step(self.params, {}, self.state, self.batch)
        jax.block_until_ready((self.params, metrics))
        return clocks() - started


class Rounds(RowBatches):
    """Rows from disk; notes the loop's seconds since the last round and the bare step's for as many steps."""

    def __init__(self, mixture: loader.Mixture, batch: int, every: int, bare: BareStep):
        super().__init__(mixture, batch, seed=0)
        self.every, self.bare, self.pairs, self._resumed = every, bare, [], clocks()

    def next(self, step: int, params):
        if step % self.every == 0:
            jax.block_until_ready(params)
            looped = clocks() - self._resumed
            self.pairs.append((looped, self.bare.seconds(self.every)))
            self._resumed = clocks()
        return super().next(step, params)


def write_random_rows(path: Path, vocab_size: int, length: int) -> None:
    fields = np.ones((ROWS, len(rows.FIELDS), length + 1), np.int32)
    fields[:, 0] = np.random.default_rng(0).integers(0, vocab_size, (ROWS, length + 1))
    fields[:, 2] = np.arange(length + 1)
    rows.write_shard(path, fields, {})


def measure(workdir: Path, rounds: int, steps: int) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
    """(clocks of loop and bare step in each round, share of the loop's time that it waited for input)."""
    config = speedrun.get_config()
    context = context_of(config, workdir)
    write_random_rows(workdir / "rows/random/00000.array_record", context.vocab_size, config.data.sequence_length)
    total = (rounds + 1) * steps + 1  # the first round is for compiling; the last step only closes a round
    config.checkpoint.every = total
    job = job_of(context, total)
    job.batches = batches = Rounds(
        loader.mixture(workdir / "rows"), config.pretrain.batch, steps, BareStep(context, job)
    )
    loop.train(context, job, context.init_params())
    lines = map(json.loads, (workdir / "pretrain/metrics.jsonl").read_text().splitlines())
    # Steps next to a held batch have the bare step's time in theirs.
    clean = [line for line in lines if line["step"] > steps and line["step"] % steps >= 2]
    seconds = [job.tokens_per_step / line["tokens_per_second"] for line in clean]
    waited = [line["input_wait"] * s for line, s in zip(clean, seconds, strict=True)]
    return batches.pairs[2:], sum(waited) / sum(seconds)


def main() -> None:
    f = flags.FLAGS
    with tempfile.TemporaryDirectory() as folder:
        pairs, waiting = measure(Path(folder), f.rounds, f.steps)
    ms = 1000 * np.array(pairs) / f.steps  # (rounds, loop or bare, wall or work)
    print("            wall ms/step              main thread's work, ms/step")
    print("round    loop    bare  ratio       loop    bare    more")
    for i, ((ours, work), (bare, bare_work)) in enumerate(ms):
        wall = f"{ours:6.1f}  {bare:6.1f}  {ours / bare:5.3f}"
        print(f"{i + 1:5}  {wall}     {work:6.2f}  {bare_work:6.2f}  {work - bare_work:6.2f}")
    print(f"\nloop / bare, wall: {shown(spread(ms[:, 0, 0] / ms[:, 1, 0]), 3)}")
    print(f"ms of the main thread's work that only the loop does: {shown(spread(ms[:, 0, 1] - ms[:, 1, 1]))}")
    print(f"waiting for input: {waiting:.2%} of the loop's time")


if __name__ == "__main__":
    run_cli(main, define_flags)
