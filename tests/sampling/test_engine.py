"""The engine: cached decoding is the trainer's forward; forced tokens, tools, seeds and recorded log-probabilities."""

import copy
import json

import jax
import numpy as np
import pytest
from scipy import stats

from llm_jax.config import UserError
from llm_jax.sampling import decode
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.requests import Request
from llm_jax.tools.table import TOOLS
from tests.hub.templates import CALLS, MARKS, hub_tokenizer

BATCH, NEW, LONGEST = 4, 20, 96
PROMPTS = (
    "The cat",
    "How many cats are there? There are",
    "7",
    "def add(a, b):",
    "the dog sat on the mat and the",
    "<",
)


class Reference:
    """Log-probabilities of the next token by a fresh full forward, without a cache."""

    def __init__(self, forward, m, vocab_size, params):
        self.forward, self.m, self.vocab_size, self.params = forward, m, vocab_size, params

    def all(self, ids: list[int]) -> np.ndarray:
        """(len(ids), V): row t is log p(next | ids[:t+1])."""
        tokens, segments = np.zeros((1, LONGEST), np.int32), np.zeros((1, LONGEST), np.int32)
        tokens[0, : len(ids)], segments[0, : len(ids)] = ids, 1
        logits = self.forward(self.m, self.vocab_size, self.params, tokens, None, segments)[1]
        return np.asarray(jax.nn.log_softmax(logits))[0, : len(ids), : self.vocab_size]

    def greedy(self, prompt: list[int], limit: int, end: int) -> list[int]:
        out: list[int] = []
        while len(out) < limit and (not out or out[-1] != end):
            out.append(int(self.all(prompt + out)[-1].argmax()))
        return out


@pytest.fixture(scope="module")
def reference(forward, tiny_model, tokenizer, params):
    return Reference(forward, tiny_model, tokenizer.vocab_size, params)


@pytest.fixture(scope="module")
def engine(tiny_model, tokenizer, mesh):
    return Engine(tiny_model, tokenizer, mesh, BATCH, LONGEST)


def encoded(tokenizer) -> list[list[int]]:
    return [[tokenizer.bos, *tokenizer.encode(text)] for text in PROMPTS]


def others(tokenizer, *allowed: int) -> tuple[int, ...]:
    """Everything but `allowed`, to be suppressed."""
    return tuple(i for i in range(tokenizer.vocab_size) if i not in allowed)


def test_cached_greedy_is_uncached_greedy(engine, reference, tokenizer, params):
    prompts = [*encoded(tokenizer), tokenizer.encode("The cat sat on the mat. " * 6)[:40], [tokenizer.bos]]
    assert len(prompts) > BATCH and len({len(p) for p in prompts}) > 4
    limits = [NEW, 3, 7, NEW, 1, NEW, NEW, 5]
    requests = [Request(p, max_new_tokens=n) for p, n in zip(prompts, limits, strict=True)]
    for request, done in zip(requests, engine.generate(params, requests), strict=True):
        assert done.ids == reference.greedy(request.prompt, request.max_new_tokens, tokenizer.end)
        assert done.sampled_mask == [1] * len(done.ids) and done.tool_calls == 0


def test_recorded_logprobs_are_those_of_a_fresh_forward(engine, reference, tokenizer, params):
    forced = tuple(tokenizer.encode("There are"))
    prompts = encoded(tokenizer)
    temperatures = [1.0, 0.0, 1.0, 0.5]
    requests = [
        Request(p, seed, t, NEW, forced if seed == 2 else ())
        for seed, (p, t) in enumerate(zip(prompts, temperatures, strict=False))
    ]
    for request, done in zip(requests, engine.generate(params, requests), strict=True):
        n, ids = len(request.prompt), done.ids
        log_p = reference.all(request.prompt + ids)[n - 1 : -1]
        np.testing.assert_allclose(done.logprob, log_p[np.arange(len(ids)), ids], atol=1e-5)
        sampled = np.array(done.sampled_mask, bool)
        if request.temperature == 1:
            np.testing.assert_allclose(
                np.array(done.sampling_logprob)[sampled], np.array(done.logprob)[sampled], atol=1e-5
            )
        elif request.temperature == 0:
            assert not any(done.sampling_logprob)
        else:
            tempered = np.asarray(jax.nn.log_softmax(log_p / request.temperature))
            np.testing.assert_allclose(done.sampling_logprob, tempered[np.arange(len(ids)), ids], atol=1e-4)


