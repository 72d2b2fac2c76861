"""A model from elsewhere, ours beside Transformers and PEFT, on a CPU: LoRA steps and greedy decoding, in turns.

    python -m benchmarks.imported --workdir=RUN --folder=DIR --peer=PYTHON [--cases='decode/*'] [--rounds=5] [--json]

RUN is made by `llm_jax.hub.import_`; DIR is a Hugging Face folder with the same weights. PYTHON has torch, transformers
and peft. The peer lives in a process of its own; each side waits while the other works. Losses must agree on both
sides, and so must the greedy ids. Rates count trained, or written, tokens; time includes the prompts. Where other work
runs, tokens a CPU second tell more than tokens a second.
"""

import fnmatch
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks.common import shown, spread
from benchmarks.decode import clocks
from llm_jax.config import UserError
from llm_jax.frame.cli import quiet_logs, run_cli

ROWS, LENGTH = 4, 256  # of a LoRA step
RANK, ALPHA, RATE = 8, 16.0, 1e-4
PROMPT, NEW = 32, 64
CASES = {"lora": ROWS, "decode/1": 1, "decode/32": 32}  # -> rows at a time
LOSS_APART, AGREEING = 1e-3, 0.9  # of nats; share of rows with equal ids: two whose logits are near may change places


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "The imported run.", required=True)
    flags.DEFINE_string("folder", None, "The same model as a Hugging Face folder.", required=True)
    flags.DEFINE_string("peer", None, "A Python with torch, transformers and peft.", required=True)
    flags.DEFINE_string("cases", "*", f"Which of {', '.join(CASES)}; * and ? are wildcards.")
    flags.DEFINE_integer("rounds", 5, "Pairs of measurements.", lower_bound=2)
    flags.DEFINE_integer("steps", 2, "LoRA steps in a measurement.", lower_bound=1)
    flags.DEFINE_enum("remat", "full", ["none", "dots", "full"], "model.remat of our LoRA steps.")
    flags.DEFINE_integer("threads", 2, "Cores that a side may use.", lower_bound=1)
    flags.DEFINE_bool("json", False, "Print one JSON object, too.")


class Peer:
    """The other side's process; called as ours is."""

    def __init__(self, *job):
        # Else PyTorch's threads spin while they wait for each other: far slower where another process has the core.
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
        command = [flags.FLAGS.peer, str(Path(__file__).with_name("imported_peer.py"))]
        pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)
        self(*job)

    def __call__(self, *job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        if not (answer := self.process.stdout.readline()):
            raise UserError(f"{flags.FLAGS.peer} ended; it must have torch, transformers and peft")
        return json.loads(answer)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def tokens_of(vocab_size: int, draw: int, rows: int, length: int) -> list[list[int]]:
    return np.random.default_rng(draw).integers(vocab_size, size=(rows, length)).tolist()


def opened_run():
    """The run, and the parameters of its stage `imported`; its mesh is set from here on."""
    import jax

    from llm_jax.runs import Run

    run = Run.open(Path(flags.FLAGS.workdir))
    jax.set_mesh(run.mesh)
    return run, run.load_params("imported")


def our_training(run, params):
    """(rows, steps) -> ([wall, CPU] seconds, losses), by the step of stage `sft`."""
    import jax

    from benchmarks.ours import job_of
    from llm_jax import sharding
    from llm_jax.model import lora
    from llm_jax.stages import adapter
    from llm_jax.training import loop

    config = run.config
    config.lora.rank, config.lora.alpha = RANK, ALPHA
    config.data.sequence_length, run.model.remat = LENGTH, flags.FLAGS.remat
    job = adapter.adapted(run, job_of(run, 1000), lambda step: RATE)
    frozen, trained = lora.frozen(params, run.axes(), config.lora.frozen), run.init_adapter("sft")
    state, step = loop.prepare(job, trained, run.mesh)

    def train(rows: list[list[int]], steps: int) -> tuple[np.ndarray, list[float]]:
        nonlocal trained, state
        ids, losses, started = np.array(rows, np.int32), [], clocks()
        ones = np.ones((len(ids), LENGTH), np.int32)
        places = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), ones.shape)
        batch = {"tokens": ids[:, :-1], "targets": ids[:, 1:], "positions": places, "segments": ones}
        batch["weights"] = ones.astype(np.float32)
        for _ in range(steps):
            put = sharding.put_batch(run.mesh, batch, config.train.microbatch)
            trained, state, metrics = step(trained, frozen, state, put)
            losses.append(float(jax.device_get(metrics["loss"])))
        return clocks() - started, losses

    return train


