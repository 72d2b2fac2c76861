"""Public sets by name: the columns of each, from files in the same form, become our records."""

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines import sets
from llm_jax.config import UserError
from tests.commands import DEADLINE
from tests.data_pipelines.hub_server import COMMIT, OLD_COMMIT, Hub, running_hub

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
    files = ((path.name, path) for path in paths)
    return list(sets.converted(name, files, used, wrong)), used, wrong


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
    assert len(made) == 1 and wrong == [f"{path} line 2: answer: has no #### with a number at its end"]


def test_a_bad_first_record_does_not_hide_a_set(tmp_path):
    path, good = tmp_path / "a.jsonl", RECORDS["gsm8k"][0]
    path.write_text("\n".join(map(json.dumps, [[1], {**good, "answer": 5}, good])))
    made, _, wrong = all_of("gsm8k", path)
    assert len(made) == 1 and wrong[0] == f"{path} line 1: the record: must be an object" and len(wrong) == 2


@pytest.mark.parametrize(
    "name, field, value, message",
    [
        ("mmlu", "answer", "1", "answer: '1' is no index"),
        ("mmlu", "answer", True, "answer: True is no index"),
        ("mmlu", "choices", [1, 2], "choices: must be 2 to 26 strings"),
        ("mmlu", "choices", ["a"] * 27, "choices: must be 2 to 26 strings"),
        ("arc-easy", "choices", [{"text": "a", "label": "3"}], "choices: must be an object"),
        ("arc-easy", "choices", {"text": ["a", "b"], "label": ["3"]}, "choices: 1 labels for 2 texts"),
        ("gsm8k", "answer", "#### Step\n so\n#### ", "answer: has no ####"),
        ("math", "solution", r"\boxed{ }", "solution: has no"),
        ("math", "solution", "none", "solution: has no"),
        ("mbpp", "test_list", [], "test_list: must be strings, at least one"),
        ("mbpp", "test_list", [5], "test_list: must be strings"),
        ("fineweb", "text", " ", "text: is empty"),
        ("fineweb", "split", "fold 3", "split: 'fold 3' is none of"),
        ("fineweb", "id", [1], "id: must be"),
        ("arc-easy", "answerKey", "9", "answerKey: '9' is none of"),
        ("math", "solution", r"\boxed{1", "solution: has no"),
        ("mbpp", "test_list", None, "test_list: must be strings"),
        ("humaneval", "test", None, "test: must be a string"),
        ("fineweb", "text", 5, "text: must be a string"),
    ],
)
def test_a_wrong_field_is_named(name, field, value, message, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**RECORDS[name][0], field: value}))
    with pytest.raises(UserError, match=f"line 1: .*{re.escape(message)}"):
        all_of(name, path)


@pytest.mark.parametrize(
    "solution, answer",
    [
        (r"so $\boxed 5$.", "5"),
        (r"so \fbox{7}", "7"),
        (r"\boxed{a} or \boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{\begin{matrix} 1 \\{2} \end{matrix}}", r"\begin{matrix} 1 \\{2} \end{matrix}"),
    ],
)
def test_what_is_in_a_box_is_the_answer(solution, answer):
    assert sets.boxed(solution) == answer


def test_more_letters_than_ten():
    asked = sets.mmlu({**RECORDS["mmlu"][0], "choices": [f"{n}" for n in range(12)], "answer": 11})
    assert asked["answer"] == "L" and "\nL. 11\n" in asked["messages"][0]["content"]


def test_equal_ids_are_told_apart_and_odd_scores_are_no_json(tmp_path):
    record = {"text": "A page.", "id": 0, "score": float("nan"), "url": {"a": 1}, "split": "test", "language": "en"}
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps(record)] * 2))
    (tmp_path / "b.json").write_text("\ufeff" + json.dumps([record]))
    code, said = Command(tmp_path)("--name=fineweb", f"--files={tmp_path}/?.js*")
    assert code == 0, said
    made = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [r["id"] for r in made] == ["fineweb-0", "fineweb-0-a-jsonl-2", "fineweb-0-b-json-1"]
    assert made[0] == {
        "id": "fineweb-0",
        "source": "fineweb",
        "text": "A page.",
        "split": "val",
        "score": None,
        "language": "en",
    }


@pytest.fixture
def hub():
    with running_hub() as server:
        for known in sets.SETS.values():
            server.repos.setdefault(known.repo, {COMMIT: {"README.md": CARD}})
        for name, known in sets.SETS.items():
            files = server.repos[known.repo][COMMIT]
            for split in known.splits:
                for number in range(2):
                    path = known.files.format(split=split).replace("*", f"{number:05d}-of-00002")
                    record = {key: mark(value, split, number) for key, value in RECORDS[name][0].items()}
                    files[path] = packed([record] * 3, path)
        yield server


def mark(value, split: str, number: int):
    """The same record, told apart by its split and file where it has a place for that."""
    return f"{value} {split} {number}" if value in ("How many?", "Some page.") else value


def packed(records: list[dict], path: str) -> bytes:
    if path.endswith(".gz"):
        return gzip.compress("\n".join(map(json.dumps, records)).encode())
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), out)
    return out.getvalue()


