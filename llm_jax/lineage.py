"""Which parameters a stage starts from, and whether they are still the ones that it was trained from.

The record of a checkpoint names its parent: run, stage, step and a checksum of the parameters.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from llm_jax import checkpoint, rows
from llm_jax.config import UserError, differences, flatten
from llm_jax.files import user_path
from llm_jax.runs import OWN, Run, read_noted
from llm_jax.stage_table import STAGES, Stage, trained, writing
from llm_jax.tables import known
from llm_jax.tokenizer import path_in

# What the same parameters may be used with: it changes how they are computed with, or the loss, not what they compute.
FREE = ("model.attention", "model.remat", "model.compute_dtype", "model.load_balance", "model.router_z")


class Source(NamedTuple):
    """Where parameters come from."""

    run: str  # OWN, or the workdir that `init_from` names
    stage: str
    workdir: Path


def source_of(run: Run, stage: str) -> Source | None:
    """What a stage starts from: a stage of this run that it follows, or `init_from`; None for fresh parameters.

    Raises UserError when it follows others and there is neither.
    """
    follows = STAGES.find(stage).follows
    for before in follows:
        if checkpoint.folder(run.workdir, before).is_dir():
            return Source(OWN, before, run.workdir)
    if run.config.init_from:
        return branch(run.config.init_from)
    if follows:
        what = f"stage {stage!r} starts from {follows[0]!r}, which has not run here"
        raise UserError(f"{what}; run it, or set --config.init_from")
    return None


def branch(init_from: str) -> Source:
    """What `init_from` names: "WORKDIR:stage"."""
    workdir, _, stage = init_from.rpartition(":")
    if not workdir or "/" in stage:
        raise UserError(f"init_from is {init_from!r}; it must be WORKDIR:stage, as in runs/speedrun:pretrain")
    return Source(workdir, known("stage of init_from", stage, writing()), user_path(workdir, "init_from"))


def newest(workdir: Path, stage: str) -> dict[str, Any]:
    """The record of a stage's newest checkpoint. Raises UserError when it has none, or a damaged one."""
    with checkpoint.existing(workdir, stage) as store:
        return store.meta(store.latest())


def parent_of(run: Run, stage: str) -> dict[str, Any] | None:
    """What the checkpoints of a stage note of its parent; None for fresh parameters.

    Raises UserError when the parent is not trained to its end.
    """
    source = source_of(run, stage)
    if source is None:
        return None
    try:
        meta = newest(source.workdir, source.stage)
    except checkpoint.Damaged as error:
        raise UserError(damaged(source, error)) from error
    if meta["step"] < meta["steps"]:
        what = f"stage {stage!r} starts from {source.stage!r} of {source.workdir}"
        raise UserError(f"{what}, which is at step {meta['step']} of {meta['steps']}; train that to its end first")
    return {"run": source.run, **named(source.stage, meta)}


def damaged(source: Source, error: Exception) -> str:
    where = "" if source.run == OWN else f" in {source.run}"
    return f"{error}; run stage {source.stage!r}{where} once more: it goes on from the checkpoint before"


def named(stage: str, meta: dict[str, Any]) -> dict[str, Any]:
    return {"stage": stage, "step": meta["step"], "checksum": checkpoint.digest(meta["checksums"])}


def check(run: Run, stage: str, to_train: Iterable[str] = ()) -> None:
    """Raises UserError when a checkpoint of the stage, or of one before it, was trained from another parent.

    A parent that is not there any more, or is damaged, has not changed; nor has one of the stages that are to be
    trained, where it is not yet again at the step that its child began from.
    """
    follows = STAGES[stage].follows
    if follows and not run.config.init_from and not any(checkpoint.written(run.workdir, name) for name in follows):
        return
    source = source_of(run, stage)
    is_there = source is None or checkpoint.written(source.workdir, source.stage)
    if is_there and checkpoint.written(run.workdir, stage):
        with contextlib.suppress(checkpoint.Damaged):
            noted = newest(run.workdir, stage)["parent"]
            now = source and named(source.stage, newest(source.workdir, source.stage))
            same = (noted and {key: noted[key] for key in ("stage", "step", "checksum")}) == now
            again = noted and now and now["stage"] in to_train and now["step"] < noted["step"]
            if not (same or again):
                raise UserError(stale(run, stage, noted, now))
    if source and source.run == OWN:
        check(run, source.stage, to_train)


