"""Messages of clients as the records that the model reads: without a server."""

import json

from llm_jax.serve.bodies import parsed
from llm_jax.serve.protocol import ChatBody

HELLO = [{"role": "user", "content": "How many cats are there?"}]


def test_what_a_clients_own_search_says_stands_where_the_model_reads_documents(tokenizer):
    """Also of several calls in a turn; what a call in JSON gets, as of any other function, stands where outputs do."""
    calls = [("search", {"query": "Oslo"}), ("python", {"code": "6*7"}), ("search", {"query": "a", "n": "2"})]
    calls += [("search", {"words": "b", "site": "c"})]
    called = [{"function": {"name": name, "arguments": json.dumps(given)}} for name, given in calls]
    said = [{"role": "tool", "tool_call_id": str(n), "content": f"said {n}"} for n in range(len(calls))]
    messages = [*HELLO, {"role": "assistant", "content": "", "tool_calls": called}, *said]
    body = parsed(json.dumps({"messages": messages}).encode(), ChatBody)
    prompt = body.asked(tokenizer, 512, ["python"])[0][0].prompt
    parts, _ = tokenizer.parse(prompt[len(tokenizer.render(HELLO, for_generation=True).ids) :])
    answers = [(part["type"], part["text"]) for part in parts if part["type"] in ("document", "output")]
    assert answers == [("document", "said 0"), ("output", "said 1"), ("document", "said 2"), ("output", "said 3")]
    assert [part["type"] for part in parts[:3]] == ["search", "python", "search"]
