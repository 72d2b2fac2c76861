"""What the server makes of an engine's tokens, and of what clients send: without a server."""

import itertools
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from data_pipelines import chats
from llm_jax.sampling.turns import SAID, said
from llm_jax.serve.answers import ChatStyle, Names, TextStyle, Writer
from llm_jax.serve.bodies import ApiError, parsed
from llm_jax.serve.feedback import Feedback, FeedbackBody
from llm_jax.serve.messages import Message
from llm_jax.serve.protocol import ChatBody, CompletionBody, TokenizeBody, derived
from llm_jax.serve.worker import News

LENGTH, PRESENT = 128, ["python", "search"]  # tools of the run
HELLO = [{"role": "user", "content": "How many cats are there?"}]


def news(ids, finish=None) -> News:
    return News(0, list(ids), [1] * len(ids), [-0.5] * len(ids), [], 0, finish)


def written(tokenizer, ids, stop, cuts=(), finish="length") -> tuple[Writer, list[str], list[int]]:
    """(writer, the text after each bit, the ids of the tokens that were shown) of ids that come in bits."""
    writer, texts, shown_ids, edges = Writer(tokenizer, stop), [""], [], [0, *sorted(cuts), len(ids)]
    for start, end in itertools.pairwise(edges):
        shown = writer.take(news(ids[start:end], finish if end == len(ids) else None))
        texts.append(texts[-1] + shown.text())
        shown_ids += [token.id for token in shown.tokens]
    return writer, texts, shown_ids


def joined(parts) -> str:
    return "".join(part["text"] for part in parts)


@hypothesis.given(st.data())
def test_a_stream_is_the_whole_in_bits_and_never_shows_a_stop_string(tokenizer, data):
    words = tokenizer.encode("The cat sat on the mat. Grüße aus Köln, 日本語 12 + 7 = 19\n")
    special = [tokenizer.end, *(i for ids in tokenizer.markers for i in ids)]
    ids = data.draw(st.lists(st.sampled_from([*words * 3, *special, *tokenizer.encode("\U0001f642é")]), max_size=40))
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=6))
    text = joined(tokenizer.parse(ids)[0])
    places = st.tuples(st.integers(0, max(0, len(text) - 1)), st.integers(1, 6))
    stop = [text[at : at + n] for at, n in data.draw(st.lists(places, max_size=2))]
    stop = [s for s in stop if s and "\ufffd" not in s]

    whole, texts_of_one, ids_of_one = written(tokenizer, ids, stop)
    bits, texts, shown_ids = written(tokenizer, ids, stop, cuts)
    assert (bits.parts, bits.finish, bits.ids, shown_ids) == (whole.parts, whole.finish, whole.ids, ids_of_one)
    assert texts[-1] == texts_of_one[-1] == joined(whole.parts) and all(texts[-1].startswith(t) for t in texts)
    assert not any(s in texts[-1] for s in stop)
    # What is left is the text before the first stop string that the ids come to say.
    says = (joined(tokenizer.parse(ids[:n])[0]) for n in range(len(ids) + 1))
    said = next((t for t in says if any(s in t for s in stop)), None)
    assert texts[-1] == (text if said is None else said[: min(said.find(s) for s in stop if s in said)])
    assert whole.finish == ("length" if said is None else "stop")


