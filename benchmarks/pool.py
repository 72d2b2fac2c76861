"""One rate from several runs: python -m benchmarks.pool --workdirs=RUN,RUN,RUN [--stage=sft] [--tasks=sft,tools]

For runs of one recipe with different seeds. Asks the stage's newest checkpoint of each run, and bootstraps over the
items (people, problems) of all runs together: each run has a web of its own, so its people are others.
"""

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from absl import flags

from llm_jax.frame.cli import quiet_logs, run_cli

quiet_logs()

import jax  # noqa: E402

from llm_jax.evals import measure, run  # noqa: E402
from llm_jax.evals.statistics import rate  # noqa: E402
from llm_jax.runs import Run  # noqa: E402

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_list("workdirs", None, "Folders of the runs.", required=True)
    flags.DEFINE_string("stage", "sft", "Whose newest checkpoint.")
    flags.DEFINE_list("tasks", ["sft", "think", "tools"], "Groups of the report.")


def rates(group: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[str, dict]]:
    """(name, rate) of everything in a group that has outcomes."""
    for name, inner in group.items():
        if "outcomes" in inner:
            yield "/".join((*path, name)), inner
        elif "value" not in inner:
            yield from rates(inner, (*path, name))


def asked(workdir: Path, stage: str, tasks: list[str]) -> dict[str, dict]:
    """Name -> rate, with `outcomes`: (value, item) of every question."""
    with_outcomes = lambda values, items: {**rate(values, items), "outcomes": [*zip(values, items, strict=True)]}  # noqa: E731
    opened = Run.open(workdir)
    with jax.set_mesh(opened.mesh), mock.patch.object(measure, "rate", with_outcomes):
        return dict(rates(run.measure(opened, opened.choose(stage), tasks)))


def pooled(runs: list[dict[str, dict]], name: str) -> dict:
    outcomes = [(value, (seed, item)) for seed, found in enumerate(runs) for value, item in found[name]["outcomes"]]
    return rate(*zip(*outcomes, strict=True))


def main() -> None:
    runs = [asked(Path(workdir), FLAGS.stage, FLAGS.tasks) for workdir in FLAGS.workdirs]
    for name in runs[0]:
        both, each = pooled(runs, name), " ".join(f"{found[name]['value']:.3f}" for found in runs)
        low, high = both["ci95"]
        print(f"{name:40} {both['value']:.3f} [{low:.3f}, {high:.3f}]  n {both['n']:5}  each: {each}")


if __name__ == "__main__":
    run_cli(main, define_flags)
