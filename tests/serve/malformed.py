"""Requests that are wrong, each in one field."""

import json
import random
from collections.abc import Iterator

import httpx

MESSAGE = {"role": "user", "content": "Hi"}
GOOD = {
    "/v1/chat/completions": {"messages": [MESSAGE], "max_tokens": 1, "n": 1, "stop": "x", "logit_bias": {"5": 1}},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 1, "top_p": 0.5, "seed": 3},
    "/v1/tokenize": {"text": "Hi"},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [5]},
    "/v1/feedback": {"model": "sft", "messages": [MESSAGE], "kind": "rate", "answer": "x", "rating": 1},
}
NO_NUMBERS = ("1", True, [], {}, [1], "NaN", "")
NO_TEXTS = (1, True, {}, 1.5)
SAMPLING = {
    "n": (0, -1, 17, 10**30, 1.5, *NO_NUMBERS),
    "max_tokens": (0, -2, -(10**30), 0.5, *NO_NUMBERS),
    "temperature": (-1, 5.1, 10**400, *NO_NUMBERS),
    "top_p": (-0.1, 1.1, *NO_NUMBERS),
    "top_k": (-2, 1.5, *NO_NUMBERS),
    "min_p": (-1, 2, *NO_NUMBERS),
    "repetition_penalty": (0, -1, 1e300, *NO_NUMBERS),
    "seed": (2**63, -(2**63) - 1, 10**30, 1.5, *NO_NUMBERS),
    "stop": ("", ["a", ""], ["a"] * 257, [1], 1, True, {}, [["a"]]),
    "logit_bias": (
        {"a": 1},
        {"-1": 1},
        {"1.0": 1},
        {"999999": 1},
        {"5": 101},
        {"5": "x"},
        {"5": None},
        {"": 1},
        [],
        5,
        "x",
    ),
    "stream": (1, "true", [], {}),
    "stream_options": ({"include_usage": 1}, [], "x", 1),
    "model": ("gpt-9", "../sft", "sft\n", "rl", *NO_TEXTS),
    "frequency_penalty": (2.1, "x", []),
    "presence_penalty": (-3, {}),
    "response_format": (
        *("text", {}, {"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {}}),
        *(
            {"type": "json_schema", "json_schema": {"schema": schema}}
            for schema in (
                True,
                "x",
                {"type": "wat"},
                {"properties": 3},
                {"not": {}},
                {"$ref": "#/nowhere"},
                {"enum": []},
            )
        ),
    ),
    "guided_choice": ([], "x", [1], [""]),
    "suffix": ("x", 1),
    **{
        "best_of": (2, "x"),
        "min_tokens": (1,),
        "guided_regex": ("(", ""),
        "guided_grammar": ("a",),
        "reasoning_effort": ("none", "high", 1),
    },
}
MESSAGES = (
    *([], {}, "Hi", 1, True, [1], ["Hi"], [[]], [{}], [{"role": "user"}], [{"content": "x"}]),
    *([{"role": role, "content": "x"}] for role in ("king", "", "User", 1, True, [], "function")),
    *(
        [{"role": "user", "content": content}]
        for content in (1, True, {}, [1], [{}], [{"type": "text"}], [{"text": "x"}])
    ),
    *([{"role": "user", "content": [{"type": kind, "text": "x"}]}] for kind in ("image_url", "python", "think", 1, "")),
    *([MESSAGE, {"role": "assistant", **m}] for m in ({}, {"content": 1}, {"tool_calls": [1]}, {"tool_calls": [{}]})),
    [MESSAGE, {"role": "assistant", "tool_calls": [{"function": {"name": "python", "arguments": "{"}}]}],
    [MESSAGE, {"role": "assistant", "tool_calls": [{"function": {"name": "web", "arguments": "{}"}}]}],
    [MESSAGE, {"role": "assistant", "content": [{"type": "king", "text": "x"}]}],
    [{"role": "tool", "content": "x"}],
    [MESSAGE, {"role": "tool", "content": "x"}],
    [{"role": "user", "content": "long " * 200}],
)
WRONG = {
    "/v1/chat/completions": {
        **SAMPLING,
        "messages": MESSAGES,
        "max_completion_tokens": (0, -2, *NO_NUMBERS),
        **{"echo": (True,), "parts": (1, "x"), "continue_final_message": (True,), "add_generation_prompt": (False,)},
        "logprobs": (1, "x", [], {}),
        "top_logprobs": (-1, 21, 1.5, *NO_NUMBERS),
        "tools": (
            {},
            "x",
            [1],
            [{}],
            [{"function": {"name": "a web"}}],
            [{"function": {"name": "web"}}] * 2,
            [{"function": {}}],
            [{"function": {"name": "web", "parameters": {"type": "wat"}}}],
            [{"type": "x", "function": {"name": "python"}}],
            [{"function": {"name": "python", "parameters": 1}}],
            [{"function": {"name": "python", "parameters": {"properties": [1]}}}],
        ),
        "tool_choice": ("maybe", 1, [], {"function": {"name": "web"}}, {}, "required"),
        "thinking": ("maybe", True, 1, []),
        "builtin_tools": (1, "x", []),
    },
    "/v1/completions": {
        **SAMPLING,
        "prompt": (
            *(*NO_TEXTS, [], [[]], ["Hi", 1], [1, "x"], [1.5], [True], [["Hi"]], [{}]),
            *([-1], [10**6], [[1], [2**70]], "long " * 200, [1] * 200, ["Hi", "long " * 200]),
        ),
        "max_tokens": (-2, -(10**30), 0.5, *NO_NUMBERS),
        "logprobs": (-1, 21, 1.5, *NO_NUMBERS),
        "echo": (1, "x"),
        "tools": ([{}],),
        "thinking": ("off",),
    },
    "/v1/tokenize": {"text": (*NO_TEXTS, [], ["x"]), "model": ("gpt-9", *NO_TEXTS)},
    "/tokenize": {"prompt": (*NO_TEXTS, [], None), "model": ("gpt-9", *NO_TEXTS), "messages": ([], [{}], MESSAGES[-1])},
    "/detokenize": {"tokens": ("x", [-1], [10**6], ["a"], {}), "model": ("gpt-9", *NO_TEXTS)},
    "/v1/feedback": {
        "kind": ("praise", 1, []),
        "answer": (1, {}, "", [1], [{"type": "king", "text": "x"}]),
        "rating": (0, 2, -2, 0.5, *NO_NUMBERS),
        "messages": MESSAGES[:-1],
        "model": ("gpt-9", *NO_TEXTS),
    },
}
NO_JSON = (
    *(
        b"",
        b"{",
        b"nul",
        b"NaN",
        b'{"n": NaN}',
        b'{"n": -Infinity}',
        b'{"a": 1}x',
        b"\x00",
        b"\xff\xfe{}",
        b'{"a": "\xff"}',
    ),
    *(
        b'{"a": "\\ud800"}',
        b'{"a": "\xed\xa0\x80"}',
        b"[" * 50_000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"n": 1' + b"0" * 5000 + b"}",
    ),
)
NO_OBJECT = (b"null", b"[]", b"1", b'"x"', b"[[[]]]")


def malformed() -> Iterator[tuple[str, str, dict | bytes]]:
    """(path, what the refusal must name, body): each wrong value, and each path's share of what is no JSON."""
    for at, (path, fields) in enumerate(WRONG.items()):
        for field, values in fields.items():
            for i, value in enumerate(values):
                unknown = {"unknown": ({"a": []}, None)[i % 2], "user": "me"} if i % 3 == 0 else {}
                yield path, field, {**GOOD[path], field: value, **unknown}
        yield from ((path, "JSON", data) for data in NO_JSON[at :: len(WRONG)])
        yield from ((path, "the body", data) for data in NO_OBJECT)


def mutated(rng: random.Random) -> tuple[str, bytes]:
    """A request with some bytes changed, which may still be fine."""
    path = rng.choice(list(GOOD))
    data = bytearray(json.dumps(GOOD[path]).encode())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        data[at : at + rng.randint(0, 2)] = rng.choice(
            (b"", bytes([rng.randrange(256)]), b"\\u0000", b"-", b"null", b"[{")
        )
    return path, bytes(data)


def is_refused_by_name(response: httpx.Response, name: str) -> bool:
    if not 400 <= response.status_code < 500:
        return False
    error = response.json()["error"]
    return set(error) == {"message", "type", "param", "code"} and name in error["message"]
