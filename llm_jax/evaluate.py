"""Measure one stage's newest checkpoint: python -m llm_jax.evaluate --workdir=DIR --stage=rl [--tasks=a,b]

Tasks are the groups of the report. The last line printed is one JSON object, group -> metrics.
"""

import json
from pathlib import Path

from absl import flags

from llm_jax.cli import quiet_logs, run_cli

quiet_logs()

import jax  # noqa: E402

from llm_jax import sharding, train  # noqa: E402
from llm_jax.config import UserError  # noqa: E402
from llm_jax.evals.bpb import bits_per_byte  # noqa: E402
from llm_jax.evals.run import GROUPS, make_examiner, measure_stage  # noqa: E402
from llm_jax.runs import load_config, newest_stage  # noqa: E402
from llm_jax.tokenizer import Tokenizer  # noqa: E402
from llm_jax.tools.python import PythonTool  # noqa: E402


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("stage", "", "pretrain, sft or rl; the newest if not given.")
    flags.DEFINE_list("tasks", [], f"Some of {', '.join(['bpb', *GROUPS])}; all if not given.")


def main() -> None:
    f, workdir = flags.FLAGS, Path(flags.FLAGS.workdir)
    config, stage = load_config(workdir), flags.FLAGS.stage or newest_stage(workdir)
    names = f.tasks or ["bpb", *(() if stage == "pretrain" else GROUPS)]
    if unknown := [name for name in names if name not in ("bpb", *GROUPS)]:
        raise UserError(f"unknown task {unknown[0]!r}; choose from bpb, {', '.join(GROUPS)}")
    tokenizer = Tokenizer.load(workdir / "data" / "tokenizer.model")
    context = train.Context(config, workdir, sharding.make_mesh(config.mesh), tokenizer.vocab_size, tokenizer.sha256)
    params, tool = context.load_params(stage), PythonTool()
    examiner, groups = make_examiner(context, tokenizer, tool), {n: GROUPS[n] for n in names if n in GROUPS}
    with jax.set_mesh(context.mesh):
        measured = {"bpb": bits_per_byte(context, params)} if "bpb" in names else {}
        measured |= measure_stage(examiner, params, groups)
    tool.close()
    print(json.dumps(measured))


if __name__ == "__main__":
    run_cli(main, define_flags)
