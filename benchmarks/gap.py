"""How far sampler and trainer are apart, in nats a token, and what it costs to have them agree: at the speedrun's size.

    python -m benchmarks.gap [--rollouts=128] [--rounds=3] [--layers=6] [--arms=*]

Rollouts of random weights, from random prompts; then the trainer's log-probabilities of what was sampled. One line an
arm: the largest gap, its mean and k3 (mean of r - 1 - log r, r = trainer / sampler), and seconds to sample and for a
gradient of it all, the first of each left out. Arms: float32, bfloat16, bfloat16 with a float32 head (`head`), packed
rows each; `exact` (`rl.exact`) at 1, 8 and 64 slots, in another order each time, on rollouts that must all be the same;
`mesh`, float32 on eight simulated devices (data, fsdp and tensor of two), in a process of its own.
Exit code 1 where an exact arm is not.
"""

import fnmatch
import os
import subprocess
import sys
import time

from absl import flags

from benchmarks.decode import NoText, shape
from llm_jax.frame.cli import quiet_logs, run_cli

quiet_logs()

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.ours import context_of  # noqa: E402
from llm_jax import sharding  # noqa: E402
from llm_jax.rl.packing import pack_rollouts  # noqa: E402
from llm_jax.sampling import replay  # noqa: E402
from llm_jax.sampling.engine import Engine  # noqa: E402
from llm_jax.sampling.requests import Completion, Request  # noqa: E402
from llm_jax.stages import rl  # noqa: E402
from llm_jax.training import loop  # noqa: E402

ARMS = ("float32", "bfloat16", "head", "exact/64", "exact/8", "exact/1", "mesh")
PROMPTS, NEW = (8, 64), (4, 80)  # tokens
EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


def define_flags() -> None:
    flags.DEFINE_integer("rollouts", 128, "Rollouts of each arm.", lower_bound=8)
    flags.DEFINE_integer("rounds", 3, "Measurements of each arm, in turns.", lower_bound=1)
    flags.DEFINE_integer("layers", 6, "Of the model.", lower_bound=1)
    flags.DEFINE_string("arms", "*", f"Which of {', '.join(ARMS)}; * and ? are wildcards.")


class Arm:
    def __init__(self, name: str, layers: int):
        kind, _, slots = name.partition("/")
        config = shape("speedrun")
        config.model.layers, config.rl.exact = layers, kind == "exact"
        config.model.compute_dtype = "bfloat16" if kind in ("bfloat16", "head") else "float32"
        config.model.float32_head = kind == "head"
        if kind == "mesh":
            config.mesh.data = config.mesh.fsdp = config.mesh.tensor = 2
        run = context_of(config)
        self.name, self.run = name, replay.exactly(run) if config.rl.exact else run
        self.params, self.length = run.init_params(), config.data.sequence_length
        self.tokenizer = NoText(run.vocab_size)
        self.engine = Engine(self.run.model, self.tokenizer, run.mesh, int(slots or 64), self.length)
        loss = rl.policy_loss(self.run)
        gradients = lambda params, parts: loop.gradients(loss, params, {}, parts)  # noqa: E731
        self._gradients = jax.jit(gradients, compiler_options=sharding.compiler_options(run.mesh))

    def measure(self, requests: list[Request], order: np.ndarray) -> tuple[list[Completion], list[float]]:
        """(completions in the order of the requests; gap: largest, mean, k3; seconds: sampling, gradient)"""
        started = time.monotonic()
        done = self.engine.generate(self.params, [requests[i] for i in order])
        sampled = time.monotonic()
        done = [done[i] for i in np.argsort(order)]
        config = self.run.config
        split = config.train.microbatch, sharding.shards(self.run.mesh, "batch"), config.rl.exact
        rows = pack_rollouts(requests, done, np.ones(len(done)), self.length, self.tokenizer.pad, *split)
        with jax.set_mesh(self.run.mesh):
            parts = sharding.put_batch(self.run.mesh, rows, config.train.microbatch)
            *_, metrics = jax.block_until_ready(self._gradients(self.params, parts))
        gap = [float(metrics[name]) for name in ("logp_gap_max", "logp_gap", "logp_gap_k3")]
        return done, [*gap, sampled - started, time.monotonic() - sampled]


def requests_of(count: int, vocab_size: int, draw: int) -> list[Request]:
    rng = np.random.default_rng(draw)
    sizes = zip(rng.integers(*PROMPTS, count), rng.integers(*NEW, count), strict=True)
    ids = lambda n: rng.integers(vocab_size, size=n).tolist()  # noqa: E731
    return [Request(ids(n), draw * count + i, 1.0, int(new)) for i, (n, new) in enumerate(sizes)]


def compare(names: list[str], count: int, rounds: int, layers: int) -> int:
    arms, failed = [Arm(name, layers) for name in names], 0
    shown = {arm.name: [] for arm in arms}
    for draw in range(rounds + 1):
        requests, exact = requests_of(count, arms[0].run.vocab_size, draw), None
        for number, arm in enumerate(arms):
            order = np.random.default_rng(number).permutation(count)
            done, figures = arm.measure(requests, order)
            shown[arm.name].append(figures)
            if arm.run.config.rl.exact:
                mine = [(d.ids, d.sampling_logprob) for d in done]
                failed += figures[0] > 0 or (exact is not None and mine != exact)
                exact = mine
    for name, figures in shown.items():
        most, mean, k3, sample, train = np.array(figures[1:]).T
        gap = f"{max(most.max(), figures[0][0]):9.2e}  {mean.mean():9.2e}  {k3.mean():9.2e}"
        print(f"{name:10} {gap}   {np.median(sample):8.2f}  {np.median(train):8.2f}", flush=True)
    return failed


def main() -> None:
    f = flags.FLAGS
    names = [name for name in ARMS if fnmatch.fnmatch(name, f.arms)]
    here = names if names == ["mesh"] else [name for name in names if name != "mesh"]
    if names != ["mesh"]:
        print(f"{(f.rounds + 1) * f.rollouts} rollouts an arm")
        print("arm        gap in nats: largest, mean, k3         seconds: sampling, gradient")
    failed = compare(here, f.rollouts, f.rounds, f.layers)
    if here != names:  # devices are made when JAX starts
        values = [f"--{name}={f[name].value}" for name in ("rollouts", "rounds", "layers")]
        command = [sys.executable, "-m", "benchmarks.gap", "--arms=mesh", *values]
        subprocess.run(command, env={**os.environ, **EIGHT}, check=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    run_cli(main, define_flags)
