"""The decoding engine: `generate(requests)` runs a batch through one jitted prefill and jitted chunks of steps.

Every row has a queue of forced tokens: an opening put into the model's mouth, and what a tool returned. A row that
closes a tool's span waits at the end of the chunk, while the host runs the tool and fills its queue; the batch goes
on. The forward is the trainer's own.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from llm_jax import sharding
from llm_jax.config import UserError
from llm_jax.losses import logits_of
from llm_jax.model import transformer
from llm_jax.tokenizer import Tokenizer

CHUNK = 16  # steps between looks at which rows are done
PROMPT_BUCKET = 32  # prompts are padded to a multiple of this, so that few shapes compile
FORCED_ROOM = 48  # tokens in a row's forced queue
SAMPLE_DOMAIN = 7  # keeps the engine's random keys apart from others of the same seed


@dataclasses.dataclass
class Request:
    prompt: list[int]
    seed: int = 0  # of this row's samples: same seed, prompt and parameters, same completion
    temperature: float = 0.0  # 0: greedy
    max_new_tokens: int = 64
    forced: tuple[int, ...] = ()  # put at the start of the completion
    suppress: tuple[int, ...] = ()  # ids that must not be sampled


@dataclasses.dataclass
class Completion:
    """Tokens after the prompt. `logprob` is of the untempered distribution; a forced token has mask 0."""

    ids: list[int]
    sampled_mask: list[int]
    sampling_logprob: list[float]
    logprob: list[float]
    top: list[list[tuple[int, float]]] | None = None  # most likely (id, log-probability) at each token, when asked
    tool_calls: int = 0


Tool = Callable[[str], str]  # the text inside a span -> the text of the output span


class Engine:
    """Decodes with one set of parameters after another; compiled functions are kept by shape."""

    def __init__(self, model, tokenizer: Tokenizer, mesh: Mesh, batch: int, tools: dict[str, Tool] | None = None):
        self.model, self.tokenizer, self.mesh, self.batch = model, tokenizer, mesh, batch
        self.tools = tools or {}
        self._closing = {tokenizer.close[name]: name for name in self.tools}

    def generate(self, params, requests: list[Request], top: int = 0) -> list[Completion]:
        """Completions in the order of the requests, with the `top` most likely ids of each token when asked.

        Raises UserError for an empty prompt, and for more than FORCED_ROOM forced ids.
        """
        if any(len(request.forced) > FORCED_ROOM for request in requests):
            raise UserError(f"an opening has at most {FORCED_ROOM} tokens")
        if any(not request.prompt for request in requests):
            raise UserError("an empty prompt cannot be continued; it needs at least one token")
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt))
        done: dict[int, Completion] = {}
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            rows = self._run_batch(params, [requests[i] for i in chosen], top)
            done.update(zip(chosen, rows, strict=True))
        return [done[i] for i in range(len(requests))]

    def stream(self, params, request: Request) -> Iterator[list[int]]:
        """The new ids of one request, as they come."""
        shown = 0
        for state in self._chunks(params, [request], top=0, chunk=1):
            ids = state["out_ids"][0, : state["count"][0]].tolist()
            yield ids[shown:]
            shown = len(ids)

    def _run_batch(self, params, requests: list[Request], top: int) -> list[Completion]:
        *_, state = self._chunks(params, requests, top, CHUNK)
        return [completion(state, row, top) for row in range(len(requests))]

    def _chunks(self, params, requests: list[Request], top: int, chunk: int) -> Iterator[dict[str, np.ndarray]]:
        """Runs a batch to the end; yields the host's view of the outputs after every chunk."""
        longest = max(len(r.prompt) for r in requests)
        prompt_room = -(-longest // PROMPT_BUCKET) * PROMPT_BUCKET
        new = max(r.max_new_tokens for r in requests)
        new = -(-new // CHUNK) * CHUNK
        rows = initial_rows(requests, self.batch, prompt_room, new, self.tokenizer.pad)
        rows = {
            k: jax.device_put(v, sharding.named(self.mesh, "batch", *(None,) * (v.ndim - 1))) for k, v in rows.items()
        }
        stops = jax.device_put(np.array([self.tokenizer.end, *self._closing], np.int32))
        bias_BV = jax.device_put(self._bias(requests), sharding.named(self.mesh, "batch", "vocab"))
        static = (self.model.to_json(), self.tokenizer.vocab_size, prompt_room + new, top)
        state = prefill(static, params, rows)
        calls = np.zeros(self.batch, int)
        while True:
            state = decode_chunk(static, chunk, params, state, stops, bias_BV)
            host = jax.device_get({k: state[k] for k in HOST_FIELDS})
            if self.tools and (waiting := np.flatnonzero(host["waiting"])).size:
                state = self._answer_tools(state, host, waiting)
                calls[waiting] += 1
                host["done"] = jax.device_get(state["done"])
            host["tool_calls"] = calls
            yield host
            if host["done"].all():
                return

    def _bias(self, requests: list[Request]) -> np.ndarray:
        bias_BV = np.zeros((self.batch, transformer.padded_vocab(self.tokenizer.vocab_size)), np.float32)
        for row, request in enumerate(requests):
            bias_BV[row, list(request.suppress)] = -1e30
        return bias_BV

    def _call(self, ids: list[int]) -> str:
        """Runs the call that the last id closes; a closing without its opening calls nothing."""
        name = self._closing[ids[-1]]
        spans = {*self.tokenizer.open.values(), *self.tokenizer.close.values()}
        opening = max((i for i, t in enumerate(ids[:-1]) if t in spans), default=-1)
        if opening < 0 or ids[opening] != self.tokenizer.open[name]:
            return "error: no call was opened"
        return self.tools[name](self.tokenizer.decode(ids[opening + 1 : -1]))

    def _answer_tools(self, state: dict, host: dict, waiting: np.ndarray) -> dict:
        """Runs the call that each waiting row just closed, and queues its output span."""
        forced, length = np.zeros((self.batch, FORCED_ROOM), np.int32), np.zeros(self.batch, np.int32)
        for row in waiting:
            ids = host["out_ids"][row, : host["count"][row]].tolist()
            result = self._call(ids)
            body = self.tokenizer.encode(result)[: FORCED_ROOM - 2]
            queue = [self.tokenizer.open["output"], *body, self.tokenizer.close["output"]]
            forced[row, : len(queue)], length[row] = queue, len(queue)
        mask = np.zeros(self.batch, bool)
        mask[waiting] = True
        put = lambda x: jax.device_put(x, sharding.named(self.mesh, "batch", *(None,) * (x.ndim - 1)))  # noqa: E731
        return queue_forced(state, put(mask), put(forced), put(length))


HOST_FIELDS = (
    "out_ids",
    "out_mask",
    "out_sampling",
    "out_logprob",
    "out_top_ids",
    "out_top",
    "count",
    "done",
    "waiting",
)


def completion(host: dict[str, np.ndarray], row: int, top: int) -> Completion:
    n = host["count"][row]
    tops = None
    if top:
        pairs = zip(host["out_top_ids"][row, :n].tolist(), host["out_top"][row, :n].tolist(), strict=True)
        tops = [list(zip(ids, values, strict=True)) for ids, values in pairs]
    fields = (host[k][row, :n].tolist() for k in ("out_ids", "out_mask", "out_sampling", "out_logprob"))
    return Completion(*fields, top=tops, tool_calls=int(host["tool_calls"][row]))


def initial_rows(requests: list[Request], batch: int, prompt_room: int, new: int, pad: int) -> dict[str, np.ndarray]:
    """What the host knows of each row; rows beyond the requests are done from the start."""
    rows = {
        "prompt": np.full((batch, prompt_room), pad, np.int32),
        "length": np.ones(batch, np.int32),
        "seed": np.zeros(batch, np.uint32),
        "temperature": np.zeros(batch, np.float32),
        "limit": np.zeros(batch, np.int32),
        "forced": np.zeros((batch, FORCED_ROOM), np.int32),
        "forced_length": np.zeros(batch, np.int32),
        "out_ids": np.zeros((batch, new), np.int32),  # only its shape matters: the room for new tokens
    }
    for i, request in enumerate(requests):
        rows["prompt"][i, : len(request.prompt)] = request.prompt
        rows["length"][i], rows["seed"][i] = len(request.prompt), request.seed % 2**32
        rows["temperature"][i], rows["limit"][i] = request.temperature, request.max_new_tokens
        rows["forced"][i, : len(request.forced)] = request.forced
        rows["forced_length"][i] = len(request.forced)
    return rows


@functools.partial(jax.jit, static_argnums=0)
def prefill(static, params, rows: dict[str, jax.Array]) -> dict[str, Any]:
    """Fills the cache with the prompts but their last token, which the first decoding step will read."""
    model, vocab_size, cache_length, top = model_of(static)
    B, P = rows["prompt"].shape
    cache = transformer.empty_cache(model, B, cache_length)
    positions_BP = jnp.broadcast_to(jnp.arange(P), (B, P))
    _, cache = transformer.apply(
        model, vocab_size, params, rows["prompt"], positions_BP, jnp.ones((B, P), jnp.int32), cache
    )
    last_B1 = jnp.take_along_axis(rows["prompt"], rows["length"][:, None] - 1, axis=1)
    out = {"out_ids": rows["out_ids"], "out_mask": jnp.zeros_like(rows["out_ids"])}
    zeros = jnp.zeros(rows["out_ids"].shape, jnp.float32)
    return {
        **{k: rows[k] for k in ("seed", "temperature", "limit", "forced", "forced_length")},
        **out,
        "out_sampling": zeros,
        "out_logprob": zeros,
        "out_top_ids": jnp.zeros((*zeros.shape, top), jnp.int32),
        "out_top": jnp.zeros((*zeros.shape, top), jnp.float32),
        "cache": cache,
        "token": last_B1[:, 0],
        "position": rows["length"] - 1,
        "count": jnp.zeros(B, jnp.int32),
        "forced_at": jnp.zeros(B, jnp.int32),
        "done": rows["limit"] == 0,
        "waiting": jnp.zeros(B, bool),
    }


def model_of(static) -> tuple[ConfigDict, int, int, int]:
    model_json, vocab_size, cache_length, top = static
    return ConfigDict(json.loads(model_json)), vocab_size, cache_length, top


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def decode_chunk(static, chunk: int, params, state: dict[str, Any], stops, bias_BV) -> dict[str, Any]:
    """Up to `chunk` steps; stops early when no row can go on."""
    model, vocab_size, _, top = model_of(static)

    def going(carry):
        step, state = carry
        return (step < chunk) & ~jnp.all(state["done"] | state["waiting"])

    def body(carry):
        step, state = carry
        return step + 1, decode_step(model, vocab_size, top, params, state, stops, bias_BV)

    return jax.lax.while_loop(going, body, (0, state))[1]


def decode_step(model, vocab_size: int, top: int, params, state: dict[str, Any], stops, bias_BV) -> dict[str, Any]:
    """Every live row reads its last token and gets the next one: forced if its queue holds one, else sampled."""
    s = dict(state)
    B = s["token"].shape[0]
    rows = jnp.arange(B)
    live = ~(s["done"] | s["waiting"])
    ones_B1 = jnp.ones((B, 1), jnp.int32)
    hidden_B1D, s["cache"] = transformer.apply(
        model, vocab_size, params, s["token"][:, None], s["position"][:, None], ones_B1, s["cache"]
    )
    logits_BV = logits_of(hidden_B1D[:, 0], transformer.head_DV(model, params), vocab_size)
    token_B, sampling_B = sample(logits_BV + bias_BV, s["temperature"], s["seed"], s["count"])
    forced = s["forced_at"] < s["forced_length"]
    token_B = jnp.where(forced, s["forced"][rows, jnp.minimum(s["forced_at"], FORCED_ROOM - 1)], token_B)
    log_p_BV = jax.nn.log_softmax(logits_BV)
    at = jnp.where(live, s["count"], s["out_ids"].shape[1])  # beyond the end: dropped

    def put(name, value):
        s[name] = s[name].at[rows, at].set(value, mode="drop")

    put("out_ids", token_B)
    put("out_mask", (~forced).astype(jnp.int32))
    put("out_sampling", jnp.where(forced, 0.0, sampling_B))
    put("out_logprob", log_p_BV[rows, token_B])
    if top:
        values_Bk, ids_Bk = jax.lax.top_k(log_p_BV, top)
        put("out_top_ids", ids_Bk)
        put("out_top", values_Bk)
    s["token"] = jnp.where(live, token_B, s["token"])
    s["position"] += live
    s["count"] += live
    s["forced_at"] += live & forced
    s["done"] |= live & ((token_B == stops[0]) | (s["count"] >= s["limit"]))
    s["waiting"] |= live & ~s["done"] & ~forced & jnp.any(token_B[:, None] == stops[1:], axis=1)
    return s


def sample(logits_BV, temperature_B, seed_B, count_B) -> tuple[jax.Array, jax.Array]:
    """(token, its log-probability under the distribution it was drawn from); greedy rows have log-probability 0.

    The noise of a token depends on the row's seed and the token's place alone, not on the batch around it.
    """

    def drawn(logits_BV):
        scaled_BV = logits_BV / jnp.maximum(temperature_B, 1e-6)[:, None]
        keys_B = jax.vmap(
            lambda seed, n: jax.random.fold_in(jax.random.fold_in(jax.random.key(SAMPLE_DOMAIN), seed), n)
        )(seed_B, count_B)
        noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, logits_BV.shape[1:]))(keys_B)
        hot_B = jnp.argmax(scaled_BV + noise_BV, axis=-1)
        log_p_B = jnp.take_along_axis(jax.nn.log_softmax(scaled_BV), hot_B[:, None], axis=1)[:, 0]
        return hot_B, log_p_B

    greedy_B = jnp.argmax(logits_BV, axis=-1)
    zeros_B = jnp.zeros(greedy_B.shape, jnp.float32)
    hot_B, log_p_B = jax.lax.cond(jnp.any(temperature_B > 0), drawn, lambda _: (greedy_B, zeros_B), logits_BV)
    is_hot = temperature_B > 0
    return jnp.where(is_hot, hot_B, greedy_B).astype(jnp.int32), jnp.where(is_hot, log_p_B, 0.0)


@functools.partial(jax.jit, donate_argnums=0)
def queue_forced(state: dict[str, Any], rows_B, forced_BF, length_B) -> dict[str, Any]:
    """Puts new queues into the chosen rows and lets them go on."""
    return {
        **state,
        "forced": jnp.where(rows_B[:, None], forced_BF, state["forced"]),
        "forced_length": jnp.where(rows_B, length_B, state["forced_length"]),
        "forced_at": jnp.where(rows_B, 0, state["forced_at"]),
        "waiting": state["waiting"] & ~rows_B,
    }
