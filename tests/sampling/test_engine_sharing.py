"""What the engine shares and saves: prompts read once, caches kept, drafts, int8, programs compiled beforehand."""

import collections
import itertools
import random
import threading

import jax
import numpy as np
import pytest

from llm_jax.sampling import decode
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.grammar import Grammar, of_schema
from llm_jax.sampling.grammar import compiled as compiled_grammar
from llm_jax.sampling.requests import Request
from llm_jax.sampling.slots import Slots

LENGTH = 96
LONG = "The cat sat on the mat and the dog sat on the cat. How many cats are there?"  # enough to be shared


def make(tiny_model, tokenizer, mesh, slots: int = 4, **options) -> Engine:
    return Engine(tiny_model, tokenizer, mesh, slots, LENGTH, **options)


def prompt(tokenizer, text: str) -> list[int]:
    return [tokenizer.bos, *tokenizer.encode(text)]


@pytest.fixture
def read(monkeypatch) -> collections.Counter:
    """Counts what is read of prompts: tokens, and the prompts in them."""
    counts: collections.Counter = collections.Counter()
    original = Slots.read

    def counted(self, pieces, *more):
        counts["tokens"] += sum(len(piece) for piece, *_ in pieces)
        counts["prompts"] += len(pieces)
        return original(self, pieces, *more)

    monkeypatch.setattr(Slots, "read", counted)
    return counts


def test_the_prompt_of_a_group_is_read_once(tiny_model, tokenizer, mesh, params, read):
    engine = make(tiny_model, tokenizer, mesh)
    ids = prompt(tokenizer, "How many cats are there?")
    group = engine.generate(params, [Request(ids, seed, 1.0, 12) for seed in range(4)])
    assert (read["prompts"], read["tokens"]) == (1, len(ids))
    alone = make(tiny_model, tokenizer, mesh)
    for seed, done in enumerate(group):
        assert alone.generate(params, [Request(ids, seed, 1.0, 12)])[0].ids == done.ids
    assert len({tuple(done.ids) for done in group}) == 4


def test_the_next_turn_reads_only_what_is_new(tiny_model, tokenizer, mesh, params, read):
    engine, fresh = (make(tiny_model, tokenizer, mesh, 1) for _ in "ab")
    ids = prompt(tokenizer, "The cat sat on the mat and the dog")
    for _ in range(3):
        before = read["tokens"]
        (done,) = engine.generate(params, [Request(ids, max_new_tokens=10, suppress=(tokenizer.end,))])
        new = read["tokens"] - before
        assert done.reused == len(ids) - new
        assert done.ids == fresh.generate(params, [Request(ids, max_new_tokens=10, suppress=(tokenizer.end,))])[0].ids
        fresh.forget()
        ids = [*ids, *done.ids, *tokenizer.encode("\n\n7 + 12")]
    assert new == len(tokenizer.encode("\n\n7 + 12")) + 1  # and the last token of the answer, which nobody had read


def test_other_parameters_forget_what_was_read(tiny_model, tokenizer, mesh, params, draw_params):
    engine, others = make(tiny_model, tokenizer, mesh, 1), draw_params(tiny_model, tokenizer.vocab_size, 1)
    request = Request(prompt(tokenizer, LONG), max_new_tokens=10)
    first = engine.generate(params, [request])[0]
    assert engine.generate(params, [request])[0].reused == len(request.prompt) - 1  # there is something to forget
    second = engine.generate(others, [request])[0]
    assert second.reused == 0 and second.ids != first.ids
    assert second == make(tiny_model, tokenizer, mesh, 1).generate(others, [request])[0]


def test_a_prompt_shares_no_more_than_its_beginning(tiny_model, tokenizer, mesh, params):
    """Two prompts begin alike and go on differently: the second reads what the first did not."""
    texts = (LONG + " 12 + 7 = 19 cats", LONG + " def add(a, b)")
    first, second = (Request(prompt(tokenizer, text), max_new_tokens=20, suppress=(tokenizer.end,)) for text in texts)
    alike = sum(
        1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first.prompt, second.prompt, strict=False))
    )
    fresh = make(tiny_model, tokenizer, mesh, 1).generate(params, [second])[0]
    engine = make(tiny_model, tokenizer, mesh, 2)
    engine.generate(params, [first])
    done = engine.generate(params, [second])[0]
    assert done.reused == alike > 16 and done.ids == fresh.ids
    np.testing.assert_allclose(done.logprob, fresh.logprob, atol=1e-5)


