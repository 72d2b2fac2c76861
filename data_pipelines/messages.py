"""Messages, their parts and calls of tools in other people's forms -> ours."""

import json
import keyword
import re

from data_pipelines.documents import Invalid
from llm_jax.tokenizer import SPANS, misplaced

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "prompter": "user",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
PARTS = {
    **{kind: kind for kind in (*SPANS, "text")},
    "input_text": "text",
    "output_text": "text",
    "reasoning": "think",
    "thinking": "think",
}
SYSTEM = ("system", "system_prompt", "system_message")
TOOL_LISTS = ("tools", "functions")
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought")
LEARNED = ("weight", "train", "trainable", "loss")  # of a message, 0 or 1: whether the model is to learn it
ARGUMENTS = ("arguments", "parameters", "input", "args")  # of a call
TAG = "(think|thinking|thought|reasoning)"
THOUGHT = re.compile(rf"\A\s*<{TAG}>(.*?)</\1>\s*", re.DOTALL)
THOUGHT_BEGUN = re.compile(rf"\A\s*<{TAG}>")
THOUGHT_ENDED = re.compile(rf"\A((?:(?!<{TAG}>).)*?)(?<!`)</think(?:ing)?>\s*", re.DOTALL)  # R1's prompt has begun it
ANSWER = re.compile(r"\A<answer>(.*)</answer>\s*\Z", re.DOTALL)
TOOLS = "You may call these functions:"
PYTHON = ("python", "code_interpreter")


def text(record: dict, field: str, where: str = "") -> str:
    if not isinstance(record.get(field), str):
        raise Invalid(f"{where}{field}: must be a string")
    return record[field]


def one_of(names: dict[str, str], value, where: str) -> str:
    if not isinstance(value, str) or value not in names:
        raise Invalid(f"{where}: {value!r} is none of {', '.join(names)}")
    return names[value]


def turns(value, field: str) -> list[dict]:
    """Messages in our form; those of one role in a row become one message. A system message without text is none."""
    if not isinstance(value, list) or not value:
        raise Invalid(f"{field}: must be a list of at least one message")
    out: list[dict] = []
    for i, message in enumerate(value):
        where = f"{field}[{i}]"
        if not isinstance(message, dict):
            raise Invalid(f"{where}: must be an object")
        message = {field: said for field, said in message.items() if said is not None}
        key = "role" if "role" in message else "from"
        role = one_of(ROLES, message.get(key), f"{where}.{key}")
        parts = parts_of(message, where, role, is_call=message[key] == "function_call")
        if not any(part["text"].strip() for part in parts) and role in ("user", "assistant"):
            raise Invalid(f"{where}.content: is empty")
        unlearned = {"weight": 0} if role == "assistant" and not is_learned(message, where) else {}
        if out and out[-1]["role"] == role and role != "user":
            if out[-1].get("weight") != unlearned.get("weight"):
                raise Invalid(f"{where}: is to be learned and the message that it goes on with is not, or the reverse")
            said = out[-1]["content"]
            if role != "tool" and said and parts and said[-1]["type"] == parts[0]["type"] == "text":
                parts = [{"type": "text", "text": f"{said.pop()['text']}\n\n{parts[0]['text']}"}, *parts[1:]]
            said += parts
        elif parts or role != "system":
            out.append({"role": role, "content": parts, **unlearned})
    if not out:
        raise Invalid(f"{field}: must be a list of at least one message")
    return [{**m, "content": plain(m["content"], m["role"])} for m in out]


def is_learned(message: dict, where: str) -> bool:
    for field in LEARNED:
        value = message.get(field, 1)
        if value != value:  # NaN, a gap in a column of numbers
            continue
        if value not in (0, 1):
            raise Invalid(f"{where}.{field}: must be 0 or 1")
        if not value:
            return False
    return True


def parts_of(message: dict, where: str, role: str, is_call: bool) -> list[dict]:
    content = message.get("content", message.get("value"))
    legacy = message.get("function_call")  # OpenAI's own before there were tool_calls
    calls = message.get("tool_calls") or ([legacy] if legacy else [])
    thought = thought_of(message, where, role)
    if isinstance(content, str) or (content is None and (calls or thought)):
        parts = [call_part(content, where)] if is_call else text_parts(content or "", role, where)
    elif isinstance(content, list):
        parts = [part for i, part in enumerate(content) for part in parts_in(part, role, f"{where}.content[{i}]")]
    else:
        raise Invalid(f"{where}.content: must be a string or a list of parts")
    if thought:
        if not parts and not calls:
            raise Invalid(f"{where}.content: is empty, and a thought alone is no answer")
        if any(part["type"] == "think" and part["text"].strip() != thought.strip() for part in parts):
            raise Invalid(f"{where}.content: has another thought than the field beside it")
        parts = [{"type": "think", "text": thought}, *(part for part in parts if part["type"] != "think")]
    if not isinstance(calls, list):
        raise Invalid(f"{where}.tool_calls: must be a list")
    for i, call in enumerate(calls):
        called = call.get("function", call) if isinstance(call, dict) else call
        parts.append(call_part(called, f"{where}.tool_calls[{i}]"))
    return parts


def thought_of(message: dict, where: str, role: str) -> str:
    """What stands in a field of its own; servers give the same under two names."""
    thoughts = {text(message, field, f"{where}."): field for field in THOUGHTS if message.get(field)}
    if len(thoughts) > 1 or (thoughts and role != "assistant"):
        why = "is another than in the other field" if role == "assistant" else f"a message of the {role} has none"
        raise Invalid(f"{where}.{[*thoughts.values()][-1]}: {why}")
    return next(iter(thoughts), "")