def stale(run: Run, stage: str, noted: dict[str, Any] | None, now: dict[str, Any] | None) -> str:
    said = lambda p: f"step {p['step']} of {p['stage']!r} ({p['checksum']})" if p else "fresh parameters"  # noqa: E731
    what = f"stage {stage!r} of {run.workdir} was trained from {said(noted)}, and its parent is now {said(now)}"
    return f"{what}: move {run.workdir / stage} away to have it done again, or use another --workdir"


def check_before(run: Run, stages: Iterable[str]) -> None:
    """What can be refused before anything runs, for the stages to come. Raises UserError."""
    trains = [stage for stage in trained() if stage in stages]
    for stage in trains:
        if checkpoint.written(run.workdir, stage):
            check(run, stage, trains)
            check_longer(run, STAGES[stage])
    if "evaluate" in stages:
        for stage in set(run.trained()) - set(trains):
            check(run, stage, trains)
    makes_data = "data" in stages and not (run.workdir / "data" / "prepared.json").exists()
    begins = [stage for stage in trains if not set(STAGES[stage].follows) & set(trains)]
    if run.config.init_from and (makes_data or any(source_of(run, stage).run != OWN for stage in begins)):
        check_branch(run, branch(run.config.init_from))
    for stage in begins:
        parent_of(run, stage)
    if trains and not makes_data and not any(STAGES[stage].reads for stage in trains):
        _ = run.tokenizer
        if (made := run.workdir / "data" / "prepared.json").exists():  # rows may have been made by another command
            rows.check_made(made)


def check_longer(run: Run, stage: Stage) -> None:
    """Raises UserError where a stage is to be shorter than it is, or is to be trained on and another followed it."""
    wanted = run.config[stage.section].get("steps", 0)
    with contextlib.suppress(checkpoint.Damaged):
        done = newest(run.workdir, stage.name)["step"]
        if 0 < wanted < done:
            raise UserError(shorter(run, stage.name, done, wanted))
    followers = [name for name in run.trained() if stage.name in STAGES[name].follows]
    for child in (name for name in followers if source_of(run, name).stage == stage.name):
        with contextlib.suppress(checkpoint.Damaged):
            step = (newest(run.workdir, child)["parent"] or {}).get("step", wanted)
            if wanted > step:
                what = f"{child!r} was trained from step {step} of {stage.name!r}, which is to go on to step {wanted}"
                raise UserError(f"{what}: move {run.workdir / child} away first, or use another --workdir")


def shorter(run: Run, stage: str, step: int, wanted: int) -> str:
    """What is said where a stage is to have fewer steps than it has done."""
    what = f"stage {stage!r} of {run.workdir} has done {step} steps, and is to have {wanted}"
    return f"{what}: give {step} or more, or use another --workdir"


def check_branch(run: Run, source: Source) -> None:
    """Raises UserError when the parameters of `init_from` are not there, or another model's or tokenizer's."""
    theirs, meta = read_noted(source.workdir)["config"], newest(source.workdir, source.stage)
    model = lambda flat: {k: v for k, v in flat.items() if k.startswith("model.") and k not in FREE}  # noqa: E731
    if changed := differences(model(theirs), model(flatten(run.config))):
        what = f"init_from names {source.workdir}, a run of another model ({'; '.join(changed)})"
        raise UserError(f"{what}; set these values as there")
    own = path_in(run.workdir / "data")
    if own.exists() and run.tokenizer.sha256 != meta["tokenizer"]:
        what = f"{own} is not the tokenizer of {source.workdir}, which init_from names"
        raise UserError(f"{what}; use another --workdir, whose stage `data` takes that one")


def starting_params(run: Run, stage: str):
    """Those of the parent, or fresh ones. Raises UserError as `parent_of` and `check` do, and for a damaged parent."""
    parent, source = parent_of(run, stage), source_of(run, stage)
    check(run, stage)
    if source is None:
        return run.init_params()
    try:
        return run.load_params(source.stage, source.workdir, parent["step"])
    except checkpoint.Damaged as error:
        raise UserError(damaged(source, error)) from error
