"""The device's half of the engine: the state of the slots, and the jitted functions that move it.

State, one entry a slot, beside the cache: `token` (the last one, not read yet), `recent` (the last few that were
written), `position` (of the last one), `count` (tokens written), `done`, `waiting` (for a tool, or for the mask of a
grammar), `forced_at`, what its request asks for (`ROW_FIELDS`, `bias`), which ids its prompt has (`read`) and how often
it wrote each (`written`); and what it wrote since the host last looked: `fresh` tokens in `out_*`. Every setting is
data. Programs are compiled for the cache's length, and to read for the number of prompts and the length of their
pieces; for nothing else.
"""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from llm_jax.config import UserError
from llm_jax.model import exact, kv_cache, transformer
from llm_jax.model.attention import capped
from llm_jax.sampling import sampler
from llm_jax.tokenizer import Marker
from llm_jax.tools.table import MOST_TOKENS

FORCED_ROOM = MOST_TOKENS  # in a slot's forced queue
STOP_ROOM = 8  # ids that end an answer
TOP = 20  # likeliest ids of a token, where a request wants them
MOST_STEPS = 64  # of a chunk
MASK_BITS = 32  # ids of a word of a grammar's mask
SCORED = 32  # positions of a prompt whose logits are there at a time
NGRAM = 2  # tokens that must agree with an earlier place for what followed there to be drafted

ROW_FIELDS = {  # of a request: name -> (shape beyond the slots, dtype)
    "limit": ((), jnp.int32),
    "seed": ((), jnp.uint32),
    "temperature": ((), jnp.float32),
    "top_k": ((), jnp.int32),
    "top_p": ((), jnp.float32),
    "min_p": ((), jnp.float32),
    "repetition": ((), jnp.float32),
    "presence": ((), jnp.float32),
    "frequency": ((), jnp.float32),
    "adjusts": ((), jnp.bool_),  # has a bias or a penalty: `put_row` comes first
    "guided": ((), jnp.bool_),  # by a grammar: it waits for a mask after each token that it samples
    "wants_top": ((), jnp.bool_),
    "stops": ((STOP_ROOM,), jnp.int32),  # padded with -1
    "forced": ((FORCED_ROOM,), jnp.int32),
    "forced_length": ((), jnp.int32),
    "position": ((), jnp.int32),  # of the prompt's last token
}
MARKER_ROOM = 8  # ids of a marker that closes a tool's span
ANY, NONE = -1, -2  # in place of an id: any is right, or none
NO_ADJUSTMENT = {"bias": 0.0, "read": False}
OUTPUTS = ("ids", "mask", "sampling", "logprob")

State = dict[str, Any]
Static = tuple[str, int, int]  # what the functions are specialised on: model config as JSON, vocabulary, drafts


def empty_state(vocab_size: int, slots: int, longest: int, drafts: int) -> State:
    """Slots without requests, all done. With drafts, also each row's `history`, which has room for the longest."""
    V, room = transformer.padded_vocab(vocab_size), MOST_STEPS + 1 + drafts
    state = {name: jnp.zeros((slots, *shape), dtype) for name, (shape, dtype) in ROW_FIELDS.items()}
    state |= {name: jnp.zeros(slots, jnp.int32) for name in ("token", "count", "forced_at", "fresh")}
    state |= {
        "recent": jnp.full((slots, MARKER_ROOM), NONE, jnp.int32),
        "bias": jnp.zeros((slots, V), jnp.float32),
        "read": jnp.zeros((slots, V), bool),
        "written": jnp.zeros((slots, V), jnp.int32),
        "done": jnp.ones(slots, bool),
        "waiting": jnp.zeros(slots, bool),
        **{f"out_{name}": jnp.zeros((slots, room), jnp.int32) for name in OUTPUTS[:2]},
        **{f"out_{name}": jnp.zeros((slots, room), jnp.float32) for name in OUTPUTS[2:]},
        "out_top_ids": jnp.zeros((slots, room, TOP), jnp.int32),
        "out_top": jnp.zeros((slots, room, TOP), jnp.float32),
    }
    return state | ({"history": jnp.zeros((slots, longest), jnp.int32)} if drafts else {})