CARD = b"---\nlicense: cc0-1.0\n---\n# A set\n"


class Command:
    """`python -m data_pipelines.sets` with a cache and, if there is one, a Hub of its own."""

    def __init__(self, folder: Path, hub: Hub | None = None):
        self.output = folder / "out.jsonl"
        endpoint = hub.url if hub else "http://127.0.0.1:9"  # nobody listens there
        self.environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "cache")}
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN"):
            self.environment.pop(name, None)

    def start(self, *flags: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "data_pipelines.sets", f"--output={self.output}", *flags]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, **pipes)

    def __call__(self, *flags: str) -> tuple[int, str]:
        process = self.start(*flags)
        out, errors = process.communicate(timeout=DEADLINE)
        assert "Traceback" not in errors
        return process.returncode, out + errors

    def refused(self, code: int, *flags: str) -> str:
        """What it says, in one line."""
        returned, said = self(*flags)
        assert returned == code, said
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        return line

    def records(self) -> list[dict]:
        return [json.loads(line) for line in self.output.read_text().splitlines()]

    def noted(self) -> dict:
        return json.loads(Path(f"{self.output}.json").read_text())


@pytest.fixture
def command(hub, tmp_path):
    return Command(tmp_path, hub)


def test_every_set_comes_from_the_hub(hub, tmp_path):
    """All in one process, by the same calls as the command makes: a process each would take a minute."""
    script = (
        "import sys; from pathlib import Path; from data_pipelines import sets\n"
        "for name, known in sets.SETS.items():\n"
        "    for split in known.splits:\n"
        "        files = sets.OnHub(known.repo, known.files.format(split=split), None, False)\n"
        "        commit, licence, names = files.listed()\n"
        "        made = list(sets.converted(name, files.fetched(commit, names), [], [], split))\n"
        "        print(name, split, len(made), len({record['id'] for record in made}))\n"
    )
    environment = Command(tmp_path, hub).environment
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, known in sets.SETS.items():
        assert all(f"{name} {split} 6 6\n" in done.stdout for split in known.splits), name


def test_a_set_is_downloaded_once_and_noted_with_checksums_and_licence(hub, command):
    code, said = command("--name=gsm8k", "--split=test")
    assert code == 0 and "6 records of gsm8k, 0 left out, licence MIT" in said
    files = hub.repos["openai/gsm8k"][COMMIT]
    names = [f"main/test-0000{number}-of-00002.parquet" for number in range(2)]
    assert [record["messages"][0]["content"] for record in command.records()] == ["How many? test 0"] * 3 + [
        "How many? test 1"
    ] * 3
    sums = [{"file": name, "sha256": hashlib.sha256(files[name]).hexdigest()} for name in names]
    assert all(f"{file['file']} SHA-256 {file['sha256']}" in said for file in sums)
    noted = {"name": "gsm8k", "repository": "openai/gsm8k", "commit": COMMIT, "split": "test", "licence": "MIT"}
    assert command.noted() == {**noted, "records": 6, "left_out": 0, "files": sums}
    assert [name.split("/", 3)[3] for name in hub.downloads()] == names
    before, first = hub.downloads(), command.output.read_bytes()
    hub.asked.clear()
    assert command("--name=gsm8k", "--split=test")[0] == 0
    assert not hub.downloads() and len(hub.asked) == 1 and before  # asks only which commit is the newest
    hub.asked.clear()
    assert command("--name=gsm8k", "--split=test", "--offline")[0] == 0
    assert not hub.asked and command.output.read_bytes() == first


def test_a_limit_fetches_no_more_files_than_it_needs(hub, command):
    assert command("--name=gsm8k", "--limit=2")[0] == 0
    assert len(command.records()) == 2 and len(hub.downloads()) == 1
    missing = command.refused(2, "--name=gsm8k", "--offline")
    assert "main/train-00001-of-00002.parquet is not in the Hub's cache; run this once without --offline" in missing
    assert command("--name=gsm8k", "--limit=3", "--offline")[0] == 0
    assert command("--name=gsm8k", "--limit=4")[0] == 0 and len(hub.downloads()) == 2


def test_another_dataset_by_its_path_and_revision(hub, command):
    pages = {"README.md": CARD, "a/one.parquet": packed([RECORDS["fineweb"][0]], "x.parquet")}
    hub.add("me/pages", pages)
    old = packed([{"text": "An old page."}], "x.parquet")
    hub.add("me/pages", {"a/one.parquet": old}, OLD_COMMIT)  # without a card
    assert command("--name=fineweb", "--files=hf://datasets/me/pages/a/*.parquet")[0] == 0
    noted = command.noted()
    assert (noted["repository"], noted["commit"], noted["licence"]) == ("me/pages", COMMIT, "cc0-1.0")
    for flags in (
        (f"--files=hf://datasets/me/pages@{OLD_COMMIT}/*.parquet",),
        ("--files=hf://datasets/me/pages/a/*", f"--revision={OLD_COMMIT}"),
    ):
        code, said = command("--name=fineweb", *flags)
        assert code == 0 and "licence not stated on its card" in said
        assert command.noted()["commit"] == OLD_COMMIT and command.records()[0]["text"] == "An old page."


