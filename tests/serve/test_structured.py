"""Answers that obey a schema, tools of any name, prompts with their log-probabilities: against a real process."""

import json

import jinja2
import jsonschema
import numpy as np
import openai
import pydantic
import pytest

from llm_jax.serve.bodies import parsed
from llm_jax.serve.protocol import ChatBody
from tests.serve.test_server import CHAT, HELLO, TEXT, ask

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 6}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
}
FUNCTION = {"name": "get_weather", "description": "Weather of a city.\nLong.", "parameters": WEATHER}
TOOLS = [{"type": "function", "function": FUNCTION}]
NAMED = {"type": "function", "function": {"name": "get_weather"}}


class Cat(pydantic.BaseModel):
    kind: str = pydantic.Field(max_length=5)
    lives: int = pydantic.Field(ge=0, le=9)
    tame: bool | None


def test_openai_parses_a_model(client):
    for seed in range(4):
        fields = {"model": "sft", "messages": HELLO, "response_format": Cat, "seed": seed, "temperature": 1}
        parsed = client.chat.completions.parse(**fields).choices[0].message.parsed
        with client.chat.completions.stream(**fields) as stream:
            streamed = stream.get_final_completion().choices[0].message.parsed
        assert isinstance(parsed, Cat) and parsed == streamed


def test_an_answer_is_an_object_and_a_thought_comes_first_only_when_told(client):
    fields = {"temperature": 1, "seed": 3, "max_tokens": 60, "n": 4}
    for choice in ask(client, response_format={"type": "json_object"}, **fields).choices:
        assert choice.message.content.startswith("{") and choice.message.reasoning_content is None
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)
    thought = ask(client, response_format={"type": "json_object"}, extra_body={"thinking": "on"}, **fields).choices[0]
    assert thought.message.parts[0]["type"] == "think"


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_tool_of_any_name_is_called_with_arguments_that_fit(client, choice):
    fields = {"tools": TOOLS, "tool_choice": choice, "temperature": 1, "max_tokens": 110, "seed": 5}
    answer = ask(client, **fields, n=4)
    for told in answer.choices:
        (call,) = told.message.tool_calls
        assert (call.function.name, told.finish_reason, told.message.content) == ("get_weather", "tool_calls", "")
        jsonschema.validate(json.loads(call.function.arguments), WEATHER)
    chunks = list(ask(client, **fields, stream=True))
    assert not any(chunk.choices[0].delta.content for chunk in chunks)
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    first = answer.choices[0].message.tool_calls[0].function
    assert [(d.function.name, d.function.arguments) for d in deltas] == [("get_weather", first.arguments)]


def test_the_model_may_choose(client, server, tokenizer):
    begun = {str(i): 100 for i in tokenizer.encode("<")}
    tools = [{"type": "function", "function": {"name": "go", "parameters": {"type": "object", "properties": {}}}}]
    fields = {"tools": tools, "temperature": 1, "seed": 1}
    assert not ask(client, **fields, max_tokens=1).choices[0].message.tool_calls
    called = ask(client, **fields, logit_bias=begun, max_tokens=80).choices[0]
    assert called.message.tool_calls[0].function.name == "go" and called.finish_reason == "tool_calls"
    cut = ask(client, **fields, logit_bias=begun, max_tokens=12).choices[0]
    assert cut.finish_reason == "length" and cut.message.content.startswith("<tool_call>")
    streamed = ask(client, **fields, logit_bias=begun, max_tokens=12, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == cut.message.content
    assert not ask(client, **fields, tool_choice="none", logit_bias=begun).choices[0].message.tool_calls
    notice = server.post(CHAT, {"messages": HELLO, "tools": tools, "max_tokens": 1}).json()["notice"]
    assert notice == "the description of the tools does not fit and was left out"  # of this small context


def test_the_model_reads_of_the_tools_where_it_has_a_choice(tokenizer):
    def prompt(**fields) -> str:
        body = parsed(json.dumps({"messages": HELLO, "tools": TOOLS, **fields}).encode(), ChatBody)
        (request,), notice = body.asked(tokenizer, 1000, [])
        assert not notice
        return tokenizer.show(request.prompt)

    system = {"role": "system", "content": "Be brief."}
    for messages in (HELLO, [system, *HELLO]):
        told = prompt(messages=messages)
        assert "- get_weather(city: string, unit: any) Weather of a city.\nTo call one" in told
        assert told.count("<|system|>") == 1
    assert "get_weather" not in prompt(tool_choice="required") + prompt(tool_choice="none")
    assert "get_weather" in prompt(tool_choice="required", tools=[*TOOLS, {"function": {"name": "go"}}])


def test_a_call_and_its_result_are_read_as_they_were_written(tokenizer):
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rom"}'}}
    said = [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "42"}]
    body = parsed(json.dumps({"messages": [*HELLO, *said]}).encode(), ChatBody)
    text = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rom"}}\n</tool_call>'
    parts = [{"type": "text", "text": text}, {"type": "output", "text": "42"}]
    turn = tokenizer.render([*HELLO, {"role": "assistant", "content": parts}]).ids
    assert body.asked(tokenizer, 1000, [])[0][0].prompt == turn[:-1]