def padded(closings: list[Marker]) -> np.ndarray:
    """The markers that close a tool's span as rows (C, M) of equal length, the last ids at the end; and one that never
    comes. Raises UserError for one that is too long."""
    longest = max(map(len, closings), default=1)
    if longest > MARKER_ROOM:
        raise UserError(f"a marker of the tokenizer has {longest} ids; the engine looks at the last {MARKER_ROOM}")
    rows = [(*(ANY,) * (longest - len(marker)), *marker) for marker in closings]
    return np.array([*rows, (NONE,) * longest], np.int32)


def empty_resumed(vocab_size: int, slots: int) -> dict[str, np.ndarray]:
    """What `decode_chunk` takes where no row has waited and none is guided."""
    words = transformer.padded_vocab(vocab_size) // MASK_BITS
    return {
        "rows": np.zeros(slots, bool),
        "forced": np.zeros((slots, FORCED_ROOM), np.int32),
        "length": np.zeros(slots, np.int32),
        "allowed": np.zeros((slots, words), np.uint32),
    }


@functools.cache
def model_of(model_json: str) -> ConfigDict:
    return ConfigDict(json.loads(model_json))


def forward(static: Static, params, tokens_BT, positions_BT, cache: kv_cache.Cache):
    ones_BT = jnp.ones_like(tokens_BT)
    return transformer.apply(model_of(static[0]), static[1], params, tokens_BT, positions_BT, ones_BT, cache)[:2]


def logits(static: Static, params, hidden: jax.Array) -> jax.Array:
    """Float32 logits; the columns that pad the vocabulary are -1e30. As in `losses.logits_of`, but weights first.

    Of a model that computes exactly, less the logarithm of their sum: log-probabilities.
    """
    model, vocab_size, _ = static
    of_head = functools.partial(logits_of, model_of(model), vocab_size)
    if not transformer.is_exact(model_of(model)):
        return of_head(params["head_VD"], hidden)
    *lead, D = hidden.shape
    return exact.log_probs(of_head, params["head_VD"], hidden.reshape(-1, 1, D)).reshape(*lead, -1)


def logits_of(m: ConfigDict, vocab_size: int, head_VD: jax.Array, hidden: jax.Array) -> jax.Array:
    last = hidden.ndim - 1
    out_V = jax.lax.dot_general(head_VD, hidden, (((1,), (last,)), ((), ())), preferred_element_type=jnp.float32)
    out = capped(jnp.moveaxis(out_V, 0, -1), m.logit_cap)
    if out.shape[-1] == vocab_size:
        return out
    return jnp.where(jnp.arange(out.shape[-1]) < vocab_size, out, sampler.NEVER)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def read(static: Static, params, cache: kv_cache.Cache, prompts: dict[str, jax.Array]):
    """Reads a piece of each of R prompts into the cache: (the hidden state of each one's last token (R, D), cache, and
    what `scores` gives where they are wanted, else zeros).

    `prompts`: `tokens` (R, P), `length` (how many of them are the piece's), `start` (the position of the first),
    `origin` (the slot whose cache holds what stands before it), `slot` (where it goes; beyond the slots: nowhere);
    `next` (R, P), the token after each, and `scored` (R), whether its log-probability is wanted.
    """
    rows = kv_cache.take_rows(cache, prompts["origin"])
    positions_RP = prompts["start"][:, None] + jnp.arange(prompts["tokens"].shape[1])
    # What the origin holds beyond the start is never seen: it is overwritten, or lies after the last position.
    hidden_RPD, rows = forward(static, params, prompts["tokens"], positions_RP, rows)
    last_R = prompts["length"] - 1
    hidden_RD = jnp.take_along_axis(hidden_RPD, last_R[:, None, None], axis=1)[:, 0]
    score = lambda: scores(static, params, hidden_RPD, prompts["next"])  # noqa: E731
    nothing = lambda: jax.tree.map(jnp.zeros_like, jax.eval_shape(score))  # noqa: E731
    told = jax.lax.cond(jnp.any(prompts["scored"]), score, nothing)
    return hidden_RD, kv_cache.put_rows(cache, rows, prompts["slot"]), told


