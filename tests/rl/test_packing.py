"""Rollouts in rows: every token where it belongs, in microbatches of one kind, on any mesh, and back again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_jax import sharding
from llm_jax.config import UserError
from llm_jax.rl import packing
from llm_jax.sampling.requests import Completion, Request


def made_up(rng, vocab: int, prompt: int, new: int) -> tuple[Request, Completion]:
    """A rollout whose numbers are all different, with an unsampled stretch in the middle."""
    mask = [int(i % 5 != 3) for i in range(new)]
    ids = rng.integers(5, vocab, prompt + new).tolist()
    logp = (-rng.uniform(0.1, 5, new)).tolist()
    return Request(ids[:prompt]), Completion(ids[prompt:], mask, logp, logp)


@given(sizes=st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=20))
def test_packed_rollouts_keep_every_token_where_it_belongs(sizes):
    rng, length, pad = np.random.default_rng(0), 16, 0
    pairs = [made_up(rng, 300, *size) for size in sizes]
    requests, done = map(list, zip(*pairs, strict=True))
    advantage = rng.normal(size=len(pairs)).astype(np.float32)
    advantage[::3] = 0  # groups without a difference
    batch = packing.pack_rollouts(requests, done, advantage, length, pad, microbatch=8)
    B = len(batch["tokens"])
    assert B % packing.ROW_BUCKET == 0 and all(value.shape == (B, length) for value in batch.values())
    found = []
    for r in range(B):
        for number in range(1, batch["segments"][r].max() + 1):
            at = np.flatnonzero(batch["segments"][r] == number)
            assert batch["positions"][r, at].tolist() == list(range(len(at)))
            steps = [t for t in at if batch["weights"][r, t]]
            found.append(
                (
                    tuple(batch["tokens"][r, at]),
                    tuple(batch["targets"][r, steps]),
                    tuple(np.round(batch["old_logp"][r, steps], 4)),
                    tuple(np.round(batch["advantages"][r, steps], 4)),
                )
            )
    wanted = [expected(q, c, a, length) for q, c, a in zip(requests, done, advantage, strict=True)]
    assert sorted(row[1:] for row in found) == sorted(wanted)
    whole = sorted(tuple(q.prompt + c.ids) for q, c in pairs)
    assert all(any(w[: len(row[0])] == row[0] for w in whole) for row in found)
    assert not batch["weights"][batch["segments"] == 0].any()
    moves = (batch["advantages"] != 0).reshape(-1, 8 * length).any(axis=1)
    assert sorted(moves, reverse=True) == moves.tolist()  # those without an advantage are the last microbatches


def expected(request: Request, done: Completion, advantage: float, length: int) -> tuple:
    """(sampled ids, their log-probabilities, their advantages), from the rollout itself."""
    kept = [i for i, m in enumerate(done.sampled_mask) if m]
    logp = np.round(np.array([done.sampling_logprob[i] for i in kept], np.float32), 4)
    return tuple(done.ids[i] for i in kept), tuple(logp), tuple(np.round(np.full(len(kept), advantage, np.float32), 4))


@pytest.mark.parametrize("microbatch", [0, 24, 48, 120, 240])
@pytest.mark.parametrize("rows", [1, 64, 65, 129, 257])
def test_a_batch_of_rollouts_splits_into_microbatches_on_any_mesh(rows, microbatch, mesh):
    requests, done = zip(*[made_up(np.random.default_rng(0), 300, 8, 8)] * rows, strict=True)
    batch = packing.pack_rollouts(list(requests), list(done), np.ones(rows), 16, 0, microbatch, shards=3)
    parts = sharding.put_batch(mesh, batch, microbatch)["weights"]
    assert parts.shape[1] % 3 == 0 and (not microbatch or parts.shape[1] <= microbatch)
    assert np.count_nonzero(parts.any(axis=2)) == rows
    assert parts.shape[0] * parts.shape[1] < rows + 3 * packing.ROW_BUCKET + microbatch


def test_a_rollout_that_fits_no_row_is_a_users_mistake():
    with pytest.raises(UserError, match=r"rl\.max_new_tokens"):
        packing.pack_rollouts([Request([1] * 9)], [Completion([2] * 9, [1] * 9, [0.0] * 9, [0.0] * 9)], [1.0], 16, 0)
