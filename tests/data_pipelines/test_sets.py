"""Public sets by name: the columns of each, from files in the same form, become our records."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines import sets
from llm_jax.config import UserError

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = ROOT.parent / "shared/data"
CHAT = [{"content": "Hi", "role": "user"}, {"content": "Hello!", "role": "assistant"}]
RECORDS = {  # a record of each set -> what must be in ours
    "fineweb": (
        {"text": "Some page.", "id": "<urn:1>", "dump": "CC-1", "url": "http://a.test"},
        {"text": "Some page."},
    ),
    "fineweb-edu": ({"text": "Some page.", "id": "<urn:1>", "score": 3.1, "int_score": 3}, {"score": 3.1}),
    "dclm": ({"text": "Some page.", "url": "http://a.test"}, {"url": "http://a.test"}),
    "smoltalk": (
        {"messages": CHAT, "source": "x"},
        {"messages": [{"role": m["role"], "content": m["content"]} for m in CHAT]},
    ),
    "smol-smoltalk": ({"messages": CHAT, "source": "x"}, {}),
    "tulu-3-sft": ({"id": "7", "messages": CHAT, "source": "x"}, {"id": "tulu-3-sft-7"}),
    "ultrafeedback": (
        {"prompt": "Hi", "chosen": CHAT, "rejected": [CHAT[0], {**CHAT[1], "content": "No."}], "score_chosen": 8.0},
        {"chosen": "Hello!", "rejected": "No."},
    ),
    "hh-rlhf": (
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        {"chosen": "b", "rejected": "c"},
    ),
    "gsm8k": ({"question": "How many?", "answer": "2*3=<<2*3=6>>6\n#### 1,006"}, {"answer": "1006", "task": "gsm8k"}),
    "math": (
        {
            "problem": "x?",
            "solution": r"So $\boxed{1}$, no, $\boxed{\frac{1}{2}}$.",
            "level": "Level 1",
            "type": "Algebra",
        },
        {"answer": r"\frac{1}{2}"},
    ),
    "arc-easy": (
        {
            "id": "q",
            "question": "Why?",
            "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]},
            "answerKey": "3",
        },
        {"answer": "C", "task": "arc"},
    ),
    "arc-challenge": (
        {"id": "q", "question": "Why?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"},
        {"answer": "A"},
    ),
    "mmlu": (
        {"question": "Why?", "subject": "law", "choices": ["a", "b", "c", "d"], "answer": 1},
        {"answer": "B", "subject": "law"},
    ),
    "humaneval": (
        {
            "task_id": "HumanEval/0",
            "prompt": "def one():\n",
            "canonical_solution": "    return 1\n",
            "test": "def check(f):\n    assert f() == 1\n",
            "entry_point": "one",
        },
        {"id": "humaneval-HumanEval/0", "checker": "def check(f):\n    assert f() == 1\n\ncheck(one)\n"},
    ),
    "mbpp": (
        {"task_id": 11, "text": "Write one.", "code": "def one(): return 1", "test_list": ["assert one() == 1"]},
        {"checker": "assert one() == 1\n", "answer": "def one(): return 1"},
    ),
}


def all_of(name: str, *paths: Path) -> tuple[list[dict], list[dict], list[str]]:
    used, wrong = [], []
    return list(sets.converted(name, iter(paths), used, wrong)), used, wrong


@pytest.mark.parametrize("name", sorted(sets.SETS))
@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_record_of_every_set_becomes_ours(name, form, tmp_path):
    record, wanted = RECORDS[name]
    path = tmp_path / f"a.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist([record] * 2), path)
    else:
        path.write_text("\n".join([json.dumps(record)] * 2))
    made, used, wrong = all_of(name, path)
    assert len(made) == 2 and not wrong
    assert wanted.items() <= made[0].items() and made[0]["source"] == name
    assert used == [{"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}]


def test_a_choice_is_asked_with_letters():
    (asked,) = sets.arc(RECORDS["arc-easy"][0])["messages"]
    assert asked["content"] == "Why?\nA. a\nB. b\nC. c\nAnswer with the letter."


def test_another_schema_is_refused_and_a_bad_record_among_good_ones_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "How many?"}))
    with pytest.raises(UserError, match=r"a\.jsonl line 1: answer: .*does not look like openai/gsm8k"):
        all_of("gsm8k", path)
    path.write_text("\n".join(map(json.dumps, [RECORDS["gsm8k"][0], {"question": "a", "answer": "none"}])))
    made, _, wrong = all_of("gsm8k", path)
    assert len(made) == 1 and wrong == [f"{path} line 2: answer: has no ####"]


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "data_pipelines.sets", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_command_lists_the_sets_and_notes_files_and_licence(tmp_path):
    listed = run()
    assert listed.returncode == 0 and all(known.licence in listed.stdout for known in sets.SETS.values())
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps(RECORDS["mmlu"][0])] * 5))
    done = run("--name=mmlu", f"--local={tmp_path}/a.jsonl", f"--output={tmp_path}/out.jsonl", "--limit=3")
    assert done.returncode == 0 and "3 records of mmlu, 0 left out, licence MIT" in done.stdout
    noted = json.loads((tmp_path / "out.jsonl.json").read_text())
    assert noted["records"] == 3 and noted["files"][0]["file"] == "a.jsonl" and noted["licence"] == "MIT"


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--name=mmlu"], "--output is missing"),
        (["--name=wikipedia"], "should be one of"),
        (["--name=mmlu", "--output=out/x.jsonl", "--local=none*"], "no file matches"),
        (["--name=mmlu", "--output=out/x.jsonl", "--offline"], "cais/mmlu cannot be read"),
    ],
)
def test_a_users_mistake_is_one_line(flags, message, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    ended = run(*(flag.replace("=out/", f"={tmp_path}/") for flag in flags))
    assert ended.returncode == 2 and message in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.skipif(not os.path.isdir(PUBLIC), reason=f"no public sets in {PUBLIC}")
@pytest.mark.parametrize(
    "name, file, count",
    [
        ("gsm8k", "gsm8k/test.jsonl", 1319),
        ("humaneval", "humaneval/HumanEval.jsonl.gz", 164),
        ("hh-rlhf", "hh-rlhf/test.jsonl.gz", 2303),
    ],
)
def test_public_files_are_read_whole(name, file, count):
    made, _, wrong = all_of(name, PUBLIC / file)
    assert len(made) == count and len({record["id"] for record in made}) == count
    assert len(wrong) == (9 if name == "hh-rlhf" else 0)
