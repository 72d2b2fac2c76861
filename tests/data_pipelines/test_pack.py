"""Packing: no target lost or repeated, no segment cut or mixed, nothing dropped without a count."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data_pipelines import pack
from llm_jax import loader, rows

PAD = 0


def documents_of(lengths: list[int]) -> list[list[int]]:
    """Documents whose tokens count up through all of them, so that a token says where it belongs."""
    out, start = [], 1
    for length in lengths:
        out.append(list(range(start, start + length)))
        start += length
    return out


def stacked(packed: list[list[pack.Segment]], length: int) -> dict[str, np.ndarray]:
    made = [rows.from_bytes(pack.to_row(row, length, PAD).to_bytes()) for row in packed]
    return {name: np.stack([row[name] for row in made]) for name in rows.FIELDS}


def weighted(batch: dict[str, np.ndarray], name: str) -> list[int]:
    targets = loader.targets(batch)
    return targets[name][targets["weights"] > 0].tolist()


@given(lengths=st.lists(st.integers(2, 30), min_size=1, max_size=12), length=st.integers(1, 12))
def test_back_to_back_has_each_target_once_in_order(lengths, length):
    documents = documents_of(lengths)
    batch = stacked(list(pack.back_to_back(documents, length)), length)
    assert weighted(batch, "targets") == [token for document in documents for token in document[1:]]
    assert weighted(batch, "tokens") == [token for document in documents for token in document[:-1]]
    assert (loader.targets(batch)["weights"].sum(axis=1) > 0).all()


@given(lengths=st.lists(st.integers(2, 30), min_size=1, max_size=12), length=st.integers(1, 12))
def test_back_to_back_segments_are_one_document_each(lengths, length):
    documents = documents_of(lengths)
    owner = {token: n for n, document in enumerate(documents) for token in document}
    for row in pack.back_to_back(documents, length):
        made = pack.to_row(row, length, PAD)
        for number in range(1, made.segment_ids.max() + 1):
            here = made.segment_ids == number
            assert len({owner[token] for token in made.tokens[here]}) == 1
            assert made.positions[here].tolist() == list(range(here.sum()))
        padding = made.segment_ids == 0
        assert (made.tokens[padding] == PAD).all() and not made.loss_mask[padding].any()


@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=12), length=st.integers(1, 12))
def test_pieces_of_documents_have_each_target_once_and_cut_only_what_is_too_long(lengths, length):
    documents = documents_of(lengths)
    made = list(pack.pieces(documents, length))
    assert [t for piece in made for t in piece.ids[1:]] == [t for document in documents for t in document[1:]]
    assert all(2 <= len(piece.ids) <= length + 1 for piece in made)
    assert len(made) == sum(-(-(len(document) - 1) // length) for document in documents)


@given(lengths=st.lists(st.integers(2, 13), max_size=25))
def test_best_fit_keeps_every_segment_whole_once(lengths):
    length = 12
    segments = [pack.Segment(ids, [0] + [1] * (len(ids) - 1)) for ids in documents_of(lengths)]
    packed = pack.best_fit(segments, length)
    assert Counter(tuple(s.ids) for row in packed for s in row) == Counter(tuple(s.ids) for s in segments)
    loads = sorted(sum(len(s.ids) for s in row) for row in packed)
    assert all(0 < load <= length + 1 for load in loads)
    assert len(loads) < 2 or loads[0] + loads[1] > length + 1  # no two rows fit into one
    if packed:
        assert Counter(weighted(stacked(packed, length), "targets")) == Counter(t for s in segments for t in s.ids[1:])


def talk(sizes: list[int]) -> list[dict]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": "1" * size} for i, size in enumerate(sizes)]


@given(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=8), length=st.integers(8, 40))
def test_a_long_conversation_is_cut_after_the_last_turn_that_fits(tokenizer, sizes, length):
    messages = talk(sizes)
    segment, cut = pack.conversation_segment(messages, tokenizer, length)
    rendered = [tokenizer.render(messages[: n + 1]) for n in range(len(messages))]
    fits = [r for r in rendered if len(r.ids) <= length + 1 and any(r.loss_mask)]
    assert (segment is None) == (not fits)
    assert cut == (not fits or len(fits[-1].ids) < len(rendered[-1].ids))
    if segment:
        assert (segment.ids, segment.loss_mask) == (fits[-1].ids, fits[-1].loss_mask)


@given(all_sizes=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=6), min_size=1, max_size=8))
def test_written_conversations_are_counted(tokenizer, tmp_path, all_sizes):
    length = 24
    conversations = [{"messages": talk(sizes)} for sizes in all_sizes]
    made = [pack.conversation_segment(c["messages"], tokenizer, length) for c in conversations]
    assume(any(segment for segment, _ in made))
    path = tmp_path / "rows.array_record"
    noted = pack.pack_conversations(path, conversations, tokenizer, length)
    assert noted["conversations"] == len(conversations)
    assert noted["dropped"] == sum(segment is None for segment, _ in made)
    assert noted["truncated"] == sum(bool(segment) and cut for segment, cut in made)
    batch = read(path)
    weights = loader.targets(batch)["weights"]
    assert weights.sum() == noted["targets"] == sum(sum(segment.loss_mask) for segment, _ in made if segment)
    assert (weights.sum(axis=1) > 0).all()
    assert (batch["segment_ids"] > 0).sum() == noted["tokens"]
    assert rows.facts(path) == noted and noted["rows"] == len(weights)


def read(path) -> dict[str, np.ndarray]:
    made = [rows.from_bytes(record) for record in loader.read_all(path)]
    return {name: np.stack([row[name] for row in made]) for name in rows.FIELDS}


@pytest.mark.parametrize("packing", ["back_to_back", "best_fit"])
def test_documents_are_repeated_and_framed(packing, tokenizer, tmp_path):
    documents = [
        {"text": "the cat sat", "source": "a"},
        {"text": "the dog \u2581", "source": "b"},
        {"text": "", "source": "b"},
    ]
    path = tmp_path / "rows.array_record"
    noted = pack.pack_documents(path, documents, tokenizer, 8, {"a": 3}, packing=packing)
    framed = [[tokenizer.bos, *tokenizer.encode(d["text"]), tokenizer.end] for d in documents]
    wanted = Counter(t for ids, times in zip(framed, (3, 1, 1), strict=True) for t in ids[1:] * times)
    assert Counter(weighted(read(path), "targets")) == wanted
    assert noted["documents"] == 3 and noted["bytes"] == sum(len(d["text"].encode()) for d in documents)
    assert noted["targets"] == sum(wanted.values())


def test_the_order_of_documents_follows_the_seed(tokenizer, tmp_path):
    documents = [{"text": f"{n}{n}{n}", "source": "a"} for n in range(40)]
    files = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        pack.pack_documents(tmp_path / name / "rows.array_record", documents, tokenizer, 8, {}, seed)
        files.append(read(tmp_path / name / "rows.array_record")["tokens"].tolist())
    assert files[0] == files[1] != files[2]


def test_a_write_that_breaks_leaves_the_old_rows(tokenizer, tmp_path):
    path = tmp_path / "rows.array_record"
    pack.pack_documents(path, [{"text": "the cat", "source": "a"}], tokenizer, 8, {})
    before = path.read_bytes(), path.with_suffix(".json").read_text()

    def broken():
        yield pack.to_row([pack.Segment([1, 2], [0, 1])], 8, PAD)
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        rows.write_rows(path, broken(), {})
    assert (path.read_bytes(), path.with_suffix(".json").read_text()) == before