@hypothesis.given(st.data())
def test_a_chat_is_told_alike_whole_and_in_bits_however_a_client_adds_them_up(tokenizer, data):
    """Its content is what `said` makes of text and answers, up to a stop string there; a thought says none."""
    words = tokenizer.encode(" The cat sat \n on  12 + 7\n")
    special = [tokenizer.end, *(i for ids in tokenizer.markers for i in ids)]
    ids = data.draw(st.lists(st.sampled_from([*words * 3, *special]), max_size=40))
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=6))
    parts = tokenizer.parse(ids)[0]
    content = said(parts, *SAID)
    at, n = data.draw(st.tuples(st.integers(0, max(0, len(content) - 1)), st.integers(1, 4)))
    stop = [content[at : at + n]] * bool(content) * data.draw(st.integers(0, 1))
    wants = data.draw(st.booleans())
    body = parsed(json.dumps({"messages": HELLO, "parts": wants}).encode(), ChatBody)

    def style_and_writer():
        return ChatStyle(body, Names(tokenizer)), Writer(tokenizer, stop, body.seen, body.inside)

    style, writer = style_and_writer()
    whole = style.whole(0, writer, writer.take(news(ids, "length")))["message"]
    style, writer = style_and_writer()
    deltas = []
    for start, end in itertools.pairwise([0, *sorted(cuts), len(ids)]):
        if not writer.finish:
            shown = writer.take(news(ids[start:end], "length" if end == len(ids) else None))
            deltas.append(style.chunk(0, writer, shown)["delta"])
    assert "".join(delta.get("content", "") for delta in deltas) == whole["content"]
    thoughts = [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta]
    assert ("".join(thoughts) or None) == whole["reasoning_content"]
    # Of thoughts that are before all of the answer there is one bit, which is right for whoever keeps the last alone.
    kinds = [part["type"] for part in parts if part["text"].strip()]
    assert len(thoughts) <= 1 or "think" in kinds[kinds.index(next(k for k in kinds if k in SAID)) :]
    assert ("parts" in whole) == wants and (wants or not any("parts" in delta for delta in deltas))
    prefixes = (said(tokenizer.parse(ids[:n])[0], *SAID) for n in range(len(ids) + 1))
    stopped = next((text for text in prefixes if any(s in text for s in stop)), None)
    assert whole["content"] == (content if stopped is None else stopped[: stopped.index(stop[0])].rstrip())


def test_what_may_become_a_stop_string_waits_with_its_tokens(tokenizer):
    ids = tokenizer.encode("The cat sat")
    writer = Writer(tokenizer, ["cat sat down"])
    shown = writer.take(news(ids))
    assert shown.text() == "The " and tokenizer.decode(t.id for t in shown.tokens) in ("The", "The ")
    rest = writer.take(news(tokenizer.encode(" on"), "length"))
    assert rest.text() == "cat sat on" and joined(writer.parts) == "The cat sat on"


def test_tokens_lie_where_their_text_is(tokenizer):
    ids = [*tokenizer.encode("a \U0001f642 b"), tokenizer.end]
    tokens = Writer(tokenizer, []).take(news(ids, "stop")).tokens
    text = "a \U0001f642 b"
    names = Names(tokenizer)
    assert b"".join(bytes(names.of(t.id)["bytes"]) for t in tokens) == text.encode()
    for token in tokens:
        if names.of(token.id)["bytes"] and "\ufffd" not in tokenizer.bytes_of(token.id).decode(errors="replace"):
            assert text[token.start : token.end] == names.of(token.id)["token"]


def test_a_call_is_handed_over_only_where_the_client_has_the_tool(tokenizer):
    ids = [tokenizer.open["python"][0], *tokenizer.encode('print("a")'), tokenizer.close["python"][0]]
    tools = [{"type": "function", "function": {"name": "python"}}]
    for more, expected in (
        ({"tools": tools}, "tool_calls"),
        ({}, "stop"),
        ({"tools": tools, "tool_choice": "none"}, "stop"),
    ):
        body = parsed(json.dumps({"messages": HELLO, **more}).encode(), ChatBody)
        writer = Writer(tokenizer, [])
        choice = ChatStyle(body, Names(tokenizer)).whole(0, writer, writer.take(news(ids, "stop")))
        assert choice["finish_reason"] == expected
        calls = choice["message"].get("tool_calls", [])
        assert [json.loads(c["function"]["arguments"]) for c in calls] == [{"code": 'print("a")'}] * (
            expected == "tool_calls"
        )


# Bodies


def chat(tokenizer, **fields):
    return parsed(json.dumps({"messages": HELLO, **fields}).encode(), ChatBody).asked(tokenizer, LENGTH, PRESENT)[0]


