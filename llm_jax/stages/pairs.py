"""Comparisons of two answers, as stages `reward` and `preference` learn from them.

A `pair` record is {prompt (or messages), chosen, rejected}, and may name its `split`. Its two answers are two segments
of one row, the better one first: in a row, segments 1, 3, 5, ... are the better answers to 2, 4, 6, ... So whatever is
computed of both is at hand in one forward. A row depends on (seed, step) alone.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from llm_jax import sharding
from llm_jax.config import UserError
from llm_jax.files import named_or_own, numbered_lines
from llm_jax.runs import Run
from llm_jax.tasks.base import split_of
from llm_jax.tokenizer import Tokenizer, misplaced
from llm_jax.training import loop
from llm_jax.training.optimizer import adamw, schedule

PAIRS_A_ROW = 16  # at most

Rows = dict[str, np.ndarray]  # tokens, positions, segments, targets [N, T] int32; weights [N, T] float32: 1 on answers


class Counts(NamedTuple):
    """What became of the records."""

    kept: int
    equal: int  # the two answers are the same, as far as a row has room for them
    long: int  # the prompt alone has no room


def files_of(run: Run) -> list[Path]:
    """The files that hold the comparisons. Raises UserError where there are none."""
    own = run.workdir / "data" / "pairs.jsonl"
    found = named_or_own(run.config.pairs.files, "pairs.files", own)
    if not found:
        mend = "name files of your own in pairs.files, or have stage 'data' make some with data.pairs"
        raise UserError(f"there are no comparisons to learn from ({own} is not there); {mend}")
    return found


def check(run: Run, stage: str) -> None:
    """Raises UserError where the stage has no loss, or nothing that it could learn from, as far as is known now."""
    if run.config[stage].loss == "none":
        raise UserError(f"{stage}.loss is 'none', so stage {stage!r} has nothing to do; name one, or leave it out")
    if run.config.pairs.files or (run.workdir / "data" / "prepared.json").exists():
        read(files_of(run))


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """{prompt: messages, chosen, rejected, split} of each line. Raises UserError for the first that is no such pair."""
    return [checked(path, number, record) for path in paths for number, record in numbered_lines(path)]


def checked(path: Path, number: int, record: dict[str, Any]) -> dict[str, Any]:
    def bad(what: str) -> UserError:
        mend = "data_pipelines.chats turns records of other shapes into pairs"
        return UserError(f"{path} line {number}: {what}; {mend}")

    prompt = record.get("prompt", record.get("messages"))
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(prompt, list) or not prompt:
        raise bad("prompt must be a text or a list of messages")
    if not all(isinstance(message, dict) and {"role", "content"} <= message.keys() for message in prompt):
        raise bad("each message of prompt must have a role and a content")
    for side in ("chosen", "rejected"):
        said = record.get(side)
        is_parts = isinstance(said, list) and all(isinstance(p, dict) and {"type", "text"} <= p.keys() for p in said)
        if not said or not (isinstance(said, str) or is_parts):
            raise bad(f"{side} must be an answer: a text, or parts with a type and a text")
        if wrong := misplaced([*prompt, {"role": "assistant", "content": said}]):
            raise bad(f"message {wrong[0]}: {wrong[1]}")
    split = record.get("split") or split_of(json.dumps(prompt))
    return {"prompt": prompt, "chosen": record["chosen"], "rejected": record["rejected"], "split": split}


# As rows


Answered = tuple[list[int], int]  # prompt and answer, and where the answer begins


def rendered(tokenizer: Tokenizer, record: dict[str, Any], side: str, room: int) -> Answered:
    """Prompt and answer, cut to `room` tokens: of an answer that is too long its end is lost."""
    before = [{**message, "weight": 0} for message in record["prompt"]]
    made = tokenizer.render([*before, {"role": "assistant", "content": record[side]}])
    return made.ids[:room], made.loss_mask.index(1)


def encoded(tokenizer: Tokenizer, records: list[dict], length: int) -> tuple[list[tuple[Answered, Answered]], Counts]:
    """(better and worse answer of each pair that can be learned from, what became of all). Each has half of a row."""
    room, kept, equal, long = length // 2, [], 0, 0
    for record in records:
        better, worse = (rendered(tokenizer, record, side, room) for side in ("chosen", "rejected"))
        if max(better[1], worse[1]) >= room:
            long += 1
        elif better[0] == worse[0]:
            equal += 1
        else:
            kept.append((better, worse))
    return kept, Counts(len(kept), equal, long)


def packed(pairs: list[tuple[Answered, Answered]], length: int, pad: int) -> Rows:
    """Rows of `length`, first fit, longest first, in each at most PAIRS_A_ROW pairs."""
    rows: list[list[int]] = []
    free: list[int] = []
    need = [len(better[0]) + len(worse[0]) for better, worse in pairs]
    for i in sorted(range(len(pairs)), key=lambda i: -need[i]):
        room = (r for r, left in enumerate(free) if left >= need[i] and len(rows[r]) < PAIRS_A_ROW)
        at = next(room, len(rows))
        if at == len(rows):
            rows.append([])
            free.append(length)
        rows[at].append(i)
        free[at] -= need[i]
    out = {name: np.zeros((len(rows), length), np.int32) for name in ("tokens", "positions", "segments", "targets")}
    out["weights"] = np.zeros((len(rows), length), np.float32)
    out["tokens"][:] = out["targets"][:] = pad
    for r, members in enumerate(rows):
        at = 0
        for number, (ids, begins) in enumerate((answer for i in members for answer in pairs[i]), 1):
            end = at + len(ids)
            out["tokens"][r, at:end], out["segments"][r, at:end] = ids, number
            out["positions"][r, at:end], out["targets"][r, at : end - 1] = np.arange(len(ids)), ids[1:]
            out["weights"][r, at + begins - 1 : end - 1] = 1
            at = end
    return out


def rows_of(run: Run, stage: str) -> tuple[Rows, Rows]:
    """(rows to learn from, held-out rows, maybe none); a line says what became of the pairs. Raises UserError where
    none is left to learn from."""
    records = read(files_of(run))
    learned = [record for record in records if record["split"] == "train"][: run.config.pairs.most or None]
    held_out = [record for record in records if record["split"] != "train"]
    made = []
    for what, some in (("to learn from", learned), ("held out", held_out)):
        pairs, counts = encoded(run.tokenizer, some, run.config.data.sequence_length)
        left = f"{counts.equal} with two equal answers, {counts.long} whose prompt has no room"
        print(f"{stage:9} {len(some):,} pairs {what}: {counts.kept:,} kept; left out {left}", flush=True)
        made.append(packed(pairs, run.config.data.sequence_length, run.tokenizer.pad))
    if not len(made[0]["tokens"]):
        raise UserError(f"stage {stage!r} has no pair to learn from; give pairs.files others, or rows more length")
    return made[0], made[1]


def optimizer(config: ConfigDict, peak: float, steps: int, axes) -> optax.GradientTransformation:
    """AdamW without decay, clipped, with the schedule of the config, for parameters of these logical axes."""
    of_all = adamw(schedule(peak, steps, config.optimizer), 0.0, axes)
    return optax.chain(optax.clip_by_global_norm(config.optimizer.clip or 1e9), of_all)


# In a step


def of_segments(values_BT: jax.Array, segments_BT: jax.Array) -> jax.Array:
    """Sums over each segment -> [B, pairs, 2], of the better and the worse answer; 0 where there is no such pair."""
    one_hot_BTS = jax.nn.one_hot(segments_BT - 1, 2 * PAIRS_A_ROW, dtype=values_BT.dtype)
    return jnp.einsum("bt,bts->bs", values_BT, one_hot_BTS).reshape(len(values_BT), PAIRS_A_ROW, 2)


def last_BT(segments_BT: jax.Array) -> jax.Array:
    """1 at the last token of each segment."""
    after_BT = jnp.pad(segments_BT[:, 1:], ((0, 0), (0, 1)))
    return ((segments_BT != after_BT) & (segments_BT > 0)).astype(jnp.float32)


class PairBatches(loop.Batches):
    """Rows in an order that is a function of (seed, step): each pass over them is shuffled anew. Nothing to save."""

    def __init__(self, rows: Rows, batch: int, seed: int):
        self.rows, self.batch, self.seed = rows, batch, seed
        self.count = len(rows["tokens"])

    def next(self, step: int, params):
        passes, places = np.divmod(np.arange(step * self.batch, (step + 1) * self.batch), self.count)
        orders = {p: np.random.default_rng((self.seed, int(p))).permutation(self.count) for p in set(passes.tolist())}
        chosen = [orders[p][place] for p, place in zip(passes.tolist(), places, strict=True)]
        return {name: values[chosen] for name, values in self.rows.items()}, {}


def in_batches(run: Run, rows: Rows, batch: int) -> Iterator[dict[str, jax.Array]]:
    """All rows in order, on the mesh; the last batch is filled up with rows of padding."""
    short = -len(rows["tokens"]) % batch
    whole = {name: np.pad(values, ((0, short), *((0, 0),) * (values.ndim - 1))) for name, values in rows.items()}
    for at in range(0, len(whole["tokens"]), batch):
        yield sharding.put_batch(run.mesh, {name: values[at : at + batch] for name, values in whole.items()})


def first(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The one microbatch of a batch."""
    return {name: values[0] for name, values in batch.items()}


def measure(run: Run, loss, rows: Rows, batch: int):
    """A function params -> the mean loss and metrics, named val_*, over all of some rows; None of no rows.

    `loss` is that of a `Job`: sums, the number of pairs, metrics that are sums.
    """
    if not len(rows["tokens"]):
        return None
    batches = list(in_batches(run, rows, batch))
    of_batch = jax.jit(lambda params, part: loss(params, first(part)))

    def validate(params) -> dict[str, float]:
        nats, pairs, metrics = (sum_of(part) for part in zip(*(of_batch(params, b) for b in batches), strict=True))
        return {"val_loss": nats / pairs, **{f"val_{name}": value / pairs for name, value in metrics.items()}}

    return validate


def sum_of(parts: tuple):
    return jax.tree.map(lambda *some: float(np.sum(jax.device_get(some))), *parts)