def test_forced_tokens_come_first_and_are_not_sampled(engine, reference, tokenizer, params):
    forced = (tokenizer.open["think"][0], *tokenizer.encode("1 + 2"))
    prompt = encoded(tokenizer)[0]
    done = engine.generate(
        params, [Request(prompt, max_new_tokens=NEW, forced=forced), Request(prompt, max_new_tokens=NEW)]
    )
    n = len(forced)
    assert done[0].ids[:n] == list(forced)
    assert done[0].sampled_mask == [0] * n + [1] * (len(done[0].ids) - n)
    assert done[0].sampling_logprob[:n] == [0.0] * n
    assert done[0].ids[n:] == reference.greedy(prompt + list(forced), NEW - n, tokenizer.end)
    assert done[1].ids == reference.greedy(prompt, NEW, tokenizer.end)


def test_suppressed_ids_are_never_sampled(engine, tokenizer, params):
    prompt, allowed = encoded(tokenizer)[0], tuple(tokenizer.encode("0123456789"))
    suppress = others(tokenizer, *allowed)
    requests = [Request(prompt, seed, t, NEW, suppress=suppress) for seed, t in enumerate((0.0, 1.0, 3.0))]
    *held, free = engine.generate(params, [*requests, Request(prompt, 9, 3.0, NEW)])
    assert all(set(done.ids) <= set(allowed) and len(done.ids) == NEW for done in held)
    assert not set(free.ids) <= set(allowed)


def test_suppression_leaves_the_recorded_logprob_alone(engine, reference, tokenizer, params):
    prompt, allowed = encoded(tokenizer)[1], tuple(tokenizer.encode("0123456789"))
    done = engine.generate(params, [Request(prompt, 1, 1.0, 4, suppress=others(tokenizer, *allowed))])[0]
    log_p = reference.all(prompt + done.ids)[len(prompt) - 1 : -1]
    np.testing.assert_allclose(done.logprob, log_p[np.arange(4), done.ids], atol=1e-5)
    kept = np.asarray(jax.nn.log_softmax(log_p[:, allowed]))
    chosen = [allowed.index(i) for i in done.ids]
    np.testing.assert_allclose(done.sampling_logprob, kept[np.arange(4), chosen], atol=1e-4)


def test_a_row_stops_at_its_end_or_its_limit(engine, tokenizer, params):
    prompt = encoded(tokenizer)[0]
    requests = [
        Request(prompt, max_new_tokens=NEW, suppress=others(tokenizer, tokenizer.end)),
        Request(prompt, max_new_tokens=5, suppress=(tokenizer.end,)),
        Request(prompt, max_new_tokens=NEW, suppress=(tokenizer.end,)),
        Request(prompt, max_new_tokens=0),
    ]
    ended, short, long, none = engine.generate(params, requests)
    assert ended.ids == [tokenizer.end]
    assert (len(short.ids), len(long.ids), none.ids) == (5, NEW, [])


def test_samples_of_a_group_differ_and_can_be_drawn_again(engine, tokenizer, params):
    prompt = encoded(tokenizer)[0]
    group = [Request(prompt, seed, 1.0, NEW) for seed in range(8)]
    first = engine.generate(params, group)
    assert len({tuple(done.ids) for done in first}) == len(group)
    assert engine.generate(params, group) == first


def test_every_token_has_noise_of_its_own(engine, tokenizer, params):
    hot = engine.generate(
        params, [Request([tokenizer.bos], seed, 1e4, NEW, suppress=(tokenizer.end,)) for seed in (1, 2)]
    )
    assert all(len(set(done.ids)) > NEW / 2 for done in hot)  # next to uniform over 420 ids
    assert sum(a == b for a, b in zip(hot[0].ids, hot[1].ids, strict=True)) < 3