def scores(static: Static, params, hidden_RPD, next_RP) -> dict[str, jax.Array]:
    """Of the token that follows each: its log-probability, and the likeliest ids with theirs (R, P, TOP).

    A few positions at a time: the logits of all would be larger than the cache.
    """

    def block(hidden_and_next):
        hidden_RND, next_RN = hidden_and_next
        logits_RNV = logits(static, params, hidden_RND)
        log_z_RN = jax.nn.logsumexp(logits_RNV, axis=-1)
        top, top_ids = jax.lax.top_k(logits_RNV, TOP)
        own_RN = jnp.take_along_axis(logits_RNV, next_RN[..., None], axis=-1)[..., 0]
        return {"logprob": own_RN - log_z_RN, "top": top - log_z_RN[..., None], "top_ids": top_ids}

    size = min(SCORED, next_RP.shape[1])
    cut = lambda x: jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)  # noqa: E731
    told = jax.lax.map(block, (cut(hidden_RPD), cut(next_RP)))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(*next_RP.shape, *x.shape[3:]), told)


@functools.partial(jax.jit, donate_argnums=0)
def shared(cache: kv_cache.Cache, from_B: jax.Array) -> kv_cache.Cache:
    """Each slot's cache from a slot: those of a group have one prompt, which was read once."""
    return kv_cache.take_rows(cache, from_B)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def begin(
    static: Static, params, state: State, rows: State, hidden_RD, source_B, admitted_B, closings, allowed_BW
) -> State:
    """Puts requests into the slots of `admitted_B`, and samples each one's first token.

    `rows` has ROW_FIELDS for all slots, `source_B` the number of each one's prompt among the R that were read,
    `allowed_BW` the ids that grammars allow (`sampler.masked`).
    """

    def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(admitted_B.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

    state = {**state, **{name: chosen(rows[name], state[name]) for name in ROW_FIELDS}}
    state |= {name: chosen(jnp.zeros_like(state[name]), state[name]) for name in ("count", "forced_at", "fresh")}
    state["recent"] = chosen(jnp.full_like(state["recent"], NONE), state["recent"])
    plain_B1 = (admitted_B & ~rows["adjusts"])[:, None]
    state |= {name: jnp.where(plain_B1, zero, state[name]) for name, zero in NO_ADJUSTMENT.items()}
    state |= {
        "written": jnp.where(admitted_B[:, None], 0, state["written"]),
        "waiting": state["waiting"] & ~admitted_B,
        "done": jnp.where(admitted_B, state["limit"] == 0, state["done"]),
    }
    return advance(static, state, logits(static, params, hidden_RD)[source_B], admitted_B, closings, allowed_BW)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(2, 3))
