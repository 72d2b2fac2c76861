"""What our engine's slots are worth, and what it costs beside its own jitted steps; at the speedrun's size, greedy.

    python -m benchmarks.slots [--rounds=5] [--slots=32]

refills: the mixed requests of `benchmarks.decode`, all at once, against groups of as many as there are slots, each of
which waits for its longest. overhead: rows of 64 + 64 tokens from request to completion against the jitted calls alone
that read the prompts and decode; and the first token of one row against reading its prompt and two steps. All in one
process, in turns.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from absl import flags

from benchmarks.common import shown, spread
from benchmarks.decode import NEW, PROMPT, NoText, clocks, requests_of, shape
from llm_jax.frame.cli import quiet_logs, run_cli

quiet_logs()

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.ours import context_of  # noqa: E402
from llm_jax.sampling.engine import Engine, lanes_for  # noqa: E402
from llm_jax.sampling.requests import Request  # noqa: E402
from llm_jax.sampling.slots import Slots  # noqa: E402

FIRSTS = 10  # first tokens in a round


def define_flags() -> None:
    flags.DEFINE_integer("rounds", 5, "Measurements of each side.", lower_bound=2)
    flags.DEFINE_integer("slots", 32, "Of the engine.", lower_bound=1)


def timed(function: Callable, *args) -> tuple[np.ndarray, object]:
    started = clocks()
    out = function(*args)
    return clocks() - started, out


def refills(context, params, slots: int, rounds: int) -> None:
    """Prints occupancy and rate with refills and in groups."""
    engine = Engine(
        context.model,
        NoText(context.vocab_size),
        context.mesh,
        slots=slots,
        length=context.config.data.sequence_length,
    )

    def run(draw: tuple[int, int], group: int) -> tuple[np.ndarray, float]:
        """(clocks, share of the slots' steps that wrote a token)."""
        requests = [Request(prompt=ids, max_new_tokens=new) for ids, new in requests_of("speedrun/mixed", draw)]
        before, started = np.array([engine.worked, engine.slot_steps]), clocks()
        for i in range(0, len(requests), group):
            engine.generate(params, requests[i : i + group])
        worked, slot_steps = np.array([engine.worked, engine.slot_steps]) - before
        return clocks() - started, worked / slot_steps

    requests = requests_of("speedrun/mixed")
    wanted = sum(new for _, new in requests)
    print(f"{len(requests)} mixed requests, {wanted} new tokens, {slots} slots")
    print("round   refilled tok/s  occupied   in groups tok/s  occupied   ratio   of CPU seconds")
    ratios = []
    for i in range(rounds + 1):
        (a, busy_a), (b, busy_b) = run((i, 0), len(requests)), run((i, 1), slots)
        if i:  # the first compiles
            ratios.append(b / a)
            rates = f"{wanted / a[0]:14,.0f}  {busy_a:8.0%}   {wanted / b[0]:15,.0f}  {busy_b:8.0%}"
            print(f"{i:5}   {rates}   {b[0] / a[0]:5.2f}   {b[1] / a[1]:14.2f}", flush=True)
    wall, cpu = np.array(ratios).T
    print(f"refilled / in groups: {shown(spread(wall))}; of CPU seconds {shown(spread(cpu))}\n")


def overhead(context, params, slots: int, rounds: int) -> None:
    """Prints the engine's time over that of its jitted calls alone."""
    make = lambda kind, count, *more: kind(  # noqa: E731
        context.model, NoText(context.vocab_size), context.mesh, count, context.config.data.sequence_length, *more
    )
    many, one = make(Engine, slots), make(Engine, 1)
    lanes = lanes_for(context.mesh, slots)
    many_bare, one_bare = [make(Slots, slots // lanes, []) for _ in range(lanes)], make(Slots, 1, [])
    for bare in (*many_bare, one_bare):
        bare.use(bare.weights_of(params))
        bare.make_room(PROMPT + NEW)
    threads = ThreadPoolExecutor(lanes)

    def first_token(request: Request) -> Iterator[list[int]]:
        stream = one.stream(params, request)
        next(stream)
        return stream

    def read_and(bare: Slots, requests: list[Request], *counts: int) -> None:
        for i in range(0, len(requests), bare.together[-1]):
            group = dict(enumerate(requests[i : i + bare.together[-1]], i))
            hidden_RD, _ = bare.read([(tuple(r.prompt), slot, slot, 0) for slot, r in group.items()])
            limits = {slot: r.max_new_tokens for slot, r in group.items()}
            bare.begin(group, hidden_RD, {slot: slot - i for slot in group}, limits)
        for count in counts:
            jax.device_get(bare.chunk(count, bare.count, {})["counts"])

    def side_by_side(requests: list[Request]) -> None:
        parts = [requests[i::lanes] for i in range(lanes)]
        list(threads.map(lambda bare, part: read_and(bare, part, NEW - 1), many_bare, parts))

    ratios = []
    print("round   engine tok/s  jitted calls alone   first token, ms: engine, prompt and two steps")
    for i in range(rounds + 1):
        rng = np.random.default_rng(i)
        draw = lambda n, size, rng=rng: rng.integers(context.vocab_size, size=(n, size)).tolist()  # noqa: E731
        requests = [Request(ids, max_new_tokens=NEW) for ids in draw(slots, PROMPT)]
        a, _ = timed(many.generate, params, requests)
        b, _ = timed(side_by_side, requests)
        firsts = []
        for ids in draw(FIRSTS, PROMPT):
            c, stream = timed(first_token, Request(ids, max_new_tokens=NEW))
            stream.close()
            firsts.append((c, timed(read_and, one_bare, [Request(ids, max_new_tokens=NEW)], 1, 1)[0]))
        c, d = np.mean(firsts, axis=0)
        if i:  # the first compiles
            ratios.append([b / a, c / d])
            rates = f"{slots * NEW / a[0]:12,.0f}  {slots * NEW / b[0]:18,.0f}"
            print(f"{i:5}   {rates}   {1000 * c[0]:6.1f}, {1000 * d[0]:6.1f}", flush=True)
    names = ("rate of the engine / of its jitted calls alone", "time to the first token / prompt and two steps")
    for name, (wall, cpu) in zip(names, np.transpose(ratios, (1, 2, 0)), strict=True):
        print(f"{name}: {shown(spread(wall))}; of CPU seconds {shown(spread(cpu))}")


def main() -> None:
    f = flags.FLAGS
    context = context_of(shape("speedrun"))
    params = context.init_params()
    refills(context, params, f.slots, f.rounds)
    overhead(context, params, f.slots, f.rounds)


if __name__ == "__main__":
    run_cli(main, define_flags)
