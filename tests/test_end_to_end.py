"""The whole path at toy size through the real commands, with real kills."""

import json
import signal

import numpy as np
import pytest

from tests.commands import DEADLINE, TINY, refused, run, start, tiny, until


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prepared):
    workdir = prepared(tmp_path_factory.mktemp("run") / "tiny")
    result = tiny(workdir)
    assert result.returncode == 0, result.stderr[-3000:]
    return workdir


def losses(workdir, stage):
    lines = [json.loads(line) for line in (workdir / stage / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_every_stage_leaves_its_files(finished):
    for stage, steps in (("pretrain", 12), ("sft", 8), ("rl", 2)):
        assert list(losses(finished, stage)) == list(range(1, steps + 1))
        assert (finished / stage / "checkpoints" / str(steps)).is_dir()
        assert list((finished / stage).glob("events.*")), "no TensorBoard events"
        assert json.loads((finished / stage / "summary.json").read_text())["first_step_seconds"] > 0
    assert (finished / "config.json").is_file()


def test_report_has_every_promised_key_with_n_and_interval(finished):
    report = json.loads((finished / "report/report.json").read_text())
    rates = {
        "sft": ("ends_turn", "recall_people_never_asked", *(f"recall_tier_{n}" for n in (0, 1, 3, 10, 30, 100))),
        "rl": ("accuracy_before", "accuracy_after", "sampled_before", "sampled_after", "format_after", "thinks_after"),
        "think": ("direct", "with_thinking", "two_number_direct"),
        "tools": ("with", "without", "call_rate", "call_correct", "format_without"),
    }
    found = [(group, name, report[group][name]) for group, names in rates.items() for name in names]
    for turn in ("first_turn", "second_turn"):
        assert set(report["sft"][turn]) == set(report["final"]["sft"][turn]) == {"sums", "tools", "recall"}
        found += [(turn, name, metric) for name, metric in report["sft"][turn].items()]
    for group, name, metric in found:
        if not metric["n"]:
            assert name == "call_correct", (group, name)  # of the calls, and so small a model makes none
            continue
        low, high = metric["ci95"]
        assert low <= metric["value"] <= high, (group, name, metric)
    assert set(report["final"]) >= {"sft", "think", "tools"}
    assert report["pretrain"]["val_bpb"]["value"] > 0 and report["pretrain"]["xz_bpb"]["value"] > 0
    assert 0 <= report["rl"]["logp_gap_max"]["value"] <= 1e-4
    assert (
        report["total_seconds"]["value"]
        >= sum(report["seconds"][s]["value"] for s in ("pretrain", "sft", "rl", "evaluate")) - 1
    )
    assert report["machine_gflops"]["value"] > 0
    families = {name: node for name, node in report["map"].items() if "value" not in node}
    assert len(families) >= 25 and all(4 <= len(rungs) <= 6 for rungs in families.values())
    assert {way for rungs in families.values() for cell in rungs.values() for way in cell} == {
        "direct",
        "think",
        "tool",
    }
    assert report["final"]["map"] == report["map"]


def test_conversations_of_every_kind_are_trained_on_and_held_out(finished):
    counts = json.loads((finished / "data/prepared.json").read_text())["counts"]
    spoken = [json.loads(line) for line in (finished / "data/conversations.jsonl").read_text().splitlines()]
    for split, rows in (("train", "sft"), ("val", "sft_validation")):
        of_split = {record["source"] for record in spoken if record["split"] == split}
        assert {name for name in counts if name.startswith(f"{rows}/")} == {f"{rows}/{source}" for source in of_split}
        assert {"multi_turn", "arithmetic"} <= of_split and (split == "val" or "facts" in of_split)
    held, trained = counts["sft_validation"]["documents"], counts["sft"]["documents"]
    assert 0.02 < held / (held + trained) < 0.1


def test_no_fact_that_is_tested_is_taught_by_sft_or_rl(finished):
    """Whoever the test questions are about is named by no conversation and no training prompt; the others are."""
    read = lambda name: (finished / "data" / name).read_text()  # noqa: E731
    people = [json.loads(line) for line in read("world.jsonl").splitlines()]
    asked = {json.loads(line)["person"] for line in read("questions_test.jsonl").splitlines()}
    tested = [person for person in people if person["id"] in asked]
    assert {person["kind"] for person in tested} == {"tier", "unasked", "heldout", "near_miss"}
    for taught in (read("conversations.jsonl"), read("prompts_train.jsonl")):
        assert not [person["name"] for person in tested if person["name"] in taught]
        assert any(person["name"] in taught for person in people if person["kind"] == "extra")


def test_page_is_self_contained(finished):
    page = (finished / "report/index.html").read_text()
    assert "<svg" in page and 'src="http' not in page and "<link" not in page


def test_same_command_again_does_no_step_twice(finished):
    before = (finished / "pretrain/metrics.jsonl").read_text()
    assert tiny(finished, "--stages=data,pretrain,sft,rl").returncode == 0
    assert (finished / "pretrain/metrics.jsonl").read_text() == before


def test_another_config_in_the_same_workdir_is_refused_with_the_keys(finished):
    refused(tiny(finished, "--config.model.dim=96"), "model.dim: 64 -> 96", "--workdir")


def test_a_longer_run_and_other_logging_are_welcome(finished):
    assert tiny(finished, "--stages=rl", "--config.rl.steps=3", "--config.checkpoint.every=1").returncode == 0
    assert max(losses(finished, "rl")) == 3


def test_a_parent_of_others_is_not_trained_on(finished):
    before = (finished / "config.json").read_text()
    refused(tiny(finished, "--stages=pretrain", "--config.pretrain.steps=14"), "'sft'", "step 12 of 'pretrain'", "14")
    assert (finished / "config.json").read_text() == before and max(losses(finished, "pretrain")) == 12


def test_chat_answers_once_as_text_and_as_json(finished):
    shown = run("llm_jax.chat", f"--workdir={finished}", "--stage=sft", "--prompt=Who are you?")
    assert shown.returncode == 0, shown.stderr[-2000:]
    result = run("llm_jax.chat", f"--workdir={finished}", "--prompt=Who are you?", "--json")
    answer = json.loads(result.stdout)
    assert set(answer) == {"text", "thinking", "tool_calls", "tokens", "seconds"}
    assert answer["tokens"] > 0


def test_chat_holds_a_conversation(finished):
    result = run("llm_jax.chat", f"--workdir={finished}", "--stage=sft", stdin="Hello!\nWhat is 12+7?\n\n")
    assert result.returncode == 0 and result.stdout.count("> ") == 3


def test_base_model_continues_a_document(finished):
    result = run("llm_jax.chat", f"--workdir={finished}", "--stage=pretrain", "--prompt=How to", "--json")
    answer = json.loads(result.stdout)
    assert answer["tokens"] > 0 and answer["tool_calls"] == []


def test_evaluate_one_stage(finished):
    result = run("llm_jax.evaluate", f"--workdir={finished}", "--stage=sft", "--tasks=think,tools")
    assert result.returncode == 0, result.stderr[-2000:]
    measured = json.loads(result.stdout.splitlines()[-1])
    assert set(measured) == {"think", "tools"}


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        signal.SIGKILL,
    ],
)
def test_killed_and_resumed_equals_never_killed(finished, prepared, tmp_path, stop):
    """Bit for bit: losses of every step, and the last parameters' checksums."""
    workdir = prepared(tmp_path / "killed")
    args = ("llm_jax.main", f"--config={TINY}", f"--workdir={workdir}", "--stages=data,pretrain")
    process = start(*args)
    metrics = workdir / "pretrain/metrics.jsonl"
    until(lambda: process.poll() is not None or (metrics.exists() and metrics.read_text().count('"loss"') >= 5))
    process.send_signal(stop)
    process.communicate(timeout=DEADLINE)
    if stop != signal.SIGKILL:
        assert process.returncode == 0
    again = run(*args)
    assert again.returncode == 0, again.stderr[-2000:]
    assert losses(workdir, "pretrain") == losses(finished, "pretrain")
    assert checksums(workdir, 12) == checksums(finished, 12)


