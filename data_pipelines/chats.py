"""Conversations and preferences in other people's formats -> our records.

python -m data_pipelines.chats --input='sets/*.jsonl' --output=X.jsonl [--skip_bad]

Knows OpenAI's messages (SmolTalk, Tulu 3, tool calls), ShareGPT's turns, OpenAssistant's trees, GSM8K's questions, and
the pairs of OpenAI, TRL, UltraFeedback and HH-RLHF, and ours; the format is told by a record's fields. Writes
`conversation` records {id, source, messages}, or `pair` records {id, source, prompt, chosen, rejected}. A call of a
tool becomes the Python call that it is, and the tools of a record are listed in its system message.
"""

import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags

from data_pipelines.documents import matching, read_parquet, write_jsonl
from llm_jax.cli import run_cli
from llm_jax.config import UserError
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
THOUGHT = re.compile(r"\A\s*<think>(.*?)</think>\s*", re.DOTALL)
HH_TURN = re.compile(r"\n\n(Human|Assistant): ?")
GSM8K_MARK = re.compile(r"<<.*?>>")
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # JSON's, alone it is no Unicode
TOOLS = "You may call these functions:"
KINDS = ".jsonl, .json, either .gz, or .parquet"


class Invalid(Exception):
    """A record that fits no format; the message names the field."""


def converted(record: dict) -> dict:
    """{messages} or {prompt, chosen, rejected} of a record. Raises Invalid."""
    try:
        return recognised(record)
    except RecursionError:
        raise Invalid("the record: is nested too deeply") from None


def recognised(record: dict) -> dict:
    if not isinstance(record, dict):
        raise Invalid("the record: must be an object")
    has = lambda *names: all(name in record for name in names)  # noqa: E731
    if has("chosen", "rejected"):
        return preference(record)
    if has("input", "preferred_output", "non_preferred_output"):
        before = turns(record["input"].get("messages"), "input.messages") if isinstance(record["input"], dict) else []
        return pair(record, before, "preferred_output", "non_preferred_output")
    if has("messages") or has("conversations"):
        name = "messages" if has("messages") else "conversations"
        return {"messages": checked(with_tools(turns(record[name], name), record.get("tools")), name)}
    if has("message_tree_id", "prompt"):
        return {"messages": checked(best_path(record["prompt"]), "prompt")}
    if has("question", "answer"):
        return {"messages": checked(gsm8k(record), "answer")}
    if has("prompt", "response") or has("instruction", "output"):
        asked, answered = ("prompt", "response") if has("prompt", "response") else ("instruction", "output")
        more = f"\n\n{text(record, 'input')}" if record.get("input") else ""
        said = [{"role": "user", "content": f"{text(record, asked)}{more}"}]
        return {"messages": checked([*said, {"role": "assistant", "content": text(record, answered)}], answered)}
    raise Invalid(f"its fields {', '.join(map(repr, sorted(record)))}: are of no known format")


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
        key = "role" if "role" in message else "from"
        role = one_of(ROLES, message.get(key), f"{where}.{key}")
        parts = parts_of(message, where, role, is_call=message[key] == "function_call")
        if not parts and role in ("user", "assistant"):
            raise Invalid(f"{where}.content: is empty")
        if out and out[-1]["role"] == role and role != "user":
            said = out[-1]["content"]
            if role != "tool" and said and parts and said[-1]["type"] == parts[0]["type"] == "text":
                parts = [{"type": "text", "text": f"{said.pop()['text']}\n\n{parts[0]['text']}"}, *parts[1:]]
            said += parts
        elif parts or role != "system":
            out.append({"role": role, "content": parts})
    return [{"role": m["role"], "content": plain(m["content"], m["role"])} for m in out]


def parts_of(message: dict, where: str, role: str, is_call: bool) -> list[dict]:
    content = message.get("content", message.get("value"))
    legacy = message.get("function_call")  # OpenAI's own before there were tool_calls
    calls = message.get("tool_calls") or ([legacy] if legacy else [])
    if isinstance(content, str) or (content is None and calls):
        parts = [call_part(content, where)] if is_call else text_parts(content or "", role)
    elif isinstance(content, list):
        parts = [part_of(part, f"{where}.content[{i}]") for i, part in enumerate(content)]
        parts = [part for part in parts if part["text"] or part["type"] != "text"]
    else:
        raise Invalid(f"{where}.content: must be a string or a list of parts")
    if message.get("reasoning_content"):
        parts.insert(0, {"type": "think", "text": text(message, "reasoning_content", f"{where}.")})
    if not isinstance(calls, list):
        raise Invalid(f"{where}.tool_calls: must be a list")
    for i, call in enumerate(calls):
        called = call.get("function", call) if isinstance(call, dict) else call
        parts.append(call_part(called, f"{where}.tool_calls[{i}]"))
    return parts