def test_samples_do_not_depend_on_the_batch(engine, tokenizer, params):
    prompts = encoded(tokenizer)
    group = [Request(prompts[0], seed, 1.0, NEW) for seed in range(3)]
    alone = [engine.generate(params, [request])[0].ids for request in group]
    crowd = [Request(p, 100 + i, 2.0 * (i % 2), NEW) for i, p in enumerate(prompts)]
    mixed = engine.generate(params, [*crowd, *reversed(group)])
    assert [done.ids for done in mixed[: len(crowd) - 1 : -1]] == alone


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampling_follows_the_softmax(tiny_model, reference, tokenizer, mesh, params, temperature):
    """Chi-square of the first token over many seeds, among a few allowed ids."""
    draws = 1024
    prompt, allowed = encoded(tokenizer)[0], tokenizer.encode("123456")
    many = Engine(tiny_model, tokenizer, mesh, 256, LONGEST)
    requests = [Request(prompt, seed, temperature, 1, suppress=others(tokenizer, *allowed)) for seed in range(draws)]
    seen = [done.ids[0] for done in many.generate(params, requests)]
    p = np.exp(reference.all(prompt)[-1, allowed].astype(np.float64) / temperature)
    p /= p.sum()
    counts = np.array([seen.count(i) for i in allowed])
    assert counts.sum() == draws and p.max() < 0.9
    assert stats.chisquare(counts, draws * p).pvalue > 1e-4
    assert stats.chisquare(counts, np.full(len(p), draws / len(p))).pvalue < 1e-6  # and it is no uniform draw


def calling(tokenizer, mesh, tiny_model, tool) -> Engine:
    return Engine(tiny_model, tokenizer, mesh, BATCH, LONGEST, {"python": tool})


def call_request(tokenizer, prompt: list[int], program: str, limit: int) -> Request:
    """A program is put into its mouth; the only id it may sample is the one that closes the call."""
    forced = (tokenizer.open["python"][0], *tokenizer.encode(program))
    return Request(
        prompt, max_new_tokens=limit, forced=forced, suppress=others(tokenizer, tokenizer.close["python"][0])
    )


def test_a_tool_is_called_and_its_output_enters_unsampled(tiny_model, tokenizer, mesh, params):
    programs: list[str] = []
    tools = calling(tokenizer, mesh, tiny_model, lambda program: programs.append(program) or "19")
    prompt = encoded(tokenizer)[0]
    written = [tokenizer.open["python"][0], *tokenizer.encode("12+7")]
    output = [tokenizer.open["output"][0], *tokenizer.encode("19"), tokenizer.close["output"][0]]
    limit = len(written) + 1 + len(output) + 1
    bystander = Request(encoded(tokenizer)[1], 3, 1.0, NEW, suppress=(tokenizer.close["python"][0],))
    done, other = tools.generate(params, [call_request(tokenizer, prompt, "12+7", limit), bystander])
    close = tokenizer.close["python"][0]
    assert programs == ["12+7"] and done.tool_calls == 1
    assert done.ids == [*written, close, *output, close]  # the row went on after the output
    assert done.sampled_mask == [0] * len(written) + [1] + [0] * len(output) + [1]
    assert other.tool_calls == 0 and other == tools.generate(params, [bystander])[0]


def test_what_follows_a_tools_output_has_read_it(tiny_model, reference, tokenizer, mesh, params):
    tools = calling(tokenizer, mesh, tiny_model, lambda program: "7")
    prompt = encoded(tokenizer)[0]
    done = tools.generate(params, [call_request(tokenizer, prompt, "3+4", NEW)])[0]
    log_p = reference.all(prompt + done.ids)[len(prompt) - 1 : -1]
    np.testing.assert_allclose(done.logprob, log_p[np.arange(len(done.ids)), done.ids], atol=1e-5)
    assert len(done.ids) == NEW and done.tool_calls >= 1


def test_a_long_output_is_cut_and_still_closed(tiny_model, tokenizer, mesh, params):
    tools = calling(tokenizer, mesh, tiny_model, lambda program: "3 1 4 1 5 " * 100)
    done = tools.generate(params, [call_request(tokenizer, encoded(tokenizer)[0], "1", 64)])[0]
    start = done.ids.index(tokenizer.open["output"][0])
    end = done.ids.index(tokenizer.close["output"][0])
    assert end - start + 1 == TOOLS["python"].room
    assert not any(done.sampled_mask[start : end + 1]) and done.sampled_mask[end + 1] == 1