def test_fields_reach_the_engine(tokenizer):
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.5, "seed": 5}
    (request,) = chat(tokenizer, **fields, logit_bias={"3": -7}, stop="x", max_tokens=9, logprobs=True, top_logprobs=4)
    assert (request.temperature, request.top_p, request.top_k, request.min_p) == (0.5, 0.9, 7, 0.1)
    assert (request.repetition_penalty, request.seed, request.bias, request.stop) == (1.5, 5, {3: -7.0}, ("x",))
    assert (request.max_new_tokens, request.top) == (9, 4)
    assert request.prompt == tokenizer.render(HELLO, for_generation=True).ids
    assert chat(tokenizer, max_tokens=9, max_completion_tokens=8)[0].max_new_tokens == 8


def test_null_is_absent(tokenizer):
    names = ("temperature", "top_p", "n", "stop", "logit_bias", "max_tokens", "tools", "stream_options", "thinking")
    assert chat(tokenizer, seed=1, **dict.fromkeys(names)) == chat(tokenizer, seed=1)


def test_thinking_and_tools_become_openings_and_prohibitions(tokenizer):
    think, python, search = (tokenizer.open[name][0] for name in ("think", "python", "search"))
    tools, theirs = ([{"type": "function", "function": {"name": name}}] for name in PRESENT)
    others = tuple(
        i for i in tokenizer.special_names if i != tokenizer.close["python"][0]
    )  # a call that begins is ended
    cases = (
        ({}, (), (), ()),
        ({"thinking": "on"}, (think,), (), ()),
        ({"thinking": "off"}, (), (think,), ()),
        ({"builtin_tools": False}, (), (python, search), ()),
        ({"tool_choice": "none"}, (), (python, search), ()),
        ({"tools": tools}, (), (search,), (tokenizer.close["python"][0],)),
        ({"tools": theirs}, (), (python,), (tokenizer.close["search"][0],)),
        ({"tools": tools, "builtin_tools": False}, (), (search,), (tokenizer.close["python"][0],)),
        ({"tools": tools, "tool_choice": "required"}, (python,), others, (tokenizer.close["python"][0],)),
        ({"tools": tools, "tool_choice": tools[0]}, (python,), others, (tokenizer.close["python"][0],)),
        ({"tools": tools, "tool_choice": "none"}, (), (python, search), ()),
    )
    for fields, forced, suppress, stop_ids in cases:
        (request,) = chat(tokenizer, **fields)
        assert (request.forced, request.stop_ids) == (forced, stop_ids), fields
        assert sorted(request.suppress) == sorted(suppress), fields


def test_seeds_of_choices_follow_from_the_first(tokenizer):
    seeds = [request.seed for request in chat(tokenizer, seed=2**40, n=4)]
    assert seeds[0] == 2**40 and len({s % 2**32 for s in seeds}) == 4
    assert seeds == [request.seed for request in chat(tokenizer, seed=2**40, n=4)] and derived(7, 0) == 7
    assert len({chat(tokenizer)[0].seed for _ in range(8)}) > 1


@pytest.mark.parametrize(
    "message",
    [
        {
            "content": "",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "python", "arguments": '{"code": "6*7"}'}}
            ],
        },
        {"content": [{"type": "python", "text": "6*7"}]},
        {"tool_calls": [{"function": {"name": "python", "arguments": '{"source": "6*7"}'}}]},
        {"tool_calls": [{"function": {"name": "python", "arguments": '{"lang": "py", "n": 2, "code": "6*7"}'}}]},
    ],
)
def test_a_call_and_its_output_are_the_turn_that_the_model_wrote(tokenizer, message):
    messages = [*HELLO, {"role": "assistant", **message}, {"role": "tool", "tool_call_id": "1", "content": "42"}]
    body = parsed(json.dumps({"messages": messages}).encode(), ChatBody)
    spans = [{"type": "python", "text": "6*7"}, {"type": "output", "text": "42"}]
    turn = tokenizer.render([*HELLO, {"role": "assistant", "content": spans}]).ids
    assert body.asked(tokenizer, LENGTH, PRESENT)[0][0].prompt == turn[:-1]


def test_standard_fields_stand_and_what_else_an_answer_had_does_not():
    """Clients that add lists up in their own way send nonsense back."""
    garbled = [{"index": 0, "type": "text", "text": "H word.ello"}, {"type": "king"}]
    said = {"role": "assistant", "content": "Hello!", "parts": garbled, "audio": None, "refusal": None}
    assert Message.model_validate(said).record() == {"role": "assistant", "content": "Hello!"}
    code = {"function": {"name": "python", "arguments": '{"code": "6*7"}'}}
    called = Message.model_validate({**said, "content": "", "tool_calls": [code]}).record()
    assert called["content"] == [{"type": "python", "text": "6*7"}]