def test_a_download_that_breaks_off_ends_the_run_and_the_next_one_is_whole(hub, command):
    hub.cut, hub.then = 100, 503
    line = command.refused(1, "--name=gsm8k")
    assert "cannot be fetched" in line and "run the same command again" in line
    assert not command.output.exists() and not Path(f"{command.output}.json").exists()
    hub.cut = 0
    assert command("--name=gsm8k")[0] == 0 and len(command.records()) == 6


def test_a_kill_loses_only_the_file_that_was_under_way(hub, command):
    files = hub.repos["openai/gsm8k"][COMMIT]
    first, second = "main/train-00000-of-00002.parquet", "main/train-00001-of-00002.parquet"
    files[second] = packed([{**RECORDS["gsm8k"][0], "question": f"{n}"} for n in range(2000)], second)
    hub.cut = len(files[first])
    hub.stalls.set()
    process = command.start("--name=gsm8k")
    while not any(second in name for name in hub.downloads()):
        assert process.poll() is None
        threading.Event().wait(0.05)
    process.kill()
    process.communicate()
    assert not command.output.exists()
    hub.stalls.clear()
    hub.cut = 0
    hub.asked.clear()
    assert command("--name=gsm8k")[0] == 0 and len(command.records()) == 2003
    assert [second in name for name in hub.downloads()] == [True]


def test_a_damaged_file_in_the_cache_is_named(hub, command):
    assert command("--name=gsm8k", "--limit=1")[0] == 0
    (blob,) = [path for path in command.output.parent.glob("cache/hub/*/blobs/*") if len(path.name) == 64]
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    assert f"delete {blob}" in command.refused(2, "--name=gsm8k", "--limit=1")


def test_a_gated_set_says_how_to_get_in(hub, command):
    hub.gated.add("openai/gsm8k")
    line = command.refused(2, "--name=gsm8k")
    assert "is gated: accept its terms on" in line and "hf auth login" in line and "HF_TOKEN" in line
    command.environment["HF_TOKEN"] = "hf_good"
    assert command("--name=gsm8k", "--limit=1")[0] == 0


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--files=hf://datasets/no/such/*"], "no/such is not on the Hub, or not for you: check the name"),
        (["--files=hf://datasets/openai/gsm8k/none*"], "openai/gsm8k has no file none*"),
        (["--files=hf://openai/gsm8k"], "must be hf://datasets/OWNER/NAME/GLOB"),
        (["--revision=none"], "has no revision 'none'"),
        (["--split=dev"], "gsm8k has no split 'dev'; choose from train, test"),
        (["--split=test", "--files=a"], "leave it out, or --files"),
        (["--offline"], "openai/gsm8k is not in the Hub's cache"),
        (["--files=none*"], "no file matches"),
        (["--files=none*", "--offline"], "are for the Hub"),
        (["--output="], "--output is missing"),
        (["--name=wikipedia"], "should be one of"),
    ],
)
def test_a_users_mistake_is_one_line(flags, message, command):
    assert message in command.refused(2, "--name=gsm8k", *flags)
    assert not command.output.exists()


def test_a_hub_that_is_not_there_is_a_failed_run(hub, command, tmp_path):
    away = Command(tmp_path)
    line = away.refused(1, "--name=gsm8k")
    assert "openai/gsm8k cannot be fetched" in line and "run the same command again" in line
    assert command("--name=gsm8k")[0] == 0
    assert away("--name=gsm8k")[0] == 0  # from the cache


def test_the_command_lists_the_sets_and_reads_files_of_ones_own(tmp_path):
    listed = subprocess.run([sys.executable, "-m", "data_pipelines.sets"], cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0 and all(known.licence in listed.stdout for known in sets.SETS.values())
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").write_text("\n".join([json.dumps(RECORDS["mmlu"][0])] * 3))
    command = Command(tmp_path)
    code, said = command("--name=mmlu", f"--files={tmp_path}/*/x.jsonl", "--limit=5")
    assert code == 0 and "5 records of mmlu, 0 left out, licence MIT" in said
    assert [file["file"] for file in command.noted()["files"]] == ["a/x.jsonl", "b/x.jsonl"]
    assert len({record["id"] for record in command.records()}) == 5


@pytest.mark.skipif(not os.path.isdir(PUBLIC), reason=f"no public sets in {PUBLIC}")
@pytest.mark.parametrize(
    "name, file, count",
    [
        ("gsm8k", "gsm8k/test.jsonl", 1319),
        ("humaneval", "humaneval/HumanEval.jsonl.gz", 164),
        ("hh-rlhf", "hh-rlhf/test.jsonl.gz", 2299),
    ],
)
def test_public_files_are_read_whole(name, file, count):
    made, _, wrong = all_of(name, PUBLIC / file)
    assert len(made) == count and len({record["id"] for record in made}) == count
    assert len(wrong) == (13 if name == "hh-rlhf" else 0)
