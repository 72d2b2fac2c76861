"""Packing: no target lost or repeated, no segment cut or mixed, nothing dropped without a count."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data_pipelines import packing
from data_pipelines.packing import Piece
from llm_jax import rows
from llm_jax.training import loader

PAD = 0


def documents_of(lengths: list[int]) -> tuple[np.ndarray, list[Piece]]:
    """(tokens, documents), whose tokens count up through all of them, so that a token says where it belongs."""
    starts = np.cumsum([0, *lengths]).tolist()
    pieces = [Piece(start, size, n) for n, (start, size) in enumerate(zip(starts, lengths, strict=False))]
    return np.arange(1, starts[-1] + 1, dtype=np.int32), pieces


def filled(packed: list[list[Piece]], tokens: np.ndarray, length: int) -> dict[str, np.ndarray]:
    fields = packing.fill(packed, tokens, np.ones(len(tokens), np.uint8), length, PAD)
    return stacked([rows.from_bytes(record) for record in rows.to_bytes(fields)])


def stacked(made: list[dict]) -> dict[str, np.ndarray]:
    return {name: np.stack([row[name] for row in made]) for name in rows.FIELDS}


def weighted(batch: dict[str, np.ndarray], name: str) -> list[int]:
    targets = loader.targets(batch)
    return targets[name][targets["weights"] > 0].tolist()


LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=12)


@given(lengths=LENGTHS, length=st.integers(1, 12), begun=st.integers(0, 12))
def test_back_to_back_has_each_target_once_in_order(lengths, length, begun):
    """Also after the row that the window before left."""
    tokens, documents = documents_of(lengths)
    first = documents.pop(0) if 2 <= lengths[0] <= min(begun, length + 1) else None
    packed = packing.back_to_back(documents, length, [first] if first else [])
    assume(packed)
    batch = filled(packed, tokens, length)
    ends = np.cumsum(lengths)
    assert weighted(batch, "targets") == [t for t in tokens.tolist() if t - 1 not in {0, *ends.tolist()}]
    assert weighted(batch, "tokens") == [t for t in tokens.tolist() if t not in ends]
    assert (loader.targets(batch)["weights"].sum(axis=1) > 0).all()
    assert [p.key for row in packed for p in row if p.key is not None] == list(range(len(lengths)))


@given(lengths=LENGTHS, length=st.integers(1, 12))
def test_segments_are_one_document_each(lengths, length):
    tokens, documents = documents_of(lengths)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    batch = filled(packing.back_to_back(documents, length), tokens, length)
    for row in range(len(batch["tokens"])):
        made = {name: batch[name][row] for name in rows.FIELDS}
        for number in range(1, made["segment_ids"].max() + 1):
            here = made["segment_ids"] == number
            assert len({owner[token - 1] for token in made["tokens"][here]}) == 1
            assert made["positions"][here].tolist() == list(range(here.sum()))
        padding = made["segment_ids"] == 0
        assert (made["tokens"][padding] == PAD).all() and not made["loss_mask"][padding].any()


@given(lengths=LENGTHS, length=st.integers(1, 12))
def test_cut_documents_have_each_target_once_and_only_too_long_ones_are_cut(lengths, length):
    tokens, documents = documents_of(lengths)
    made = list(packing.cut(documents, length))
    targets = [t for start, size, _ in made for t in tokens[start + 1 : start + size].tolist()]
    assert targets == [t for start, size, _ in documents for t in tokens[start + 1 : start + size].tolist()]
    assert all(2 <= piece.size <= length + 1 for piece in made)
    assert len(made) == sum(-(-(size - 1) // length) for size in lengths)
    assert [piece.key for piece in made if piece.key is not None] == list(range(len(lengths)))


@given(lengths=st.lists(st.integers(2, 13), max_size=25))
def test_best_fit_keeps_every_piece_whole_once_and_ends_with_the_emptiest_row(lengths):
    length = 12
    _, pieces = documents_of(lengths)
    packed = packing.best_fit(pieces, length)
    assert Counter(piece for row in packed for piece in row) == Counter(pieces)
    loads = [sum(piece.size for piece in row) for row in packed]
    assert all(0 < load <= length + 1 for load in loads)
    if len(loads) > 1:
        assert loads[-1] == min(loads) and sum(sorted(loads)[:2]) > length + 1  # no two rows fit into one


def talk(sizes: list[int]) -> list[dict]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": "1" * size} for i, size in enumerate(sizes)]


@given(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=8), length=st.integers(8, 40))
def test_a_long_conversation_is_cut_after_the_last_answer_that_fits(tokenizer, sizes, length):
    messages = talk(sizes)
    made, cut = packing.conversation_ids(messages, tokenizer, length)
    ends = [*range(2, len(messages), 2), len(messages)]
    rendered = [tokenizer.render(messages[:end]) for end in ends]
    fits = [r for r in rendered if len(r.ids) <= length + 1 and any(r.loss_mask)]
    assert (made is None) == (not fits)
    assert cut == (not fits or len(fits[-1].ids) < len(rendered[-1].ids))
    if made:
        assert made == fits[-1]


def exchange(asked: int, called: int, found: int, answered: int) -> list[dict]:
    """With a tool between; each of so many tokens."""
    call = [{"type": "python", "text": "1" * called}]
    return [
        {"role": "user", "content": "1" * asked},
        {"role": "assistant", "content": call},
        {"role": "tool", "content": "1" * found},
        {"role": "assistant", "content": "1" * answered},
    ]


def test_no_exchange_with_a_tool_is_cut_inside(tokenizer):
    """Then a turn would end where its call waits for the output."""
    fitting, long = exchange(2, 2, 2, 2), exchange(2, 2, 60, 2)
    whole = tokenizer.render(fitting)
    assert packing.conversation_ids(fitting, tokenizer, 40) == (whole, False)
    assert packing.conversation_ids([*fitting, *long], tokenizer, 40) == (whole, True)
    assert packing.conversation_ids([*fitting, *fitting[:1], *exchange(2, 2, 2, 60)], tokenizer, 40) == (whole, True)
    assert packing.conversation_ids(long, tokenizer, 40) == (None, True)
    system = {"role": "system", "content": "1"}
    assert packing.conversation_ids([system, *long], tokenizer, 40) == (None, True)


def test_a_conversation_of_which_nothing_that_fits_is_to_be_learned_is_left_out(tokenizer):
    unlearned, long = talk([2, 2]), talk([2, 60])
    unlearned[1]["weight"] = 0
    assert packing.conversation_ids([*unlearned, *talk([2, 2])], tokenizer, 40)[1] is False
    assert packing.conversation_ids([*unlearned, *long], tokenizer, 40) == (None, True)


@given(all_sizes=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=6), min_size=1, max_size=8))
def test_written_conversations_are_counted(tokenizer, tmp_path, all_sizes):
    length = 24
    conversations = [{"messages": talk(sizes), "source": "a", "split": "train"} for sizes in all_sizes]
    made = [packing.conversation_ids(c["messages"], tokenizer, length) for c in conversations]
    keys = packing.pack_records(tmp_path, conversations, tokenizer, length)
    noted = rows.facts(tmp_path / "sft/a")
    assert noted["documents"] == len(conversations) and noted["hash"] == sum(keys) % 2**64
    assert noted["dropped"] == sum(rendered is None for rendered, _ in made)
    assert noted["truncated"] == sum(bool(rendered) and cut for rendered, cut in made)
    assert noted["targets"] == sum(sum(rendered.loss_mask) for rendered, _ in made if rendered)
    if noted["rows"]:
        batch = stacked(loader.read_all(tmp_path / "sft/a"))
        weights = loader.targets(batch)["weights"]
        assert weights.sum() == noted["targets"] and (weights.sum(axis=1) > 0).all()
        assert (batch["segment_ids"] > 0).sum() == noted["tokens"]


DOCUMENTS = [
    {"text": "the cat sat", "source": "a", "split": "train"},
    {"text": "the dog \u2581", "source": "a", "split": "train"},
    {"text": "", "source": "b", "split": "train"},
    {"text": "the cat sat", "source": "a", "split": "train"},
    {"text": "held out", "source": "a", "split": "val"},
    *({"text": f"the cat {n} sat on {n * n} mats" * (n % 7), "source": "b", "split": "train"} for n in range(60)),
]


@pytest.mark.parametrize("window", [1, 300, 10**9])
@pytest.mark.parametrize("how", packing.PACKINGS)
def test_each_document_is_in_the_rows_of_its_source_once(how, window, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "WINDOW_CHARACTERS", window)
    monkeypatch.setattr(packing, "FILL_TOKENS", 40)
    length = 12
    keys = packing.pack_records(tmp_path, DOCUMENTS, tokenizer, length, how)
    assert len(keys) == len(DOCUMENTS) and keys[0] == keys[3] and len(set(keys)) == len({d["text"] for d in DOCUMENTS})
    for name, source, split in (
        ("pretrain/a", "a", "train"),
        ("pretrain/b", "b", "train"),
        ("validation/a", "a", "val"),
    ):
        chosen = [d for d in DOCUMENTS if (d["source"], d["split"]) == (source, split)]
        framed = [[tokenizer.bos, *tokenizer.encode(d["text"]), tokenizer.end] for d in chosen]
        batch, noted = stacked(loader.read_all(tmp_path / name)), rows.facts(tmp_path / name)
        assert Counter(weighted(batch, "targets")) == Counter(t for ids in framed for t in ids[1:])
        assert Counter(weighted(batch, "tokens")) == Counter(t for ids in framed for t in ids[:-1])
        assert noted["documents"] == len(chosen) and noted["empty"] == sum(d["text"] == "" for d in chosen)
        assert noted["bytes"] == sum(len(d["text"].encode()) for d in chosen)
        assert noted["targets"] == sum(len(ids) - 1 for ids in framed)
        assert noted["rows"] == len(batch["tokens"])
        assert noted["padding"] == pytest.approx((batch["segment_ids"] == 0).mean())
        assert noted["pieces_per_document"] == pytest.approx(batch["segment_ids"].max(axis=1).sum() / len(chosen))
    assert sorted(path.name for path in (tmp_path / "pretrain/a").iterdir()) == ["00000.array_record", "00000.json"]


@pytest.mark.parametrize("how", packing.PACKINGS)
def test_windows_waste_no_more_than_one(how, tokenizer, tmp_path, monkeypatch):
    """The row that is not full waits for the next window."""
    counts = []
    for window in (10**9, 100):
        monkeypatch.setattr(packing, "WINDOW_CHARACTERS", window)
        packing.pack_records(tmp_path / str(window), DOCUMENTS, tokenizer, 64, how)
        counts.append(rows.facts(tmp_path / str(window) / "pretrain/b")["rows"])
    assert counts[0] <= counts[1] <= counts[0] + (0 if how == "back_to_back" else 3)


def test_documents_of_some_sources_are_never_cut(tokenizer, tmp_path):
    longer = [{**d, "source": source} for source in ("b", "c") for d in DOCUMENTS if d["source"] == "b"]
    packing.pack_records(tmp_path, longer, tokenizer, 160, whole=("b",))
    pieces = {name: rows.facts(tmp_path / "pretrain" / name)["pieces_per_document"] for name in ("b", "c")}
    assert pieces["b"] == 1 < pieces["c"]


def test_the_order_of_documents_follows_the_seed(tokenizer, tmp_path):
    files = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        packing.pack_records(tmp_path / name, DOCUMENTS, tokenizer, 8, seed=seed)
        files.append((tmp_path / name / "pretrain/b/00000.array_record").read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("lost", ["back_to_back", "best_fit"])
def test_a_packer_that_loses_a_document_is_found_out(lost, tokenizer, tmp_path, monkeypatch):
    whole = getattr(packing, lost)
    monkeypatch.setattr(packing, lost, lambda pieces, *rest: whole(list(pieces)[1:], *rest))
    with pytest.raises(RuntimeError, match=r"00000\.array_record: \d+ targets became \d+"):
        packing.pack_records(tmp_path, DOCUMENTS, tokenizer, 8, lost)
    assert not list(tmp_path.glob("**/*.array_record"))


def test_a_write_that_breaks_leaves_the_old_rows(tmp_path):
    path = tmp_path / "a/00000.array_record"
    fields = np.arange(2 * 4 * 9).reshape(2, 4, 9)
    rows.write_shard(path, fields, {"documents": 1})
    before = path.read_bytes(), path.with_suffix(".json").read_text()
    writer = rows.ShardWriter(path)
    writer.write(fields + 1)  # and then the process dies
    assert (path.read_bytes(), path.with_suffix(".json").read_text()) == before


@pytest.mark.parametrize("largest", [2**16 - 1, 2**16, 2**31 - 1])
def test_records_hold_any_token(largest):
    fields = np.random.default_rng(0).integers(0, 5, (3, 4, 9))
    fields[1, 0, 3] = largest
    records = list(rows.to_bytes(fields))
    assert len(records[0]) == 1 + 4 * 9 * (2 if largest < 2**16 else 4)
    for record, wanted in zip(records, fields, strict=True):
        made = rows.from_bytes(record)
        assert all(made[name].dtype == np.int32 for name in rows.FIELDS)
        assert np.array_equal(np.stack([made[name] for name in rows.FIELDS]), wanted)
