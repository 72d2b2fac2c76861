"""What a workdir means: a refused command changes nothing, one command writes at a time, odd places are one line."""

import contextlib
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import main, rows
from llm_jax.checkpoint import FORMAT_VERSION, Checkpoints
from llm_jax.config import UserError
from llm_jax.evals.run import of_training
from llm_jax.report.finish import finish
from llm_jax.stage_table import STAGES
from llm_jax.stages import data


def begin(run, *stages: str) -> contextlib.ExitStack:
    held = contextlib.ExitStack()
    main.begin(run, [STAGES[name] for name in stages], held)
    return held


def contents(folder) -> dict:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(run, match: str, *stages: str) -> None:
    """Nothing is made, and what is there is as it was, also where another command has noted another config."""
    before = contents(run.workdir.parent)
    with pytest.raises(UserError, match=match), begin(run, *stages):
        pass
    assert contents(run.workdir.parent) == before


def save(run, stage: str, step: int, steps: int, **meta) -> None:
    with Checkpoints(run.workdir, stage) as store:
        params = {"w": jnp.ones(3)}
        meta = {"steps": steps, "parent": None, "tokenizer": run.tokenizer_sha256, **meta}
        store.save(step, params, params, meta)
        store.wait()


@pytest.fixture
def prepared_run(context):
    """Stage `data` is done, and another command has noted its config."""
    folder = context.workdir / "data"
    (folder / "prepared.json").write_text(json.dumps({"counts": {}}))
    (folder / "prompts_test.jsonl").write_text("")
    for stage in ("pretrain", "sft"):
        rows.write_shard(folder / stage / "web/00000.array_record", np.ones((2, 4, 5), np.int32), {"targets": 8})
    begin(context, "data").close()
    context.config.log.eval_every += 1
    return context


def test_a_command_that_cannot_run_changes_nothing(prepared_run):
    run, folder = prepared_run, prepared_run.workdir / "data"
    refused(run, "'sft' starts from 'pretrain', which has not run here", "sft", "evaluate")
    refused(run, "run stage `evaluate` first", "report")
    save(run, "pretrain", 2, 4)
    refused(run, "step 2 of 4; train that to its end first", "sft", "rl")
    for name, match in (("prompts_test.jsonl", "no prompts"), ("prepared.json", "prepared.json is not there")):
        (folder / name).rename(folder / "away")
        refused(run, match, "evaluate", "report")
        (folder / "away").rename(folder / name)
    (folder / "tokenizer.model").unlink()
    del run.tokenizer
    refused(run, "tokenizer.model", "pretrain")
    assert json.loads((run.workdir / "config.json").read_text())["config"]["log.eval_every"] == 1000


def test_what_an_earlier_stage_is_to_make_is_not_missed(prepared_run):
    prepared_run.config.rl.tasks = {"arithmetic": 1.0}
    with begin(prepared_run, "pretrain", "sft", "rl", "evaluate", "report"):
        noted = json.loads((prepared_run.workdir / "config.json").read_text())
        assert noted["config"]["log.eval_every"] == 1001


def test_a_second_command_is_refused_while_the_first_is_at_work(prepared_run):
    with begin(prepared_run, "pretrain"):
        refused(prepared_run, "another command is at work in", "pretrain")
    with begin(prepared_run, "pretrain"):
        pass


@pytest.mark.parametrize("place", ["run [1] a", "ü/~x"])
def test_a_new_folder_is_made_and_held_whatever_its_name(context, place):
    context.workdir = context.workdir.parent / place
    with begin(context, "data"):
        refused(context, "another command is at work in", "data")
    assert {path.name for path in context.workdir.iterdir()} == {"config.json"}


def test_a_file_in_the_place_of_a_folder(context, tmp_path):
    for name in ("pretrain", "report"):
        (context.workdir / name).write_text("mine")
        refused(context, f"{name} is no folder", "data")
        (context.workdir / name).unlink()
    (context.workdir / "sft").mkdir()
    (context.workdir / "sft/checkpoints").write_text("mine")
    refused(context, "checkpoints is no folder", "data")
    context.workdir = tmp_path / "file"
    context.workdir.write_text("mine")
    refused(context, "file is no folder", "data")
    context.workdir = tmp_path / "file/run"
    refused(context, "file is no folder", "data")


def test_a_folder_of_another_users(context, monkeypatch):
    (context.workdir / "pretrain/checkpoints").mkdir(parents=True)
    real = main.writable.__globals__["os"].access
    for place in ("pretrain/checkpoints", "pretrain", ""):

        def mine(path, mode, place=place, **how):
            return path != context.workdir / place and real(path, mode, **how)

        monkeypatch.setattr("os.access", mine)
        refused(context, "may not be written to by this user", "data")


@pytest.mark.parametrize("text", ["", '{"format"', "[]", f'{{"format": {FORMAT_VERSION}}}'])
def test_a_damaged_config_is_one_line(prepared_run, text):
    (prepared_run.workdir / "config.json").write_text(text)
    refused(prepared_run, r"config\.json is damaged", "pretrain")


