"""A stage's checkpoint names its parent; a parent that is another one now, or is not done, is refused."""

import jax.numpy as jnp
import pytest

from llm_jax import lineage
from llm_jax.checkpoint import Checkpoints, folder
from llm_jax.config import UserError

PARENT = {"run": ".", "stage": "pretrain", "step": 4}


@pytest.fixture
def save(context):
    """Saves a checkpoint of a stage, whose parameters are one number -> its digest."""

    def save(stage: str, step: int, steps: int, value: float, parent: dict | None = None, workdir=None) -> str:
        with Checkpoints(workdir or context.workdir, stage) as store:
            params = {"w": jnp.full(3, value)}
            store.save(step, params, params, {"steps": steps, "parent": parent, "tokenizer": context.tokenizer_sha256})
            store.wait()
        return lineage.parent_of(context, "sft")["checksum"] if stage == "pretrain" and step == steps else ""

    return save


def test_a_checkpoint_of_an_unchanged_parent_stands(context, save):
    checksum = save("pretrain", 4, 4, 1.0)
    save("sft", 2, 2, 2.0, {**PARENT, "checksum": checksum})
    lineage.check_before(context, ["pretrain", "sft", "rl"])
    assert lineage.parent_of(context, "rl")["stage"] == "sft"
    assert lineage.parent_of(context, "pretrain") is None


@pytest.mark.parametrize("step, value", [(4, 1.5), (5, 1.0)])
def test_a_parent_that_was_trained_again_is_refused_by_its_children_and_theirs(context, save, step, value):
    checksum = save("pretrain", 4, 4, 1.0)
    save("sft", 2, 2, 2.0, {**PARENT, "checksum": checksum})
    (folder(context.workdir, "pretrain") / "4").rename(context.workdir / "away")
    save("pretrain", step, step, value)
    for stage in ("sft", "rl"):
        with pytest.raises(UserError, match=rf"'sft' of .* was trained from step 4 of 'pretrain' \({checksum}\)"):
            lineage.starting_params(context, stage)
    with pytest.raises(UserError, match=r"move .*/sft away"):
        lineage.check_before(context, ["sft"])


def test_a_parent_that_is_not_done_is_refused(context, save):
    save("pretrain", 2, 4, 1.0)
    with pytest.raises(UserError, match=r"'sft' starts from 'pretrain' .* step 2 of 4; train that to its end first"):
        lineage.starting_params(context, "sft")


def test_a_parent_that_was_deleted_or_moved_has_not_changed(context, save, tmp_path):
    """What is left can be evaluated."""
    checksum = save("pretrain", 4, 4, 1.0)
    save("sft", 2, 2, 2.0, {**PARENT, "checksum": checksum})
    folder(context.workdir, "pretrain").parent.rename(tmp_path / "away")
    lineage.check(context, "sft")
    context.config.init_from = f"{tmp_path}/gone:pretrain"
    lineage.check(context, "sft")
    lineage.check_before(context, ["evaluate", "report", "rl"])
    with pytest.raises(UserError, match="gone"):
        lineage.check_before(context, ["sft"])


def test_fresh_parameters_are_a_parent_too(context, save, tmp_path):
    """A run that began anew, and now names another to begin from."""
    save("pretrain", 4, 4, 1.0)
    other = tmp_path / "other"
    save("pretrain", 3, 3, 1.0, workdir=other)
    context.config.init_from = f"{other}:pretrain"
    with pytest.raises(UserError, match="was trained from fresh parameters, and its parent is now step 3"):
        lineage.check(context, "pretrain")


def test_a_parent_is_the_same_however_its_path_is_written(context, save, tmp_path, monkeypatch):
    other = tmp_path / "my runs" / "other"
    context.config.init_from = f"{other}:pretrain"
    save("pretrain", 4, 4, 1.0, workdir=other)
    parent = lineage.parent_of(context, "sft")
    save("sft", 2, 2, 2.0, parent)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("my runs/other", "~/my runs/other", f"{other}/../other/"):
        context.config.init_from = f"{path}:pretrain"
        assert lineage.parent_of(context, "sft")["checksum"] == parent["checksum"]
        lineage.check(context, "sft")
    context.config.init_from = "gs://bucket/other:pretrain"
    with pytest.raises(UserError, match="no path of this machine"):
        lineage.check(context, "sft")


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_a_stage_that_is_to_be_shorter_than_it_is_is_refused_before_anything_runs(context, save, stage):
    checksum = save("pretrain", 4, 4, 1.0)
    save("sft", 4, 4, 2.0, {**PARENT, "checksum": checksum})
    context.config[stage].steps = 3
    with pytest.raises(UserError, match=f"'{stage}' .* has done 4 steps, and is to have 3"):
        lineage.check_before(context, ["pretrain", "sft"])
    for enough in (0, 4):
        context.config[stage].steps = enough
        lineage.check_before(context, ["pretrain", "sft"])
