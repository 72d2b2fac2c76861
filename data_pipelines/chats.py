"""Conversations and preferences in other people's formats -> our records.

python -m data_pipelines.chats --input='sets/*.jsonl' --output=X.jsonl [--skip_bad]

Knows OpenAI's messages (SmolTalk, Tulu 3, tool calls), ShareGPT's turns, OpenAssistant's trees, GSM8K's questions,
instructions with an answer, and the pairs of OpenAI, TRL, UltraFeedback and HH-RLHF, and ours; the format is told by a
record's fields. Writes `conversation` records {id, source, messages}, or `pair` records {id, source, prompt, chosen,
rejected}, each with the `split` that it names. What a message becomes is in `messages.py`.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags

from data_pipelines.documents import (
    RECORD_KINDS,
    Invalid,
    few_sources,
    id_of,
    kind_of,
    matching,
    named_split,
    read_records,
    refuse,
    write_jsonl,
)
from data_pipelines.messages import ROLES, THOUGHTS, checked, framed, one_of, text, turns
from llm_jax.config import UserError
from llm_jax.frame.cli import run_cli

# Fields of a record that say something to the model, or that it is to say. Each is read, or the record is refused.
ASKED = ("prompt", "instruction", "question", "problem", "query", "input")
ANSWERED = ("response", "output", "completion", "solution", "answer")
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
MEANT = (*THOUGHTS, "history", "context", *MEDIA)  # SYSTEM and TOOL_LISTS are read of all records
CHOICES = ("choices", "options")
SWITCH = ("on", "off")  # of reasoning, in a record of Nemotron's
HH_TURN = re.compile(r"\n\n(Human|Assistant): ?")
GSM8K_SUM = re.compile(r"<<.*?>>")
GSM8K_ANSWER = re.compile(r"(?<!#)####[ \t]*(-?)\$?(\d[\d,]*(?:\.\d+)?|\.\d+)\s*\Z")


def converted(record: dict) -> dict:
    """{messages} or {prompt, chosen, rejected} of a record. Raises Invalid."""
    try:
        return recognised(record)
    except RecursionError:
        raise Invalid("the record: is nested too deeply") from None


def messages_of(record: dict) -> list[dict]:
    """What SFT learns of a record: its messages, or a pair's prompt and better answer. Raises Invalid."""
    made = converted(record)
    return made["messages"] if "messages" in made else better_of(made)


def better_of(pair: dict) -> list[dict]:
    return [*pair["prompt"], {"role": "assistant", "content": pair["chosen"]}]


def recognised(record: dict) -> dict:
    if not isinstance(record, dict):
        raise Invalid("the record: must be an object")
    record = {field: value for field, value in record.items() if value is not None}  # a table has every column
    has = lambda *names: all(name in record for name in names)  # noqa: E731
    if has("chosen", "rejected"):
        refuse_unread(record, MEANT)
        return preference(record)
    if has("input", "preferred_output", "non_preferred_output"):
        refuse_unread(record, MEANT)
        before = turns(record["input"].get("messages"), "input.messages") if isinstance(record["input"], dict) else []
        return pair(record, before, "preferred_output", "non_preferred_output")
    if has("messages") or has("conversations"):
        refuse_unread(record, MEANT)
        name = "messages" if has("messages") else "conversations"
        return {"messages": checked(framed(turns(record[name], name), record), name)}
    if has("message_tree_id", "prompt"):
        return {"messages": checked(best_path(record["prompt"]), "prompt")}
    asked, answered = (next(filter(has, names), None) for names in (ASKED, ANSWERED))
    if asked and answered:
        refuse_unread(record, (*MEDIA, *CHOICES))
        return {"messages": checked(framed(exchange(record, asked, answered), record), answered)}
    raise Invalid(f"its fields {', '.join(map(repr, sorted(record)))}: are of no known format")


def refuse_unread(record: dict, fields: tuple[str, ...]) -> None:
    for field in fields:
        if record.get(field):
            raise Invalid(f"{field}: says something that is not read of such records; put it into the messages")


