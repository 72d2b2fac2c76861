"""The device's half of the engine: the state of the slots, and the jitted functions that move it.

State, one entry a slot: `cache`, `token` (the last one, not read yet), `position` (its), `count` (tokens written),
`done`, `waiting` (for a tool), the request (`seed`, `temperature`, `limit`, `bias`, `forced`, `forced_length`,
`forced_at`) and the outputs `out_*`, (slots, room for new tokens).
"""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from llm_jax.losses import logits_of
from llm_jax.model import kv_cache, transformer

FORCED_ROOM = 48  # tokens in a slot's forced queue
SAMPLE_DOMAIN = 7  # keeps the engine's random keys apart from others of the same seed

State = dict[str, Any]


def empty_state(model: ConfigDict, vocab_size: int, slots: int, length: int, new: int, top: int) -> State:
    """Slots without requests (all done), a cache of `length` positions and room for `new` tokens."""
    integers, room = jnp.zeros(slots, jnp.int32), jnp.zeros((slots, new), jnp.float32)
    return {
        "cache": transformer.empty_cache(model, slots, length),
        **{k: integers for k in ("token", "position", "count", "limit", "forced_length", "forced_at")},
        "seed": jnp.zeros(slots, jnp.uint32),
        "temperature": jnp.zeros(slots, jnp.float32),
        "bias": jnp.zeros((slots, transformer.padded_vocab(vocab_size)), jnp.float32),
        "forced": jnp.zeros((slots, FORCED_ROOM), jnp.int32),
        "done": jnp.ones(slots, bool),
        "waiting": jnp.zeros(slots, bool),
        "out_ids": room.astype(jnp.int32),
        "out_mask": room.astype(jnp.int32),
        "out_sampling": room,
        "out_logprob": room,
        "out_top_ids": jnp.zeros((slots, new, top), jnp.int32),
        "out_top": jnp.zeros((slots, new, top), jnp.float32),
    }


def model_of(static: tuple[str, int, int]) -> tuple[ConfigDict, int, int]:
    """What the jitted functions are specialised on: (model config as JSON, vocabulary size, `top`)."""
    model_json, vocab_size, top = static
    return ConfigDict(json.loads(model_json)), vocab_size, top


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def admit(static, params, state: State, requests: State, slots_R: jax.Array, stops: jax.Array) -> State:
    """Puts R requests into slots: one forward over their prompts, and their first new token.

    `requests` has `prompt` (R, P), `length` and the per-request entries of the state; a slot number beyond the slots
    belongs to no request.
    """
    model, vocab_size, top = model_of(static)
    R, P = requests["prompt"].shape
    cache = transformer.empty_cache(model, R, P)
    positions_RP = jnp.broadcast_to(jnp.arange(P), (R, P))
    hidden_RPD, cache, _ = transformer.apply(
        model, vocab_size, params, requests["prompt"], positions_RP, jnp.ones((R, P), jnp.int32), cache
    )
    last_R = requests["length"] - 1
    hidden_RD = jnp.take_along_axis(hidden_RPD, last_R[:, None, None], axis=1)[:, 0]
    fresh = empty_state(model, vocab_size, R, 0, state["out_ids"].shape[1], top)
    fresh |= {k: requests[k] for k in ("seed", "temperature", "limit", "bias", "forced", "forced_length")}
    fresh |= {"position": last_R, "done": requests["limit"] == 0}
    fresh = advance(model, vocab_size, top, params, fresh, hidden_RD, stops)
    cache = kv_cache.put_rows(state["cache"], cache, slots_R)
    return {k: cache if k == "cache" else state[k].at[slots_R].set(fresh[k], mode="drop") for k in state}


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def decode_chunk(static, chunk: int, params, state: State, stops: jax.Array) -> State:
    """Up to `chunk` steps; stops early when no slot can go on."""
    model, vocab_size, top = model_of(static)

    def going(carry):
        step, state = carry
        return (step < chunk) & ~jnp.all(state["done"] | state["waiting"])

    def body(carry):
        step, state = carry
        hidden_B1D, cache, _ = transformer.apply(
            model,
            vocab_size,
            params,
            state["token"][:, None],
            state["position"][:, None],
            jnp.ones_like(state["token"])[:, None],
            state["cache"],
        )
        return step + 1, advance(model, vocab_size, top, params, {**state, "cache": cache}, hidden_B1D[:, 0], stops)

    return jax.lax.while_loop(going, body, (0, state))[1]


def advance(model, vocab_size: int, top: int, params, state: State, hidden_BD, stops: jax.Array) -> State:
    """Every live slot gets its next token: forced if its queue holds one, else sampled from its last hidden state.

    `stops` holds the id that ends a turn and the ids that close a tool's span.
    """
    s = dict(state)
    rows = jnp.arange(hidden_BD.shape[0])
    live = ~(s["done"] | s["waiting"])
    logits_BV = logits_of(hidden_BD, transformer.head_DV(model, params), vocab_size)
    token_B, sampling_B = sample(logits_BV + s["bias"], s["temperature"], s["seed"], s["count"])
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

    A token is drawn by inverting the cumulative distribution at one uniform number, which depends on the row's seed
    and the token's place alone, not on the batch around it. (One number for each id, as Gumbel noise needs, took
    half of the step's time on a CPU.)
    """

    def drawn(logits_BV):
        log_p_BV = jax.nn.log_softmax(logits_BV / jnp.maximum(temperature_B, 1e-6)[:, None])
        keys_B = jax.vmap(
            lambda seed, n: jax.random.fold_in(jax.random.fold_in(jax.random.key(SAMPLE_DOMAIN), seed), n)
        )(seed_B, count_B)
        uniform_B = jax.vmap(jax.random.uniform)(keys_B)
        cumulative_BV = jnp.cumsum(jnp.exp(log_p_BV), axis=-1)
        # uniform < 1 has 23 bits, so that its product with the total stays below the total: an id of no mass is safe.
        hot_B = jnp.sum(cumulative_BV <= (uniform_B * cumulative_BV[:, -1])[:, None], axis=-1)
        return hot_B, jnp.take_along_axis(log_p_BV, hot_B[:, None], axis=1)[:, 0]

    greedy_B = jnp.argmax(logits_BV, axis=-1)
    zeros_B = jnp.zeros(greedy_B.shape, jnp.float32)
    hot_B, log_p_B = jax.lax.cond(jnp.any(temperature_B > 0), drawn, lambda _: (greedy_B, zeros_B), logits_BV)
    is_hot = temperature_B > 0
    return jnp.where(is_hot, hot_B, greedy_B).astype(jnp.int32), jnp.where(is_hot, log_p_B, 0.0)


@functools.partial(jax.jit, donate_argnums=0)
def queue_forced(state: State, rows_B, forced_BF, length_B) -> State:
    """Puts new queues into the chosen slots and lets them go on."""
    return {
        **state,
        "forced": jnp.where(rows_B[:, None], forced_BF, state["forced"]),
        "forced_length": jnp.where(rows_B, length_B, state["forced_length"]),
        "forced_at": jnp.where(rows_B, 0, state["forced_at"]),
        "waiting": state["waiting"] & ~rows_B,
    }


@functools.partial(jax.jit, static_argnums=1)
def lengthened(state: State, length: int) -> State:
    """The same state with a cache of `length` positions."""
    return {**state, "cache": kv_cache.lengthened(state["cache"], length)}
