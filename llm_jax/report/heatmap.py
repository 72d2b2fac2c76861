"""The map of abilities as a figure and in sentences: family x rung x way of answering, of one run or of two.

    python -m llm_jax.report.heatmap MAP.json [--beside=OTHER.json] [--output=PAGE.html]

makes a page of what `evaluate --tasks=map` printed, of one run or of two.
"""

import html
import json
import re
from pathlib import Path
from typing import Any

from absl import flags
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from llm_jax.config import UserError
from llm_jax.files import user_path
from llm_jax.frame.cli import console, run_cli
from llm_jax.report import metrics, plots
from llm_jax.report.comparison import told_apart
from llm_jax.report.templates import rendered

WAYS = {"direct": "at once", "think": "after thinking", "tool": "with the tool"}
COLOURS = LinearSegmentedColormap.from_list(
    "cheese", (f"{plots.ORANGE}00", plots.ORANGE)
)  # a hole shows what is behind
CELL = 0.34  # inches
Group = dict[str, Any]  # the group `map` of a report


def families(group: Group) -> dict[str, Group]:
    """Family -> rung -> way -> metric: the group without what is told of it."""
    return {name: node for name, node in group.items() if not metrics.is_metric(node)}


def ways_of(group: Group) -> list[str]:
    found = {way for rungs in families(group).values() for ways in rungs.values() for way in ways}
    return [way for way in WAYS if way in found]


def told(metric: metrics.Metric) -> str:
    lenient = f", lenient {100 * metric['lenient']:.0f} %" if "lenient" in metric else ""
    return f"{metrics.quoted(metric)}, n = {metric.get('n', '?')}{lenient}"


@plots.styled
def figure(groups: dict[str, Group]) -> Markup:
    """A row a family, a block of columns each way, side by side the runs: what they are called -> their group `map`.

    A cell has its rung, value and interval as a title, which browsers show under the pointer.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in families(group)))
    blocks = [(run, way) for way in WAYS for run, group in groups.items() if way in ways_of(group)]
    columns = max(len(rungs) for group in groups.values() for rungs in families(group).values())
    size = (1.6 + CELL * len(blocks) * (columns + 0.6), 0.7 + CELL * len(names))
    drawing, all_axes = plots.new_axes(*size, 1, len(blocks), sharey=True, squeeze=False)
    titles = {}
    for number, (axes, (run, way)) in enumerate(zip(all_axes[0], blocks, strict=True)):
        for row, name in enumerate(names):
            for column, (level, metric) in enumerate(cells(groups[run], name, way)):
                id_ = f"cell-{number}-{row}-{column}"
                titles[id_] = f"{name}, {level}, {WAYS[way]}: {told(metric) if metric else 'not asked this way'}"
                draw_cell(axes, row, column, metric, id_)
        axes.set(xlim=(0, columns), ylim=(len(names), 0), aspect="equal")
        axes.set_title(f"{run}\n{WAYS[way]}" if len(groups) > 1 else WAYS[way], loc="center")
        axes.set_yticks([row + 0.5 for row in range(len(names))], [name.replace("_", " ") for name in names])
        axes.set_xticks([column + 0.5 for column in range(columns)], [str(column + 1) for column in range(columns)])
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return Markup(titled(plots.to_svg(drawing), titles))


def cells(group: Group, family: str, way: str) -> list[tuple[str, metrics.Metric | None]]:
    """(rung, metric) of a family; None where it was not asked this way."""
    return [(level, ways.get(way)) for level, ways in families(group).get(family, {}).items()]


def draw_cell(axes, row: int, column: int, metric: metrics.Metric | None, id_: str) -> None:
    """Filled by its value and framed, so that 0 is a hole; what was not asked has no frame but a dot."""
    if metric is None:
        axes.text(column + 0.5, row + 0.5, "·", ha="center", va="center", color=plots.GREY, gid=id_)
        return
    fill, frame = COLOURS(metric["value"]), {"edgecolor": plots.GREY, "linewidth": 0.7}
    axes.add_patch(Rectangle((column + 0.06, row + 0.06), 0.88, 0.88, facecolor=fill, gid=id_, **frame))
    axes.text(column + 0.5, row + 0.52, f"{100 * metric['value']:.0f}", ha="center", va="center", fontsize=7)


def titled(svg: str, titles: dict[str, str]) -> str:
    """The drawing, each group of these ids with a <title>."""
    add = lambda found: f"{found[0]}<title>{html.escape(titles[found[1]])}</title>"  # noqa: E731
    return re.sub(r'<g id="(cell-[\d-]+)">', add, svg)


def sentences(group: Group) -> dict[str, list[str]]:
    """The sharpest neighbours, and what thinking or the tool is good for, in words; sharpest first."""
    list_of = lambda name: group.get(name, {}).get("found", [])  # noqa: E731
    name_of = lambda found: found["family"].replace("_", " ")  # noqa: E731
    share = lambda value: metrics.number({"value": value})  # noqa: E731
    cliffs = sorted(list_of("cliffs"), key=lambda c: c["failed"] - c["value"])
    helped = sorted(list_of("helped"), key=lambda h: h["direct"] - h["value"])
    return {
        "cliffs": [
            f"{name_of(c)}, {WAYS[c['way']]}: right on {share(c['value'])} with {c['works']}, "
            f"on {share(c['failed'])} with {c['fails']}."
            for c in cliffs
        ],
        "helped": [
            f"{name_of(h)}, {h['level']}: {share(h['direct'])} at once, {share(h['value'])} {WAYS[h['way']]}."
            for h in helped
        ],
    }


def values(groups: dict[str, Group]) -> dict[str, Any]:
    """What the template `map.html` shows."""
    groups = {name: group for name, group in groups.items() if families(group)}
    return {
        "figure": figure(groups) if groups else "",
        "runs": [
            {
                "name": name,
                "sentences": sentences(group),
                "working": group.get("families_working", {}).get("value", 0),
                "families": families(group),
                "ways": ways_of(group),
                "examples": group.get("examples", {}).get("found", []),
            }
            for name, group in groups.items()
        ],
        "ways": WAYS,
    }


def printed(path: Path) -> Group:
    """The group `map` of what `evaluate` printed. Raises UserError for another file."""
    if not path.is_file():
        raise UserError(f"{path} is not there; make it with evaluate --tasks=map > {path}")
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        group = json.loads(lines[-1])["map"]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not end with the map of a run; make it with evaluate --tasks=map") from error
    return metrics.measured(group)


def define_flags() -> None:
    flags.DEFINE_string("beside", "", "The map of another run, to stand beside the first.")
    flags.DEFINE_string("output", "map.html", "Where the page is written.")


def main(given: str) -> None:
    f = flags.FLAGS
    paths = [user_path(given, "MAP.json"), *([user_path(f.beside, "--beside")] if f.beside else [])]
    page = user_path(f.output, "--output")
    groups = {name: printed(path) for name, path in zip(told_apart(*paths), paths, strict=True)}
    page.write_text(rendered("map_page.html", map=values(groups)), encoding="utf-8")
    console.print(f"[bold]page[/bold]  {page}", soft_wrap=True)


if __name__ == "__main__":
    run_cli(main, define_flags, ("MAP.json",))