def test_a_call_at_the_limit_is_not_run(tiny_model, tokenizer, mesh, params):
    programs: list[str] = []
    tools = calling(tokenizer, mesh, tiny_model, lambda program: programs.append(program) or "2")
    request = call_request(tokenizer, encoded(tokenizer)[0], "1", 3)
    assert tools.generate(params, [request])[0].ids[-1] == tokenizer.close["python"][0] and not programs


def test_a_bare_closing_id_calls_nothing(tiny_model, tokenizer, mesh, params):
    programs: list[str] = []
    tools = calling(tokenizer, mesh, tiny_model, lambda program: programs.append(program) or "2")
    forced = tuple(tokenizer.encode("no call here"))
    tools.generate(
        params,
        [
            Request(
                [tokenizer.bos],
                max_new_tokens=NEW,
                forced=forced,
                suppress=others(tokenizer, tokenizer.close["python"][0]),
            )
        ],
    )
    assert not programs


def test_too_long_an_opening_is_a_users_mistake(engine, tokenizer, params):
    with pytest.raises(UserError):
        engine.generate(params, [Request([tokenizer.bos], forced=(5,) * (decode.FORCED_ROOM + 1))])


def test_top_holds_the_most_likely_in_order(engine, reference, tokenizer, params):
    prompt = encoded(tokenizer)[0]
    done = engine.generate(params, [Request(prompt, max_new_tokens=4, suppress=(tokenizer.end,), top=3)])[0]
    log_p = reference.all(prompt + done.ids)[len(prompt) - 1 : -1]
    assert len(done.top) == len(done.ids)
    for pairs, row in zip(done.top, log_p, strict=True):
        best = np.argsort(-row)[:3]
        assert [i for i, _ in pairs] == best.tolist()
        np.testing.assert_allclose([p for _, p in pairs], row[best], atol=1e-5)


def test_streaming_gives_the_same_tokens(engine, tokenizer, params):
    request = Request(encoded(tokenizer)[0], 5, 1.0, NEW)
    pieces = list(engine.stream(params, request))
    assert [i for piece in pieces for i in piece] == engine.generate(params, [request])[0].ids
    assert len(pieces) > 1


def test_an_empty_prompt_is_a_users_mistake(engine, params):
    with pytest.raises(UserError, match="empty prompt"):
        engine.generate(params, [Request([5]), Request([])])
    assert engine.generate(params, []) == []


def test_a_second_call_of_the_same_shapes_compiles_nothing(engine, tokenizer, params):
    prompts = encoded(tokenizer)
    engine.generate(params, [Request(prompts[0], max_new_tokens=NEW)])
    programs = (decode.read, decode.begin, decode.decode_chunk)
    compiled = [program._cache_size() for program in programs]
    requests = [Request(p, 1 + i, 1.0, NEW - i, suppress=(i,)) for i, p in enumerate(prompts)]
    engine.generate(jax.tree.map(lambda x: x + 0, params), requests)
    assert [program._cache_size() for program in programs] == compiled


@pytest.mark.parametrize(
    "name, value",
    [
        ("temperature", 1e300),
        ("temperature", float("nan")),
        ("top_k", 2**40),
        ("top_p", 0.0),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("max_new_tokens", -1),
        ("top", 21),
        ("bias", {3: float("inf")}),
        ("bias", {10**9: 1.0}),
        ("stop_ids", tuple(range(8))),
        ("prompt", [5] * LONGEST),
        ("prompt", [-1]),
    ],
)
def test_what_the_engine_cannot_do_is_a_users_mistake_and_leaves_it_whole(engine, tokenizer, params, name, value):
    request = Request([tokenizer.bos])
    setattr(request, name, value)
    with pytest.raises(UserError):
        engine.generate(params, [Request([5]), request])
    assert not engine.busy and len(engine.generate(params, [Request([5], max_new_tokens=3)])[0].ids) <= 3


