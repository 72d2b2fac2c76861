"""The page's figures, each a function from numbers to an inline SVG string.

Colours are mid-tones and backgrounds transparent, so that one drawing reads on a light and on a dark
page; text stays text and takes the page's own font and colour. Error bars are 95 % intervals.
"""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from llm_jax.report.metrics import Metric, errors, is_number

BLUE, ORANGE, GREEN, RED, GREY = "#4a8fd4", "#e0893b", "#4ba372", "#d9605f", "#8a929b"
INK = "#010203"  # stands for the colour of the page's text, which only the page knows
TIERS = (0, 1, 3, 10, 30, 100)
MAX_POINTS = 500

STYLE = {
    "svg.fonttype": "none",  # text as text: small, searchable, restyled by the page
    "svg.hashsalt": "llm_jax",  # the same numbers give the same bytes
    "text.parse_math": False,  # names come from data; a dollar sign is only a dollar sign
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
}
styled = matplotlib.rc_context(STYLE)
BARS = {"ecolor": INK, "capsize": 3, "elinewidth": 1.3}


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element: no XML prologue and no metadata, which name outside addresses."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def new_axes(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def _percent(axes: Axes, axis: str = "y") -> None:
    getattr(axes, f"{axis}axis").set_major_formatter(PercentFormatter(1.0, decimals=0))


def _errors(metrics: list[Metric]) -> np.ndarray:
    """Error bars in the shape matplotlib wants: lower row, upper row."""
    return np.array([errors(metric) for metric in metrics]).T


def _series(rows: list[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(row["step"], row[key]) for row in rows if is_number(row.get(key))]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.array(steps, float), np.array(values, float)


def smooth(values: np.ndarray) -> np.ndarray:
    """A centred moving average over a twentieth of the run; the window shrinks evenly at both ends."""
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, index[::-1]))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def _curve(axes: Axes, rows: list[dict[str, Any]], key: str, colour: str, label: str = "") -> None:
    """A noisy curve: as logged, faint, with its moving average on top."""
    steps, values = _series(rows, key)
    every = max(1, len(steps) // MAX_POINTS)
    axes.plot(steps[::every], values[::every], color=colour, alpha=0.3, linewidth=0.8)
    axes.plot(steps[::every], smooth(values)[::every], color=colour, linewidth=1.8, label=label)


@styled
def loss(rows: list[dict[str, Any]]) -> str:
    """Training loss, and the loss on held-out text where it was taken."""
    figure, axes = new_axes(7, 3)
    _curve(axes, rows, "loss", BLUE, "training batches")
    steps, values = _series(rows, "val_loss")
    if len(steps):
        axes.plot(steps, values, "o-", color=ORANGE, markersize=4, linewidth=1.2, label="held-out text")
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.legend()
    return to_svg(figure)


@styled
def bits_per_byte(pretrain: dict[str, Metric]) -> str:
    """Compression of held-out text, over all and per source, against xz."""
    names = [name for name in pretrain if name.startswith("val_bpb_")]
    names.sort(key=lambda name: pretrain[name]["value"])
    names = [name for name in ("xz_bpb", "val_bpb") if name in pretrain] + names
    metrics = [pretrain[name] for name in names]
    fixed = {"xz_bpb": ("xz, the compressor", GREY), "val_bpb": ("the model, held-out pages", ORANGE)}
    labels = [fixed.get(n, (n.removeprefix("val_bpb_").replace("_", " "), BLUE))[0] for n in names]
    colours = [fixed.get(n, ("", BLUE))[1] for n in names]
    figure, axes = new_axes(7, 0.9 + 0.36 * len(names))
    values = [metric["value"] for metric in metrics]
    bars = axes.barh(range(len(names)), values, height=0.65, xerr=_errors(metrics), color=colours, error_kw=BARS)
    axes.bar_label(bars, fmt="%.2f", padding=5)
    if "xz_bpb" in pretrain:
        axes.axvline(pretrain["xz_bpb"]["value"], color=INK, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(names)), labels)
    axes.set(xlabel="bits per byte (lower is better)", xlim=(0, 1.15 * max(values)))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    return to_svg(figure)


RECALL = (
    ("recall_tier_100", "stated 100 times,\nquestions among them", BLUE),
    ("recall_people_never_asked", "stated 100 times,\nasked by no page", GREEN),
    ("invented_heldout", "on no page:\nanswers anyway", RED),
)