def with_tools(messages: list[dict], tools) -> list[dict]:
    """The tools, a JSON object each, at the end of the system message: a model must know what it may call."""
    if not tools:
        return messages
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
        listed = [json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools]
    except (ValueError, TypeError, AttributeError) as error:
        raise Invalid("tools: must be a list of objects") from error
    if not listed:
        return messages
    has_system = messages[0]["role"] == "system"
    said = messages[0]["content"] if has_system else ""
    if not isinstance(said, str):
        raise Invalid("tools: the system message must be text")
    first = {"role": "system", "content": "\n".join([*([said, ""] if said else []), TOOLS, *listed])}
    return [first, *messages[has_system:]]


def best_path(node) -> list[dict]:
    """Of a tree of messages, from the prompt down: each time the reply ranked best, or else one that was answered.

    One conversation a tree: every path from root to leaf would train the first answers over and over.
    """
    out, where = [], "prompt"
    while True:
        if not isinstance(node, dict) or not isinstance(node.get("replies") or [], list):
            raise Invalid(f"{where}: must be a message with a list of replies")
        role = one_of(ROLES, node.get("role"), f"{where}.role")
        out.append({"role": role, "content": text(node, "text", f"{where}.")})
        replies = [reply for reply in node.get("replies") or [] if is_kept(reply)]
        if not replies:
            break
        node = min(replies, key=lambda reply: (rank_of(reply), not reply.get("replies")))
        where = f"prompt: reply {node.get('message_id')}"
    return out[:-1] if out[-1]["role"] == "user" else out  # a question at the end teaches nothing


def is_kept(reply) -> bool:
    return isinstance(reply, dict) and not reply.get("deleted") and reply.get("review_result") is not False


def rank_of(reply: dict) -> float:
    return reply["rank"] if isinstance(reply.get("rank"), int) else float("inf")


def text_parts(content: str, role: str) -> list[dict]:
    """A text, and the thought that some models write before it between <think> tags."""
    thought = THOUGHT.match(content) if role == "assistant" else None
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
    kind = one_of(PARTS, part.get("type"), f"{where}.type")
    if not isinstance(said, str):
        raise Invalid(f"{where}.text: must be a string")
    return {"type": kind, "text": said}


def call_part(call, where: str) -> dict:
    """{name, arguments} -> a `search` part, or the same call written in Python."""
    try:
        call = json.loads(call) if isinstance(call, str) else call
        name, arguments = call["name"], call.get("arguments") or {}
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        items = list(arguments.items())
        if not isinstance(name, str) or not name:
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Invalid(f"{where}: must be a call with a name and JSON arguments") from error
    if name in ("search", "web_search") and isinstance(arguments.get("query"), str):
        return {"type": "search", "text": arguments["query"]}
    if name in ("python", "code_interpreter") and isinstance(arguments.get("code"), str):
        return {"type": "python", "text": arguments["code"]}
    if not all(key.isidentifier() for key in arguments):
        return {"type": "python", "text": f"{name}(**{arguments!r})"}
    return {"type": "python", "text": f"{name}({', '.join(f'{key}={value!r}' for key, value in items)})"}


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
    return messages


def preference(record: dict) -> dict:
    """UltraFeedback's lists, two answers to TRL's or ShareGPT's turns, or HH-RLHF's two transcripts."""
    if isinstance(record["chosen"], str) and HH_TURN.match(record["chosen"]):
        return parted(*(checked(transcript(record, side), side) for side in ("chosen", "rejected")), "rejected")
    before = turns(record["conversations"], "conversations") if record.get("conversations") else []
    if not before and isinstance(record.get("prompt"), str) and isinstance(record["chosen"], str):
        before = [{"role": "user", "content": record["prompt"]}]
    if isinstance(record.get("prompt"), list):
        before = turns(record["prompt"], "prompt")
    return pair(record, before, "chosen", "rejected")


