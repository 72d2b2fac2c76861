"""The launcher: reads a config, runs its stages in order in one workdir, resumes what is unfinished.

    python -m llm_jax.main --config=experiments/NAME.py --workdir=DIR [--config.a.b=c] [--stages=pretrain,sft,rl]

The same command after a crash or an interruption continues.
"""

import time

STARTED = time.monotonic()  # imports count, too

import contextlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from absl import flags  # noqa: E402

from llm_jax.frame.cli import console, quiet_logs, run_cli  # noqa: E402

quiet_logs()

import jax  # noqa: E402
from ml_collections import ConfigDict, config_flags  # noqa: E402

from llm_jax import lineage, sharding  # noqa: E402
from llm_jax.checkpoint import folder  # noqa: E402
from llm_jax.config import UserError, differences, flatten, validate  # noqa: E402
from llm_jax.files import one_writer, user_path, writable  # noqa: E402
from llm_jax.frame import processes  # noqa: E402
from llm_jax.frame.interrupt import Stopped  # noqa: E402
from llm_jax.frame.times import Times  # noqa: E402
from llm_jax.runs import Run, note, read_noted  # noqa: E402
from llm_jax.stage_table import STAGES, Stage, by_default, identity  # noqa: E402
from llm_jax.tables import extend, function  # noqa: E402


def define_flags() -> None:
    """Of several processes, this one joins the others before its config is read: they hear of what is wrong with it."""
    flags.DEFINE_bool("distributed", False, "One process of several: found from the cluster, or the next three.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process, where no cluster tells it.")
    flags.DEFINE_integer("processes", None, "How many processes.")
    flags.DEFINE_integer("process", None, "Which one this is, from 0.")
    flags.FLAGS.set_gnu_getopt(True)  # flags that are not known yet may have a value behind a space
    flags.FLAGS(sys.argv, known_only=True)
    flags.FLAGS.set_gnu_getopt(False)
    join_others(flags.FLAGS)
    config_flags.DEFINE_config_file("config", None, "The experiment.", lock_config=True)
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_list("stages", [], f"Which stages, in order: {', '.join(STAGES)}, and those of `extensions`.")
    flags.DEFINE_bool("profile", False, "Trace five steps of each training stage for XProf.")
    flags.mark_flag_as_required("config")


def main() -> None:
    f = flags.FLAGS
    config, workdir = f.config, user_path(f.workdir, "--workdir")
    extend(config.extensions)
    wanted = {STAGES.find(name).name for name in f.stages or by_default(config)}
    stages = [stage for name, stage in STAGES.items() if name in wanted]
    validate(config, tuple(stage.section for stage in STAGES.values()))
    find_devices()
    if jax.process_count() > 1 and (alone := [s.name for s in stages if s.one_process]):
        raise UserError(f"stage {alone[0]!r} runs in one process; run it by itself with --stages={alone[0]}")
    run = Run(config, workdir, sharding.make_mesh(config.mesh), profile=f.profile)
    with contextlib.ExitStack() as held:
        begin(run, stages, held)
        processes.after_first("claimed")
        times = Times(workdir)
        times.add("startup", time.monotonic() - STARTED)
        for stage in stages:
            times.calibrate()
            console.rule(f"[bold]{stage.name}")
            try:
                with times.of(stage.name), jax.set_mesh(run.mesh):
                    run_stage(stage, run)
            except Stopped as stopped:
                if jax.process_index() == 0:
                    console.print(str(stopped))
                return
            if stage.name == "data":  # of what it has left, nothing could be said before
                check_stages(run, stages[1:])


def run_stage(stage: Stage, run: Run) -> None:
    go = function(stage.run)
    if stage.trains and not stage.reads:
        go(run, lineage.starting_params(run, stage.name))
    elif jax.process_index() == 0 or not stage.first_process:
        go(run)
    if stage.first_process:
        processes.after_first(stage.name)


def join_others(f) -> None:
    """Joins the other processes, if there are to be any. Raises UserError as `processes.connect` does."""
    if f.coordinator and None in (f.processes, f.process):
        raise UserError("--coordinator needs --processes (how many) and --process (which one this is, from 0)")
    if f.distributed or f.coordinator:
        processes.connect(f.coordinator, f.processes, f.process)
        # Where nothing is to be saved, SIGTERM is as Ctrl-C: a failure of which the others hear.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def find_devices() -> None:
    """Raises UserError without an accelerator that was asked for."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter without the plugin of a platform
        wanted = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(f"JAX_PLATFORMS={wanted} asks for a device that is not here {error}".strip()) from error


def begin(run: Run, stages: list[Stage], held: contextlib.ExitStack) -> None:
    """Makes this the one command that writes into the workdir, until `held` closes; checks, then notes the config.

    Of several processes the first one does so, when all have checked. Raises UserError, and has written nothing, when
    another command is at work there, or one of the stages cannot run.
    """
    first, there = jax.process_index() == 0, run.workdir.exists()
    writable(run.workdir)
    if first and there:
        held.enter_context(one_writer(run.workdir))
    check(run, stages)
    check_same(run.config, run.workdir, stages)
    if not first:
        return
    if not there:
        run.workdir.mkdir(parents=True, exist_ok=True)
        held.enter_context(one_writer(run.workdir))
        check_workdir(run.workdir, run.config)  # it may have been another command that made the folder
    note(run.workdir, run.config)


def check(run: Run, stages: list[Stage]) -> None:
    """All that can be refused before anything is written. Raises UserError."""
    check_workdir(run.workdir, run.config)
    run.model  # noqa: B018 (its kernel is chosen)
    lineage.check_before(run, [stage.name for stage in stages])
    check_stages(run, stages)


def check_stages(run: Run, stages: list[Stage]) -> None:
    """What the stages to come refuse, as far as it can be known now. Raises UserError."""
    for stage in stages:
        function(stage.run)
        if stage.check and (jax.process_index() == 0 or not stage.first_process):
            function(stage.check)(run, [stage.name for stage in stages])


def check_workdir(workdir: Path, config: ConfigDict) -> None:
    """Refuses a workdir whose parts this user may not write, or whose finished ones came from another config."""
    for stage in STAGES:
        for part in (workdir / stage, folder(workdir, stage)):
            writable(part)
    if not (workdir / "config.json").exists():
        return
    old = read_noted(workdir)
    for stage in (name for name, row in STAGES.items() if row.identity):
        started = (workdir / "data/prepared.json").exists() if stage == "data" else folder(workdir, stage).is_dir()
        changed = started and differences(old.get(stage, {}), identity(config, stage))
        if changed:
            mend = "Use another --workdir, or the old values"
            raise UserError(f"{workdir} holds a run of another config: {'; '.join(changed)}. {mend}")


def check_same(config: ConfigDict, workdir: Path, stages: list[Stage]) -> None:
    """Of several processes, the first refuses to begin when one has other flags; it waits for the checks of all."""
    mine = {**flatten(config), "stages": [stage.name for stage in stages], "workdir": str(workdir.absolute())}
    gathered = [json.loads(one) for one in processes.gathered("flags", json.dumps(mine))]
    for number, other in enumerate(gathered):
        if changed := differences(gathered[0], other):
            raise UserError(
                f"process {number} has other flags than the first ({'; '.join(changed)}); give all the same"
            )


if __name__ == "__main__":
    run_cli(main, define_flags)