def framed(messages: list[dict], record: dict) -> list[dict]:
    """The messages, after the system message and the tools that the record has beside them. Raises Invalid."""
    for field in SYSTEM:
        said = text(record, field) if record.get(field) else ""
        if said.strip() and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": said}, *messages]
        elif said.strip() and messages[0]["content"] != said:
            raise Invalid(f"{field}: is not what the system message says")
    for field in TOOL_LISTS:
        messages = with_tools(messages, record.get(field), field)
    return messages


def with_tools(messages: list[dict], tools, field: str) -> list[dict]:
    """The tools, a JSON object each, at the end of the system message: a model must know what it may call."""
    if not tools:
        return messages
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
        tools = [without_nulls(json.loads(tool) if isinstance(tool, str) else tool) for tool in tools]
        listed = [json.dumps(tool.get("function", tool), ensure_ascii=False, allow_nan=False) for tool in tools]
    except (ValueError, TypeError, AttributeError) as error:
        raise Invalid(f"{field}: must be a list of objects") from error
    if not listed:
        return messages
    has_system = messages[0]["role"] == "system"
    said = messages[0]["content"] if has_system else ""
    if not isinstance(said, str):
        raise Invalid(f"{field}: the system message must be text")
    first = {"role": "system", "content": "\n".join([*([said, ""] if said else []), TOOLS, *listed])}
    return [first, *messages[has_system:]]


def without_nulls(value):
    """What a table's row has where only other rows have something."""
    if isinstance(value, dict):
        return {key: without_nulls(inside) for key, inside in value.items() if inside is not None}
    return [without_nulls(inside) for inside in value] if isinstance(value, list) else value


def text_parts(content: str, role: str, where: str) -> list[dict]:
    """A text, and the thought that some models write before it between tags; the first tag may stand in the prompt."""
    thought = role == "assistant" and "</" in content and (THOUGHT.match(content) or THOUGHT_ENDED.match(content))
    if not thought:
        if role == "assistant" and (begun := THOUGHT_BEGUN.match(content)):
            raise Invalid(f"{where}: its <{begun[1]}> has no end")
        return [{"type": "text", "text": content}] if content else []
    said = thought[1] if thought.re is THOUGHT_ENDED else thought[2]
    parts = [{"type": "think", "text": said.strip("\n")}] if said.strip() else []
    rest = content[thought.end() :]
    if answer := ANSWER.match(rest):
        return [*parts, {"type": "answer", "text": " " + answer[1].strip()}]
    return [*parts, *([{"type": "text", "text": rest}] if rest else [])]


def parts_in(part, role: str, where: str) -> list[dict]:
    """Of one part of a content."""
    if not isinstance(part, dict):
        raise Invalid(f"{where}: must be an object")
    said = part.get("text", part.get("value"))
    if part.get("type") == "tool_call":
        return [call_part(said, where)]
    kind = one_of(PARTS, part.get("type"), f"{where}.type")
    said = part.get(part["type"]) if said is None else said  # {type: thinking, thinking: ...}
    if not isinstance(said, str):
        raise Invalid(f"{where}.text: must be a string")
    return text_parts(said, role, where) if kind == "text" else [{"type": kind, "text": said}]


def call_part(call, where: str) -> dict:
    """{name, arguments} -> a `search` or `python` part of that text alone, or else the same call written in Python."""
    try:
        call = json.loads(call) if isinstance(call, str) else call
        given = [call[field] for field in ARGUMENTS if call.get(field) is not None]
        name, arguments = call["name"], given[0] if given else {}
        arguments = json.loads(arguments or "{}") if isinstance(arguments, str) else without_nulls(arguments)
        items = list(arguments.items())
        json.dumps(arguments, allow_nan=False)  # NaN is no name of Python's
        if not isinstance(name, str) or not name or len(given) > 1:
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Invalid(f"{where}: must be a call with a name and JSON arguments") from error
    for span, names, only in (("search", ("search", "web_search"), "query"), ("python", PYTHON, "code")):
        if name in names and arguments.keys() == {only} and isinstance(arguments[only], str):
            return {"type": span, "text": arguments[only]}
    if not all(map(is_name, name.split("."))):
        raise Invalid(f"{where}.name: {name!r} is no name that Python can call")
    if not all(map(is_name, arguments)):
        return {"type": "python", "text": f"{name}(**{arguments!r})"}
    return {"type": "python", "text": f"{name}({', '.join(f'{key}={value!r}' for key, value in items)})"}


def is_name(said: str) -> bool:
    return said.isidentifier() and not keyword.iskeyword(said) and said != "__debug__"


def plain(parts: list[dict], role: str) -> str | list[dict]:
    """One text as a string; what a tool says as outputs."""
    if role == "tool":
        return [{"type": "output", "text": part["text"]} for part in parts or [{"text": ""}]]
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def checked(messages: list[dict], field: str) -> list[dict]:
    """The messages, if a model can learn from them. Raises Invalid."""
    if wrong := misplaced(messages):
        raise Invalid(f"{field}: message {wrong[0]}: {wrong[1]}")
    if not any(message["role"] == "assistant" for message in messages):
        raise Invalid(f"{field}: no message of an assistant")
    if all(message.get("weight") == 0 for message in messages if message["role"] == "assistant"):
        raise Invalid(f"{field}: no message that is to be learned")
    return messages
