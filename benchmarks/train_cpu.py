"""Training speed on a CPU, ours and torch.compile, on the same shapes, in turns.

    python -m benchmarks.train_cpu [--rounds=10] [--steps=8] [--threads=2] [--optimizer=muon] [--packed] [--json]

Each side lives in a process of its own and waits while the other works. Each is started twice: the first time with an
empty compilation cache, then with what that start left; the second process stays for the timing.
"""

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable

from absl import flags
from ml_collections import ConfigDict

from benchmarks.common import need_torch, random_batches, shown, spread
from llm_jax.config import default
from llm_jax.frame.cli import quiet_logs, run_cli

SIDES = ("ours", "torch")
HORIZON = 10_000  # steps of the schedule that our optimizer follows; the runs are shorter


def define_flags() -> None:
    flags.DEFINE_integer("rounds", 10, "Pairs of measurements.", lower_bound=2)
    flags.DEFINE_integer("steps", 8, "Steps in a measurement.", lower_bound=1)
    flags.DEFINE_integer("threads", 2, "Cores that a side may use.", lower_bound=1)
    flags.DEFINE_enum("optimizer", "adamw", ["adamw", "muon"], "Of both sides.")
    flags.DEFINE_bool("packed", False, "Four documents a row, so that PyTorch needs a mask; else one.")
    flags.DEFINE_bool("json", False, "Print one JSON object, too.")


def shape(optimizer: str) -> ConfigDict:
    """6.5 million parameters."""
    c = default()
    c.model.dim, c.model.layers, c.model.ff_dim = 256, 6, 704
    c.model.heads, c.model.kv_heads, c.model.head_dim = 4, 2, 64
    c.tokenizer.vocab_size, c.data.sequence_length, c.pretrain.batch = 4096, 256, 8
    c.optimizer.name = optimizer
    return c


def tokens_per_step() -> int:
    c = shape("adamw")
    return c.pretrain.batch * c.data.sequence_length


def batches_of(config: ConfigDict, packed: bool):
    documents = 4 if packed else 1
    return random_batches(config.tokenizer.vocab_size, config.pretrain.batch, config.data.sequence_length, documents)


def ours(config: ConfigDict, packed: bool) -> Callable[[int], None]:
    """A function that does so many steps, as `loop.train` does them."""
    quiet_logs()
    import jax

    from benchmarks.ours import context_of, job_of
    from llm_jax import sharding
    from llm_jax.training import loop

    context = context_of(config)
    params = context.init_params()
    state, step = loop.prepare(job_of(context, HORIZON), params, context.mesh)
    batches = batches_of(config, packed)

    def run(count: int) -> None:
        nonlocal params, state
        for _ in range(count):
            batch = sharding.put_batch(context.mesh, next(batches), config.train.microbatch)
            params, state, metrics = step(params, {}, state, batch)
        jax.block_until_ready((params, metrics))

    return run


def theirs(config: ConfigDict, packed: bool) -> Callable[[int], None]:
    from benchmarks import torch_model

    torch_model.torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = torch_model.Model(config.model, config.tokenizer.vocab_size, config.data.sequence_length)
    trainer = torch_model.Trainer(model, config.optimizer)
    batches = batches_of(config, packed)

    def run(count: int) -> None:
        for _ in range(count):
            loss = trainer.step(torch_model.torch_batch(next(batches), packed))
        loss.item()

    return run


def worker(side: str, optimizer: str, packed: bool, threads: int, cache: str, pipe) -> None:
    """Does as many steps as it is told, and answers with their seconds."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    run = {"ours": ours, "torch": theirs}[side](shape(optimizer), packed)
    while count := pipe.recv():
        started = time.perf_counter()
        run(count)
        pipe.send(time.perf_counter() - started)


class Side:
    """A worker process; `first` is the seconds from its start to the end of its first step."""

    def __init__(self, side: str, cache: str):
        f = flags.FLAGS
        self.pipe, far = multiprocessing.Pipe()
        options = (side, f.optimizer, f.packed, f.threads, cache, far)
        started = time.perf_counter()
        self.process = multiprocessing.get_context("spawn").Process(target=worker, args=options, daemon=True)
        self.process.start()
        far.close()  # so that a worker that dies is an end of file here, not a wait for ever
        self.seconds(1)
        self.first = time.perf_counter() - started

    def seconds(self, steps: int) -> float:
        self.pipe.send(steps)
        return self.pipe.recv()

    def stop(self) -> None:
        self.pipe.send(0)
        self.process.join()


def start_both(cache: str) -> dict[str, Side]:
    """One after the other, so that neither is slowed by the other's compiler."""
    return {name: Side(name, cache) for name in SIDES}


def main() -> None:
    need_torch()
    f = flags.FLAGS
    with tempfile.TemporaryDirectory() as cache:
        sides = start_both(cache)
        first = {name: side.first for name, side in sides.items()}
        for side in sides.values():
            side.stop()
        sides = start_both(cache)
        again = {name: side.first for name, side in sides.items()}
        rates = timed_rounds(sides, f.rounds, f.steps)
        for side in sides.values():
            side.stop()
    ratio = spread([a / b for a, b in zip(*(rates[name] for name in SIDES), strict=True)])
    print(f"\nmedian ratio of a round: {shown(ratio)}; above 1, ours is faster")
    for label, seconds in (("empty cache", first), ("started again", again)):
        print(
            f"seconds to the end of the first step, {label}: ours {seconds['ours']:.1f}, torch {seconds['torch']:.1f}, "
            f"ratio {seconds['torch'] / seconds['ours']:.2f}"
        )
    if f.json:
        facts = {"optimizer": f.optimizer, "packed": f.packed, "threads": f.threads, "steps": f.steps}
        print(json.dumps({**facts, "tokens_per_second": rates, "ratio": ratio, "first": first, "again": again}))


def timed_rounds(sides: dict[str, Side], rounds: int, steps: int) -> dict[str, list[float]]:
    """Tokens a second of each side in each round; printed as they come."""
    rates: dict[str, list[float]] = {name: [] for name in SIDES}
    for side in sides.values():
        side.seconds(2)  # past what only the first steps do
    print("round   ours tok/s  torch tok/s   ours / torch")
    for i in range(rounds):
        for name in SIDES:
            rates[name].append(steps * tokens_per_step() / sides[name].seconds(steps))
        a, b = (rates[name][-1] for name in SIDES)
        print(f"{i + 1:5}   {a:10,.0f}  {b:11,.0f}   {a / b:12.2f}", flush=True)
    return rates


if __name__ == "__main__":
    run_cli(main, define_flags)