def checksums(workdir, step):
    from llm_jax.checkpoint import Checkpoints

    store = Checkpoints(workdir, "pretrain")
    sums = store.meta(step)["checksums"]
    store.close()
    return sums


def test_a_folder_of_the_users_own_text(tmp_path):
    for i in range(40):
        words = np.random.default_rng(i).permutation("the cat sat on a mat and saw an old red fox by the lake".split())
        (tmp_path / f"{i}.txt").write_text(" ".join([*words] * 12))
    result = tiny(
        tmp_path / "run",
        f"--config.data.documents={tmp_path}/*.txt",
        "--config.tokenizer.vocab_size=400",
        "--stages=data,pretrain",
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(losses(tmp_path / "run", "pretrain")) == 12


def test_conversations_of_the_users_own(finished, tmp_path):
    """In two of the formats that people have; a record of none is refused by its line and field."""
    talk = [{"from": "human", "value": "Who sat on the mat?"}, {"from": "gpt", "value": "The cat."}]
    hello = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    lines = [{"conversations": talk}] * 20 + [{"messages": hello}] * 19
    pair = {"prompt": hello[:1], "rejected": "No."}
    lines += [{**pair, "chosen": "Hello!"}, {**pair, "chosen": "Good day!"}]  # the first one is there already
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    flags = (f"--config.data.conversations={path}", f"--config.init_from={finished}:pretrain")
    result = tiny(tmp_path / "run", *flags, "--stages=data,sft")
    assert result.returncode == 0, result.stderr[-2000:]
    noted = json.loads((tmp_path / "run/data/prepared.json").read_text())["counts"]
    assert noted["sft"]["documents"] + noted["sft_validation"].get("documents", 0) == 40
    assert losses(tmp_path / "run", "sft")[8] < losses(tmp_path / "run", "sft")[1]
    path.write_text(path.read_text() + '\n{"messages": [{"role": "king", "content": "x"}]}')
    refused(tiny(tmp_path / "bad", *flags, "--stages=data"), "talk.jsonl line 42", "messages[0].role")


def test_a_stage_starts_from_another_run(finished, prepared, tmp_path):
    workdir = prepared(tmp_path / "branch")
    result = tiny(workdir, "--stages=sft", f"--config.init_from={finished}:pretrain")
    assert result.returncode == 0, result.stderr[-2000:]
    assert losses(workdir, "sft")[1] == losses(finished, "sft")[1]


@pytest.mark.parametrize(
    "init_from, flag, words",
    [
        ("{}:pretrain", "--config.model.rope_base=500.0", ("model.rope_base: 10000.0 -> 500.0",)),
        ("{}:pretrain", "--config.model.layer_pattern=('window:8',)", ("model.layer_pattern",)),
        ("{}:pretrian", "--config.seed=0", ("'pretrian'", "'pretrain'")),
        ("{}", "--config.seed=0", ("WORKDIR:stage",)),
        ("{}/nowhere:sft", "--config.seed=0", ("nowhere", "no run")),
    ],
)
def test_what_cannot_be_started_from_is_refused_before_anything_runs(finished, tmp_path, init_from, flag, words):
    flags = (f"--config.init_from={init_from.format(finished)}", flag, "--stages=data,sft")
    refused(tiny(tmp_path / "branch", *flags), *words)
    assert not (tmp_path / "branch").exists()
