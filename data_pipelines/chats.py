"""Conversations and preferences in other people's formats -> our records.

python -m data_pipelines.chats --input='sets/*.jsonl' --output=X.jsonl [--skip_bad]

Knows OpenAI's messages (SmolTalk, Tulu 3, tool calls), ShareGPT's turns, GSM8K's questions, UltraFeedback's and
HH-RLHF's pairs; the format is told by a record's fields. Writes `conversation` records {id, source, messages}, or
`pair` records {id, source, prompt, chosen, rejected}. A call of a tool becomes the Python call that it is.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags

from data_pipelines.documents import matching, write_jsonl
from llm_jax.cli import run_cli
from llm_jax.config import UserError
from llm_jax.tokenizer import SPANS

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
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
THOUGHT = re.compile(r"\A\s*<think>(.*?)</think>\s*", re.DOTALL)
HH_TURN = re.compile(r"\n\n(Human|Assistant): ?")
GSM8K_MARK = re.compile(r"<<.*?>>")


class Invalid(Exception):
    """A record that fits no format; the message names the field."""


def converted(record: dict) -> dict:
    """{messages} or {prompt, chosen, rejected} of a record. Raises Invalid."""
    if not isinstance(record, dict):
        raise Invalid("the record: must be an object")
    has = lambda *names: all(name in record for name in names)  # noqa: E731
    if has("chosen", "rejected"):
        return preference(record)
    if has("messages") or has("conversations"):
        name = "messages" if has("messages") else "conversations"
        return {"messages": checked(turns(record[name], name), name)}
    if has("question", "answer"):
        return {"messages": gsm8k(record)}
    if has("prompt", "response") or has("instruction", "output"):
        asked, answered = ("prompt", "response") if has("prompt", "response") else ("instruction", "output")
        more = f"\n\n{record['input']}" if record.get("input") else ""
        said = [{"role": "user", "content": f"{text(record, asked)}{more}"}]
        return {"messages": [*said, {"role": "assistant", "content": text(record, answered)}]}
    raise Invalid(f"its fields {', '.join(map(repr, sorted(record)))}: are of no known format")


def text(record: dict, field: str) -> str:
    if not isinstance(record.get(field), str):
        raise Invalid(f"{field}: must be a string")
    return record[field]


def turns(value, field: str) -> list[dict]:
    """Messages in our form; those of one role in a row become one message of several parts."""
    if not isinstance(value, list) or not value:
        raise Invalid(f"{field}: must be a list of at least one message")
    out: list[dict] = []
    for i, message in enumerate(value):
        where = f"{field}[{i}]"
        if not isinstance(message, dict):
            raise Invalid(f"{where}: must be an object")
        key = "role" if "role" in message else "from"
        role = ROLES.get(message.get(key))
        if role is None:
            raise Invalid(f"{where}.{key}: {message.get(key)!r} is none of {', '.join(ROLES)}")
        parts = parts_of(message, where, is_call=message.get(key) == "function_call")
        if out and out[-1]["role"] == role and role != "user":
            out[-1]["content"] += parts
        else:
            out.append({"role": role, "content": parts})
    return [{"role": m["role"], "content": plain(m["content"], m["role"])} for m in out]


def parts_of(message: dict, where: str, is_call: bool) -> list[dict]:
    content = message.get("content", message.get("value"))
    calls = message.get("tool_calls") or []
    if isinstance(content, str) or (content is None and calls):
        parts = [call_part(content, where)] if is_call else text_parts(content or "")
    elif isinstance(content, list):
        parts = [part_of(part, f"{where}.content[{i}]") for i, part in enumerate(content)]
    else:
        raise Invalid(f"{where}.content: must be a string or a list of parts")
    if not isinstance(calls, list):
        raise Invalid(f"{where}.tool_calls: must be a list")
    for i, call in enumerate(calls):
        called = call.get("function", call) if isinstance(call, dict) else call
        parts.append(call_part(called, f"{where}.tool_calls[{i}]"))
    return parts


def text_parts(content: str) -> list[dict]:
    """A text, and the thought that some models write before it between <think> tags."""
    thought = THOUGHT.match(content)
    if not thought:
        return [{"type": "text", "text": content}] if content else []
    rest = content[thought.end() :]
    return [{"type": "think", "text": thought[1].strip("\n")}, *([{"type": "text", "text": rest}] if rest else [])]


def part_of(part, where: str) -> dict:
    if not isinstance(part, dict):
        raise Invalid(f"{where}: must be an object")
    said = part.get("text", part.get("value"))
    if part.get("type") == "tool_call":
        return call_part(said, where)
    if part.get("type") not in PARTS:
        raise Invalid(f"{where}.type: {part.get('type')!r} is none of tool_call, {', '.join(PARTS)}")
    if not isinstance(said, str):
        raise Invalid(f"{where}.text: must be a string")
    return {"type": PARTS[part["type"]], "text": said}


def call_part(call, where: str) -> dict:
    """{name, arguments} -> a `search` part, or the same call written in Python."""
    try:
        call = json.loads(call) if isinstance(call, str) else call
        name, arguments = call["name"], call.get("arguments") or {}
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        items = list(arguments.items())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Invalid(f"{where}: must be a call with a name and JSON arguments") from error
    if name in ("search", "web_search") and isinstance(arguments.get("query"), str):
        return {"type": "search", "text": arguments["query"]}
    if name in ("python", "code_interpreter") and isinstance(arguments.get("code"), str):
        return {"type": "python", "text": arguments["code"]}
    return {"type": "python", "text": f"{name}({', '.join(f'{key}={value!r}' for key, value in items)})"}


def plain(parts: list[dict], role: str) -> str | list[dict]:
    """One text as a string; what a tool says as outputs."""
    if role == "tool":
        return [{"type": "output", "text": part["text"]} for part in parts]
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def checked(messages: list[dict], field: str) -> list[dict]:
    """The messages, if a model can learn from them. Raises Invalid."""
    roles = [message["role"] for message in messages]
    for i, role in enumerate(roles):
        before = roles[i - 1] if i else None
        if role == "system" and i:
            raise Invalid(f"{field}: a system message that is not the first")
        if role == "tool" and before not in ("assistant", "tool"):
            raise Invalid(f"{field}: what a tool says with no call before it")
        if role == "assistant" and before not in ("user", "tool"):
            raise Invalid(f"{field}: an answer that nobody asked for")
    if "assistant" not in roles:
        raise Invalid(f"{field}: no message of an assistant")
    return messages


def preference(record: dict) -> dict:
    """UltraFeedback's lists, ShareGPT's two last turns, or HH-RLHF's two transcripts."""
    if isinstance(record["chosen"], str) and HH_TURN.match(record["chosen"]):
        both = [checked(transcript(record, side), side) for side in ("chosen", "rejected")]
    else:
        before = turns(record["conversations"], "conversations") if record.get("conversations") else []
        if not before and isinstance(record.get("prompt"), str) and isinstance(record["chosen"], str):
            before = [{"role": "user", "content": record["prompt"]}]
        both = []
        for side in ("chosen", "rejected"):
            said = record[side]
            said = [{"role": "assistant", "content": said}] if isinstance(said, str) else said
            said = said if isinstance(said, list) else [said]
            both.append(checked([*before, *turns(said, side)], side))
    chosen, rejected = both
    if chosen[:-1] != rejected[:-1] or chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise Invalid("rejected: must differ from chosen in the last answer only")
    return {"prompt": chosen[:-1], "chosen": chosen[-1]["content"], "rejected": rejected[-1]["content"]}