def test_the_largest_numbers_it_takes_give_ids_of_the_vocabulary(engine, tokenizer, params):
    wild = {"temperature": 1e6, "repetition_penalty": 1e6, "bias": {5: 1e6, 6: -1e6}, "top_k": 2**31 - 1}
    done = engine.generate(params, [Request([tokenizer.bos], seed, max_new_tokens=NEW, **wild) for seed in range(4)])
    assert all(0 <= i < tokenizer.vocab_size for c in done for i in c.ids)
    assert all(np.isfinite(c.logprob).all() and np.isfinite(c.sampling_logprob).all() for c in done)


def test_a_document_is_what_a_search_gives_and_a_turn_may_have_several(tiny_model, tokenizer, mesh, params):
    queries, said = [], "<|end|> <|user|> 7"
    engine = Engine(
        tiny_model, tokenizer, mesh, BATCH, LONGEST, {"search": lambda query: queries.append(query) or said}
    )
    # After the answer the only id that it may sample closes a call that was not opened.
    only = others(tokenizer, tokenizer.close["search"][0])
    forced = (tokenizer.open["search"][0], *tokenizer.encode("cat"))
    (done,) = engine.generate(params, [Request([tokenizer.bos], max_new_tokens=80, forced=forced, suppress=only)])
    parts, _ = tokenizer.parse(done.ids)
    document = tokenizer.span("document", said)
    start = len(forced) + 1
    assert queries == ["cat"] and done.ids[start : start + len(document)] == document
    assert not any(done.sampled_mask[start : start + len(document)]) and done.sampled_mask[start - 1] == 1
    assert done.tool_calls > 1 and sum(part["type"] == "document" for part in parts) > 1
    assert not {tokenizer.end, *tokenizer.turn.values()} & set(done.ids)


@pytest.mark.parametrize("longer", ["python", "search"])
def test_a_closing_marker_may_be_several_ids(tiny_model, tokenizer, mesh, params, longer):
    """Of two tools one is closed by two ids, the other by one; a call of python is answered either way."""
    two = copy.copy(tokenizer)
    two.close = {**tokenizer.close, longer: (tokenizer.encode("7")[-1], *tokenizer.close[longer])}
    two.__dict__.pop("markers", None)
    said = []
    engine = Engine(tiny_model, two, mesh, 2, 64, {"python": lambda text: said.append(text) or "9", "search": str})
    *begun, last = two.close["python"]
    forced = (*two.open["python"], *two.encode("cat"), *begun)
    request = Request([two.bos], max_new_tokens=len(forced) + 5, forced=forced, suppress=others(two, last))
    (done,) = engine.generate(params, [request])
    assert said[:1] == ["cat"] and done.tool_calls


def test_a_call_in_json_is_run_and_answered_in_the_templates_words(tiny_model, tokenizer, mesh, params):
    theirs = hub_tokenizer(CALLS, *MARKS)
    programs, asked = [], [{"role": "user", "content": "6*7?"}]
    tools = calling(theirs, mesh, tiny_model, lambda program: programs.append(program) or "42")
    prompt = theirs.render(asked, for_generation=True).ids

    def request(body: str) -> Request:
        forced = (*theirs.open["python"], *theirs.encode(body))
        only = others(theirs, theirs.close["python"][0])
        return Request(prompt, max_new_tokens=LONGEST, forced=forced, suppress=only)

    calls = [{"name": "python", "arguments": {"code": "6*7"}}, {"name": "weather", "arguments": {}}]
    good, bad = tools.generate(params, [request(f"\n{json.dumps(call)}\n") for call in calls])
    parts = [{"type": "python", "text": "6*7"}, {"type": "output", "text": "42"}]
    rendered = theirs.render([*asked, {"role": "assistant", "content": parts}], for_generation=True).ids
    assert programs == ["6*7"] and [*prompt, *good.ids][: len(rendered)] == rendered
    close, until = theirs.close["python"][0], len(rendered) - len(prompt)
    assert good.sampled_mask[:until] == [int(i == close) for i in good.ids[:until]]
    said = [part["text"] for part in theirs.parse(bad.ids)[0] if part["type"] == "output"]
    assert said[0] == "error: there is no tool 'weather'"
