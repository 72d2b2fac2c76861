"""The loader: rows are a pure function of (seed, step), on any number of hosts."""

import itertools

import numpy as np
import pytest

from llm_jax import loader, rows
from llm_jax.config import UserError
from llm_jax.stages.supervised import RowBatches

ROWS, BATCH, STEPS = 13, 8, 5


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Rows whose first token is their number."""
    file = tmp_path_factory.mktemp("rows") / "rows.array_record"
    fields = [np.full(5, n, np.int32) for n in range(ROWS)]
    rows.write_rows(file, (rows.Row(f, f + 100, f + 200, f + 300) for f in fields), {})
    return file


def numbers(path, batch: int, seed: int, steps, host: int = 0, hosts: int = 1) -> list[list[int]]:
    stream = loader.dataset(path, batch, seed, host, hosts)
    return [stream[step]["tokens"][:, 0].tolist() for step in steps]


def test_same_seed_and_step_same_batch(path):
    steps = range(STEPS)
    assert numbers(path, BATCH, 3, steps) == numbers(path, BATCH, 3, steps) != numbers(path, BATCH, 4, steps)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_read_the_batch_of_one_host(path, hosts):
    whole = loader.dataset(path, BATCH, 3)
    parts = [loader.dataset(path, BATCH, 3, host, hosts) for host in range(hosts)]
    for step in (0, 1, 2, 7, 31):
        for name in rows.FIELDS:
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined, whole[step][name])


def test_a_stream_from_a_later_step_is_the_rest_of_the_stream(path):
    all_steps = list(itertools.islice(loader.batches(path, BATCH, 3, 0), STEPS + 4))
    for start in (1, STEPS):
        later = list(itertools.islice(loader.batches(path, BATCH, 3, start), 3))
        for a, b in zip(later, all_steps[start:], strict=False):
            for name in rows.FIELDS:
                np.testing.assert_array_equal(a[name], b[name])


def test_each_epoch_has_each_row_once_in_an_order_of_its_own(path):
    epochs = [tuple(epoch) for epoch in numbers(path, ROWS, 3, range(3))]
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in epochs)
    assert len(set(epochs)) == 3


@pytest.mark.parametrize("batch, hosts", [(1, 1), (4, 4)])
def test_one_row_a_host_is_enough(path, batch, hosts):
    assert len(numbers(path, batch, 3, range(2), 0, hosts)) == 2


def test_batches_run_over_the_end_of_an_epoch(path):
    flat = [n for batch in numbers(path, BATCH, 3, range(ROWS)) for n in batch]
    assert all(sorted(flat[i * ROWS : (i + 1) * ROWS]) == list(range(ROWS)) for i in range(BATCH))


def test_fields_stay_together(path):
    batch = loader.dataset(path, BATCH, 3)[1]
    for shift, name in enumerate(rows.FIELDS):
        np.testing.assert_array_equal(batch[name], batch["tokens"] + 100 * shift)


def test_mistakes_are_named(path, tmp_path):
    with pytest.raises(UserError, match="no rows at"):
        loader.dataset(tmp_path / "missing.array_record", BATCH, 0)
    with pytest.raises(UserError, match="does not divide over 3 hosts"):
        loader.dataset(path, BATCH, 0, 0, 3)
    empty = tmp_path / "empty.array_record"
    rows.write_rows(empty, [], {})
    with pytest.raises(UserError, match="no rows"):
        loader.dataset(empty, BATCH, 0)


def test_targets_stay_within_segments():
    row = {
        "tokens": np.array([[10, 11, 12, 13, 14, 0]]),
        "segment_ids": np.array([[1, 1, 2, 2, 2, 0]]),
        "positions": np.array([[0, 1, 0, 1, 2, 0]]),
        "loss_mask": np.array([[1, 1, 1, 0, 1, 1]]),
    }
    made = loader.targets(row)
    assert made["targets"][made["weights"] > 0].tolist() == [11, 14]
    assert made["tokens"].shape == made["targets"].shape == (1, 5)


def test_a_stage_may_jump_to_any_step(path):
    one, jumping = RowBatches(path, 4, 3), RowBatches(path, 4, 3)
    straight = [one.next(step, None)[0]["tokens"].tolist() for step in range(6)]
    for step in (4, 5, 2, 3):
        assert jumping.next(step, None)[0]["tokens"].tolist() == straight[step]