def decode_chunk(static: Static, params, cache: kv_cache.Cache, state: State, steps, patience, closings, resumed):
    """(cache, state, what was written since the last chunk): up to `steps` steps, until `patience` slots are stuck.

    `resumed`: `rows` (B), those that have waited and go on, with what is put into their mouths, `forced` (B, F) and
    `length` (B); and `allowed` (B, W), the ids that grammars allow each guided row to sample next.

    The outputs, in few arrays, since each takes its time on the way to the host: `written` (4, B, room), the OUTPUTS of
    each row's new tokens, admitted rows' first ones too, where floats are bits of int32; `rows` (3, B), its `fresh`,
    `done`, `waiting`; `counts`, of the steps that were done, and of those of each slot in which it wrote; and the
    likeliest ids, `top` and `top_ids` (B, room, TOP).
    """
    drafts, room = static[2], state["out_ids"].shape[1]
    rows_B = resumed["rows"]
    state |= {
        "forced": jnp.where(rows_B[:, None], resumed["forced"], state["forced"]),
        "forced_length": jnp.where(rows_B, resumed["length"], state["forced_length"]),
        "forced_at": jnp.where(rows_B, 0, state["forced_at"]),
        "waiting": state["waiting"] & ~rows_B,
    }

    def going(carry):
        step, _, _, state = carry
        stuck = jnp.sum(state["done"] | state["waiting"])
        return (step < steps) & (stuck < patience) & jnp.all(state["fresh"] + 1 + drafts <= room)

    def body(carry):
        step, worked, cache, state = carry
        live = ~(state["done"] | state["waiting"])
        draft_BK = drafted(state, drafts)
        tokens_BT = jnp.concatenate([state["token"][:, None], draft_BK], axis=1)
        positions_BT = state["position"][:, None] + jnp.arange(1 + drafts)
        hidden_BTD, cache = forward(static, params, tokens_BT, positions_BT, cache)
        logits_BTV = logits(static, params, hidden_BTD)
        worked += jnp.sum(live)
        for k in range(1 + drafts):  # a draft counts while the tokens before it came out as drafted
            state = advance(static, state, logits_BTV[:, k], live, closings, resumed["allowed"])
            live &= state["token"] == tokens_BT[:, min(k + 1, drafts)]
        return step + 1, worked, cache, state

    steps, worked, cache, state = jax.lax.while_loop(going, body, (0, 0, cache, state))
    bits = lambda x: jax.lax.bitcast_convert_type(x, jnp.int32)  # noqa: E731
    outputs = {
        "written": jnp.stack([bits(state[f"out_{name}"]) for name in OUTPUTS]),
        "rows": jnp.stack([state[name].astype(jnp.int32) for name in ("fresh", "done", "waiting")]),
        "counts": jnp.stack([steps, worked]),
        **{name: state[f"out_{name}"] for name in ("top", "top_ids")},
    }
    return cache, state | {"fresh": jnp.zeros_like(state["fresh"])}, outputs


def drafted(state: State, drafts: int) -> jax.Array:
    """Guesses of the next tokens, (slots, drafts): the forced queue, else what followed the last NGRAM tokens where
    the row had them before (prompt lookup, Saxena 2023). A bad guess costs nothing but its share of the forward.
    """
    if not drafts:
        return jnp.zeros((len(state["token"]), 0), jnp.int32)
    history_BS, position_B = state["history"], state["position"]
    S, ahead_K = history_BS.shape[1], jnp.arange(drafts)
    take = lambda at_BK: jnp.take_along_axis(history_BS, jnp.clip(at_BK, 0, S - 1), axis=1)  # noqa: E731
    last = take(position_B[:, None] - jnp.arange(NGRAM))
    same_BS = jnp.arange(S) < position_B[:, None]
    for back in range(NGRAM):
        same_BS &= jnp.roll(history_BS, back, axis=1) == last[:, back : back + 1]
    found_B = jnp.max(jnp.where(same_BS, jnp.arange(S), 0), axis=1)
    queued_BK = state["forced_at"][:, None] + ahead_K
    queue = jnp.take_along_axis(state["forced"], jnp.minimum(queued_BK, FORCED_ROOM - 1), axis=1)
    return jnp.where(queued_BK < state["forced_length"][:, None], queue, take(found_B[:, None] + 1 + ahead_K))


