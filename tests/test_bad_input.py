"""A user's mistake gives exit code 2 and one line that names the thing and the mend."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from llm_jax.checkpoint import FORMAT_VERSION
from tests.commands import ENVIRONMENT, ROOT, TINY, refused, run, tiny


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--config.model.dimm=3", ("model.dimm",)),
        ("--config.model.dim=many", ("model.dim",)),
        ("--config.modle.dim=3", ("modle",)),
        ("--config.model.layer_pattern=('wide',)", ("layer_pattern", "full")),
        ("--config.model.kv_heads=3", ("model.kv_heads",)),
        ("--config.mesh.data=4", ("mesh", "devices")),
        ("--config.optimizer.name=sgd", ("muon", "adamw")),
        ("--config.rl.group=7", ("rl.batch", "rl.group")),
        ("--stages=pretrian", ("pretrian", "pretrain")),
        ("--colour=red", ("colour",)),
    ],
)
def test_bad_flags(tmp_path, flag, words):
    refused(tiny(tmp_path / "run", "--stages=data,pretrain", flag), *words)
    assert not (tmp_path / "run" / "pretrain" / "checkpoints").exists()


def test_unknown_key_in_a_config_file_names_the_nearest(tmp_path):
    config = tmp_path / "typo.py"
    config.write_text(
        "from llm_jax.config import default\ndef get_config():\n  c = default()\n  c.model.layerz = 3\n  return c\n"
    )
    refused(run("llm_jax.main", f"--config={config}", f"--workdir={tmp_path}/run"), "layerz", "model.layers")


def test_an_accelerator_that_is_not_here(tmp_path):
    command = [sys.executable, "-m", "llm_jax.main", f"--config={TINY}", f"--workdir={tmp_path}/run"]
    env = {**ENVIRONMENT, "JAX_PLATFORMS": "cuda"}
    result = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True)
    refused(result, "JAX_PLATFORMS=cuda", "not here")
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_version_is_neither_read_nor_gone_on_with(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": {"model.dim": 64}}))
    refused(run("llm_jax.chat", f"--workdir={tmp_path}", "--prompt=hi"), "another version", str(tmp_path))
    before = (tmp_path / "config.json").read_text()
    refused(tiny(tmp_path), "another version")
    assert (tmp_path / "config.json").read_text() == before and len(list(tmp_path.iterdir())) == 1


def test_a_damaged_config_of_a_run(tmp_path):
    noted = {"format": FORMAT_VERSION, "config": {"model.remat": True}}
    (tmp_path / "config.json").write_text(json.dumps(noted))
    refused(run("llm_jax.chat", f"--workdir={tmp_path}", "--prompt=hi"), "damaged", "model.remat")


def test_missing_config_and_workdir(tmp_path):
    refused(run("llm_jax.main", f"--config={tmp_path}/none.py", f"--workdir={tmp_path}/run"), "none.py")
    refused(run("llm_jax.main", f"--config={TINY}"), "workdir")


def documents(tmp_path, *args):
    return tiny(tmp_path / "run", f"--config.data.documents={tmp_path}/in/*", "--stages=data,pretrain", *args)


def test_missing_corpus(tmp_path):
    refused(documents(tmp_path), "no file matches", "glob")


def test_empty_corpus(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("  \n")
    refused(documents(tmp_path), "no text")


def test_invalid_utf8(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_bytes(b"good text \xff bad")
    refused(documents(tmp_path), "a.txt", "UTF-8", "byte 10")


def test_broken_jsonl_names_file_and_line(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_text('{"text": "fine"}\n{"txt": 1}\n')
    refused(documents(tmp_path), "a.jsonl line 2", "text")


def test_vocabulary_too_large_for_the_text(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("a few words only " * 3)
    refused(
        documents(tmp_path, "--config.data.scale=0.01", "--config.tokenizer.vocab_size=30000"), "tokenizer.vocab_size"
    )


def test_one_long_line_is_fine(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("word and word again, and more words " * 3000)
    result = documents(tmp_path, "--config.tokenizer.vocab_size=400", "--stages=data")
    assert result.returncode == 0, result.stderr[-2000:]
    counts = json.loads((tmp_path / "run/data/prepared.json").read_text())["counts"]["pretrain"]
    assert counts["rows"] >= 10


def test_a_later_stage_without_the_one_before(prepared, tmp_path):
    workdir = prepared(tmp_path / "run")
    refused(tiny(workdir, "--stages=sft"), "pretrain", "init_from")
    refused(run("llm_jax.chat", f"--workdir={workdir}", "--prompt=hi"), "no trained stage")
    refused(run("llm_jax.chat", f"--workdir={tmp_path}/nowhere", "--prompt=hi"), "config.json")
    shutil.rmtree(workdir / "data")
    refused(tiny(workdir, "--stages=pretrain"), "data")


@pytest.mark.slow  # tests/test_checkpoint.py has the reading
def test_damaged_checkpoint_is_named(prepared, tmp_path):
    workdir = prepared(tmp_path / "run")
    assert tiny(workdir, "--stages=pretrain").returncode == 0
    meta = next((workdir / "pretrain/checkpoints/12").rglob("meta/metadata"))
    record = json.loads(meta.read_text())
    key = next(iter(record["checksums"]))
    record["checksums"][key] ^= 1
    meta.write_text(json.dumps(record))
    refused(tiny(workdir, "--stages=sft"), "damaged", "pretrain")


def can_mount() -> bool:
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode
    )


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="no permission for a private mount namespace")
def test_full_disk(tmp_path):
    """A disk of 2 MB in a private mount namespace: the run says so, and goes on once there is room."""
    workdir, text = tmp_path / "small", tmp_path / "text.txt"
    workdir.mkdir()
    text.write_text("word and word again, and more words " * 3000)
    command = f"{sys.executable} -m llm_jax.main --config={TINY} --workdir={workdir}/run --stages=data,pretrain"
    command += f" --config.data.documents={text} --config.tokenizer.vocab_size=400 --config.data.scale=0.01"
    script = (
        f"mount -t tmpfs -o size=2m none {workdir} && {command}; echo code $?; "
        f"mount -o remount,size=200m {workdir}; {command}; echo code $?"
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True
    )
    codes = [line for line in done.stdout.splitlines() if line.startswith("code")]
    assert codes == ["code 1", "code 0"], done.stdout[-1500:] + done.stderr[-1500:]
    assert "disk is full" in done.stderr
    assert os.path.ismount(workdir) is False
