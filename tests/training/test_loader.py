"""The loader: rows are a pure function of (seed, step), on any number of processes, and each source gives its share."""

import itertools
import json
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_jax import rows
from llm_jax.config import UserError, default
from llm_jax.stages.supervised import RowBatches
from llm_jax.training import loader

ROWS, BATCH, STEPS = 13, 8, 5
SIZES = {"books": 13, "code": 7, "web": 29}  # rows of each source


def write_sources(folder, sizes: dict[str, int], shards: int = 2) -> None:
    """Row sets of several shards whose first tokens count up through all rows."""
    start = 0
    for name, size in sizes.items():
        fields = np.arange(start, start + size)[:, None, None] + 100 * np.arange(4)[None, :, None]
        for shard, part in enumerate(np.array_split(np.tile(fields, (1, 1, 5)), shards)):
            rows.write_shard(folder / name / f"{shard:05d}.array_record", part, {})
        start += size


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows")
    write_sources(path, SIZES)
    return path


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The mixture of a single source."""
    path = tmp_path_factory.mktemp("one")
    write_sources(path, {"web": ROWS}, shards=3)
    return loader.mixture(path)


@pytest.fixture(params=["one", "sources", "epochs", "weights"])
def mixed(request, folder, one):
    return {
        "one": lambda: one,
        "sources": lambda: loader.mixture(folder),
        "epochs": lambda: loader.mixture(folder, {"code": 2.5, "web": 0.4}),
        "weights": lambda: loader.mixture(folder, {"code": 9}, {"books": 0.123, "code": 1 / 3, "web": 0.54}),
    }[request.param]()


def numbers(mixed, batch: int, seed: int, steps, own=None) -> list[list[int]]:
    stream = loader.dataset(mixed, batch, seed, own)
    return [stream[step]["tokens"][:, 0].tolist() for step in steps]


def test_same_seed_and_step_same_batch(mixed):
    steps = range(STEPS)
    assert numbers(mixed, BATCH, 3, steps) == numbers(mixed, BATCH, 3, steps) != numbers(mixed, BATCH, 4, steps)


@pytest.mark.parametrize("own", [[0, 1, 2, 3], [4, 5], [7], [1, 2, 6], list(range(BATCH))])
def test_some_rows_of_a_batch_are_those_of_the_whole(mixed, own):
    whole, part = loader.dataset(mixed, BATCH, 3), loader.dataset(mixed, BATCH, 3, np.array(own))
    for step in (0, 1, 2, 7, 31, 1000):
        for name in rows.FIELDS:
            np.testing.assert_array_equal(part[step][name], whole[step][name][own])


def test_a_run_goes_on_at_any_step_with_any_part_of_the_rows(mixed):
    """Bit for bit what the uninterrupted stream of all rows has there, two steps long."""
    rng, whole = random.Random(0), loader.dataset(mixed, BATCH, 3)
    for step in rng.sample(range(300), 20):
        own = np.array(sorted(rng.sample(range(BATCH), rng.randint(1, BATCH))))
        stream = loader.batches(mixed, BATCH, 3, step, own)
        for later in range(2):
            part = next(stream)
            for name in rows.FIELDS:
                np.testing.assert_array_equal(part[name], whole[step + later][name][own])


def test_each_epoch_has_each_row_once_in_an_order_of_its_own(one):
    epochs = [tuple(epoch) for epoch in numbers(one, ROWS, 3, range(3))]
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in epochs)
    assert len(set(epochs)) == 3


def test_batches_run_over_the_end_of_an_epoch(one):
    flat = [n for batch in numbers(one, BATCH, 3, range(ROWS)) for n in batch]
    assert all(sorted(flat[i * ROWS : (i + 1) * ROWS]) == list(range(ROWS)) for i in range(BATCH))


def test_fields_stay_together(mixed):
    batch = loader.dataset(mixed, BATCH, 3)[1]
    for shift, name in enumerate(rows.FIELDS):
        np.testing.assert_array_equal(batch[name], batch["tokens"] + 100 * shift)


@pytest.mark.parametrize("epochs", [{}, {"code": 3}, {"books": 2.5, "code": 0.5, "web": 1 / 3}, {"web": 0}])
def test_a_pass_reads_each_source_its_number_of_times(folder, epochs):
    mixed, passes = loader.mixture(folder, epochs), 4
    read = Counter(n for batch in numbers(mixed, mixed.rows, 3, range(passes)) for n in batch)
    start = 0
    for name, size in SIZES.items():
        quota = round(size * epochs.get(name, 1))
        assert quota == 0 or quota == mixed.quotas[[path.name for path in mixed.folders].index(name)]
        counts = [read[n] for n in range(start, start + size)]
        # Each row as often as the others: nothing is read again before all the rest is.
        assert sum(counts) == passes * quota and max(counts) - min(counts) <= 1
        start += size


def test_weights_are_shares_of_as_many_rows_as_there_are(folder):
    weights = {"books": 0.123, "code": 1 / 3, "web": 1 - 0.123 - 1 / 3}
    mixed = loader.mixture(folder, {}, weights)
    assert mixed.rows == sum(SIZES.values()) and mixed.quotas == (6, 16, 27)
    lines = mixed.lines(2 * mixed.rows)
    assert len(lines) == 3 and lines[1] == f"code: 7 rows, {16 / 49:.1%} of a batch, read {32 / 7:.2f} times"
    assert loader.mixture(folder, {}, {"books": 0, "code": 5, "web": 0}).quotas == (49,)


AWKWARD = [
    (123, 877),
    (1, 1, 1),
    (3333, 3333, 3334),
    (9164 * 2, 777, 1, 13, 5000),
    (1, 10_000),
    (499, 499, 2),
    tuple(range(1, 41)),
    (7, 0, 5),
]


def furthest(quotas: tuple[int, ...]) -> float:
    """How far a source is from its share, at most, after any number of rows of a pass."""
    order = loader.turns(quotas)
    assert np.bincount(order, minlength=len(quotas)).tolist() == list(quotas)
    count = np.cumsum(order[:, None] == np.arange(len(quotas)), axis=0)
    total, after = sum(quotas), np.arange(1, len(order) + 1)
    return np.abs(count * total - after[:, None] * np.array(quotas)).max() / total  # whole numbers but for this


@pytest.mark.parametrize("quotas", AWKWARD)
def test_after_any_rows_each_source_is_less_than_one_off_its_share(quotas):
    assert furthest(quotas) < 1


@given(quotas=st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any))
def test_any_shares_are_kept(quotas):
    assert furthest(tuple(quotas)) < 1


WEIGHT = st.floats(1e-6, 1) | st.just(0.0)


@given(weights=st.lists(WEIGHT, min_size=1, max_size=6).filter(any), total=st.integers(1, 10**9))
def test_parts_in_proportion(weights, total):
    parts = loader.apportion(total, weights)
    assert sum(parts) == total
    scale = total / sum(weights)
    assert all(abs(part - weight * scale) < 1 + 1e-6 for part, weight in zip(parts, weights, strict=True))


def test_grain_reads_what_the_turns_say(folder):
    mixed = loader.mixture(folder, {"code": 2.5})
    order = loader.turns(mixed.quotas)
    source_of = np.repeat(np.arange(3), list(SIZES.values()))
    for passes, batch in enumerate(numbers(mixed, mixed.rows, 3, range(3))):
        assert source_of[batch].tolist() == order.tolist(), passes


def test_some_sources_come_before_all_others_one_after_another_in_the_first_pass(folder):
    mixed = loader.mixture(folder, {"code": 2}, first=("web", "code"))
    assert [path.name for path in mixed.folders] == ["web", "code", "books"] and mixed.first == 2
    names = np.repeat(list(SIZES), list(SIZES.values()))
    order = [*["web"] * SIZES["web"], *["code"] * 2 * SIZES["code"], *["books"] * SIZES["books"]]
    first, second = (names[batch].tolist() for batch in numbers(mixed, mixed.rows, 3, range(2)))
    assert first == order and sorted(second) == sorted(order)
    begin = second[: len(second) // 4]  # as a last batch is filled with: of all sources, by their shares
    assert all(abs(begin.count(name) - len(begin) * order.count(name) / len(order)) < 1 for name in SIZES)
    with pytest.raises(UserError, match="'wbe'"):
        loader.mixture(folder, first=("wbe",))


def test_mistakes_are_named(folder, tmp_path):
    with pytest.raises(UserError, match="no rows in"):
        loader.mixture(tmp_path / "missing")
    write_sources(tmp_path, {"empty": 0}, shards=1)
    with pytest.raises(UserError, match="no rows in"):
        loader.mixture(tmp_path)
    with pytest.raises(UserError, match="has no 'code'"):
        loader.mixture(folder, {}, {"books": 1, "web": 1})
    with pytest.raises(UserError, match="'wbe'; did you mean 'web'"):
        loader.mixture(folder, {}, {**SIZES, "wbe": 1})
    with pytest.raises(UserError, match="leaves no row"):
        loader.mixture(folder, dict.fromkeys(SIZES, 0))


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


def test_a_stage_may_jump_to_any_step(mixed):
    straight, jumping = RowBatches(mixed, 4, 3), RowBatches(mixed, 4, 3)
    batches = [straight.next(step, None)[0]["tokens"].tolist() for step in range(6)]
    for step in (4, 5, 2, 3):
        assert jumping.next(step, None)[0]["tokens"].tolist() == batches[step]


def test_a_stream_from_a_later_step_is_the_rest_of_the_stream(mixed):
    all_steps = list(itertools.islice(loader.batches(mixed, BATCH, 3, 0), STEPS + 4))
    for start in (1, STEPS):
        later = list(itertools.islice(loader.batches(mixed, BATCH, 3, start), 3))
        for a, b in zip(later, all_steps[start:], strict=False):
            for name in rows.FIELDS:
                np.testing.assert_array_equal(a[name], b[name])


def test_the_data_says_how_it_is_read_and_the_config_has_the_last_word(tmp_path):
    write_sources(tmp_path / "pretrain", SIZES)
    data = default().data
    assert loader.wanted(tmp_path, data).quotas == tuple(SIZES.values())
    asked = {"epochs": {"web": 2, "code": 3, "gone": 5}, "first": ["web", "gone"]}
    (tmp_path / "mixture.json").write_text(json.dumps(asked))
    data.epochs.code = 1
    mixed = loader.wanted(tmp_path, data)
    assert [path.name for path in mixed.folders] == ["web", "books", "code"] and mixed.first == 1
    assert mixed.quotas == (2 * SIZES["web"], SIZES["books"], SIZES["code"])
    data.first = ("books",)
    assert loader.wanted(tmp_path, data).folders[0].name == "books"
    data.epochs.gone = 1  # what the config names has to be there
    with pytest.raises(UserError, match="'gone'"):
        loader.wanted(tmp_path, data)