def test_texts_that_must_be_one_of_some_or_match(client, server):
    for fields, fits in (
        ({"guided_choice": ["two cats", "<none>"]}, {"two cats", "<none>"}),
        ({"guided_regex": "[ab]/\\d"}, {f"{a}/{d}" for a in "ab" for d in range(10)}),
        ({"guided_json": {"enum": [1, 2]}}, {"1", "2"}),
    ):
        answer = client.completions.create(model="pretrain", prompt="The", max_tokens=20, extra_body=fields, n=3)
        assert {choice.text for choice in answer.choices} <= fits
        assert ask(client, extra_body=fields).choices[0].message.content in fits


def test_a_refused_schema_says_why_in_one_line(client):
    with pytest.raises(openai.BadRequestError, match=r"Unimplemented keys: .{2}not") as error:
        ask(client, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}})
    assert error.value.body["param"] == "response_format" and "\n" not in error.value.body["message"]


def test_a_prompt_comes_back_with_its_logprobs(client, server, tokenizer):
    fields = {"model": "pretrain", "prompt": "The cat, où", "logprobs": 2, "temperature": 0}
    whole = client.completions.create(**fields, echo=True, max_tokens=3).choices[0]
    lp, ids = whole.logprobs, [tokenizer.bos, *tokenizer.encode("The cat, où")]
    assert len(lp.tokens) == len(lp.token_logprobs) == len(lp.top_logprobs) == len(lp.text_offset) == len(ids) + 3
    assert lp.token_logprobs[0] is None and lp.top_logprobs[0] is None
    assert all(max(top.values()) >= p for top, p in zip(lp.top_logprobs[1:], lp.token_logprobs[1:], strict=True))
    for token, at in zip(lp.tokens, lp.text_offset, strict=True):
        assert token.startswith(("<|", "<0x")) or whole.text[at:].startswith(token)
    alone = client.completions.create(**fields, max_tokens=3).choices[0]
    assert whole.text == "The cat, où" + alone.text
    np.testing.assert_allclose(lp.token_logprobs[-3:], alone.logprobs.token_logprobs, atol=1e-4)
    streamed = list(client.completions.create(**fields, echo=True, max_tokens=3, stream=True))
    assert "".join(chunk.choices[0].text for chunk in streamed) == whole.text
    told = [
        p for chunk in streamed for p in (chunk.choices[0].logprobs or lp).token_logprobs if chunk.choices[0].logprobs
    ]
    np.testing.assert_allclose(told[1:], lp.token_logprobs[1:], atol=1e-4)
    # What a token is worth that stands in the prompt is what it was worth when it was written.
    fields |= {"prompt": [[*ids, *(t["id"] for t in alone.logprobs.content)]]}
    scored = server.post(TEXT, {**fields, "echo": True, "max_tokens": 0}).json()
    (choice,), usage = scored["choices"], scored["usage"]
    assert usage["completion_tokens"] == 0 and choice["finish_reason"] == "length"
    np.testing.assert_allclose(choice["logprobs"]["token_logprobs"][-3:], alone.logprobs.token_logprobs, atol=1e-4)


def test_the_tokenizer_as_other_servers_have_it(server, tokenizer):
    post = lambda path, body: server.post(path, body).json()  # noqa: E731
    text = "The cat, où <|x|>"
    told = post("/tokenize", {"prompt": text, "add_special_tokens": False})
    assert told["tokens"] == tokenizer.encode(text) and told["count"] == len(told["tokens"])
    assert post("/detokenize", {"tokens": told["tokens"]})["prompt"] == text
    info = server.http.get(f"{server.url}/tokenizer_info").json()
    for kind, id_ in (("bos", tokenizer.bos), ("eos", tokenizer.end), ("pad", tokenizer.pad)):
        assert post("/tokenize", {"prompt": info[f"{kind}_token"]})["tokens"] == [id_]
    assert post("/tokenize", {"content": "<|end|>", "parse_special": False})["tokens"] == tokenizer.encode("<|end|>")
    messages = [{"role": "system", "content": "Be."}, *HELLO]
    rendered = tokenizer.render(messages, for_generation=True).ids
    assert post("/tokenize", {"messages": messages})["tokens"] == rendered
    template = jinja2.Template(info["chat_template"]).render(messages=messages, add_generation_prompt=True)
    assert post("/tokenize", {"prompt": template})["tokens"] == rendered
    assert post("/detokenize", {"tokens": rendered})["content"] == template


def test_a_schema_and_a_plain_request_share_the_slots(server):
    body = {"messages": HELLO, "max_tokens": 20, "temperature": 1, "seed": 2}
    alone = server.post(CHAT, body).json()["choices"][0]["message"]["content"]
    both = {**body, "n": 3, "response_format": {"type": "json_object"}, "stream": True}
    with server.http.stream("POST", f"{server.url}{CHAT}", json=both):
        assert server.post(CHAT, body).json()["choices"][0]["message"]["content"] == alone