@styled
def recall(sft: dict[str, Metric]) -> str:
    """Left: recall against how often the pages state a fact. Right: by how the pages state it."""
    figure, (left, right) = new_axes(8.4, 3.5, 1, 2, sharey=True, width_ratios=(5, 6))
    tiers = [tier for tier in TIERS if f"recall_tier_{tier}" in sft]
    metrics = [sft[f"recall_tier_{tier}"] for tier in tiers]
    if tiers:
        values = [metric["value"] for metric in metrics]
        left.errorbar(tiers, values, _errors(metrics), fmt="o-", color=BLUE, capsize=3)
    left.set_xscale("symlog", linthresh=1)  # a logarithm that has room for 0
    left.set_xticks(TIERS, [f"{tier}×" for tier in TIERS])
    left.set_xticks([], minor=True)
    left.set(xlabel="times the pages state the fact", ylabel="share of questions", title="By exposure")
    shown = [(sft[name], label, colour) for name, label, colour in RECALL if name in sft]
    for place, (metric, _, colour) in enumerate(shown):
        error = _errors([metric])
        right.bar(place, metric["value"], width=0.6, yerr=error, color=colour, error_kw=BARS)
    right.set_xticks(range(len(shown)), [label for _, label, _ in shown], fontsize=8.5)
    right.set(title="By how they state it")
    right.grid(axis="x", visible=False)
    left.set_ylim(0, 1.02)
    _percent(left)
    return to_svg(figure)


@styled
def bars(series: dict[str, list[tuple[str, Metric]]], ylabel: str = "share right") -> str:
    """Grouped bars: one colour a series, one group a label; a metric may be missing from a series."""
    labels = list(dict.fromkeys(label for pairs in series.values() for label, _ in pairs))
    figure, axes = new_axes(max(4.2, 1.2 + 1.25 * len(labels)), 3.1)
    width = 0.75 / len(series)
    for turn, (name, pairs) in enumerate(series.items()):
        places = [labels.index(label) + (turn - (len(series) - 1) / 2) * width for label, _ in pairs]
        metrics = [metric for _, metric in pairs]
        values = [metric["value"] for metric in metrics]
        colour = (BLUE, ORANGE)[turn % 2]
        axes.bar(places, values, width * 0.92, yerr=_errors(metrics), color=colour, label=name, error_kw=BARS)
        for place, metric in zip(places, metrics, strict=True):
            top = metric["value"] + errors(metric)[1]
            axes.annotate(
                f"{100 * metric['value']:.0f}\u00a0%",
                (place, top),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
    axes.set_xticks(range(len(labels)), labels)
    axes.set(ylabel=ylabel, ylim=(0, 1.12), yticks=np.linspace(0, 1, 6))
    _percent(axes)
    axes.grid(axis="x", visible=False)
    if len(series) > 1:
        figure.legend(loc="outside upper right", ncols=len(series))
    return to_svg(figure)


@styled
def rl_curves(rows: list[dict[str, Any]]) -> str:
    """What moves while RL runs: reward, length, thinking, and sampler against trainer."""
    figure, axes = new_axes(8.4, 5, 2, 2)
    _curve(axes[0, 0], rows, "reward", BLUE, "reward")
    if len(_series(rows, "accuracy")[0]):
        _curve(axes[0, 0], rows, "accuracy", GREEN, "share right")
    steps, held_out = _series(rows, "held_out")
    if len(steps):
        axes[0, 0].plot(steps, held_out, "o-", color=ORANGE, markersize=4, linewidth=1.2, label="held out, greedy")
    axes[0, 0].legend()
    axes[0, 0].set(ylabel="mean of the batch", title="Reward")
    _curve(axes[0, 1], rows, "completion_length", ORANGE)
    axes[0, 1].set(ylabel="tokens", title="Length of an answer")
    _curve(axes[1, 0], rows, "thinks", BLUE)
    axes[1, 0].set(ylabel="share of answers", xlabel="step", ylim=(-0.03, 1.03), title="Thinks before answering")
    _percent(axes[1, 0])
    _curve(axes[1, 1], rows, "logp_gap_max", RED)
    axes[1, 1].set(ylabel="nats per token", xlabel="step", title="Sampler against trainer, log-probability gap")
    axes[1, 1].set_ylim(bottom=0)
    return to_svg(figure)


@styled
def pass_at_k(passk: dict[str, Any]) -> str:
    """The share of problems solved at least once in k tries, before and after RL."""
    figure, axes = new_axes(6, 3.4)
    ticks: set[int] = set()
    for name, label, colour in (("before", "before RL", BLUE), ("after", "after RL", ORANGE)):
        points = sorted((int(k), metric) for k, metric in passk.get(name, {}).items())
        if not points:
            continue
        metrics = [metric for _, metric in points]
        tries = [k for k, _ in points]
        values = [metric["value"] for metric in metrics]
        axes.errorbar(tries, values, _errors(metrics), fmt="o-", color=colour, capsize=3, label=label)
        ticks.update(tries)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(ticks), [str(k) for k in sorted(ticks)])
    axes.set(xlabel="tries k", ylabel="solved at least once", ylim=(0, 1.02))
    _percent(axes)
    axes.legend(loc="lower right")
    return to_svg(figure)
