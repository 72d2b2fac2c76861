"""Reading a run's numbers and putting them into words: formats, intervals, comparisons."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_jax import files

Metric = dict[str, Any]  # {"value": number, optional "n": int, optional "ci95": [low, high]}

SHARE_GROUPS = ("sft", "rl", "think", "tools", "passk", "found")
PERCENT = "\u00a0%"  # a no-break space: number and sign stay on one line
PLAIN = ("f", "index", "auroc", "aurc", "brier", "ece")  # of 1, but no shares
COUNTS = ("documents", "tokens", "rows", "parameters", "tokens_per_second", "steps", "problems")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is no such file."""
    return files.read_json(path) if path.exists() else {}


def is_metric(node: Any) -> bool:
    return isinstance(node, dict) and "value" in node


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def measured(node: dict[str, Any]) -> dict[str, Any]:
    """The report without metrics that have no value and without groups that are left empty.

    The page then has one rule: what is there was measured, what is absent was not.
    """
    kept = {}
    for name, child in node.items():
        if is_metric(child):
            if not (is_number(child["value"]) or isinstance(child["value"], str)):
                continue
            bounds = child.get("ci95")
            whole = isinstance(bounds, list | tuple) and len(bounds) == 2 and all(map(is_number, bounds))
            kept[name] = child if whole else {k: v for k, v in child.items() if k != "ci95"}
        elif isinstance(child, dict) and (inner := measured(child)):
            kept[name] = inner
    return kept


def errors(metric: Metric) -> tuple[float, float]:
    """How far the 95 % interval reaches below and above the value; zeros where there is none."""
    low, high = metric.get("ci95") or (metric["value"], metric["value"])
    return max(0.0, metric["value"] - low), max(0.0, high - metric["value"])


def clock(seconds: float) -> str:
    """Seconds as a person says them: 4.2 s, 48 s, 3 min 05 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


FORMATS = {
    "share": lambda v: f"{100 * v:.1f}{PERCENT}",
    "bits": lambda v: f"{v:.3f}",
    "count": lambda v: f"{v:,.0f}",
    "bytes": lambda v: f"{v / 1e6:,.1f} MB",
    "seconds": clock,
    "plain": lambda v: f"{v:,.4g}",
}


def kind_of(path: tuple[str, ...], metric: Metric) -> str:
    """The format that suits the metric at a path of the report; what has an interval is a rate, if nothing else."""
    name = path[-1]
    if "seconds" in (path[0], name) or name.endswith("_seconds"):
        return "seconds"
    if "bpb" in name:
        return "bits"
    if name in COUNTS or path[:2] == ("crawl", "left"):
        return "count"
    if name == "bytes":
        return "bytes"
    if name == "logp_gap_max" or (path[0] == "best_of_n" and name != "ordered_alike"):
        return "plain"
    if name.split("_")[0] in PLAIN:
        return "plain"
    is_rate = "ci95" in metric or name == "padding" or any(part in SHARE_GROUPS for part in path[:2])
    return "share" if is_rate else "plain"


def number(metric: Metric, kind: str = "share") -> str:
    """A metric's value in words; a metric that is absent says so."""
    if not metric:
        return "not measured"
    value = metric["value"]
    return value if isinstance(value, str) else FORMATS[kind](value)


def interval(metric: Metric, kind: str = "share") -> str:
    """A metric's 95 % interval, or nothing where it has none."""
    if not metric or "ci95" not in metric:
        return ""
    low, high = (FORMATS[kind](bound) for bound in metric["ci95"])
    return f"{low.removesuffix(PERCENT)} – {high}"


def quoted(metric: Metric, kind: str = "share") -> str:
    """Value and interval together, as a sentence quotes them."""
    bounds = interval(metric, kind)
    return number(metric, kind) + (f" ({bounds})" if bounds else "")


def direction(before: Metric, after: Metric) -> str:
    """'up' or 'down' where the change is larger than its own 95 % uncertainty, else 'unclear'.

    The two intervals are added in quadrature on the sides that face each other (Newcombe's method for
    two proportions). Metrics without intervals are never called clear.
    """
    if not before or not after or "ci95" not in before or "ci95" not in after:
        return "unclear"
    change = after["value"] - before["value"]
    side = 1 if change > 0 else 0
    noise = math.hypot(errors(before)[side], errors(after)[1 - side])
    if abs(change) <= noise:
        return "unclear"
    return "up" if change > 0 else "down"


def walk(node: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Metric]]:
    """Every metric of the report with its path."""
    for name, child in node.items():
        if is_metric(child):
            yield (*path, name), child
        else:
            yield from walk(child, (*path, name))
