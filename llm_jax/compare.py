"""Two runs side by side: python -m llm_jax.compare RUN_A RUN_B [--output=PAGE.html]

The metrics of their reports with 95 % intervals, and the values in which their configs differ: a table on the terminal,
and a page.
"""

import sys

from absl import flags
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_jax.files import user_path
from llm_jax.frame.cli import console, run_cli
from llm_jax.report import heatmap
from llm_jax.report.comparison import Comparison, Line, compare
from llm_jax.report.templates import rendered

RUNS = ("RUN_A", "RUN_B")
WIDEST = 32  # of what a run has; a longer text goes over several lines


def define_flags() -> None:
    flags.DEFINE_string("output", "compare.html", "Where the page is written.")


def show(title: str, names: list[str], lines: list[Line]) -> None:
    """A plain table; where it goes to no terminal, as wide as it needs to be."""
    table = Table(box=None, pad_edge=False)
    table.add_column(title, overflow="fold")
    for name in names:
        table.add_column(Text(name), justify="right", overflow="fold", max_width=WIDEST)
    table.add_column()
    for line in lines:
        table.add_row(*map(Text, (line.name, *line.cells, "apart" if line.apart else "")))
    plain = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)
    plain.print(table)
    plain.print()


def show_all(comparison: Comparison) -> None:
    metrics = [
        Line(f"{group} / {line.name}", line.cells, line.apart)
        for group, lines in comparison.groups.items()
        for line in lines
    ]
    show("metric", comparison.names, metrics)
    if comparison.config:
        show("config", comparison.names, comparison.config)
    both, apart, values = comparison.count("both"), comparison.count("apart"), len(comparison.config)
    print(f"both have {both} metrics, the intervals of {apart} are apart; {values} values of the config differ")


def main(*given: str) -> None:
    workdirs = [user_path(path, name) for path, name in zip(given, RUNS, strict=True)]
    page = user_path(flags.FLAGS.output, "--output")
    comparison = compare(*workdirs)
    paths = [workdir.absolute() for workdir in workdirs]
    page.write_text(
        rendered("comparison.html", c=comparison, paths=paths, map=heatmap.values(comparison.maps)), encoding="utf-8"
    )
    show_all(comparison)
    console.print(f"[bold]page[/bold]  {page}", soft_wrap=True)


if __name__ == "__main__":
    run_cli(main, define_flags, RUNS)
