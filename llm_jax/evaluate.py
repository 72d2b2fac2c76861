"""Measure one stage's newest checkpoint: python -m llm_jax.evaluate --workdir=DIR --stage=rl [--tasks=a,b] [--items=N]

Tasks are the groups of the report. The last line printed is one JSON object, group -> metrics. With --texts=GLOB or
--questions=GLOB, files of one's own: their bits per byte, and the answers to their questions (tasks/shapes.py).
"""

import json

from absl import flags

from llm_jax.frame.cli import quiet_logs, run_cli

quiet_logs()

import jax  # noqa: E402

from llm_jax.evals.run import measure  # noqa: E402
from llm_jax.evals.table import MEASUREMENTS  # noqa: E402
from llm_jax.files import user_path  # noqa: E402
from llm_jax.runs import STAGE_HELP, Run  # noqa: E402
from llm_jax.tools.search import define_place, place_of  # noqa: E402

FILES = {"texts": "text files", "questions": "JSON lines of questions"}


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("stage", "", STAGE_HELP)
    flags.DEFINE_list("tasks", [], f"Some of {', '.join(MEASUREMENTS)}; all that suit the stage if not given.")
    flags.DEFINE_integer("items", None, "Problems in a cell of the map; as the run's config says.", lower_bound=1)
    define_place()
    for name, what in FILES.items():
        flags.DEFINE_string(name, None, f"Glob of {what}: measures these, and no other tasks unless they are given.")


def main() -> None:
    f = flags.FLAGS
    run = Run.open(user_path(f.workdir, "--workdir"))
    given = {name: f[name].value for name in FILES if f[name].value is not None}
    run.config.eval.update(given)
    run.config.eval.map_items = f.items or run.config.eval.map_items
    with jax.set_mesh(run.mesh):
        measured = measure(run, run.choose(f.stage), list(dict.fromkeys([*f.tasks, *given])), place_of(f))
    print(json.dumps(measured))


if __name__ == "__main__":
    run_cli(main, define_flags)
