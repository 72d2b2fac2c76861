"""Grammars: what is sampled under one is valid, whatever the model; masks are those of the bytes of our tokens."""

import json
import os
from pathlib import Path

import jax
import jsonschema
import numpy as np
import pytest

from llm_jax.config import UserError
from llm_jax.sampling import decode, grammar
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.loaded import load
from llm_jax.sampling.requests import Request

LENGTH = 192
RUNS = os.environ.get("RUNS", "runs/speedrun:runs/real").split(":")  # of trained models
SHORT = {"type": "string", "maxLength": 5}
PERSON = {
    "type": "object",
    "properties": {
        "né": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "score": {"type": ["number", "null"], "minimum": -1, "maximum": 1},
        "kind": {"enum": ["a", 'q"t', "日本", 3, None]},
        "tags": {"type": "array", "items": SHORT, "minItems": 1, "maxItems": 2},
        "home": {"$ref": "#/$defs/home"},
    },
    "required": ["né", "age", "kind", "tags", "home"],
    "$defs": {
        "home": {"type": "object", "properties": {"town": SHORT, "no": {"type": "boolean"}}, "required": ["no", "town"]}
    },
}
SCHEMAS = (
    PERSON,
    {"type": "array", "items": {"anyOf": [{"type": "boolean"}, {"const": {"a": [1, "\n"]}}]}, "maxItems": 3},
    {"type": "string", "pattern": "^[a-c]{2,4}\\d$"},
    {"type": "object", "additionalProperties": {"type": "null"}, "maxProperties": 1, "propertyNames": SHORT},
)


def schema_grammar(tokenizer, schema: dict) -> grammar.Grammar:
    return grammar.compiled(tokenizer, f"start: {grammar.of_schema(schema)}")


@pytest.fixture(scope="module")
def engine(tiny_model, tokenizer, mesh):
    return Engine(tiny_model, tokenizer, mesh, 8, LENGTH)


@pytest.mark.parametrize("answers", [16, pytest.param(200, marks=pytest.mark.slow)])
def test_what_a_random_model_writes_is_valid(engine, tokenizer, params, answers):
    prompt = [tokenizer.bos, *tokenizer.encode("The cat")]
    asked = [
        Request(prompt, seed, 1.0, LENGTH, grammar=schema_grammar(tokenizer, SCHEMAS[seed % 3]))
        for seed in range(answers)
    ]
    plain = [Request(prompt, 7, 1.0, 12), Request(prompt, 0, 0.0, 9)]
    before = engine.generate(params, plain)
    done = engine.generate(params, [*asked, *plain])
    are_valid(tokenizer, done[:answers])
    assert [answer.ids for answer in done[answers:]] == [answer.ids for answer in before]


@pytest.mark.slow
@pytest.mark.parametrize("workdir", RUNS)
def test_what_a_trained_model_writes_is_valid(workdir):
    """200 of 200, of those runs that are there; RUNS names others."""
    if not Path(workdir, "config.json").is_file():
        pytest.skip(f"{workdir} is no run")
    model = load(Path(workdir), slots=32)
    t = model.tokenizer
    try:
        asked = [{"role": "user", "content": "Write one line of JSON about a person."}]
        prompt = t.render(asked, for_generation=True).ids
        grammars = [schema_grammar(t, schema) for schema in SCHEMAS[:3]]
        requests = [Request(prompt, seed, 1.0, LENGTH, grammar=grammars[seed % 3]) for seed in range(200)]
        are_valid(t, model.engine.generate(model.params, requests))
    finally:
        model.close()


def are_valid(tokenizer, done) -> None:
    """Of the first three schemas in turn; and no two thirds are alike."""
    for i, answer in enumerate(done):
        assert answer.finish == "stop" and answer.ids[-1] == tokenizer.end
        assert not set(answer.ids[:-1]) & set(tokenizer.special_names)
        jsonschema.validate(json.loads(tokenizer.decode(answer.ids)), SCHEMAS[i % 3])
    assert len({tuple(answer.ids) for answer in done}) > len(done) / 3


def test_a_grammar_leaves_the_recorded_logprob_alone(engine, tokenizer, params, forward, tiny_model):
    prompt = [tokenizer.bos, *tokenizer.encode("The cat")]
    choice = grammar.compiled(tokenizer, 'start: "7" | "3" | "dog"')
    (answer,) = engine.generate(params, [Request(prompt, 3, 1.0, 9, grammar=choice)])
    ids = [*prompt, *answer.ids]
    logits = forward(tiny_model, tokenizer.vocab_size, params, np.array([ids]))[1]
    log_p = np.asarray(jax.nn.log_softmax(logits))[0, len(prompt) - 1 : -1]
    np.testing.assert_allclose(answer.logprob, log_p[np.arange(len(answer.ids)), answer.ids], atol=1e-5)
    starts = [
        i
        for i in range(tokenizer.vocab_size)
        if any(w.startswith(tokenizer.bytes_of(i) or b"?") for w in (b"7", b"3", b"dog"))
    ]
    kept = np.asarray(jax.nn.log_softmax(log_p[0, starts]))
    np.testing.assert_allclose(answer.sampling_logprob[0], kept[starts.index(answer.ids[0])], atol=1e-4)


def test_what_must_come_is_forced_and_counts_as_unsampled(engine, tokenizer, params):
    asked = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    request = Request([tokenizer.bos], 1, 1.0, 60, grammar=schema_grammar(tokenizer, asked))
    (answer,) = engine.generate(params, [request])
    text = tokenizer.decode(answer.ids)
    assert json.loads(text)["colour"] in ("red", "blue")
    assert answer.sampled_mask[0] == 0 and sum(answer.sampled_mask) <= 3