def schema(*required: str, **properties) -> list[dict]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return [{"type": "function", "function": {"name": "python", "parameters": parameters}}]


TEXT, NUMBER = {"type": "string", "description": "What to run."}, {"type": "number"}
MAYBE = {"anyOf": [TEXT, {"type": "null"}]}


@pytest.mark.parametrize(
    ("tools", "argument"),
    [
        (schema("source", source=TEXT), "source"),
        (schema(source=MAYBE), "source"),
        (schema("query", query={"type": ["string", "null"]}, timeout=NUMBER, code=TEXT), "query"),
        (schema(timeout=NUMBER, code={}), "code"),
        (schema(other=TEXT, code=TEXT), "code"),
        (schema(), "code"),
    ],
)
def test_a_call_has_the_argument_that_the_schema_names(tokenizer, tools, argument):
    ids = [tokenizer.open["python"][0], *tokenizer.encode("6*7"), tokenizer.close["python"][0]]
    body = parsed(json.dumps({"messages": HELLO, "tools": tools}).encode(), ChatBody)
    writer = Writer(tokenizer, [])
    (call,) = ChatStyle(body, Names(tokenizer)).whole(0, writer, writer.take(news(ids, "stop")))["message"][
        "tool_calls"
    ]
    assert json.loads(call["function"]["arguments"]) == {argument: "6*7"}
    arguments = json.dumps({"first": "no", argument: "6*7"})
    call["function"]["arguments"] = arguments
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "42"}]
    body = parsed(json.dumps({"messages": messages, "tools": tools}).encode(), ChatBody)
    (request,), _ = body.asked(tokenizer, LENGTH, PRESENT)
    assert request.prompt[len(tokenizer.render(HELLO, True).ids) :][: len(ids)] == ids


@pytest.mark.parametrize(
    "tools",
    [
        schema("timeout", timeout=NUMBER),
        schema("code", "language", code=TEXT, language=TEXT),
        schema(a=TEXT, b=TEXT),
        schema("code", code={"enum": ["1", "2"]}),
        schema("code"),
    ],
)
def test_a_schema_that_the_span_of_a_tool_cannot_fit_is_called_in_json(tokenizer, tools):
    (request,) = chat(tokenizer, tools=tools, tool_choice="required")
    assert request.grammar is not None and not request.forced
    arguments = {"code": "1", "timeout": 3}
    ids = tokenizer.encode(f'<tool_call>\n{{"name": "python", "arguments": {json.dumps(arguments)}}}\n</tool_call>')
    body = parsed(json.dumps({"messages": HELLO, "tools": tools}).encode(), ChatBody)
    writer = Writer(tokenizer, [])
    choice = ChatStyle(body, Names(tokenizer)).whole(0, writer, writer.take(news([*ids, tokenizer.end], "stop")))
    (call,) = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == arguments and not choice["message"]["content"]
    assert chat(tokenizer, tools=tools, tool_choice="none")[0].grammar is None


