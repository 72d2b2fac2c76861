"""Greedy decoding on a CPU, our engine and Hugging Face's `generate`, with the same weights and prompts, in turns.

    python -m benchmarks.decode [--cases='speedrun/*'] [--rounds=5] [--seconds=2] [--threads=2] [--json]

Each side lives in a process of its own and waits while the other works. Both are called once before they are timed, and
must then give the same ids. Rates count the tokens that were asked for, and the time includes the prompts.
"""

import fnmatch
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from benchmarks.common import need_torch, shown, spread
from llm_jax.config import UserError, default
from llm_jax.frame.cli import complain, quiet_logs, run_cli

SIDES = ("ours", "transformers")
MODELS = {"speedrun": 2048, "110m": 32_768}  # -> size of the vocabulary
# -> rows decoded at a time. "mixed": prompts of 8 to 64 tokens, completions of 4 to 128, most of them short.
MIXES = {"1": 1, "32": 32, "mixed": 32}
CASES = [f"speedrun/{mix}" for mix in MIXES] + ["110m/1", "110m/32"]
PROMPT = NEW = 64  # tokens, where they are not mixed
MIXED_REQUESTS = 128
# Rows that must agree wholly. Not all: two ids whose logits are as near as rounding may change places.
AGREEING = 0.9


def define_flags() -> None:
    flags.DEFINE_string("cases", "*", f"Which of {', '.join(CASES)}; * and ? are wildcards.")
    flags.DEFINE_integer("rounds", 5, "Pairs of measurements.", lower_bound=2)
    flags.DEFINE_float("seconds", 2.0, "A measurement repeats the case until so many have passed.", lower_bound=0.0)
    flags.DEFINE_integer("threads", 2, "Cores that a side may use.", lower_bound=1)
    flags.DEFINE_bool("json", False, "Print one JSON object, too.")


def shape(model: str) -> ConfigDict:
    """The speedrun's model, or the one of `experiments/gpt2_124m.py` with a smaller vocabulary; in float32."""
    c = default()
    if model == "110m":
        c.model.dim, c.model.layers, c.model.ff_dim = 768, 12, 2048
        c.model.heads, c.model.kv_heads, c.model.head_dim = 12, 12, 64
        c.model.tied_embedding = True
    c.tokenizer.vocab_size = MODELS[model]
    return c


def requests_of(case: str, draw: tuple[int, int] = (0, 0)) -> list[tuple[list[int], int]]:
    """(prompt, tokens wanted) of each request, the same on both sides. Every draw has the same lengths, and new
    prompts, since our engine does not read again what it has just read."""
    model, mix = case.split("/")
    rng = np.random.default_rng(0)
    if mix == "mixed":
        prompts = rng.integers(8, 65, MIXED_REQUESTS)
        wanted = np.minimum(3 + rng.geometric(1 / 20, MIXED_REQUESTS), 128)
    else:
        prompts, wanted = np.full((2, MIXES[mix]), [[PROMPT], [NEW]])
    rng = np.random.default_rng(draw)
    return [(rng.integers(MODELS[model], size=n).tolist(), int(new)) for n, new in zip(prompts, wanted, strict=True)]


class NoText:
    """A tokenizer for ids alone. No token is `end`, so every row gets as many as it wants."""

    pad, bos, open, close, ends = 0, 1, {}, {}, ()

    def __init__(self, vocab_size: int):
        self.vocab_size = self.end = vocab_size

    def save(self, path: Path) -> None:
        pass


# a case, which draw of its prompts -> the new ids of each request
Run = Callable[[str, tuple[int, int]], list[list[int]]]


def ours(config: ConfigDict, folder: Path) -> Run:
    """Exports the model to `folder`, too."""
    quiet_logs()
    from benchmarks.ours import context_of
    from llm_jax.hub.export import write_model
    from llm_jax.hub.families import config_json
    from llm_jax.sampling.engine import Engine
    from llm_jax.sampling.requests import Request

    context = context_of(config)
    params, tokenizer = context.init_params(), NoText(context.vocab_size)
    folder.mkdir()
    positions = config.data.sequence_length
    write_model(folder, config_json(config.model, context.vocab_size, positions), config, params)
    engines = {
        slots: Engine(context.model, tokenizer, context.mesh, slots=slots, length=config.data.sequence_length)
        for slots in MIXES.values()
    }

    def run(case: str, draw: tuple[int, int]) -> list[list[int]]:
        requests = [Request(prompt=ids, max_new_tokens=new) for ids, new in requests_of(case, draw)]
        slots = MIXES[case.split("/")[1]]
        return [completion.ids for completion in engines[slots].generate(params, requests)]

    return run


