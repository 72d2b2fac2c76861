"""One row adds a stage, a task family, a tool or a measurement from outside, and every command finds it."""

import dataclasses
import json
import re

import pytest

from data_pipelines.lessons import lesson_documents
from data_pipelines.speedrun import word_lists
from llm_jax.config import UserError
from llm_jax.evals.table import MEASUREMENTS
from llm_jax.stage_table import STAGES
from llm_jax.tables import function
from llm_jax.tasks.table import FAMILIES, Family
from llm_jax.tokenizer import Tokenizer
from llm_jax.tools.table import TOOLS
from tests.commands import ROOT, refused, run
from tests.serve.servers import serving

TOYS = str(ROOT / "tests" / "toy_run.py")
TABLES = (STAGES, FAMILIES, TOOLS, MEASUREMENTS)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with toys, through all stages but RL."""
    folder = tmp_path_factory.mktemp("toys")
    for i in range(30):
        (folder / f"{i}.txt").write_text("The cat sat on the mat, and the dog saw 12 red foxes by the lake. " * 10)
    made = run(
        "llm_jax.main",
        f"--config={TOYS}",
        f"--workdir={folder}/run",
        f"--config.data.documents={folder}/*.txt",
        "--config.tokenizer.vocab_size=460",
        "--stages=data,pretrain,sft,polish,evaluate,report",
    )
    assert made.returncode == 0, made.stderr[-3000:]
    return folder / "run"


def test_main_runs_the_stage_and_the_report_has_everything(workdir):
    report = json.loads((workdir / "report/report.json").read_text())
    assert report["doubled"]["right"]["n"] == 8 and report["seconds"]["polish"]["value"] > 0
    assert report["map"]["guessing"]["1 to 100"]["direct"]["n"] == 1  # on demand, and named in rl.tasks
    (cell,) = report["map"]["doubling"].values()  # any number of levels, and the ways that the row has
    assert list(cell) == ["direct"] and cell["direct"]["n"] == 1
    page = (workdir / "report/index.html").read_text()
    assert all(word in page for word in ("polishing", "doubling", "Doubled", "after polishing"))
    talk = [json.loads(line) for line in (workdir / "data/conversations.jsonl").read_text().splitlines()]
    prompts = [json.loads(line) for line in (workdir / "data/prompts_train.jsonl").read_text().splitlines()]
    assert any("Double the" in str(record) for record in talk) and any(p["task"] == "doubling" for p in prompts)
    assert not any(p["task"] == "guessing" for p in prompts)


def test_chat_evaluate_and_export_know_the_stage_and_the_rows(workdir):
    said = run("llm_jax.chat", f"--workdir={workdir}", "--prompt=Double the 12.", "--json")  # the newest one
    assert said.returncode == 0 and json.loads(said.stdout)["tokens"] > 0, said.stderr
    asked = run("llm_jax.evaluate", f"--workdir={workdir}", "--stage=polish", "--tasks=doubled")
    assert json.loads(asked.stdout.splitlines()[-1])["doubled"]["right"]["n"] == 8, asked.stderr
    refused(run("llm_jax.evaluate", f"--workdir={workdir}", "--tasks=doubledd"), "'doubledd'", "'doubled'")
    refused(run("llm_jax.chat", f"--workdir={workdir}", "--stage=polsh", "--prompt=x"), "'polsh'", "'polish'")


def test_the_server_names_the_stage_and_the_tool(workdir):
    with serving(workdir) as server:
        *_, last = server.wait().http.get(f"{server.url}/v1/models").json()["data"]
        assert (last["id"], last["kind"], last["default"]) == ("polish", "chat", True)
        assert [tool["name"] for tool in last["tools"]] == ["python", "search"]
        rung = [{"type": "function", "function": {"name": "search"}}]
        body = {"messages": [{"role": "user", "content": "Ring."}], "tools": rung, "tool_choice": "required"}
        bias = {str(Tokenizer.load(workdir / "data/tokenizer.model").close["search"][0]): 100}
        answer = server.post("/v1/chat/completions", body | {"logit_bias": bias}).json()["choices"][0]
        assert answer["message"]["tool_calls"][0]["function"] == {"name": "search", "arguments": '{"query": ""}'}


@pytest.fixture
def toy_family():
    make = lambda rng, level, split: FAMILIES["sorting"].make(rng, 0, split)  # noqa: E731
    FAMILIES.add(Family(name="toy", levels=("one", "two"), make=make, wordings=("Toy {l}",), ways={}, lesson="order"))
    yield
    FAMILIES.remove("toy")


def test_a_family_is_on_the_pages_of_its_lesson(toy_family):
    texts = [d["text"] for d in lesson_documents(0, 0.02, word_lists(0))]
    assert any("\nToy " in text for text in texts)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.kind)
def test_an_unknown_name_brings_the_nearest(table):
    name = list(table)[-1]
    with pytest.raises(UserError, match=rf"unknown {table.kind} '{name}s'.*'{name}'"):
        table.find(f"{name}s")
    with pytest.raises(UserError, match=f"unknown {table.kind} 'qqqqq'; choose from {next(iter(table))}"):
        table.find("qqqqq")


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.kind)
def test_a_row_that_lacks_a_part_or_is_there_already_is_told_by_name(table):
    row = next(iter(table.values()))
    with pytest.raises(UserError, match=f"{table.kind} '{row.name}' is there already"):
        table.add(row)
    for part in dataclasses.fields(row):
        if part.default is None:
            with pytest.raises(UserError, match=f"{table.kind} 'other' lacks '{part.name}'"):
                table.add(dataclasses.replace(row, **{"name": "other", part.name: None}))


@pytest.mark.parametrize(
    "table, name, changes, words",
    [
        (STAGES, "sft", {"name": "x"}, "stage 'x' and 'sft' have the same section"),
        (STAGES, "sft", {"name": "x", "section": "x", "kind": "king"}, "kind is 'king'"),
        (STAGES, "sft", {"name": "x", "section": "x", "run": "nowhere"}, "module:function"),
        (STAGES, "sft", {"name": "x", "section": "x", "identity": ()}, "identity"),
        (STAGES, "sft", {"name": "x", "section": "x", "follows": ("sfd",)}, "'sfd'.*'sft'"),
        (FAMILIES, "sorting", {"name": "x", "ways": {"sung": (1, 1, 1)}}, "'sung'"),
        (FAMILIES, "sorting", {"name": "x", "ways": {"direct": (1, 1)}}, "2 counts.*5 levels"),
        (FAMILIES, "sorting", {"name": "x", "levels": ()}, "one level"),
        (FAMILIES, "sorting", {"name": "x", "lesson": "music"}, "'music'"),
        (FAMILIES, "sorting", {"name": "x", "on_demand": True}, "on demand, and taught too"),
        (FAMILIES, "sorting", {"name": "x", "discount": 1.5}, "discount is 1.5; it must be from 0 to 1"),
        (TOOLS, "python", {"name": "x"}, "no span of the tokenizer"),
        (TOOLS, "python", {"name": "answer", "returns": "think"}, "'think'"),
        (TOOLS, "python", {"name": "answer", "open": "nowhere"}, "module:function"),
        (TOOLS, "python", {"name": "answer", "room": 1000}, "room is 1000; it must be 8 to 128"),
        (MEASUREMENTS, "map", {"name": "x", "on": "moon"}, "'moon'"),
    ],
)
def test_a_row_that_cannot_work_is_told_at_import(table, name, changes, words):
    with pytest.raises(UserError, match=words):
        table.add(dataclasses.replace(table[name], **changes))
    assert changes.get("name") not in table


def test_a_list_that_is_not_there_is_named():
    with pytest.raises(UserError, match="'summary' draws from the list 'first'"):
        FAMILIES["summary"].problem(None, 0, "train", {})


@pytest.mark.parametrize(
    "path", ["nowhere:x", "llm_jax.nowhere:x", "llm_jax.tables:nothing", "llm_jax", ":x", "llm_jax:"]
)
def test_a_function_that_is_not_there_is_named(path):
    with pytest.raises(UserError, match=re.escape(repr(path))):
        function(path)


def test_an_extension_that_is_not_there_is_refused_before_anything_is_written(tmp_path):
    flags = (f"--config={TOYS}", f"--workdir={tmp_path}/run", "--config.extensions=('nowhere.at_all',)")
    refused(run("llm_jax.main", *flags), "extensions", "nowhere")
    assert not (tmp_path / "run").exists()