def test_long_prompts_are_read_in_pieces(tiny_model, tokenizer, mesh, params, monkeypatch):
    ids = prompt(tokenizer, "The cat sat on the mat. " * 9)[:77]
    requests = [Request(ids[:n], max_new_tokens=12, suppress=(tokenizer.end,)) for n in (77, 20, 64, 33)]
    whole = make(tiny_model, tokenizer, mesh, 2).generate(params, requests)
    for module in ("lane", "slots"):
        monkeypatch.setattr(f"llm_jax.sampling.{module}.PIECES", (8, 16))
    assert [done.ids for done in make(tiny_model, tokenizer, mesh, 2).generate(params, requests)] == [
        d.ids for d in whole
    ]


def test_an_answer_ends_where_the_context_does(tiny_model, tokenizer, mesh, params):
    ids = prompt(tokenizer, "The cat sat on the mat. " * 20)[: LENGTH - 5]
    done = make(tiny_model, tokenizer, mesh).generate(
        params, [Request(ids, max_new_tokens=50, suppress=(tokenizer.end,))]
    )[0]
    assert len(done.ids) == 5 and done.finish == "length"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_change_no_completion(tiny_model, tokenizer, mesh, params, temperature):
    """Token by token, hence in distribution: a draft is kept only where the row's own noise draws the same token."""
    texts = ("the cat the cat the cat the", "12 + 7 = 19 12 + 7 =", "Grüße", "def add(a, b):")
    requests = [
        Request(
            prompt(tokenizer, text),
            seed,
            temperature,
            30,
            forced=tuple(tokenizer.encode("There are 12 cats")) if seed == 2 else (),
            repetition_penalty=1.3 if seed == 1 else 1.0,
        )
        for seed, text in enumerate(texts)
    ]
    plain, drafting = (make(tiny_model, tokenizer, mesh, 2, drafts=n) for n in (0, 3))
    expected = plain.generate(params, requests)
    for ours, theirs in zip(drafting.generate(params, requests), expected, strict=True):
        assert (ours.ids, ours.sampled_mask, ours.finish) == (theirs.ids, theirs.sampled_mask, theirs.finish)
        np.testing.assert_allclose(ours.logprob, theirs.logprob, atol=1e-5)


def test_drafts_save_steps(tiny_model, tokenizer, mesh, params):
    """An opening is known, so it is read several tokens at a step; so is what a row repeats."""
    opening = tuple(tokenizer.encode("There are 12 cats and 12 dogs and 12 cats and 12 dogs"))
    engines = [make(tiny_model, tokenizer, mesh, 1, drafts=n) for n in (0, 3)]
    for engine in engines:
        engine.generate(params, [Request([tokenizer.bos], max_new_tokens=len(opening), forced=opening)])
    assert engines[1].slot_steps <= engines[0].slot_steps / 2


@pytest.mark.parametrize("option", ["int8_weights", "int8_cache"])
def test_int8_is_near(tiny_model, tokenizer, mesh, params, option):
    """Log-probabilities of the same tokens (forced) differ by less than 0.05 nats at the median, 0.3 at most."""
    forced = tuple(tokenizer.encode("The cat sat on the mat and the dog sat on the cat"))[:40]
    requests = [Request([tokenizer.bos], max_new_tokens=len(forced), forced=forced)]
    exact = make(tiny_model, tokenizer, mesh, 1).generate(params, requests)[0]
    near = make(tiny_model, tokenizer, mesh, 1, **{option: True}).generate(params, requests)[0]
    gaps = np.abs(np.array(exact.logprob) - near.logprob)
    assert 0 < np.median(gaps) < 0.05 and gaps.max() < 0.3