def test_the_limit_cuts_an_answer_and_says_so(engine, tokenizer, params):
    (answer,) = engine.generate(params, [Request([5], 1, 1.0, 6, grammar=schema_grammar(tokenizer, PERSON))])
    assert (answer.finish, len(answer.ids)) == ("length", 6)


def test_an_opening_is_part_of_the_grammar(engine, tokenizer, params):
    t = tokenizer
    thought = f"start: <[{t.open['think'][0]}]> TEXT <[{t.close['think'][0]}]> %json {json.dumps({'enum': ['a', 'b']})}"
    forced = (t.open["think"][0], *t.encode("so"), t.close["think"][0])
    (answer,) = engine.generate(
        params, [Request([5], 1, 1.0, 30, forced, grammar=grammar.compiled(t, f"{thought}\nTEXT: /(?s:.*)/"))]
    )
    parts, whole = t.parse(answer.ids)
    assert [part["type"] for part in parts] == ["think", "text"] and whole and parts[1]["text"] in ('"a"', '"b"')


def test_a_grammar_that_comes_to_its_limits_ends_its_row_alone(engine, tokenizer, params, monkeypatch):
    request = Request([5], 1, 1.0, 40, grammar=schema_grammar(tokenizer, PERSON))
    monkeypatch.setattr(grammar.Guide, "failed", property(lambda guide: True))
    ended, other = engine.generate(params, [request, Request([5], 1, 1.0, 10, suppress=(tokenizer.end,))])
    assert ended.finish == "length" and len(other.ids) == 10 and not engine.busy


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"response_format": {"type": "xml"}}, "response_format: its type"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": []}}}, "no JSON schema"),
        ({"guided_json": "x"}, "guided_json: 'x' is no JSON schema"),
        ({"guided_choice": [1]}, "guided_choice: it must be"),
        ({"guided_json": {}, "guided_choice": ["a"]}, "but one of them"),
    ],
)
def test_what_is_no_grammar(fields, words):
    with pytest.raises(UserError) as error:
        grammar.asked(fields)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "schema", [{"type": "wat"}, {"not": {}}, {"enum": []}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "("}]
)
def test_what_the_library_cannot_take_is_told_in_one_line(tokenizer, schema):
    with pytest.raises(UserError) as error:
        schema_grammar(tokenizer, schema)
    assert str(error.value) and "\n" not in str(error.value)


def test_a_closed_schema_says_no_less_than_its_own():
    inner = {"type": "object", "properties": {"properties": {"type": "object", "properties": {"x": {}}}}}
    closed = grammar.closed({"anyOf": [inner, {"type": "object", "properties": {}, "additionalProperties": True}]})
    assert closed["anyOf"][0]["additionalProperties"] is False
    assert closed["anyOf"][0]["properties"]["properties"] == {
        "type": "object",
        "properties": {"x": {}},
        "additionalProperties": False,
    }
    assert closed["anyOf"][1]["additionalProperties"] is True


def test_every_token_stands_for_its_bytes(tokenizer):
    text = "Grüße \u2581 日本語\n<|end|> \x00"
    assert b"".join(map(tokenizer.bytes_of, tokenizer.encode(text))) == text.encode()
    assert not any(tokenizer.bytes_of(i) for i in tokenizer.special_names)


def test_penalties_count_what_was_written(engine, tokenizer, params):
    """With a large presence penalty nothing comes twice; what the prompt has is free."""
    prompt, end = [tokenizer.bos, *tokenizer.encode("The cat")], (tokenizer.end,)
    fields = {"max_new_tokens": 40, "suppress": end, "forced": (90,)}
    for name in ("presence_penalty", "frequency_penalty"):
        once, again = engine.generate(params, [Request(prompt, **fields, **{name: 1e5}), Request(prompt, **fields)])
        assert len(set(once.ids)) == 40 and len(set(again.ids)) < 40
    wanted = Request(prompt, **fields, presence_penalty=-1e5)
    assert set(engine.generate(params, [wanted])[0].ids) == {90}


@pytest.mark.parametrize("size", [1, 40, 150])
def test_logprobs_of_a_prompt_are_those_of_a_full_forward(engine, tokenizer, params, forward, tiny_model, size):
    """Also after what some slot has read already, in several pieces, and of a group."""
    ids = np.random.default_rng(size).integers(5, tokenizer.vocab_size, size).tolist()
    engine.generate(params, [Request(ids, max_new_tokens=2)])  # it is all in some cache
    reads = [Request(ids, max_new_tokens=0, top=3, prompt_logprobs=at) for at in (0, size // 2, None)]
    padded = np.zeros((1, LENGTH), np.int32)
    padded[0, :size] = ids
    logits = forward(tiny_model, tokenizer.vocab_size, params, padded)[1]
    log_p = np.asarray(jax.nn.log_softmax(logits))[0, :size]
    whole, half, none = engine.generate(params, reads)
    assert none.prompt_logprob is None and whole.prompt_logprob[0] is None and whole.prompt_top[0] == []
    expected = log_p[np.arange(size - 1), ids[1:]]
    np.testing.assert_allclose(whole.prompt_logprob[1:], expected, atol=1e-5)
    np.testing.assert_allclose(
        half.prompt_logprob[1 if size == 1 else 0 :], expected[max(0, size // 2 - 1) :], atol=1e-5
    )
    for pairs, row in zip(whole.prompt_top[1:], log_p, strict=False):
        np.testing.assert_allclose([p for _, p in pairs], np.sort(row)[::-1][:3], atol=1e-5)
    (late,) = engine.generate(params, [Request(ids, max_new_tokens=0, prompt_logprobs=size - 1)])
    if size > decode.NGRAM + 20:
        assert late.reused == size - 2  # nothing that is wanted was lost