def exchange(record: dict, asked: str, answered: str) -> list[dict]:
    """A question, with what it is about and what was said before it, and the answer with its thought."""
    question, answer = record[asked], record[answered]
    if not isinstance(question, list):
        about = [text(record, field) for field in ("input", "context") if record.get(field) and field != asked]
        question = [{"role": "user", "content": "\n\n".join([text(record, asked), *about])}]
    if not isinstance(answer, list):
        solved = (asked, answered) == ("question", "answer") and gsm8k_solution(text(record, answered))
        thought = {field: record[field] for field in THOUGHTS if record.get(field) not in (None, *SWITCH)}
        answer = [{"role": "assistant", "content": solved or text(record, answered), **thought}]
    else:
        refuse_unread(record, THOUGHTS)
    before = history(record["history"]) if record.get("history") else []
    return [*turns([*before, *question], asked), *turns(answer, answered)]


def history(value) -> list[dict]:
    """Messages, or pairs of a question and its answer."""
    if isinstance(value, list) and all(isinstance(said, list) and len(said) == 2 for said in value):
        roles = ("user", "assistant")
        return [{"role": role, "content": said} for both in value for role, said in zip(roles, both, strict=True)]
    if not isinstance(value, list):
        raise Invalid("history: must be a list of pairs or of messages")
    return value


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


def preference(record: dict) -> dict:
    """UltraFeedback's lists, two answers to TRL's or ShareGPT's turns, or HH-RLHF's two transcripts."""
    if isinstance(record["chosen"], str) and HH_TURN.match(record["chosen"]):
        return parted(
            *(checked(framed(transcript(record, side), record), side) for side in ("chosen", "rejected")), "rejected"
        )
    if record.get("conversations"):
        return pair(record, turns(record["conversations"], "conversations"), "chosen", "rejected")
    asked = next((field for field in ASKED if field in record), None)
    before = record[asked] if asked else []
    before = [{"role": "user", "content": before}] if isinstance(before, str) else before
    return pair(record, turns(before, asked) if before else [], "chosen", "rejected")


def pair(record: dict, before: list[dict], better: str, worse: str) -> dict:
    both = []
    for side in (better, worse):
        said = record[side]
        is_content = isinstance(said, str) or (isinstance(said, list) and all(map(is_part, said)))
        said = [{"role": "assistant", "content": said}] if is_content else said
        said = turns(said if isinstance(said, list) else [said], side)
        whole = said[0]["role"] in ("system", "user")  # UltraFeedback's have the prompt once more
        both.append(checked(framed([*([] if whole else before), *said], record), side))
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


def gsm8k_solution(said: str) -> list[dict]:
    """The solution is thought, the number after the last #### is the answer; the calculator's marks go. Empty where
    there is no such number: text has other uses for ####."""
    if not (mark := GSM8K_ANSWER.search(said)):
        return []
    thought = GSM8K_SUM.sub("", said[: mark.start()]).strip()
    parts = [{"type": "think", "text": thought}] if thought else []
    return [*parts, {"type": "answer", "text": f" {gsm8k_number(mark)}"}]


def gsm8k_number(mark: re.Match) -> str:
    return mark[1] + mark[2].replace(",", "")


def short_names(paths: list[Path]) -> dict[Path, str]:
    """What tells files apart: their names from the folder on that they share."""
    shared = os.path.commonpath([path.parent for path in paths])
    return {path: path.relative_to(shared).as_posix() for path in paths}


def convert(pattern: str, bad: Callable[[str], None] = refuse) -> Iterator[dict]:
    """Our records of all files; `bad` is told what is wrong with the others. An id that another record had, of the
    same set or of another, gets its place. Raises UserError for files that cannot be read."""
    paths = matching(pattern, RECORD_KINDS)
    for path in paths:
        if kind_of(path) == "text":
            raise UserError(f"{path} holds no records; give {RECORD_KINDS} files")
    return few_sources(convert_all(paths, bad))


def convert_all(paths: list[Path], bad: Callable[[str], None]) -> Iterator[dict]:
    names, seen = short_names(paths), set()
    for path, name in names.items():
        for where, record in read_records(path, bad):
            place = f"{name}:{where.rpartition(' ')[2]}"
            try:
                made = converted(record)
                id_ = id_of(record, "message_tree_id") or place
                source = text(record, "source") if record.get("source") else path.name.partition(".")[0]
                split = named_split(record)
            except Invalid as error:
                bad(f"{where}: {error}")
                continue
            id_ = id_ if id_ not in seen else f"{id_}:{place}"
            seen.add(id_)
            yield {"id": id_, "source": source, **({"split": split} if split else {}), **made}


def define_flags() -> None:
    flags.DEFINE_string("input", None, f"Glob of {RECORD_KINDS} files.", required=True)
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