def transcript(record: dict, field: str) -> list[dict]:
    _, *pieces = HH_TURN.split(text(record, field))
    names = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(pieces[::2], pieces[1::2], strict=True)
    return [{"role": names[name], "content": said.strip()} for name, said in pairs]


def gsm8k(record: dict) -> list[dict]:
    """The solution is thought, the number after #### is the answer; the calculator's marks go."""
    thought, mark, answer = text(record, "answer").rpartition("####")
    said: str | list[dict] = record["answer"]
    if mark:
        thought = GSM8K_MARK.sub("", thought).strip()
        said = [{"type": "think", "text": thought}, {"type": "answer", "text": " " + answer.strip().replace(",", "")}]
    return [{"role": "user", "content": text(record, "question")}, {"role": "assistant", "content": said}]


def read_records(path: Path) -> Iterator[tuple[str, object]]:
    """(where, record) of a .jsonl, a .json with one list, or either of them packed. Raises UserError."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        if path.name.removesuffix(".gz").endswith(".json"):
            try:
                records = json.load(file)
            except ValueError as error:
                raise UserError(f"{path}: no JSON ({error})") from error
            if not isinstance(records, list):
                raise UserError(f"{path}: must hold one list of records")
            yield from ((f"{path} record {number}", record) for number, record in enumerate(records, 1))
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield f"{path} line {number}", json.loads(line)
                except ValueError as error:
                    raise UserError(f"{path} line {number}: no JSON ({error})") from error


def convert(pattern: str, bad: Callable[[str], None]) -> Iterator[dict]:
    """Our records of all files; `bad` is told what is wrong with the others."""
    for path in matching(pattern, ".jsonl, .json, or either .gz"):
        for number, (where, record) in enumerate(read_records(path)):
            try:
                made = converted(record)
            except Invalid as error:
                bad(f"{where}: {error}")
                continue
            source = str(record.get("source") or path.name.partition(".")[0])
            yield {"id": str(record.get("id") or f"{path.name}:{number}"), "source": source, **made}


def define_flags() -> None:
    flags.DEFINE_string("input", None, "Glob of .jsonl or .json files, or either .gz.", required=True)
    flags.DEFINE_string("output", None, "The .jsonl to write.", required=True)
    flags.DEFINE_bool("skip_bad", False, "Count records of no known format, and go on.")


def main() -> None:
    f, wrong = flags.FLAGS, []

    def bad(what: str) -> None:
        if not f.skip_bad:
            raise UserError(f"{what}; mend it, or leave such records out with --skip_bad")
        wrong.append(what)

    output, counts = Path(f.output), {"conversations": 0, "pairs": 0}

    def counted() -> Iterator[dict]:
        for record in convert(f.input, bad):
            counts["pairs" if "chosen" in record else "conversations"] += 1
            yield record

    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(output, counted())
    for what in wrong[:5]:
        print(f"left out: {what}")
    print(f"{output}: {counts['conversations']} conversations, {counts['pairs']} pairs, {len(wrong)} records left out")


if __name__ == "__main__":
    run_cli(main, define_flags)
