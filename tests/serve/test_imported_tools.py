"""What clients' tools become with the tokenizer of a model from elsewhere."""

import json

import pytest

from llm_jax.serve.answers import ChatStyle, Names, Writer
from llm_jax.serve.bodies import parsed
from llm_jax.serve.messages import CALL, CALLED, Message
from llm_jax.serve.protocol import ChatBody
from llm_jax.tools.table import TOOLS
from tests.hub.templates import CALLS, MARKS, NO_SYSTEM, hub_tokenizer
from tests.serve.test_answers import HELLO, news


@pytest.mark.parametrize("name, arguments", [("python", {"code": "6*7"}), ("weather", {"city": "Oslo"})])
def test_where_a_model_calls_by_json_all_tools_are_called_so_by_its_own_markers(name, arguments):
    theirs = hub_tokenizer(CALLS, *MARKS)
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    offered = [{"name": "python"}, {"name": "weather", "parameters": city}]
    fields = {"messages": HELLO, "tools": [{"type": "function", "function": one} for one in offered]}
    body = parsed(json.dumps({**fields, "tool_choice": "required"}).encode(), ChatBody)
    (request,), _ = body.asked(theirs, 512, TOOLS)
    call = json.dumps({"name": name, "arguments": arguments})
    ids = [*theirs.open["python"], *theirs.encode(f"\n{call}\n"), *theirs.close["python"]]
    guide = request.grammar.begin()
    guide.take(ids, 0)
    assert not guide.failed and ids[-1] in request.stop_ids
    writer = Writer(theirs, [])
    told = ChatStyle(body, Names(theirs)).whole(0, writer, writer.take(news(ids, "stop")))["message"]
    (called,) = told["tool_calls"]
    assert (called["function"]["name"], json.loads(called["function"]["arguments"])) == (name, arguments)
    record = Message(role="assistant", content="", tool_calls=[{"function": called["function"]}]).record(body.arguments)
    rendered = theirs.render([*HELLO, record])
    assert rendered.ids[rendered.loss_mask.index(1) : -1] == [*ids, theirs.end]


def test_a_span_that_several_ids_close_is_no_call_but_json_is():
    """Where one id of several ended the answer, any text with a `>` would."""
    theirs = hub_tokenizer(NO_SYSTEM)
    tool = {"type": "function", "function": {"name": "python"}}
    body = parsed(json.dumps({"messages": HELLO, "tools": [tool], "tool_choice": "required"}).encode(), ChatBody)
    (request,), _ = body.asked(theirs, 512, TOOLS)
    assert len(theirs.close["python"]) > 1 and not set(request.stop_ids) & set(theirs.close["python"])
    ids = theirs.encode(f'{CALL}{{"name": "python", "arguments": {json.dumps({"code": "6 > 7"})}}}{CALLED}')
    guide = request.grammar.begin()
    guide.take(ids, 0)
    assert not guide.failed
    writer = Writer(theirs, [])
    told = ChatStyle(body, Names(theirs)).whole(0, writer, writer.take(news(ids, "stop")))["message"]
    (called,) = told["tool_calls"]
    assert called["function"]["name"] == "python" and json.loads(called["function"]["arguments"]) == {"code": "6 > 7"}
