"""What clients ask for beyond the plain, against a real process: helpers, stops, calls that must be, continuations."""

from tests.serve.malformed import is_refused_by_name
from tests.serve.test_server import CHAT, HELLO, TEXT, TOOLS, ask


def test_a_stop_string_is_of_the_answer_and_not_of_a_thought(client, endless):
    fields = {"temperature": 1, "seed": 2, "logit_bias": endless, "max_tokens": 20, "extra_body": {"thinking": "on"}}
    whole = ask(client, **fields).choices[0]
    thought = whole.message.reasoning_content
    stops = [thought[:2], thought[2:4]]
    stopped = ask(client, **fields, stop=stops).choices[0].message
    assert stopped.reasoning_content[:4] == thought[:4] and len(thought) >= 4
    assert stopped.reasoning_content == thought or any(stop in whole.message.content for stop in stops)


def test_what_a_helper_of_the_client_adds_up_is_the_whole_answer_and_can_be_sent_back(client, server):
    fields = {"model": "sft", "messages": HELLO, "max_tokens": 24, "seed": 3, "temperature": 1}
    long = client.chat.completions.create(**fields).choices[0].message.content
    fields["stop"] = long[len(long) // 2 :][:3]  # the helper has no answer for one that was cut
    whole = client.chat.completions.create(**fields).choices[0].message
    with client.chat.completions.stream(**fields) as stream:
        helped = stream.get_final_completion().choices[0].message
    assert (helped.content, helped.reasoning_content if whole.reasoning_content else None) == (
        whole.content,
        whole.reasoning_content,
    )
    assert "parts" not in whole.model_dump() and "parts" not in helped.model_dump()
    next_ = [
        client.chat.completions.create(**{**fields, "messages": [*HELLO, said, *HELLO]}) for said in (whole, helped)
    ]
    assert next_[0].usage.prompt_tokens == next_[1].usage.prompt_tokens
    assert next_[0].choices[0].message == next_[1].choices[0].message


def test_a_list_of_prompts_may_be_longer_than_the_choices_of_one(client, server):
    texts = [f"{i} cats" for i in range(20)]
    answer = client.completions.create(model="pretrain", prompt=texts, max_tokens=2, seed=1)
    assert [choice.index for choice in answer.choices] == list(range(20))
    alone = client.completions.create(model="pretrain", prompt=texts[17], max_tokens=2, seed=1)
    assert alone.choices[0].text == answer.choices[17].text
    refused = server.post(TEXT, {"prompt": ["x"] * 200, "n": 2})
    assert is_refused_by_name(refused, "prompt: 400 choices are more than this server holds, 104")


def test_a_call_that_must_be_is(client):
    """Whatever else the model would write."""
    fields = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 100, "temperature": 1, "n": 8, "seed": 4}
    called = [choice for choice in ask(client, **fields).choices if choice.finish_reason != "length"]
    assert called and all(c.finish_reason == "tool_calls" and len(c.message.tool_calls) == 1 for c in called)


def test_an_answer_goes_on_with_what_the_client_began(client, tokenizer):
    begun = {"role": "assistant", "content": "The cat"}
    fields = {"temperature": 0, "max_tokens": 8, "logprobs": True}
    answer = ask(client, messages=[*HELLO, begun], **fields)
    assert answer.usage.prompt_tokens == len(tokenizer.render([*HELLO, begun]).ids) - 1
    tokens = [token.id for token in answer.choices[0].logprobs.content]
    assert answer.choices[0].message.parts == tokenizer.parse(tokens)[0]


def test_heads_can_be_asked_for(server):
    for path in ("/", "/health", "/metrics", "/v1/models", "/v1/models/sft", "/static/main.js"):
        head, whole = server.http.head(f"{server.url}{path}"), server.http.get(f"{server.url}{path}")
        assert (head.status_code, head.content) == (200, b"") and whole.content
    assert server.http.head(f"{server.url}{CHAT}").status_code == 405