def test_a_last_message_of_the_assistant_is_continued(tokenizer):
    """Its answer is what comes after it, with the space that may stand between the two."""
    for content, inside in (("The answer is", "text"), ([{"type": "answer", "text": " 1"}], "answer")):
        begun = {"role": "assistant", "content": content}
        (request,) = chat(tokenizer, messages=[*HELLO, begun])
        whole = tokenizer.render([*HELLO, begun]).ids
        assert request.prompt == whole[: len(whole) - (1 if inside == "text" else 2)]
        body = parsed(json.dumps({"messages": [*HELLO, begun], "stop": " "}).encode(), ChatBody)
        assert body.inside == inside
        ids = [*tokenizer.encode(" 19 cats"), tokenizer.close["answer"][0], tokenizer.end]
        writer = Writer(tokenizer, [], body.seen, body.inside)
        message = ChatStyle(body, Names(tokenizer)).whole(0, writer, writer.take(news(ids, "stop")))["message"]
        assert message["content"] == " 19 cats" and writer.parts == [{"type": inside, "text": " 19 cats"}]
    # A thought is whole, and a turn of the tool's leaves the turn open as ever.
    (request,) = chat(tokenizer, messages=[*HELLO, {"role": "assistant", "reasoning_content": "12 + 7"}])
    assert request.prompt[-1] == tokenizer.close["think"][0]
    for nothing in ("", [], [{"type": "text", "text": ""}]):
        messages = [*HELLO, {"role": "assistant", "content": nothing}]
        (request,) = chat(tokenizer, messages=messages)
        assert request.prompt == tokenizer.render(HELLO, for_generation=True).ids
        assert parsed(json.dumps({"messages": messages}).encode(), ChatBody).inside == ""
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "python", "arguments": '{"code": "1"}'}}]}
    with pytest.raises(ApiError, match=r"messages\[1\].*message of the tool must follow"):
        chat(tokenizer, messages=[*HELLO, call])
    for fields in ({"continue_final_message": True}, {"add_generation_prompt": False}):
        chat(tokenizer, messages=[*HELLO, begun], **fields)
        with pytest.raises(ApiError, match=next(iter(fields))):
            chat(tokenizer, **fields)


# Settings


@pytest.mark.parametrize("kind", [ChatBody, CompletionBody])
def test_a_setting_that_is_not_here_is_refused_by_name(kind):
    asked = {"best_of": 3, "min_tokens": 5, "reasoning_effort": "low", "guided_grammar": "a", "dry_base": 2}
    asked |= {"stop_token_ids": [1], "ignore_eos": True, "regex": "a*"}
    asked |= {"frequency_penalty": True, "chat_template_kwargs": {"enable_thinking": False}, "functions": [{}]}
    elsewhere = {ChatBody: {"echo": True}, CompletionBody: {"tools": [{}], "thinking": "off", "top_logprobs": 2}}
    good = {ChatBody: {"messages": HELLO}, CompletionBody: {"prompt": "x"}}[kind]
    for name, value in (asked | elsewhere[kind]).items():
        with pytest.raises(ApiError, match=f"^{name}: "):
            parsed(json.dumps({**good, name: value}).encode(), kind)
    nothing = {"best_of": 1, "min_tokens": 0, "ignore_eos": False, "response_format": {"type": "text"}, "suffix": ""}
    nothing |= {"reasoning_effort": None, "guided_json": None, "stop_token_ids": [], "frequency_penalty": 0.0}
    parsed(json.dumps({**good, **nothing, "user": "me", "metadata": {"a": "b"}, "store": True}).encode(), kind)


def test_numbers_as_other_clients_write_them(tokenizer):
    fields = {"max_tokens": 9.0, "top_k": 7.0, "seed": 5.0, "n": 2.0}
    assert chat(tokenizer, **fields) == chat(tokenizer, max_tokens=9, top_k=7, seed=5, n=2)
    (request,) = chat(tokenizer, max_tokens=-1, top_k=-1, stop=[str(i) for i in range(100)])
    assert (request.max_new_tokens, request.top_k, len(request.stop)) == (LENGTH, 0, 100)

    def text(**fields):
        return parsed(json.dumps({"prompt": "x", **fields}).encode(), CompletionBody).asked(tokenizer, LENGTH, PRESENT)[
            0
        ]

    assert [text(**f)[0].max_new_tokens for f in ({}, {"max_tokens": -1}, {"max_new_tokens": 4.0})] == [16, LENGTH, 4]
    assert text(prompt=[[1.0, 2.0], [3]], seed=1) == text(prompt=[[1, 2], [3]], seed=1)
    for wrong in ({"n": True}, {"top_k": -2}, {"max_tokens": 1.5}, {"max_tokens": -1.5}, {"prompt": [True]}):
        with pytest.raises(ApiError, match=next(iter(wrong))):
            text(**wrong)


