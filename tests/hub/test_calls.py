"""Calls as JSON in the template's own words: rendered, read again, and told what is wrong with them."""

import json
import random

import pytest

from llm_jax.hub import calls
from llm_jax.hub.template import Template
from llm_jax.sampling.turns import Pieces, tool_calls
from tests.hub.templates import (
    CALLS,
    CALLS_SAID,
    END,
    HEADER,
    MARKS,
    NO_OLD_THOUGHTS,
    SPECIAL,
    Derivation,
    hub_tokenizer,
    messages_of,
)

CODE = 'print("<|im_end|>\\n")\n# </tool_response> \U0001f642'
ASKED = {"role": "user", "content": "6*7?"}
PARTS = [
    {"type": "text", "text": "I count."},
    {"type": "python", "text": CODE},
    {"type": "output", "text": "4\n2"},
    {"type": "text", "text": "42"},
]
SAID = [{"type": "text", "text": "I count.\n"}, *PARTS[1:]]  # as the model writes it


@pytest.fixture(scope="module", params=[MARKS, MARKS[:4], MARKS[:2]], ids=["all", "no answers", "no calls"])
def tokenizer(request):
    """Of vocabularies that have the markers of calls and answers as tokens, or not."""
    return hub_tokenizer(CALLS, *request.param)


def derivation(tokenizer, source: str = CALLS) -> Derivation:
    names = [*tokenizer.special_names.values(), *MARKS]
    return Derivation(tokenizer.model_json, source, list(dict.fromkeys(names)), HEADER, END)


@pytest.mark.parametrize("parts", [
    PARTS,
    PARTS[1:],
    [{"type": "think", "text": "\n6\n"}, *PARTS[1:]],
    [{"type": "think", "text": "6"}, *PARTS],
    [PARTS[1], PARTS[1], PARTS[2], PARTS[2], PARTS[3]],
])  # fmt: skip
def test_a_call_is_rendered_as_the_template_does(parts):
    tokenizer = hub_tokenizer(CALLS, *MARKS)
    theirs = derivation(tokenizer)
    conversation = [ASKED, {"role": "assistant", "content": parts}, ASKED, {"role": "assistant", "content": parts}]
    rendered = tokenizer.render(conversation)
    assert (rendered.ids, rendered.loss_mask) == theirs.of(messages_of(conversation, theirs.hide))
    learned = tokenizer.show(i for i, m in zip(rendered.ids, rendered.loss_mask, strict=True) if m)
    assert learned.count("</tool_call><|im_end|>") == 2
    assert "<tool_response>" not in learned and "4\n2" not in learned and learned.endswith("42<|im_end|>")


def test_what_is_written_is_read_and_rendered_again(tokenizer):
    """The ids that an engine gives: those of the model, and of the answer in the template's words."""
    call = [*tokenizer.encode("I count.\n"), *tokenizer.span("python", CODE)]
    ids = [*call, *tokenizer.span("output", "4\n2"), *tokenizer.encode("42"), tokenizer.end]
    assert tokenizer.parse(ids) == (SAID, True) and tokenizer.is_whole(ids) and len(tool_calls(SAID)) == 1
    assert tokenizer.closed_by(call, ["python"]) == ["python"] and not tokenizer.closed_by(call[:-1], ["python"])
    prompt = tokenizer.render([ASKED], for_generation=True).ids
    for parts in (PARTS, SAID):
        rendered = tokenizer.render([ASKED, {"role": "assistant", "content": parts}])
        assert tokenizer.show(rendered.ids[:-1]) == tokenizer.show([*prompt, *ids])
        if len(tokenizer.open["python"]) == 1:
            assert rendered.ids[:-1] == [*prompt, *ids]
    rng = random.Random(0)
    for _ in range(20):
        pieces, at, given = Pieces(tokenizer), 0, []
        while at < len(ids):
            given += pieces.take(ids[at : (at := at + rng.randrange(1, 9))])
        given += pieces.rest()
        assert pieces.parts == SAID
        assert "".join(text for *_, text in given) == "".join(part["text"] for part in SAID)


def test_an_answer_is_cut_to_the_room_that_there_is(tokenizer):
    ids = tokenizer.span("output", "the cat " * 99, 48)
    (part,), _ = tokenizer.parse(ids)
    assert len(ids) == 48 and part["type"] == "output" and part["text"].startswith("the cat the")
    assert ids[-len(tokenizer.close["output"]) :] == [*tokenizer.close["output"]] and "tool" not in part["text"]


@pytest.mark.parametrize("body, wrong", [
    ('{"name": "python", "arguments": {"code": 6*7}}', "the call is no JSON: Expecting"),
    ("[" * 5000, "the call is no JSON"),
    ('{"name": "weather", "arguments": {}}', "there is no tool 'weather'"),
    ('{"name": "search", "arguments": {"query": "a"}}', "there is no tool 'search'"),
    ('{"name": "python", "arguments": {"program": "1"}}', 'python takes {"code": TEXT}'),
    ('{"name": "python", "arguments": "1"}', 'a call has a "name" and "arguments"'),
    ("42", 'a call has a "name"'),
])  # fmt: skip
def test_what_is_wrong_with_a_call_is_told(tokenizer, body, wrong):
    ids = [*tokenizer.open["python"], *tokenizer.encode(body), *tokenizer.close["python"]]
    parts, _ = tokenizer.parse(ids)
    assert tokenizer.wrong_call(parts[-1], ["python"]).startswith(wrong)
    assert tokenizer.wrong_call({"type": "text", "text": "7"}, ["python"]) == "no call was opened"


def test_a_call_of_any_tool_is_one_in_what_the_assistant_says_alone():
    tokenizer = hub_tokenizer(CALLS, *MARKS)
    said = '<tool_call>\n{"name": "weather", "arguments": {"in": "Köln"}}\n</tool_call>'
    marker = tokenizer.open["python"][0]
    as_user = tokenizer.render([{"role": "user", "content": said}])
    as_call = tokenizer.render([ASKED, {"role": "assistant", "content": said}])
    assert marker not in as_user.ids and as_call.ids.count(marker) == 1
    written = as_call.ids[as_call.loss_mask.index(1) : -1]
    assert tokenizer.parse(written) == ([{"type": "text", "text": said}], True)
    broken = tokenizer.render([ASKED, {"role": "assistant", "content": said.replace("}}", "}")}])
    assert marker not in broken.ids


def test_where_the_template_passes_over_calls_they_are_written_in_what_is_said():
    tokenizer = hub_tokenizer(CALLS_SAID, *MARKS[:4])
    rendered = tokenizer.render([ASKED, {"role": "assistant", "content": PARTS}])
    body = json.dumps({"name": "python", "arguments": {"code": CODE}}, ensure_ascii=False)
    shown = f"I count.\n<tool_call>\n{body}\n</tool_call><|im_end|>\n<|im_start|>user\n4\n2<|im_end|>\n"
    assert shown in tokenizer.show(rendered.ids)
    learned = tokenizer.show(i for i, m in zip(rendered.ids, rendered.loss_mask, strict=True) if m)
    assert learned == f"I count.\n<tool_call>\n{body}\n</tool_call><|im_end|>42<|im_end|>"


@pytest.mark.parametrize("source", [
    NO_OLD_THOUGHTS,
    CALLS.replace('{"name": "', "<function=").replace('", "arguments": ', ">"),
    CALLS.replace("{%- if m.role == 'tool' -%}", "{%- if m.role == 'tool' -%}{{ raise_exception('no tools') }}"),
])  # fmt: skip
def test_other_ways_to_call_are_left_alone(source):
    assert calls.of(Template(source, SPECIAL)) is None
