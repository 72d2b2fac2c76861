"""What a grammar costs: tokens a second of answers that obey one, against plain answers as long, in turns.

    python -m benchmarks.guided [--cases='*'] [--rounds=5] [--slots=32] [--workdir=DIR]

One engine at temperature 1, twice as many requests as slots. `json`: records with names, numbers, choices and lists,
whose keys come by themselves. `text`: a string of free text, where every token waits for a mask. Weights are random,
and the tokenizer is trained on Python's own files, or they are those of a run.
"""

import copy
import fnmatch
import json
from pathlib import Path

from absl import flags

from benchmarks.common import shown, spread
from benchmarks.decode import MODELS, clocks, shape
from llm_jax.config import UserError
from llm_jax.frame.cli import quiet_logs, run_cli

quiet_logs()

import numpy as np  # noqa: E402

from benchmarks.ours import context_of  # noqa: E402
from llm_jax.runs import Run  # noqa: E402
from llm_jax.sampling.engine import Engine  # noqa: E402
from llm_jax.sampling.grammar import compiled, of_schema  # noqa: E402
from llm_jax.sampling.requests import Request  # noqa: E402
from llm_jax.tokenizer.sentencepiece import train_tokenizer  # noqa: E402

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "role": {"enum": ["reader", "writer", "editor"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 2, "maxItems": 3},
        "address": {
            "type": "object",
            "properties": {"town": {"type": "string", "maxLength": 20}, "number": {"type": "integer"}},
            "required": ["town", "number"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "role", "tags", "address"],
    "additionalProperties": False,
}
SCHEMAS = {"json": PERSON, "text": {"type": "string", "minLength": 400}}
CASES = [f"{model}/{kind}" for model in (*MODELS, "run") for kind in SCHEMAS]
NEW, LENGTH = 96, 256  # tokens of an answer at most; of prompt and answer


def define_flags() -> None:
    flags.DEFINE_string("cases", "*", f"Which of {', '.join(CASES)}; * and ? are wildcards.")
    flags.DEFINE_integer("rounds", 5, "Pairs of measurements.", lower_bound=2)
    flags.DEFINE_integer("slots", 32, "Of the engine.", lower_bound=1)
    flags.DEFINE_string("workdir", "", "Measure the newest stage of this run, as the cases run/*, and no other.")


def made(model: str, slots: int) -> tuple:
    """(parameters, engine, one whose plain answers do not end by themselves) of a model, or of the run."""
    if model == "run":
        run = Run.open(Path(flags.FLAGS.workdir))
        tokenizer, params = run.tokenizer, run.load_params(run.choose())
    else:
        config = shape(model)
        config.tokenizer.vocab_size = min(MODELS[model], 8192)  # Python's files give no more
        tokenizer, run = train_tokenizer(texts(), config.tokenizer.vocab_size), context_of(config)
        params = run.init_params()
    endless = copy.copy(tokenizer)
    endless.ends = (tokenizer.vocab_size,)
    return params, *(Engine(run.model, one, run.mesh, slots, LENGTH) for one in (tokenizer, endless))


def measure(case: str, rounds: int, slots: int) -> dict[str, float]:
    """The ratio of rates, guided over plain; each round is printed."""
    model, kind = case.split("/")
    params, engine, endless = made(model, slots)
    tokenizer = engine.tokenizer
    grammar = compiled(tokenizer, f"start: {of_schema(SCHEMAS[kind])}")
    print(f"\n{case}: {2 * slots} requests, {slots} slots\nround   plain tok/s  guided tok/s   ratio   of CPU seconds")
    ratios = []
    for i in range(rounds + 1):
        prompts = np.random.default_rng(i).integers(100, tokenizer.vocab_size, (2 * slots, 16)).tolist()
        ask = lambda **more: [Request(p, seed, 1.0, NEW, **more) for seed, p in enumerate(prompts)]  # noqa: E731, B023
        guided, seconds = timed(engine, params, ask(grammar=grammar))
        plain = ask()
        for request, answer in zip(plain, guided, strict=True):
            request.max_new_tokens = len(answer.ids)
        free, free_seconds = timed(endless, params, plain)
        rates = [sum(len(c.ids) for c in done) / took for done, took in ((free, free_seconds), (guided, seconds))]
        if i:  # the first compiles
            ratios.append(rates[1] / rates[0])
            (a, _), (b, _), (ratio, cpu) = *rates, ratios[-1]
            print(f"{i:5}   {a:11,.0f}  {b:12,.0f}   {ratio:5.2f}   {cpu:14.2f}", flush=True)
    forced = np.mean([1 - np.mean(answer.sampled_mask) for answer in guided])
    print(f"{forced:.0%} of the guided tokens came by themselves; the last answer: {tokenizer.decode(guided[-1].ids)}")
    return spread([wall for wall, _ in ratios])


def texts() -> list[str]:
    return [
        path.read_text(encoding="utf-8", errors="replace")
        for path in sorted(Path(json.__file__).parents[1].glob("*.py"))
    ]


def timed(engine: Engine, params, requests: list[Request]) -> tuple[list, np.ndarray]:
    started = clocks()
    done = engine.generate(params, requests)
    return done, clocks() - started


def main() -> None:
    f = flags.FLAGS
    wanted = [case for case in fnmatch.filter(CASES, f.cases) if case.startswith("run/") == bool(f.workdir)]
    if not wanted:
        raise UserError(f"no case matches {f.cases!r}; one is {CASES[0]!r}")
    results = {case: measure(case, f.rounds, f.slots) for case in wanted}
    print("\nguided / plain, tokens a second")
    for case, ratio in results.items():
        print(f"{case:14}  {shown(ratio)}")


if __name__ == "__main__":
    run_cli(main, define_flags)