def test_a_damaged_parent_is_named_and_children_of_it_stand(prepared_run):
    """Training it once more from the checkpoint before heals it: nothing that was trained from it is to be moved."""
    run = prepared_run
    save(run, "pretrain", 3, 4), save(run, "pretrain", 4, 4)
    parent = main.lineage.parent_of(run, "sft")
    save(run, "sft", 2, 2, parent=parent)
    record = run.workdir / "pretrain/checkpoints/4/meta/metadata"
    record.write_text(record.read_text().replace('"steps"', '"stepz"'))
    refused(run, "checkpoints/4 is damaged: .*; run stage 'pretrain' once more", "sft")
    run.config.pretrain.steps = 4
    with begin(run, "pretrain", "sft"):
        pass
    shutil.rmtree(record.parents[1])  # as the next command begins, which was stopped before step 4
    with begin(run, "pretrain", "sft"):
        pass
    run.config.pretrain.steps = 5
    refused(run, "'sft' was trained from step 4 of 'pretrain', which is to go on to step 5", "pretrain")


@pytest.fixture
def own(context, tmp_path):
    """A run whose stage `data` was made of two files."""
    texts = tmp_path / "texts [1]"
    texts.mkdir()
    for name in ("a.txt", "b.txt"):
        (texts / name).write_text(f"The text of {name}.")
    context.config.data.documents = f"{texts}/*.txt"
    context.config.data.prepare = "tests.test_workdir:prepare"
    data.prepare(context)
    return context, texts


def prepare(config, workdir) -> None:
    """Stands for a preparation: a row set of two shards."""
    folder = workdir / "data/pretrain/text"
    folder.mkdir(parents=True)
    for number in range(2):
        (folder / f"{number:05d}.array_record").write_text("")
        (folder / f"{number:05d}.json").write_text('{"rows": 3}')
    (workdir / "data/prepared.json").write_text(json.dumps({"counts": {"pretrain": {}, "pretrain/text": {"rows": 6}}}))


def test_inputs_that_are_the_same_go_on(own):
    run, texts = own
    data.check(run, ["data"])
    shutil.copytree(texts, texts.parent / "copy")  # other times of change
    for path in (texts.parent / "copy").iterdir():
        path.replace(texts / path.name)
    data.check(run, ["data"])


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda texts: (texts / "c.txt").write_text("new"), r"c\.txt is new\)"),
        (lambda texts: (texts / "a.txt").unlink(), r"a\.txt is gone\)"),
        (lambda texts: (texts / "b.txt").write_text("The text of c.txt."), r"b\.txt is changed\)"),
        (lambda texts: (texts / "b.txt").rename(texts / "c.txt"), r"b\.txt is gone, and 1 more\)"),
    ],
)
def test_inputs_that_changed_under_a_finished_stage_are_refused(own, change, match):
    run, texts = own
    change(texts)
    refused(run, match + "; move .*/data away", "data", "pretrain")


def test_inputs_that_are_all_gone_have_not_changed(own, capsys):
    """A run that goes on where its raw material is not."""
    run, texts = own
    shutil.rmtree(texts)
    data.check(run, ["data"])
    assert "no file of data.documents is here any more" in capsys.readouterr().err
    (run.workdir / "data/prepared.json").unlink()
    refused(run, "no file matches data.documents", "data")


@pytest.mark.parametrize("name", ["00001.array_record", "00000.*"])
def test_a_shard_that_is_gone_is_noticed(own, name):
    run, _ = own
    for path in (run.workdir / "data/pretrain/text").glob(name):
        path.unlink()
    refused(run, "data/pretrain/text holds 3 rows, and 6 were made", "data", "pretrain")
    refused(run, "data/pretrain/text holds 3 rows, and 6 were made", "pretrain")


def test_what_the_users_files_hold_is_read_before_anything_is_written(context, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"txt": 1}\n')
    context.config.data.documents = f"{tmp_path}/a.jsonl"
    refused(context, r"a\.jsonl line 2", "data", "pretrain")
    context.config.data.documents, context.config.data.conversations = "", f"{tmp_path}/a.jsonl"
    refused(context, r"a\.jsonl line 1", "data", "pretrain")


def test_a_missing_summary_is_read_from_the_checkpoint(context):
    """And text may hold ends of lines that are none of JSON lines."""
    log = {"seconds": 4.0, "tokens": 100, "first_step_seconds": 1.5}
    save(context, "pretrain", 4, 4, log=log)
    documents = [{"source": "a", "split": split, "text": f"a\u2028b\u0085c {split}"} for split in ("train", "val")]
    lines = [json.dumps(document, ensure_ascii=False) for document in documents]
    (context.workdir / "data/documents.jsonl").write_text("\n".join(lines), encoding="utf-8")
    measured = of_training(context, "pretrain")
    assert measured["tokens_per_second"]["value"] == 25 and measured["xz_bpb"]["value"] > 0


def test_printed_commands_can_be_pasted(context, capsys, monkeypatch):
    context.workdir = context.workdir.rename(context.workdir.with_name("my run"))
    (context.workdir / "report").mkdir()
    (context.workdir / "report/report.json").write_text("{}")
    monkeypatch.setattr("llm_jax.report.finish.write_page", lambda workdir: workdir / "report/index.html")
    finish(context)
    assert f"llm_jax.chat --workdir='{context.workdir}'" in capsys.readouterr().out
