"""What the server makes of an engine's tokens, and of what clients send: without a server."""

import itertools
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from data_pipelines import chats
from llm_jax.serve.answers import ChatStyle, Names, Writer
from llm_jax.serve.feedback import Feedback, FeedbackBody
from llm_jax.serve.protocol import ApiError, ChatBody, CompletionBody, Message, TokenizeBody, derived, parsed
from llm_jax.serve.worker import News
from llm_jax.tools.table import TOOLS

LENGTH = 128
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
    special = [tokenizer.end, *tokenizer.open.values(), *tokenizer.close.values()]
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
        if names.of(token.id)["bytes"] and tokenizer.byte(token.id) is None:
            assert text[token.start : token.end] == names.of(token.id)["token"]


def test_a_call_is_handed_over_only_where_the_client_has_the_tool(tokenizer):
    ids = [tokenizer.open["python"], *tokenizer.encode('print("a")'), tokenizer.close["python"]]
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
    return parsed(json.dumps({"messages": HELLO, **fields}).encode(), ChatBody).asked(tokenizer, LENGTH, TOOLS)[0]


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
    think, python = tokenizer.open["think"], tokenizer.open["python"]
    tools = [{"type": "function", "function": {"name": "python"}}]
    cases = (
        ({}, (), (), ()),
        ({"thinking": "on"}, (think,), (), ()),
        ({"thinking": "off"}, (), (think,), ()),
        ({"builtin_tools": False}, (), (python,), ()),
        ({"tool_choice": "none"}, (), (python,), ()),
        ({"tools": tools}, (), (), (tokenizer.close["python"],)),
        ({"tools": tools, "builtin_tools": False}, (), (), (tokenizer.close["python"],)),
        ({"tools": tools, "tool_choice": "required"}, (python,), (), (tokenizer.close["python"],)),
        ({"tools": tools, "tool_choice": tools[0]}, (python,), (), (tokenizer.close["python"],)),
        ({"tools": tools, "tool_choice": "none"}, (), (python,), ()),
    )
    for fields, forced, suppress, stop_ids in cases:
        (request,) = chat(tokenizer, **fields)
        assert (request.forced, request.suppress, request.stop_ids) == (forced, suppress, stop_ids), fields


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
        {"content": "what was said", "parts": [{"type": "python", "text": "6*7"}]},
    ],
)
def test_a_call_and_its_output_are_the_turn_that_the_model_wrote(tokenizer, message):
    messages = [*HELLO, {"role": "assistant", **message}, {"role": "tool", "tool_call_id": "1", "content": "42"}]
    body = parsed(json.dumps({"messages": messages}).encode(), ChatBody)
    spans = [{"type": "python", "text": "6*7"}, {"type": "output", "text": "42"}]
    turn = tokenizer.render([*HELLO, {"role": "assistant", "content": spans}]).ids
    assert body.asked(tokenizer, LENGTH, TOOLS)[0][0].prompt == turn[:-1]


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
    with pytest.raises(ApiError, match="messages") as error:
        chat(tokenizer, messages=[long])
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(ApiError, match="prompt") as error:
        parsed(json.dumps({"prompt": long["content"]}).encode(), CompletionBody).asked(tokenizer, LENGTH, TOOLS)
    assert error.value.code == "context_length_exceeded"
    talk = [long, {"role": "assistant", "content": "yes"}, *HELLO]
    (request,), notice = parsed(json.dumps({"messages": talk}).encode(), ChatBody).asked(tokenizer, LENGTH, TOOLS)
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