@pytest.mark.parametrize("pattern", [("full", "window:5"), ("window:3-norope", "full")])
def test_windows_decode_as_they_are_trained(tiny_model, tokenizer, mesh, draw_params, forward, pattern):
    model = tiny_model.copy_and_resolve_references()
    model.layer_pattern, model.layers = pattern, 5  # two groups and a tail
    params = draw_params(model, tokenizer.vocab_size)
    ids = prompt(tokenizer, "the dog sat on the mat and the")
    done = make(model, tokenizer, mesh).generate(params, [Request(ids, max_new_tokens=40, suppress=(tokenizer.end,))])[
        0
    ]
    tokens = np.array([[*ids, *done.ids]])
    log_p = np.asarray(jax.nn.log_softmax(forward(model, tokenizer.vocab_size, params, tokens)[1]))[
        0, len(ids) - 1 : -1
    ]
    np.testing.assert_allclose(done.logprob, log_p[np.arange(40), done.ids], atol=1e-5)


def test_a_text_ends_a_completion(tiny_model, tokenizer, mesh, params):
    engine = make(tiny_model, tokenizer, mesh)
    ids = prompt(tokenizer, "The cat")
    whole = engine.generate(params, [Request(ids, max_new_tokens=40, suppress=(tokenizer.end,))])[0]
    text = tokenizer.decode(whole.ids)
    stop = text[len(text) // 3 : len(text) // 3 + 4]
    done = engine.generate(params, [Request(ids, max_new_tokens=40, suppress=(tokenizer.end,), stop=("never", stop))])[
        0
    ]
    assert done.finish == "stop" and stop in tokenizer.decode(done.ids)
    assert whole.ids[: len(done.ids)] == done.ids and len(done.ids) < 40
    # In what it thinks, the text ends it only where thoughts count.
    thinking = {"suppress": tuple(tokenizer.special_names), "forced": (tokenizer.open["think"][0],)}
    (thought,) = engine.generate(params, [Request(ids, max_new_tokens=20, **thinking)])
    stop = (tokenizer.decode(thought.ids[:4]),)
    kinds = ((), ("think",), ("text", "answer"))
    requests = [Request(ids, max_new_tokens=20, stop=stop, stop_in=stop_in, **thinking) for stop_in in kinds]
    assert [c.finish for c in engine.generate(params, requests)] == ["stop", "stop", "length"]


def test_an_id_ends_a_completion(tiny_model, tokenizer, mesh, params):
    engine = make(tiny_model, tokenizer, mesh)
    request = Request(prompt(tokenizer, "The cat"), max_new_tokens=20, suppress=(tokenizer.end,))
    whole = engine.generate(params, [request])[0].ids
    request.stop_ids = (whole[7],)
    done = engine.generate(params, [request])[0]
    assert done.ids == whole[: whole.index(whole[7]) + 1] and done.finish == "stop"


def test_a_penalty_keeps_a_row_from_repeating(tiny_model, tokenizer, mesh, params):
    engine = make(tiny_model, tokenizer, mesh)
    ids = prompt(tokenizer, "The cat")
    plain, held = engine.generate(params, [Request(ids, max_new_tokens=30, repetition_penalty=p) for p in (1.0, 1e6)])
    assert len(set(plain.ids)) < 30 and len({*held.ids, *ids}) == len(held.ids) + len(set(ids))


def test_a_cancelled_row_makes_room_and_disturbs_nobody(tiny_model, tokenizer, mesh, params):
    engine = make(tiny_model, tokenizer, mesh, 2)
    ids = prompt(tokenizer, "The cat")
    expected = engine.generate(params, [Request(ids, 7, 1.0, 40, suppress=(tokenizer.end,))])[0].ids
    engine.use(params)
    leaving, staying, queued, last = (
        engine.submit(Request(ids, seed, 1.0, 40, suppress=(tokenizer.end,))) for seed in (1, 7, 3, 7)
    )
    engine.step(4)
    engine.cancel(leaving)
    engine.cancel(queued)
    while engine.busy:
        engine.step(4)
    assert (leaving.finish, queued.finish, queued.ids) == ("cancelled", "cancelled", [])
    assert 0 < len(leaving.ids) < 40
    assert staying.ids == last.ids == expected and engine.running == 0


def test_others_go_on_while_a_tool_works(tiny_model, tokenizer, mesh, params):
    free, others = threading.Event(), lambda *ids: tuple(i for i in range(tokenizer.vocab_size) if i not in ids)
    engine = make(tiny_model, tokenizer, mesh, 2, tools={"python": lambda program: free.wait(60) and "7"})
    close = tokenizer.close["python"][0]
    calling = Request(
        prompt(tokenizer, "7"), max_new_tokens=20, forced=(tokenizer.open["python"][0], 40), suppress=others(close)
    )
    engine.use(params)
    waiting = engine.submit(calling)
    going = engine.submit(Request(prompt(tokenizer, "The cat"), max_new_tokens=30, suppress=(tokenizer.end, close)))
    while going.finish is None:
        engine.step(4, wait_for_tools=False)
    assert waiting.finish is None and waiting.tool_calls == 1
    free.set()
    while engine.busy:
        engine.step(4, wait_for_tools=False)
    assert tokenizer.open["output"][0] in waiting.ids


def random_request(rng: random.Random, vocab: int, forced: int, guide: Grammar) -> Request:
    ids = [rng.randrange(vocab) for _ in range(rng.randint(1, LENGTH - 1))]
    opening = rng.choice((0, 0, forced))
    return Request(
        ids[: rng.choice((3, 20, LENGTH))],
        rng.randrange(2**32),
        rng.choice((0.0, 0.7, 1.0)),
        rng.choice((0, 1, 3, 10)),
        forced=tuple(ids[:opening]),
        grammar=rng.choice((None, None, guide)) if not opening else None,
        presence_penalty=rng.choice((0.0, 0.0, 0.5)),
        prompt_logprobs=rng.choice((None, None, None, 0)),
        suppress=rng.choice(((), (3,))),
        top_k=rng.choice((0, 5)),
        top_p=rng.choice((1.0, 0.9)),
        min_p=rng.choice((0.0, 0.1)),
        repetition_penalty=rng.choice((1.0, 1.2)),
        bias=rng.choice(({}, {5: 2.0})),
        stop_ids=rng.choice(((), (7, 8))),
        stop=rng.choice(((), ("a",))),
        top=rng.choice((0, 0, 5)),
    )


@pytest.mark.parametrize(("drafts", "lanes"), [(0, 1), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_after_the_warm_up_a_thousand_random_requests_compile_nothing(
    tiny_model, tokenizer, mesh, params, drafts, lanes, monkeypatch
):
    monkeypatch.setattr("llm_jax.sampling.engine.lanes_for", lambda mesh, slots: lanes)
    engine = make(tiny_model, tokenizer, mesh, 8, drafts=drafts, tools={"python": lambda program: "7"})
    engine.warm_up(params)
    guide = compiled_grammar(tokenizer, f"start: {of_schema({'type': 'array', 'items': {'enum': ['cat', 'dog']}})}")
    rng, compiled = random.Random(drafts), []

    def listen(name: str, seconds: float, **kwargs) -> None:
        if name.endswith("backend_compile_duration"):
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jit(lambda x: x + 1)(np.float32(drafts))
        assert compiled  # a compilation is seen
        compiled.clear()
        done = []
        for _ in range(1000 // 20):
            wave = [random_request(rng, tokenizer.vocab_size, 4, guide) for _ in range(20)]
            wave[3].prompt = wave[4].prompt  # a group
            handles = [engine.submit(request) for request in wave]
            while engine.queued > 5:
                engine.step(rng.choice((1, 4, 16, 64)))
            engine.cancel(rng.choice(handles))
            done += handles
        while engine.busy:
            engine.step()
        assert len(done) == 1000 and all(c.finish for c in done) and not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_most_slot_steps_are_used(tiny_model, tokenizer, mesh, params):
    """A skewed mix: most answers are short. At least nine slots in ten write at a step."""
    rng = random.Random(0)
    engine = make(tiny_model, tokenizer, mesh, 8)
    ids = prompt(tokenizer, "The cat")
    sizes = [rng.choice((2, 4, 8, 8, 16, 64)) for _ in range(160)]
    done = engine.generate(params, [Request(ids, n, 1.0, n, suppress=(tokenizer.end,)) for n in sizes])
    assert [len(c.ids) for c in done] == sizes
    assert engine.occupancy >= 0.9


def test_too_many_static_shapes_are_not_made(tiny_model, tokenizer, mesh, params):
    before = decode.decode_chunk._cache_size()
    engine = make(tiny_model, tokenizer, mesh, 3)
    engine.generate(params, [Request(prompt(tokenizer, "The cat"), max_new_tokens=n) for n in (1, 5, 30)])
    assert decode.decode_chunk._cache_size() - before <= 2  # one for each length of the cache
