"""Records in other people's formats become ours, or are refused by file, line and field."""

import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest

from data_pipelines.chats import Invalid, convert, converted
from tests import commands

ROOT = Path(__file__).resolve().parents[2]
SETS = ROOT.parent / "shared/data"
USER = {"role": "user", "content": "What is 2+2?"}
ANSWER = {"role": "assistant", "content": "4"}


def part(kind: str, text: str) -> dict:
    return {"type": kind, "text": text}


def test_openai_messages_with_calls_and_results():
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": [1, "x"]}'}}
    record = {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Add."}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "4"},
            {"role": "assistant", "content": "<think>\neasy\n</think>\n\nIt is 4."},
        ]
    }
    assert converted(record)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": [part("python", "add(a=2, b=[1, 'x'])")]},
        {"role": "tool", "content": [part("output", "4")]},
        {"role": "assistant", "content": [part("think", "easy"), part("text", "It is 4.")]},
    ]


def test_sharegpt_turns_join_a_call_with_what_was_said_before_it():
    turns = [
        ("human", "When?"),
        ("gpt", "Let me look."),
        ("function_call", '{"name": "search", "arguments": {"query": "q"}}'),
    ]
    turns += [("observation", "1999"), ("gpt", "In 1999.")]
    record = {"conversations": [{"from": role, "value": said} for role, said in turns]}
    messages = converted(record)["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1]["content"] == [part("text", "Let me look."), part("search", "q")]


def test_our_own_records_stay_as_they_are():
    answer = {"role": "assistant", "content": [part("think", "2 and 2"), part("answer", " 4")]}
    assert converted({"messages": [USER, answer]})["messages"] == [USER, answer]


def test_gsm8k_and_instructions():
    solved = converted({"question": "How many?", "answer": "He has 2*3=<<2*3=6>>6.\n#### 1,006"})["messages"]
    assert solved[1]["content"] == [part("think", "He has 2*3=6."), part("answer", " 1006")]
    asked = converted({"instruction": "Sort.", "input": "b a", "output": "a b"})["messages"]
    assert asked == [{"role": "user", "content": "Sort.\n\nb a"}, {"role": "assistant", "content": "a b"}]


@pytest.mark.parametrize(
    "record",
    [
        {"chosen": "\n\nHuman: What is 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: What is 2+2?\n\nAssistant: 5"},
        {"prompt": "What is 2+2?", "chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "5"}]},
        {"prompt": "What is 2+2?", "chosen": "4", "rejected": "5"},
        {
            "conversations": [{"from": "human", "value": "What is 2+2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "5"}]},
        {"prompt": [USER], "chosen": "4", "rejected": "5"},
    ],
)
def test_every_form_of_a_preference_is_the_same_pair(record):
    assert converted(record) == {"prompt": [USER], "chosen": "4", "rejected": "5"}


def test_what_people_write_between_tags_is_text():
    asked = {**USER, "content": "<think>a</think> What is it?"}
    assert converted({"messages": [asked, ANSWER]})["messages"] == [asked, ANSWER]


def test_our_own_pairs_are_read_again():
    """What the chat page saves, and what this command writes."""
    thought = [part("think", "2 and 2."), part("answer", " 4")]
    ours = {"prompt": [{"role": "system", "content": "Be brief."}, USER], "chosen": thought, "rejected": "5"}
    assert converted({"id": "1", "source": "feedback", **ours}) == ours


@pytest.mark.parametrize(
    "record, field",
    [
        ([], "the record"),
        ({"a": 1}, "'a'"),
        ({"messages": []}, "messages: must be a list of at least one"),
        ({"messages": [USER, "x"]}, r"messages\[1\]: must be an object"),
        ({"messages": [{"role": "robot", "content": "x"}]}, r"messages\[0\]\.role: 'robot'"),
        ({"messages": [USER, {"role": "assistant", "content": 4}]}, r"messages\[1\]\.content"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "image"}]}]}, r"content\[0\]\.type: 'image'"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "f"}, {}]}]}, r"tool_calls\[1\]"),
        ({"messages": [USER]}, "no message of an assistant"),
        ({"messages": [ANSWER]}, "nobody asked"),
        ({"messages": [USER, {"role": "tool", "content": "x"}, ANSWER]}, "no call before"),
        ({"messages": [{**USER, "content": [part("reasoning", "x")]}, ANSWER]}, "not all text"),
        ({"messages": [USER, ANSWER, {"role": "system", "content": "x"}]}, "not the first"),
        ({"prompt": "a", "chosen": [USER, ANSWER], "rejected": [{**USER, "content": "b"}, ANSWER]}, "last answer only"),
        ({"question": "a", "answer": 5}, "answer: must be a string"),
    ],
)
def test_what_fits_no_format_is_refused_by_its_field(record, field):
    with pytest.raises(Invalid, match=field):
        converted(record)


def run(*arguments: str) -> subprocess.CompletedProcess:
    return commands.run("data_pipelines.chats", *arguments)


def test_the_command_names_file_and_line_and_writes_nothing(tmp_path):
    lines = [json.dumps({"messages": [USER, ANSWER]}), json.dumps({"messages": [USER]})]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    flags = (f"--input={tmp_path}/a.jsonl.gz", f"--output={tmp_path}/out.jsonl")
    refused = run(*flags)
    assert refused.returncode == 2 and "a.jsonl.gz line 2: messages: no message" in refused.stderr
    assert not (tmp_path / "out.jsonl").exists()
    done = run(*flags, "--skip_bad")
    assert done.returncode == 0 and "1 conversations, 0 pairs, 1 records left out" in done.stdout
    (record,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert record == {"id": "a.jsonl.gz:1", "source": "a", "messages": [USER, ANSWER]}
    assert run("--input=none*", f"--output={tmp_path}/x").returncode == 2


@pytest.mark.skipif(not os.path.isdir(SETS), reason=f"no public sets in {SETS}")
@pytest.mark.parametrize(
    "name, kind, count",
    [
        ("toolcalls/glaive_toolcall_en_demo.json", "messages", 300),
        ("toolcalls/reason_tool_use_demo_50.jsonl", "messages", 50),
        ("preferences/dpo_en_demo.json", "chosen", 300),
        ("hh-rlhf/test.jsonl.gz", "chosen", 2299),
        ("gsm8k/test.jsonl", "messages", 1319),
    ],
)
def test_public_sets_are_read_whole_and_every_conversation_renders(name, kind, count, tokenizer):
    wrong: list[str] = []
    records = list(convert(str(SETS / name), wrong.append))
    assert sum(kind in record for record in records) == count
    assert len(wrong) == (13 if "hh-rlhf" in name else 0)  # two answers in a row, or an empty one
    for record in records[:100] if kind == "messages" else ():
        rendered = tokenizer.render(record["messages"])
        assert any(rendered.loss_mask) and len(rendered.ids) == len(rendered.loss_mask)