def advance(static: Static, state: State, logits_BV, rows_B, closings, allowed_BW) -> State:
    """Every live slot of `rows_B` gets its next token: forced if its queue holds one, else sampled from its logits.

    `closings` are the markers that close a tool's span, as `padded` gives them; `allowed_BW` are the ids that guided
    rows may sample.
    """
    s = dict(state)
    B, room = s["out_ids"].shape
    rows = jnp.arange(B)
    live = rows_B & ~(s["done"] | s["waiting"])
    same = lambda x: x  # noqa: E731
    drawn_BV = jax.lax.cond(jnp.any(s["adjusts"] & live), lambda x: sampler.adjusted(x, s), same, logits_BV)
    mask = lambda x: sampler.masked(x, s["guided"], allowed_BW)  # noqa: E731
    drawn_BV = jax.lax.cond(jnp.any(s["guided"] & live), mask, same, drawn_BV)
    is_exact = transformer.is_exact(model_of(static[0]))
    token_B, sampling_B = (exactly_drawn if is_exact else sampler.sample)(drawn_BV, s, s["count"])
    forced = s["forced_at"] < s["forced_length"]
    token_B = jnp.where(forced, s["forced"][rows, jnp.minimum(s["forced_at"], FORCED_ROOM - 1)], token_B)
    log_z_B = jnp.zeros(B) if is_exact else jax.nn.logsumexp(logits_BV, axis=-1)
    at = jnp.where(live, s["fresh"], room)  # beyond the end: dropped

    def put(name, value):
        s[name] = s[name].at[rows, at].set(value, mode="drop")

    put("out_ids", token_B)
    put("out_mask", (~forced).astype(jnp.int32))
    put("out_sampling", jnp.where(forced, 0.0, sampling_B))
    put("out_logprob", logits_BV[rows, token_B] - log_z_B)
    nothing = jnp.zeros((B, TOP), jnp.float32), jnp.zeros((B, TOP), jnp.int32)
    top, top_ids = jax.lax.cond(
        jnp.any(s["wants_top"] & live), lambda x: tuple(jax.lax.top_k(x, TOP)), lambda _: nothing, logits_BV
    )
    put("out_top", top - log_z_B[:, None])
    put("out_top_ids", top_ids)
    s["token"] = jnp.where(live, token_B, s["token"])
    for name in ("position", "count", "fresh"):
        s[name] += live
    s["forced_at"] += live & forced
    recent_BM = jnp.concatenate([s["recent"][:, 1:], token_B[:, None]], axis=1)
    s["recent"] = jnp.where(live[:, None], recent_BM, s["recent"])
    last_B1M = recent_BM[:, None, MARKER_ROOM - closings.shape[1] :]
    closed = jnp.any(jnp.all((last_B1M == closings) | (closings == ANY), axis=2), axis=1)
    s["written"] = s["written"].at[rows, token_B].add(live)
    if "history" in s:
        s["history"] = (
            s["history"].at[rows, jnp.where(live, s["position"], s["history"].shape[1])].set(token_B, mode="drop")
        )
    ended = jnp.any(token_B[:, None] == s["stops"], axis=1) & ~forced
    s["done"] |= live & (ended | (s["count"] >= s["limit"]))
    s["waiting"] |= live & ~s["done"] & ~forced & (s["guided"] | closed)
    return s


def exactly_drawn(log_p_BV, rows: State, count_B) -> tuple[jax.Array, jax.Array]:
    """`sampler.sample`, exactly. The log-probability of a token that is drawn from the model's own distribution is the
    very number that `exact.picked` has of it.
    """
    plain_B = (rows["temperature"] == 1) & (rows["top_k"] == 0) & (rows["top_p"] == 1) & (rows["min_p"] == 0)
    plain_B &= ~(rows["adjusts"] | rows["guided"])
    rows = {name: rows[name] for name in ("seed", "temperature", "top_k", "top_p", "min_p")}
    of_block = lambda *part: sampler.sample(*jax.tree.map(lambda x: x[:, 0], part))  # noqa: E731
    in_blocks = lambda *part: jax.tree.map(lambda y: y[:, None], of_block(*part))  # noqa: E731
    drawn = exact.by_blocks(in_blocks, *jax.tree.map(lambda x: x[:, None], (log_p_BV, rows, count_B)))
    token_B, sampling_B = jax.tree.map(lambda y: y[:, 0], drawn)
    own_B = jnp.take_along_axis(log_p_BV, token_B[:, None], axis=1)[:, 0]
    return token_B, jnp.where(plain_B, own_B, sampling_B)


@functools.partial(jax.jit, donate_argnums=0)
def put_row(state: State, slot, row: dict[str, jax.Array]) -> State:
    """One slot's `bias` and `read` (V), or its `history`, before it is admitted."""
    return state | {name: state[name].at[slot].set(value) for name, value in row.items()}


@functools.partial(jax.jit, donate_argnums=0)
def stopped(state: State, rows_B) -> State:
    """The chosen slots are done, whatever they were at."""
    return state | {"done": state["done"] | rows_B, "waiting": state["waiting"] & ~rows_B}


@functools.partial(jax.jit, static_argnums=1)
def resized(cache: kv_cache.Cache, length: int) -> kv_cache.Cache:
    return kv_cache.resized(cache, length)