def theirs(config: ConfigDict, folder: Path) -> Run:
    """Static batches. As our engine does, they take requests of like length together, and none pads more than it must:
    a batch is as long as its longest prompt and ends with its longest completion."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None

    def batch(requests: list[tuple[list[int], int]]) -> list[list[int]]:
        longest = max(len(ids) for ids, _ in requests)
        prompts = torch.tensor([[NoText.pad] * (longest - len(ids)) + ids for ids, _ in requests])
        real = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in requests])
        most = max(new for _, new in requests)
        with torch.inference_mode():
            out = model.generate(prompts, attention_mask=real, max_new_tokens=most, do_sample=False)
        rows = out[:, longest:].tolist()
        return [row[:new] for row, (_, new) in zip(rows, requests, strict=True)]

    def run(case: str, draw: tuple[int, int]) -> list[list[int]]:
        requests, rows = requests_of(case, draw), MIXES[case.split("/")[1]]
        order = sorted(range(len(requests)), key=lambda i: len(requests[i][0]))
        done = {}
        for start in range(0, len(order), rows):
            chosen = order[start : start + rows]
            done.update(zip(chosen, batch([requests[i] for i in chosen]), strict=True))
        return [done[i] for i in range(len(requests))]

    return run


def clocks() -> np.ndarray:
    """Seconds: [of the wall, that this process's threads have worked]."""
    return np.array([time.perf_counter(), time.process_time()])


def worker(side: str, model: str, threads: int, folder: Path, pipe) -> None:
    """Runs the case it is told until so many seconds have passed; answers with one run's clocks and the first's ids."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    # Else PyTorch's threads spin while they wait for each other: ten times slower where another process has the core.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    run = {"ours": ours, "transformers": theirs}[side](shape(model), folder)
    pipe.send("ready")
    while job := pipe.recv():
        case, number, least = job
        outputs, started = [], clocks()
        while not outputs or (clocks() - started)[0] < least:
            outputs.append(run(case, (number, len(outputs))))
        pipe.send(((clocks() - started) / len(outputs), outputs[0]))


class Side:
    """A worker process that is ready to be timed."""

    def __init__(self, side: str, model: str, folder: Path):
        self.pipe, far = multiprocessing.Pipe()
        options = (side, model, flags.FLAGS.threads, folder, far)
        self.process = multiprocessing.get_context("spawn").Process(target=worker, args=options, daemon=True)
        self.process.start()
        far.close()  # so that a worker that dies is an end of file here, not a wait for ever
        self.pipe.recv()

    def run(self, case: str, number: int, least: float) -> tuple[np.ndarray, list[list[int]]]:
        self.pipe.send((case, number, least))
        return self.pipe.recv()

    def stop(self) -> None:
        self.pipe.send(None)
        self.process.join()


def measure(case: str, sides: dict[str, Side], rounds: int, seconds: float) -> dict:
    """The rates of each side in each round, printed as they come. Exits where the two give other ids."""
    requests = requests_of(case)
    wanted = sum(new for _, new in requests)
    first, ids = {}, {}
    for name, side in sides.items():
        first[name], ids[name] = side.run(case, 0, 0.0)
    for name in SIDES:
        if [len(row) for row in ids[name]] != [new for _, new in requests]:
            raise SystemExit(f"error: {case}: {name} did not give as many tokens as were wanted")
    agree = sum(a == b for a, b in zip(*(ids[name] for name in SIDES), strict=True))
    print(f"\n{case}: {len(requests)} requests, {wanted} new tokens; {agree} rows have the same ids on both sides")
    if agree < AGREEING * len(requests):
        raise SystemExit("error: the two sides do not compute the same model")
    print("round   ours tok/s  theirs tok/s   ours / theirs   the same of CPU seconds")
    rounds_SC = []
    for i in range(1, rounds + 1):
        rounds_SC.append(wanted / np.array([sides[name].run(case, i, seconds)[0] for name in SIDES]))
        (a, a_cpu), (b, b_cpu) = rounds_SC[-1]
        print(f"{i:5}   {a:10,.0f}  {b:12,.0f}   {a / b:13.2f}   {a_cpu / b_cpu:23.2f}", flush=True)
    rates_RSC = np.array(rounds_SC)  # round, side, clock
    ratio, cpu_ratio = (spread(x) for x in (rates_RSC[:, 0] / rates_RSC[:, 1]).T)
    return {
        "tokens_per_second": dict(zip(SIDES, rates_RSC[:, :, 0].T.tolist(), strict=True)),
        "ratio": ratio,
        "cpu_ratio": cpu_ratio,
        "first": {name: clock[0] for name, clock in first.items()},
        "agree": agree / len(requests),
    }


def main() -> None:
    need_torch()
    if importlib.util.find_spec("transformers") is None:
        sys.exit(complain("Transformers, the peer, is not installed; try: pip install transformers", 2))
    f = flags.FLAGS
    wanted = fnmatch.filter(CASES, f.cases)
    if not wanted:
        raise UserError(f"no case matches {f.cases!r}; one is {CASES[0]!r}")
    results = {}
    for model in MODELS:
        if not (cases := [case for case in wanted if case.startswith(model)]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            # One after the other: theirs loads what ours exports.
            sides = {name: Side(name, model, Path(folder) / "model") for name in SIDES}
            results.update((case, measure(case, sides, f.rounds, f.seconds)) for case in cases)
            for side in sides.values():
                side.stop()
    print("\nmedian ratio of a round; above 1, ours is faster")
    for case, result in results.items():
        first = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result["first"].items())
        print(f"{case:14}  of tokens a second      {shown(result['ratio'])}")
        print(f"{'':14}  of tokens a CPU second  {shown(result['cpu_ratio'])}")
        print(f"{'':14}  seconds of the first call: {first}")
    if f.json:
        print(json.dumps({"threads": f.threads, "cases": results}))


if __name__ == "__main__":
    run_cli(main, define_flags)