def pair(record: dict, before: list[dict], better: str, worse: str) -> dict:
    both = []
    for side in (better, worse):
        said = record[side]
        is_content = isinstance(said, str) or (isinstance(said, list) and all(map(is_part, said)))
        said = [{"role": "assistant", "content": said}] if is_content else said
        said = said if isinstance(said, list) else [said]
        both.append(checked([*before, *turns(said, side)], side))
    return parted(*both, worse)


def is_part(piece) -> bool:
    """Of an answer, where a message would have a role."""
    return isinstance(piece, dict) and "type" in piece and not {"role", "from"} & piece.keys()


def parted(chosen: list[dict], rejected: list[dict], field: str) -> dict:
    if chosen[:-1] != rejected[:-1] or chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise Invalid(f"{field}: must differ from the better one in the last answer only")
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


def refuse(what: str) -> None:
    raise UserError(what)


def read_records(path: Path, bad: Callable[[str], None] = refuse) -> Iterator[tuple[str, object]]:
    """(where, record) of a .jsonl, a .json with one list, either of them packed, or a .parquet.

    `bad` is told of a line that is no JSON. Raises UserError when the file as a whole cannot be read.
    """
    if path.suffix == ".parquet":
        yield from ((f"{path} row {number}", record) for number, record in enumerate(read_parquet(path), 1))
    elif path.name.removesuffix(".gz").endswith(".json"):
        try:
            records = parsed(b"".join(lines_of(path)))
        except Invalid as error:
            raise UserError(f"{path}: {error}") from error
        if not isinstance(records, list):
            raise UserError(f"{path}: must hold one list of records; lines of JSON belong in a .jsonl")
        yield from ((f"{path} record {number}", record) for number, record in enumerate(records, 1))
    else:
        for number, line in enumerate(lines_of(path), 1):
            if line.strip():
                try:
                    record = parsed(line)
                except Invalid as error:
                    bad(f"{path} line {number}: {error}")
                    continue
                yield f"{path} line {number}", record


def lines_of(path: Path) -> Iterator[bytes]:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            yield from file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is no whole gzip file ({error}); leave it out") from error


def parsed(line: bytes) -> object:
    """Lone surrogates, which are no Unicode, become U+FFFD. Raises Invalid."""
    try:
        said = line.decode("utf-8")
        record = json.loads(said)
        if SURROGATE.search(said):
            said = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
            record = json.loads(said)
        return record
    except UnicodeDecodeError as error:
        raise Invalid(f"not valid UTF-8 (byte {error.start})") from error
    except RecursionError:
        raise Invalid("the record: is nested too deeply") from None
    except ValueError as error:
        raise Invalid(f"no JSON ({error})") from error


def short_names(paths: list[Path]) -> dict[Path, str]:
    """What tells files apart: their names from the folder on that they share."""
    shared = os.path.commonpath([path.parent for path in paths])
    return {path: path.relative_to(shared).as_posix() for path in paths}


def convert(pattern: str, bad: Callable[[str], None]) -> Iterator[dict]:
    """Our records of all files; `bad` is told what is wrong with the others."""
    names, seen = short_names(matching(pattern, KINDS)), set()
    for path, name in names.items():
        for where, record in read_records(path, bad):
            try:
                made = converted(record)
                id_ = id_of(record) or f"{name}:{where.rpartition(' ')[2]}"
                source = text(record, "source") if record.get("source") else path.name.partition(".")[0]
                if id_ in seen:
                    raise Invalid(f"id: {id_!r} was there before")
            except Invalid as error:
                bad(f"{where}: {error}")
                continue
            seen.add(id_)
            yield {"id": id_, "source": source, **made}


def id_of(record: dict) -> str:
    """Empty where the record has none. Raises Invalid."""
    id_ = record.get("id", record.get("message_tree_id"))
    if not isinstance(id_, str | int | None):
        raise Invalid("id: must be a string or a number")
    return "" if id_ is None else str(id_)


def define_flags() -> None:
    flags.DEFINE_string("input", None, f"Glob of {KINDS} files.", required=True)
    flags.DEFINE_string("output", None, "The .jsonl to write.", required=True)
    flags.DEFINE_bool("skip_bad", False, "Count records that are wrong, and go on.")


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