def our_decoding(run, params, slots: int):
    """(prompts, new) -> ([wall, CPU] seconds, ids)"""
    from benchmarks.decode import NoText
    from llm_jax.sampling.engine import Engine
    from llm_jax.sampling.requests import Request

    engine = Engine(run.model, NoText(run.vocab_size), run.mesh, slots, PROMPT + NEW)

    def decode(prompts: list[list[int]], new: int) -> tuple[np.ndarray, list[list[int]]]:
        started = clocks()
        requests = [Request(ids, max_new_tokens=new) for ids in prompts]
        ids = [completion.ids for completion in engine.generate(params, requests)]
        return clocks() - started, ids

    return decode


def first_call(case: str, sides: dict, vocab_size: int) -> dict[str, float]:
    """Seconds of each side's first call, which compiles. Raises UserError where they do not compute the same."""
    seconds, said = {}, {}
    for name, side in sides.items():
        started = time.perf_counter()
        _, said[name] = side(*job_of(case, vocab_size, 0, 1))
        seconds[name] = time.perf_counter() - started
    if case == "lora":
        apart = np.max(np.abs(np.subtract(*said.values())))
        print(f"\n{case}: loss {said['ours'][0]:.5f}, apart by {apart:.1e}")
        same = apart < LOSS_APART
    else:
        equal = sum(a == b for a, b in zip(*said.values(), strict=True))
        print(f"\n{case}: {equal} of {CASES[case]} rows have the same ids on both sides")
        same = equal >= AGREEING * CASES[case]
    if not same:
        raise UserError(f"{case}: the two sides do not compute the same; --folder must hold the model of --workdir")
    return seconds


def job_of(case: str, vocab_size: int, draw: int, steps: int) -> tuple[list[list[int]], int]:
    """What a side is called with: tokens, and how many steps, or new tokens."""
    if case == "lora":
        return tokens_of(vocab_size, draw, ROWS, LENGTH + 1), steps
    return tokens_of(vocab_size, draw, CASES[case], PROMPT), NEW


def measure(case: str, run, params) -> dict:
    """The rates of each side in each round, printed as they come."""
    f, rows = flags.FLAGS, CASES[case]
    if case == "lora":
        ours = our_training(run, params)
        theirs = Peer("training", f.folder, RANK, ALPHA, [f"{p}_proj" for p in run.config.lora.projections], RATE)
        tokens = rows * LENGTH * f.steps
    else:
        ours, theirs, tokens = our_decoding(run, params, rows), Peer("generating", f.folder), rows * NEW
    sides = {"ours": ours, "theirs": theirs}
    first, rounds_SC = first_call(case, sides, run.vocab_size), []
    print("round   ours tok/s  theirs tok/s   ours / theirs   the same of CPU seconds")
    for i in range(1, f.rounds + 1):
        job = job_of(case, run.vocab_size, i, f.steps)
        rounds_SC.append(tokens / np.array([side(*job)[0] for side in sides.values()]))
        (a, a_cpu), (b, b_cpu) = rounds_SC[-1]
        print(f"{i:5}   {a:10,.1f}  {b:12,.1f}   {a / b:13.2f}   {a_cpu / b_cpu:23.2f}", flush=True)
    theirs.stop()
    rates_RSC = np.array(rounds_SC)  # round, side, clock
    ratio, cpu_ratio = (spread(x) for x in (rates_RSC[:, 0] / rates_RSC[:, 1]).T)
    rates = dict(zip(sides, rates_RSC[:, :, 0].T.tolist(), strict=True))
    return {"tokens_per_second": rates, "ratio": ratio, "cpu_ratio": cpu_ratio, "first": first}


def main() -> None:
    f = flags.FLAGS
    if not (cases := fnmatch.filter(CASES, f.cases)):
        raise UserError(f"no case matches {f.cases!r}; they are {', '.join(CASES)}")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: f.threads])
    quiet_logs()
    run, params = opened_run()
    results = {case: measure(case, run, params) for case in cases}
    print("\nmedian ratio of a round; above 1, ours is faster")
    for case, result in results.items():
        first = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result["first"].items())
        print(f"{case:10}  of tokens a second      {shown(result['ratio'])}")
        print(f"{'':10}  of tokens a CPU second  {shown(result['cpu_ratio'])}")
        print(f"{'':10}  seconds of the first call: {first}")
    if f.json:
        print(json.dumps({"threads": f.threads, "cases": results}))


if __name__ == "__main__":
    run_cli(main, define_flags)
