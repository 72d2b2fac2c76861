"""Log-likelihoods, against the forward on each sequence alone."""

import jax
import numpy as np
import pytest

from llm_jax.evals import likelihood
from llm_jax.sampling import scoring
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.slots import Slots


@pytest.fixture(scope="module")
def engine(tiny_model, tokenizer, mesh):
    engine = Engine(tiny_model, tokenizer, mesh, slots=4, length=64)
    yield engine
    engine.close()


@pytest.fixture
def alone(forward, tiny_model, tokenizer, params):
    """(tokens) -> (log p of each after the first, the likeliest in its place), padded to one length."""

    def told(tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
        padded = np.full((1, 64), tokenizer.pad, np.int32)
        padded[0, : len(tokens) - 1] = tokens[:-1]
        logits = np.asarray(forward(tiny_model, tokenizer.vocab_size, params, padded)[1], np.float64)[0]
        before, after = logits[: len(tokens) - 1], np.array(tokens[1:])
        log_z = np.log(np.exp(before - before.max(-1, keepdims=True)).sum(-1)) + before.max(-1)
        return before[np.arange(len(after)), after] - log_z, before.argmax(-1)

    return told


def drawn(tokenizer, *lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(40, tokenizer.vocab_size, n).tolist() for n in lengths]


def test_windows_are_those_of_the_field():
    """The example in lm_eval's description of a rolling log-likelihood, and shorter ones."""
    begin = 99
    assert list(likelihood.windows([begin, *range(10)], 4)) == [
        ([begin, 0, 1, 2, 3], 4),
        ([3, 4, 5, 6, 7], 4),
        ([5, 6, 7, 8, 9], 2),
    ]
    assert list(likelihood.windows([begin, 0], 4)) == [([begin, 0], 1)]
    assert list(likelihood.windows([begin], 4)) == []


def test_documents_in_one_row_do_not_see_each_other(context, params, tokenizer, alone):
    documents = drawn(tokenizer, 5, 40, 2, 17, 18, 1, 9)  # rows are 16 long
    with jax.set_mesh(context.mesh):
        got = likelihood.of_documents(context, params, documents)
    windows = [likelihood.windows(tokens, 16) for tokens in documents]
    want = [sum(alone(tokens)[0][-counted:].sum() for tokens, counted in each) for each in windows]
    np.testing.assert_allclose(got, want, atol=1e-4)


def as_alone(engine, params, pairs, alone) -> list[bool]:
    """Checks each pair, and says which would have been written."""
    got = likelihood.of_continuations(engine, params, pairs)
    for (context, rest), (logprob, greedy) in zip(pairs, got, strict=True):
        logprobs, likeliest = alone([*context, *rest][-65:])
        assert logprob == pytest.approx(logprobs[-len(rest) :].sum(), abs=1e-4)
        assert greedy == (likeliest[-len(rest) :].tolist() == rest)
    return [greedy for _, greedy in got]


def test_continuations_of_shared_contexts(engine, params, tokenizer, alone):
    first, second, *after = drawn(tokenizer, 9, 7, 1, 1, 3, 7)
    written = list(second)
    while len(written) < len(second) + 4:  # what greedy decoding writes
        written.append(int(alone([*written, tokenizer.pad])[1][-1]))
    pairs = [(context, rest) for rest in after for context in (first, second)]
    pairs += [(second, written[len(second) :]), (first[:1], first[1:])]
    assert as_alone(engine, params, pairs, alone)[-2:] == [True, False]
    assert likelihood.of_continuations(engine, params, [(first, []), pairs[0]])[0] == (0.0, True)


@pytest.mark.slow
def test_long_continuations_and_one_token_too_many(engine, params, tokenizer, alone):
    first, second, *after = drawn(tokenizer, 30, 64, 30, 20, 2)
    as_alone(engine, params, [(first, after[0]), (first, after[1]), (second, after[2])], alone)


@pytest.mark.slow
def test_what_all_contexts_begin_with_is_read_once(engine, params, tokenizer, alone, monkeypatch):
    """Also the beginning that a second block of them has in common with the first."""
    (begin,) = drawn(tokenizer, 20)
    contexts = [[*begin, *rest] for rest in ([], [41, 42], [60], [60, 50, 51], [60, 50, 52])]
    pairs = [(context, after) for context in contexts for after in ([44], [45, 46, 47])]
    read, sizes = Slots.read, []
    monkeypatch.setattr(Slots, "read", lambda self, pieces, *rest: sizes.extend(pieces) or read(self, pieces, *rest))
    got = likelihood.of_continuations(engine, params, pairs)
    for (context, after), (logprob, _) in zip(pairs, got, strict=True):
        assert logprob == pytest.approx(alone([*context, *after])[0][-len(after) :].sum(), abs=1e-4)
    assert sum(len(ids) for ids, *_ in sizes) < 2 * len(begin) + 40


def test_long_strands_are_read_in_pieces_from_where_they_are():
    strand = scoring.Strand(tuple(range(600)), slot=3, origin=1, start=7, pair=5, after=600)
    pieces = list(strand.pieces())
    assert [(p.slot, p.origin, p.start, p.pair) for p in pieces] == [(3, 1, 7, 5), (3, 3, 263, 5), (3, 3, 519, 5)]
    assert [i for p in pieces for i in p.ids] == list(range(600)) and [p.after for p in pieces] == [256, 512, 600]


def test_spaces_go_to_what_follows(tokenizer):
    """And what a text begins with is there once, whether or not it says anything."""
    for context, rest, joined in (("The cat ", "sat", " sat"), ("The cat", " sat", " sat"), ("", "The cat", "The cat")):
        before, after = likelihood.split(tokenizer, context, rest)
        assert before[0] == tokenizer.bos and tokenizer.bos not in before[1:]
        assert tokenizer.decode(after) == joined
