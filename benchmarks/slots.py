"""What our engine's slots are worth, and what it costs beside the model's own work; at the speedrun's size, greedy.

    python -m benchmarks.slots [--rounds=5] [--slots=32]

refills: the mixed requests of `benchmarks.decode`, all at once, against groups of as many as there are slots, each of
which waits for its longest. bare: `slots` rows of 64 + 64 tokens against jitted functions that read the prompts and
decode, and do nothing else; and the first two tokens of one row. Everything runs in one process, in turns.
"""

import functools
from collections.abc import Callable

from absl import flags

from benchmarks.common import shown, spread
from benchmarks.decode import NEW, PROMPT, NoText, clocks, requests_of, shape
from llm_jax.cli import quiet_logs, run_cli

quiet_logs()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.ours import context_of  # noqa: E402
from llm_jax.losses import logits_of  # noqa: E402
from llm_jax.model import transformer  # noqa: E402
from llm_jax.sampling.engine import Engine, Request  # noqa: E402


def define_flags() -> None:
    flags.DEFINE_integer("rounds", 5, "Measurements of each side.", lower_bound=2)
    flags.DEFINE_integer("slots", 32, "Of the engine.", lower_bound=1)


class Bare:
    """The model's work alone, for rows of PROMPT + NEW tokens."""

    def __init__(self, context, params):
        self.model, self.vocab_size = context.model, context.vocab_size
        self.weights = jax.jit(functools.partial(transformer.for_decoding, self.model))(params)

    def _next(self, weights, cache, tokens_BT, start):
        """Reads tokens that stand at `start` -> (the cache, the likeliest id after the last)."""
        positions_BT = jnp.broadcast_to(start + jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        ones_BT = jnp.ones_like(tokens_BT)
        hidden_BTD, cache, _ = transformer.apply(
            self.model, self.vocab_size, weights, tokens_BT, positions_BT, ones_BT, cache
        )
        logits_BV = logits_of(hidden_BTD[:, -1], transformer.head_DV(self.model, weights), self.vocab_size)
        return cache, jnp.argmax(logits_BV, axis=-1)

    @functools.partial(jax.jit, static_argnums=0)
    def read(self, weights, tokens_BP):
        cache = transformer.empty_cache(self.model, len(tokens_BP), PROMPT + NEW)
        return self._next(weights, cache, tokens_BP, 0)

    @functools.partial(jax.jit, static_argnums=(0, 4), donate_argnums=2)
    def decode(self, weights, cache, token_B, steps: int):
        """(cache, ids (steps + 1, B)), `token_B` the first of them."""

        def one(carry, position):
            cache, token_B = self._next(weights, carry[0], carry[1][:, None], position)
            return (cache, token_B), token_B

        (cache, _), ids_TB = jax.lax.scan(one, (cache, token_B), PROMPT + jnp.arange(steps))
        return cache, jnp.concatenate([token_B[None], ids_TB])


def timed(function: Callable, *args) -> tuple[np.ndarray, object]:
    started = clocks()
    out = jax.block_until_ready(function(*args))
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
        requests.sort(key=lambda request: len(request.prompt))  # as the engine does
        before, started = engine.steps, clocks()
        for i in range(0, len(requests), group):
            engine.generate(params, requests[i : i + group])
        took = clocks() - started
        by_steps = sum(r.max_new_tokens - 1 for r in requests)  # the first token comes with the prompt
        return took, by_steps / ((engine.steps - before) * slots)

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


def bare(context, params, slots: int, rounds: int) -> None:
    """Prints the engine's time over the bare functions'. Exits where they give other ids."""
    least = Bare(context, params)
    new_engine = functools.partial(
        Engine, context.model, NoText(context.vocab_size), context.mesh, length=context.config.data.sequence_length
    )
    many, one = new_engine(slots=slots), new_engine(slots=1)

    def all_rows(prompts_BP):
        cache, token_B = least.read(least.weights, prompts_BP)
        return least.decode(least.weights, cache, token_B, NEW - 1)[1]

    def first_two(prompts_BP):
        cache, token_B = least.read(least.weights, prompts_BP)
        return least.decode(least.weights, cache, token_B, 1)[1]

    def steps_alone(cache, token_B):
        return least.decode(least.weights, cache, token_B, NEW - 1)[1]

    def whole(prompts_BP):
        requests = [Request(prompt=ids, max_new_tokens=NEW) for ids in prompts_BP.tolist()]
        return np.array([completion.ids for completion in many.generate(params, requests)]).T

    def first_of_stream(prompts_BP):
        stream = one.stream(params, Request(prompt=prompts_BP[0].tolist(), max_new_tokens=NEW))
        ids = next(stream)
        stream.close()
        return ids

    ratios = []
    print("round   engine tok/s  bare tok/s  bare steps alone tok/s   engine, bare ms to the second token")
    for i in range(rounds + 1):
        prompts_BP = np.random.default_rng(i).integers(context.vocab_size, size=(slots, PROMPT), dtype=np.int32)
        a, ids = timed(whole, prompts_BP)
        b, least_ids = timed(all_rows, prompts_BP)
        agree = np.all(ids == np.asarray(least_ids), axis=0).mean()
        if agree < 0.9:  # see AGREEING in benchmarks.decode
            raise SystemExit(f"error: engine and bare functions give the same ids in {agree:.0%} of the rows only")
        c, _ = timed(steps_alone, *jax.block_until_ready(least.read(least.weights, prompts_BP)))
        d, ids = timed(first_of_stream, prompts_BP[:1])
        e, least_ids = timed(first_two, prompts_BP[:1])
        if i:  # the first compiles
            ratios.append([a / b, a * (NEW - 1) / (c * NEW), d / e])
            rates = f"{slots * NEW / a[0]:12,.0f}  {slots * NEW / b[0]:10,.0f}  {slots * (NEW - 1) / c[0]:22,.0f}"
            print(f"{i:5}   {rates}   {1000 * d[0]:6.1f}, {1000 * e[0]:6.1f} ({len(ids)} tokens)", flush=True)
    names = ("engine / bare, prompts and all", "engine / bare steps alone, per token", "first tokens, engine / bare")
    for name, (wall, cpu) in zip(names, np.transpose(ratios, (1, 2, 0)), strict=True):
        print(f"time of {name}: {shown(spread(wall))}; of CPU seconds {shown(spread(cpu))}")


def main() -> None:
    f = flags.FLAGS
    context = context_of(shape("speedrun"))
    params = context.init_params()
    refills(context, params, f.slots, f.rounds)
    bare(context, params, f.slots, f.rounds)


if __name__ == "__main__":
    run_cli(main, define_flags)
