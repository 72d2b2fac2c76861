"""Figures of what a model knows: answers by exposure, and whether its confidence is to be trusted."""

from typing import Any

from llm_jax.report.metrics import Metric
from llm_jax.report.plots import BLUE, GREEN, GREY, INK, ORANGE, RED, _percent, new_axes, styled, to_svg

VERDICTS = (("right", GREEN), ("wrong", RED), ("abstained", GREY))
NOBODY = {"never_seen": "nobody\nmet", "near_miss": "a similar\nname"}
CAUSES = {
    "never_seen": "the person is on no page",
    "near_miss": "only a similar name is",
    "false_premise": "what is asked about never was",
    "underspecified": "several have that name",
    "unknowable": "nobody can know it",
    "changed": "it may have changed since",
}


def order(name: str) -> tuple[bool, int]:
    """Tiers by their number, then the people of whom nobody can know anything."""
    return (False, int(name)) if name.isdigit() else (True, list(NOBODY).index(name))


@styled
def by_exposure(sides: dict[str, dict[str, dict[str, Metric]]]) -> str:
    """Stacked shares of right, wrong and abstained answers: left before, right after, a bar an exposure."""
    figure, both = new_axes(8.4, 3.6, 1, len(sides), sharey=True, squeeze=False)
    for axes, (when, groups) in zip(both[0], sides.items(), strict=True):
        names, below = sorted(groups, key=order), [0.0] * len(groups)
        for verdict, colour in VERDICTS:
            values = [groups[name].get(verdict, {"value": 0.0})["value"] for name in names]
            axes.bar(range(len(names)), values, 0.8, below, color=colour, label=verdict)
            below = [low + value for low, value in zip(below, values, strict=True)]
        axes.set_xticks(range(len(names)), [NOBODY.get(name, f"{name}×") for name in names], fontsize=8.5)
        axes.set(title=f"{when.capitalize()} it was taught to abstain", xlabel="times the pages state the fact")
        axes.grid(axis="x", visible=False)
    both[0][0].set(ylabel="share of answers", ylim=(0, 1))
    _percent(both[0][0])
    handles, labels = both[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(VERDICTS))
    return to_svg(figure)


@styled
def reliability(sides: dict[str, dict[str, dict[str, Metric]]]) -> str:
    """The share right of answers of about one confidence, before and after; on the diagonal it can be trusted."""
    figure, axes = new_axes(4.4, 3.8)
    axes.plot([0, 1], [0, 1], color=INK, linestyle="--", linewidth=1)
    for (when, bins), colour in zip(sides.items(), (BLUE, ORANGE), strict=False):
        points = [(bins[n]["confidence"]["value"], bins[n]["right"]["value"]) for n in sorted(bins, key=int)]
        axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=4, label=when)
    axes.set(xlabel="confidence in the answer", ylabel="share right", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for axis in "xy":
        _percent(axes, axis)
    axes.legend()
    return to_svg(figure)


def figures(report: dict[str, Any]) -> dict[str, str]:
    """Those for which the report has numbers."""
    group = report.get("abstain", {})
    drawn = {"by_exposure": by_exposure, "reliability": reliability}
    return {f"knowledge_{name}": draw(group[name]) for name, draw in drawn.items() if group.get(name)}


def causes(report: dict[str, Any]) -> list[tuple[str, dict, dict]]:
    """(what keeps it from being known, its rates before, after) of each cause that was asked."""
    before, after = (report.get("abstain", {}).get("causes", {}).get(when, {}) for when in ("before", "after"))
    return [(what, before.get(c, {}), after.get(c, {})) for c, what in CAUSES.items() if c in before or c in after]
