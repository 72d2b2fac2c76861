"""Lanes side by side write what one lane writes, whichever is first; and who goes where."""

import dataclasses
import random
import time
import types

import numpy as np
import pytest

from llm_jax.sampling import engine as engine_module
from llm_jax.sampling.engine import Engine, lanes_for
from llm_jax.sampling.requests import Request

LENGTH = 96
LONG = "The cat sat on the mat and the dog sat on the cat. How many cats are there?"  # enough to be shared


@pytest.fixture
def make(tiny_model, tokenizer, mesh, monkeypatch):
    def make(lanes: int, slots: int = 4, **options) -> Engine:
        monkeypatch.setattr(engine_module, "lanes_for", lambda mesh, slots: lanes)
        made = Engine(tiny_model, tokenizer, mesh, slots, LENGTH, **options)
        assert len(made._lanes) == lanes
        return made

    return make


@pytest.fixture
def requests(tokenizer) -> list[Request]:
    """Of many lengths, some in groups, some that call a tool."""
    rng, out = random.Random(0), []
    opening, closing = (tokenizer.open["python"][0], *tokenizer.encode("1")), tokenizer.close["python"][0]
    for number, text in enumerate(("The cat", LONG, "7 + 12 =", "Grüße", "a b c", "How many dogs?")):
        ids = [tokenizer.bos, *tokenizer.encode(text)]
        for seed in range(1 + 3 * (number % 2)):
            request = Request(ids, seed, rng.choice((0.0, 1.0)), rng.choice((4, 20, 50)))
            if seed == 1:
                request.forced, request.bias, request.max_new_tokens = opening, {closing: 1e4}, 20
            out.append(request)
    return out


def test_one_cpu_device_has_a_lane_for_each_core(mesh, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    assert [lanes_for(mesh, slots) for slots in (1, 31, 32, 33, 48, 64, 256)] == [1, 1, 2, 1, 3, 4, 4]
    assert lanes_for(types.SimpleNamespace(size=8), 256) == 1


def test_lanes_write_what_one_lane_writes_whichever_is_first(make, requests, params):
    late = random.Random(1)

    def tool(program: str) -> str:
        time.sleep(late.random() / 10)  # shakes who is first; nothing below waits for it
        return "7"

    one = make(1, tools={"python": tool}).generate(params, requests)
    runs = [make(2, tools={"python": tool}).generate(params, requests) for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]
    for ours, theirs in zip(runs[0], one, strict=True):
        assert (ours.ids, ours.finish, ours.tool_calls) == (theirs.ids, theirs.finish, theirs.tool_calls)
        np.testing.assert_allclose(ours.logprob, theirs.logprob, atol=1e-5)
    assert sum(done.tool_calls > 0 for done in one) >= 3


def test_a_request_goes_to_the_lane_that_has_read_its_beginning(make, tokenizer, params):
    engine = make(2, slots=2)
    first, second = ([tokenizer.bos, *tokenizer.encode(text)] for text in (LONG, LONG[::-1]))
    turns = engine.generate(params, [Request(ids, max_new_tokens=10) for ids in (first, second)])
    assert [done.reused for done in turns] == [0, 0]
    for ids, done in reversed(list(zip((first, second), turns, strict=True))):
        (again,) = engine.generate(params, [Request([*ids, *done.ids, 5], max_new_tokens=10)])
        assert again.reused == len(ids) + len(done.ids) - 1


def test_what_waits_is_shared_out_by_what_it_may_take(make, tokenizer, params):
    engine = make(2, slots=2)
    engine.use(params)
    sizes = [40, 30, 10, 10, 10, 10, 10, 10]
    made = [engine.submit(Request([tokenizer.bos, 7], max_new_tokens=n)) for n in sizes]
    assert [lane.load for lane in engine._lanes] == [70, 60]
    engine.cancel(made[-1])
    assert sum(lane.load for lane in engine._lanes) == 120 and engine.queued == 7
    while engine.busy:
        engine.step()
    assert [lane.load for lane in engine._lanes] == [0, 0] and all(done.finish for done in made)


def test_lanes_at_work_can_be_cancelled_and_given_other_parameters(
    make, tiny_model, tokenizer, params, draw_params, requests
):
    engine, others = make(2), draw_params(tiny_model, tokenizer.vocab_size, 1)
    expected = make(2).generate(others, requests)
    engine.use(params)
    made = engine.submit_all(requests)
    for handle in made:
        assert not any(done.finish == "cancelled" for done in engine.step(4))  # leaves a lane at work
        engine.cancel(handle)
    assert all(done.finish for done in made) and "cancelled" in [done.finish for done in made]
    while engine.busy:
        assert not any(done.finish == "cancelled" for done in engine.step())
    assert engine.running == 0
    assert engine.generate(others, requests) == expected


def test_a_stream_beside_other_requests_gives_all_of_its_ids(make, requests, tokenizer, params):
    engine, wanted = make(2), make(1).generate(params, requests[:1])[0]
    engine.use(params)
    other = engine.submit(dataclasses.replace(requests[0], max_new_tokens=80, suppress=(tokenizer.end,)))
    (lane,) = [lane for lane in engine._lanes if not lane.busy]
    work = lane.step

    def late(*args):
        """The row may be over for a while before that is told; the other lane is looked at meanwhile."""
        moved = work(*args)
        if not lane.busy:
            time.sleep(0.02)
        return moved

    lane.step = late
    assert [i for ids in engine.stream(params, requests[0]) for i in ids] == wanted.ids
    assert other.finish is None


def test_what_was_interrupted_leaves_nothing_behind(make, requests, params, monkeypatch):
    engine = make(2)
    step, calls = engine.step, iter(range(2))

    def interrupted() -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        step(1)

    monkeypatch.setattr(engine, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.generate(params, requests)
    monkeypatch.undo()
    engine.step()
    assert not engine.busy and not engine.running and not engine.queued
    assert [c.ids for c in engine.generate(params, requests)] == [c.ids for c in make(1).generate(params, requests)]


def test_requests_spread_over_the_lanes_but_a_group_stays_together(make, requests):
    engine = make(2, slots=8)
    one, group = requests[0], [dataclasses.replace(requests[1], seed=seed) for seed in range(3)]
    for request in (one, *group, dataclasses.replace(one, prompt=[*one.prompt, 7])):
        engine.submit(request)
    assert [[len(request.prompt) for request, _ in lane._queue] for lane in engine._lanes] == [
        [len(one.prompt), len(one.prompt) + 1],
        [len(group[0].prompt)] * 3,
    ]


def test_requests_of_one_call_fill_the_lanes_by_length_in_equal_shares(make, requests):
    engine = make(2, slots=16)
    lengths = (10, 50, 30, 60, 20, 40)
    engine.submit_all([dataclasses.replace(requests[0], max_new_tokens=length) for length in lengths])
    queues = [[request.max_new_tokens for request, _ in lane._queue] for lane in engine._lanes]
    assert queues == [[60, 50, 40], [30, 20, 10]]