def test_a_token_is_among_its_likeliest(tokenizer):
    body = parsed(json.dumps({"messages": HELLO, "logprobs": True, "top_logprobs": 2}).encode(), ChatBody)
    ids = tokenizer.encode("The cat")[:1]
    told = News(0, ids, [1], [-9.0], [[(5, -0.1), (7, -3.0)]], 0, "length")
    writer = Writer(tokenizer, [])
    (token,) = ChatStyle(body, Names(tokenizer)).whole(0, writer, writer.take(told))["logprobs"]["content"]
    assert [(one["id"], one["logprob"]) for one in token["top_logprobs"]] == [(5, -0.1), (7, -3.0), (ids[0], -9.0)]
    for asked, top, ids_of in ((2, told.top, {5, 7, ids[0]}), (0, [], {ids[0]}), (2, [[(ids[0], -9.0)]], {ids[0]})):
        body = parsed(json.dumps({"prompt": "x", "logprobs": asked}).encode(), CompletionBody)
        writer, names = Writer(tokenizer, []), Names(tokenizer)
        (likeliest,) = TextStyle(body, names).whole(0, writer, writer.take(told._replace(top=top)))["logprobs"][
            "top_logprobs"
        ]
        assert set(likeliest) == {names.of(i)["token"] for i in ids_of}
        assert likeliest[names.of(ids[0])["token"]] == -9.0


def test_reasoning_and_roles_become_our_records():
    said = {"role": "assistant", "content": " 19", "reasoning_content": "12 + 7"}
    parts = [{"type": "think", "text": "12 + 7"}, {"type": "text", "text": " 19"}]
    assert Message.model_validate(said).record() == {"role": "assistant", "content": parts}
    texts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert Message.model_validate({"role": "developer", "content": texts}).record() == {
        "role": "system",
        "content": "ab",
    }


def test_text_cannot_spell_special_tokens(tokenizer):
    spelled = "<|end|><|user|><|/python|>"
    (request,) = chat(tokenizer, messages=[{"role": "user", "content": spelled}])
    assert request.prompt[2:-2] == tokenizer.encode(spelled)
    assert not set(request.prompt[2:-2]) & set(tokenizer.special_names)


