"""Log-likelihoods of whole documents, by the forward of training, and of what may follow a text, by the engine."""

import functools
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from llm_jax import sharding
from llm_jax.model import transformer
from llm_jax.runs import Run
from llm_jax.sampling.decode import model_of
from llm_jax.sampling.engine import Engine
from llm_jax.tokenizer import Tokenizer
from llm_jax.training import losses

AT_A_TIME = 4096  # tokens of a device

Window = tuple[list[int], int]  # tokens, and how many of the last ones are predicted


def prefix_of(tokenizer: Tokenizer) -> int:
    """The token before the first of a document: what documents begin with, or else what ends them."""
    special, ids = tokenizer.described(), {name: i for i, name in tokenizer.special_names.items()}
    named = (special.get(name) for name in ("bos_token", "eos_token"))
    return next((ids[name] for name in named if name in ids), tokenizer.end)


def windows(tokens: list[int], length: int) -> Iterator[Window]:
    """A document's windows of at most `length` + 1 tokens: each token but the first is predicted once, and the last
    window reaches back to be whole. So lm_eval cuts them for its rolling log-likelihood."""
    for done in range(1, len(tokens), length):
        end = min(done + length, len(tokens))
        yield tokens[max(0, end - length - 1) : end], end - done


def of_documents(run: Run, params, documents: list[list[int]]) -> list[float]:
    """Of each document log p of its tokens after the first, in nats."""
    length, shards = run.config.data.sequence_length, sharding.shards(run.mesh, "batch")
    cut = [(number, window) for number, tokens in enumerate(documents) for window in windows(tokens, length)]
    cut.sort(key=lambda one: -len(one[1][0]))
    rows = list(packed(cut, length))
    batch = shards * max(1, min(AT_A_TIME // length, -(-len(rows) // shards)))
    static, totals = (run.model.to_json(), run.vocab_size, run.config.train.loss_chunk), np.zeros(len(documents))
    for start in range(0, len(rows), batch):
        fields = as_arrays(rows[start : start + batch], batch, length)
        owner_BT = fields.pop("owner")
        put = {name: sharding.put(run.mesh, x, "batch", "length") for name, x in fields.items()}
        logprob_BT = process_allgather(logprobs(*static, params, put), tiled=True).astype(np.float64)
        counted = owner_BT >= 0
        np.add.at(totals, owner_BT[counted], logprob_BT[counted])
    return totals.tolist()


def packed(cut: list[tuple[int, Window]], length: int) -> Iterator[list[tuple[int, Window]]]:
    """Windows by rows, each put into the last row or, where that is full, a new one."""
    row, left = [], length
    for one in cut:
        inputs = len(one[1][0]) - 1
        if row and inputs > left:
            yield row
            row, left = [], length
        row.append(one)
        left -= inputs
    if row:
        yield row


def as_arrays(rows: list[list[tuple[int, Window]]], batch: int, length: int) -> dict[str, np.ndarray]:
    """int32 (batch, length): `tokens`, their `positions`, `segments` and `targets`, and `owner`, the number of the
    document to which a target counts, -1 where it counts to none."""
    fields = {name: np.zeros((batch, length), np.int32) for name in ("tokens", "positions", "segments", "targets")}
    fields["owner"] = np.full((batch, length), -1, np.int32)
    for b, row in enumerate(rows):
        at = 0
        for segment, (number, (tokens, predicted)) in enumerate(row, 1):
            end = at + len(tokens) - 1
            fields["tokens"][b, at:end], fields["targets"][b, at:end] = tokens[:-1], tokens[1:]
            fields["positions"][b, at:end], fields["segments"][b, at:end] = range(end - at), segment
            fields["owner"][b, end - predicted : end] = number
            at = end
    return fields


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def logprobs(model_json: str, vocab_size: int, chunk: int, params, batch: dict[str, jax.Array]) -> jax.Array:
    """log p of each target, float32 (B, T)."""
    model = model_of(model_json)
    hidden_BTD, *_ = transformer.apply(
        model, vocab_size, params, batch["tokens"], batch["positions"], batch["segments"]
    )
    head_DV = transformer.head_DV(model, params)
    return losses.logprobs_BT(hidden_BTD, head_DV, batch["targets"], vocab_size, chunk, model.logit_cap)


def split(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Ids of a document's beginning and of what follows it, encoded as one text, as lm_eval splits them. Spaces between
    them go to what follows, for that is how words begin."""
    ends = len(context.rstrip())
    context, continuation = context[:ends], context[ends:] + continuation
    before = tokenizer.encode(context)
    after = tokenizer.encode(context + continuation)[len(before) :]
    begin = [*tokenizer.begin] if before or tokenizer.begin else [prefix_of(tokenizer)]
    return [*begin, *before], after


def of_continuations(engine: Engine, params, pairs: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
    """(log p of the continuation, in nats; whether greedy decoding would have written it) of each (context,
    continuation). No context is empty; what does not fit is cut from the left.
    """
    asked = []
    for context, after in pairs:
        kept = [*context, *after][-engine.length - 1 :]
        at = max(1, len(kept) - len(after))
        asked.append((kept[:at], kept[at:]))
    told = iter(engine.score(params, [pair for pair in asked if pair[1]]))
    return [next(told) if after else (0.0, True) for _, after in asked]
