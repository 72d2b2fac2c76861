"""Rollouts -> the rows of a training step, several to a row, and back."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from llm_jax.config import UserError
from llm_jax.sampling.requests import Completion, Request

ROW_BUCKET = 64  # rows of a training batch are padded to a multiple of this: few shapes


class Layout(NamedTuple):
    """Which rollouts lie in which row, in their order; `count` rows with those that stay empty."""

    rows: list[list[int]]
    count: int

    def places(self, need: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
        """Of each rollout (its number, row, segment, first token); a segment is numbered from 1 in its row."""
        for r, members in enumerate(self.rows):
            at = 0
            for segment, i in enumerate(members, 1):
                yield i, r, segment, at
                at += need[i]


def padded_rows(rows: int, microbatch: int, shards: int) -> int:
    """How many rows a batch of so many gets: whole microbatches, where it is more than one, that the mesh can split."""
    rows = whole(rows, math.lcm(ROW_BUCKET, shards))
    return whole(rows, microbatch) if 0 < microbatch < rows else rows


def whole(n: int, unit: int) -> int:
    """n, rounded up to a multiple of the unit."""
    return -(-n // unit) * unit


def first_fit(items: list[int], need: list[int], room: int) -> list[list[int]]:
    """Items in rows of `room` tokens, longest first, each in the first row that has the `need` of it left."""
    rows: list[list[int]] = []
    free: list[int] = []
    for i in sorted(items, key=lambda i: -need[i]):
        at = next((r for r, left in enumerate(free) if left >= need[i]), len(rows))
        if at == len(rows):
            rows.append([])
            free.append(room)
        rows[at].append(i)
        free[at] -= need[i]
    return rows


def needs(requests: list[Request], completions: list[Completion]) -> list[int]:
    """Tokens of each rollout, its prompt included."""
    return [len(request.prompt) + len(done.ids) for request, done in zip(requests, completions, strict=True)]


def lay_out(
    need: list[int], moves: list[bool], length: int, microbatch: int, shards: int, alone: bool = False
) -> Layout:
    """Those that move come first; small microbatches have either the one kind or the other. `alone`: one in a row."""
    if max(need) > length + 1:
        raise UserError(f"a rollout of {max(need)} tokens does not fit a row of {length}: lower rl.max_new_tokens")
    need = [length + 1] * len(need) if alone else need
    moving, still = ([i for i, move in enumerate(moves) if move == wanted] for wanted in (True, False))
    rows = first_fit(moving, need, length + 1)
    if 0 < microbatch < ROW_BUCKET:
        rows += [[]] * (whole(len(rows), microbatch) - len(rows))
    rows += first_fit(still, need, length + 1)
    return Layout(rows, padded_rows(max(1, len(rows)), microbatch, shards))


def pack_rollouts(
    requests: list[Request],
    completions: list[Completion],
    advantage: Sequence[Any],
    length: int,
    pad: int,
    microbatch: int = 0,
    shards: int = 1,
    alone: bool = False,
    **columns: Sequence[Any],
) -> dict[str, np.ndarray]:
    """Rollouts -> rows of the training step, several to a row (first fit, longest first).

    int32 [B, T]: `tokens, segments, positions, targets`. float32 [B, T], of the targets: `weights` are 1 on sampled
    tokens and 0 on prompts and on what tools wrote, `old_logp` the sampler's, `advantages`; and `columns`. Advantages
    and columns have an entry for a rollout, a number or one for each token after its prompt. Rollouts without an
    advantage, those of groups that were all right or all wrong, have no gradient, unless `ref_logp` is there for a KL
    or `returns` for a value head: they lie in microbatches of their own, but count in the mean and in what is measured.
    With `alone`, a row has one. Raises UserError for a rollout that is too long for a row.
    """
    need = needs(requests, completions)
    all_move = bool({"ref_logp", "returns"} & columns.keys())
    moves = [all_move or bool(a) for a in advantage]
    layout = lay_out(need, moves, length, microbatch, shards, alone)
    values = {
        "weights": [done.sampled_mask for done in completions],
        "old_logp": [done.sampling_logprob for done in completions],
        "advantages": advantage,
        **columns,
    }
    shape = (layout.count, length + 1)
    out = {name: np.zeros(shape, np.int32) for name in ("tokens", "segments", "positions")}
    out["tokens"][:] = pad
    out |= {name: np.zeros(shape, np.float32) for name in values}
    for i, r, segment, at in layout.places(need):
        prompt, end = requests[i].prompt, at + need[i]
        out["tokens"][r, at:end] = prompt + completions[i].ids
        out["segments"][r, at:end], out["positions"][r, at:end] = segment, np.arange(need[i])
        for name, of_rollout in values.items():
            out[name][r, at + len(prompt) : end] = of_rollout[i]
    inputs = {name: out[name][:, :-1] for name in ("tokens", "segments", "positions")}
    return {**inputs, **{name: out[name][:, 1:] for name in values}, "targets": out["tokens"][:, 1:]}


def unpack(values_BT: np.ndarray, requests: list[Request], completions: list[Completion], layout: Layout):
    """Of each rollout what stands at the tokens after its prompt, from an array like the targets of its rows."""
    out: list[np.ndarray] = [np.empty(0)] * len(requests)
    for i, r, _, at in layout.places(needs(requests, completions)):
        start = at + len(requests[i].prompt) - 1
        out[i] = values_BT[r, start : start + len(completions[i].ids)]
    return out