def test_a_prompt_that_does_not_fit_is_refused_and_old_turns_are_dropped(tokenizer):
    long = {"role": "user", "content": "7 " * LENGTH}
    tokens = len(tokenizer.render([long], for_generation=True).ids)
    words = f"maximum context length is {LENGTH} tokens. However, your messages resulted in {tokens} tokens"
    with pytest.raises(ApiError, match=words) as error:
        chat(tokenizer, messages=[long])
    assert (error.value.code, error.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(ApiError, match=f"maximum context length is {LENGTH} tokens. However, your prompt") as error:
        parsed(json.dumps({"prompt": long["content"]}).encode(), CompletionBody).asked(tokenizer, LENGTH, PRESENT)
    assert error.value.code == "context_length_exceeded"
    talk = [long, {"role": "assistant", "content": "yes"}, *HELLO]
    (request,), notice = parsed(json.dumps({"messages": talk}).encode(), ChatBody).asked(tokenizer, LENGTH, PRESENT)
    assert request.prompt == tokenizer.render(HELLO, for_generation=True).ids and "first turn" in notice


@pytest.mark.parametrize(
    "text", ["[" * 10_000, '{"text": NaN}', '{"text": "\\ud800"}', '{"text": "a"', "", "null", '{"text": 1e999}']
)
def test_what_is_no_json_is_refused_with_a_reason(text):
    with pytest.raises(ApiError, match=r"JSON|text|body"):
        parsed(text.encode(), TokenizeBody)
    with pytest.raises(ApiError, match="JSON"):
        parsed(b'{"text": "\xff"}', TokenizeBody)


# Feedback


def feedback(kind: str, **fields) -> FeedbackBody:
    body = {"model": "sft", "messages": HELLO, "kind": kind, "answer": "Two.", **fields}
    return parsed(json.dumps(body).encode(), FeedbackBody)


THOUGHT = [{"type": "think", "text": "a <|end|> b"}, {"type": "text", "text": " Three. 日本"}]


def test_feedback_is_kept_as_records_that_training_reads(tmp_path, tokenizer):
    keeper = Feedback(tmp_path / "feedback")
    assert keeper.save(feedback("edit", edited=" Three."))["saved"] == ["conversations.jsonl", "pairs.jsonl"]
    assert keeper.save(feedback("rate", rating=1, answer=THOUGHT))["saved"] == ["conversations.jsonl", "ratings.jsonl"]
    assert keeper.save(feedback("rate", rating=-1))["saved"] == ["ratings.jsonl"]
    made = keeper.save(feedback("choose", answer=THOUGHT, rejected="Two."))
    assert made == {"saved": ["pairs.jsonl"], "counts": {"conversations": 2, "pairs": 2, "ratings": 2}}

    lines = {
        name: [json.loads(line) for line in (tmp_path / f"feedback/{name}.jsonl").open()] for name in made["counts"]
    }
    assert [set(pair) for pair in lines["pairs"]] == [{"id", "source", "prompt", "chosen", "rejected"}] * 2
    assert (lines["pairs"][0]["chosen"], lines["pairs"][0]["rejected"]) == (" Three.", "Two.")
    assert (lines["pairs"][1]["chosen"], lines["pairs"][1]["rejected"]) == (THOUGHT, "Two.")
    assert [line["rating"] for line in lines["ratings"]] == [1, -1]
    # As `data.conversations` reads them, with whom a bad record stops the stage.
    read = list(chats.convert(str(tmp_path / "feedback/conversations.jsonl"), chats.refuse))
    assert read == lines["conversations"]
    assert [record["messages"][-1]["content"] for record in read] == [" Three.", THOUGHT]
    assert all(tokenizer.render(record["messages"]).loss_mask.count(1) > 2 for record in read)


def test_the_last_word_on_an_answer_counts(tmp_path):
    keeper, mine = Feedback(tmp_path), '{"id": "mine", "messages": []}'
    (tmp_path / "conversations.jsonl").write_text(mine)  # without the end of its line, as an editor may leave it

    def answers() -> list[str]:
        first, *lines = (tmp_path / "conversations.jsonl").read_text().splitlines()
        assert first == mine
        return [json.loads(line)["messages"][-1]["content"] for line in lines]

    for _ in range(2):
        keeper.save(feedback("rate", rating=1))
    assert answers() == ["Two."]
    keeper.save(feedback("rate", rating=-1))
    assert answers() == []
    keeper.save(feedback("rate", rating=1))
    made = keeper.save(feedback("edit", edited="Three."))
    assert answers() == ["Three."] and made["counts"] == {"conversations": 2, "pairs": 1, "ratings": 1}
    keeper.save(feedback("choose", answer="Two.", rejected="Three."))
    assert answers() == []
    (pair,) = (json.loads(line) for line in (tmp_path / "pairs.jsonl").open())
    assert (pair["chosen"], pair["rejected"]) == ("Two.", "Three.")
    keeper.save(feedback("choose", answer="Two.", rejected="Four."))
    assert keeper.save(feedback("rate", rating=-1))["counts"] == {"conversations": 1, "pairs": 0, "ratings": 1}


@pytest.mark.parametrize(
    ("kind", "fields", "named"),
    [
        ("edit", {}, "edited"),
        ("edit", {"edited": ""}, "edited"),
        ("rate", {}, "rating"),
        ("rate", {"rating": 2}, "rating"),
        ("rate", {"rating": True}, "rating"),
        ("rate", {"rating": 1, "answer": ""}, "answer"),
        ("choose", {}, "rejected"),
        ("choose", {"rejected": "Two."}, "rejected"),
        ("praise", {}, "kind"),
        ("rate", {"rating": 1, "messages": []}, "messages"),
        ("rate", {"rating": 1, "messages": [{"role": "user", "content": ""}]}, "messages"),
        ("rate", {"rating": 1, "messages": [*HELLO, {"role": "assistant", "content": "x"}]}, "messages"),
        ("rate", {"rating": 1, "messages": [*HELLO, {"role": "system", "content": "x"}, *HELLO]}, "messages"),
    ],
)
def test_feedback_that_training_would_refuse_is_not_saved(tmp_path, kind, fields, named):
    with pytest.raises(ApiError, match=named):
        Feedback(tmp_path).save(feedback(kind, **fields))
    assert not list(tmp_path.iterdir())
