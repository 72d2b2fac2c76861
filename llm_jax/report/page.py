"""Writes WORKDIR/report/index.html from the numbers, curves and samples that a run left in WORKDIR."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from llm_jax.files import whole_lines
from llm_jax.report import heatmap, knowledge, metrics, plots
from llm_jax.report.metrics import Metric, read_json
from llm_jax.report.templates import rendered
from llm_jax.stage_table import STAGES, trained

SECTIONS = (
    "data crawl pretrain real sft abstain self context search think tools rl passk map final seconds".split()
)  # groups that page.html tells of
BEFORE_AFTER = {
    "accuracy": "right\n(greedy)",
    "sampled": "right\n(sampled)",
    "format": "well-formed",
    "thinks": "thinks",
    "accuracy_made_to_think": "right when\nmade to think",
}
THINKING = {
    "direct": "answers\ndirectly",
    "with_thinking": "thinks\nfirst",
    "two_number_direct": "two numbers,\ndirectly",
}
REAL = {  # question -> (before, after)
    "sums of two numbers of two to four digits": ("sums_direct_before", "sums_tool"),
    "of these, solved by calling the tool": ("sums_called_before", "sums_called_after"),
    "sums of three numbers, by the best of four prompts, no tool": ("think_before", "think_after"),
    "the right ending of a sentence, of four": ("choices_before", "choices_after"),
    "bits per byte of pages that it was not trained on": ("bpb_before", "bpb_after"),
}
READING = {
    "one": "one\nperson",
    "one_fresh": "a\nstranger",
    "two": "two\npeople",
    "three": "three",
    "five": "five",
    "five_fresh": "five\nstrangers",
}
TOOLS = {
    "without": "without\ntools",
    "with": "with\ntools",
    "call_rate": "calls\na tool",
    "call_correct": "calls that\nare right",
    "format_without": "well-formed\nwithout tools",
}
CRAWL_STEPS = {
    "crawled": "was crawled",
    "read": "can be read",
    "url": "has an address that nobody blocks",
    "extract": "has text",
    "language": "is in English",
    "gopher_repetition": "does not repeat itself (Gopher)",
    "gopher_quality": "reads like text (Gopher)",
    "c4": "has sentences (C4)",
    "fineweb": "has whole lines (FineWeb)",
    "near_duplicate": "is no copy of another",
    "pii": "with addresses and numbers masked",
}
FOUND = {
    "clean": "a page worth keeping is kept",
    "blocked_url": "blocked addresses are dropped",
    "foreign": "other languages are dropped",
    "spam": "spam is dropped",
    "broken": "pages without text are dropped",
    "duplicate_of": "of two equal pages one is left",
    "near_duplicate_of": "of two nearly equal ones, too",
    "pii": "e-mail, IP and phone numbers are masked",
}
CLEAR = {"up": "clearly up", "down": "clearly down", "unclear": "no clear change"}

Curves = dict[str, list[dict[str, Any]]]


def _chosen(group: dict[str, Metric], labels: dict[str, str], prefix: str = "{}") -> list[tuple[str, Metric]]:
    """The metrics of a group that were measured, under the labels of a plot."""
    return [(label, group[prefix.format(name)]) for name, label in labels.items() if prefix.format(name) in group]


def draw(report: dict[str, Any], curves: Curves) -> dict[str, Markup]:
    """Every figure for which the run has numbers, by name."""
    figures = {f"{stage}_loss": plots.loss(rows) for stage, rows in curves.items() if rows and stage != "rl"}
    if curves["rl"]:
        figures["rl_curves"] = plots.rl_curves(curves["rl"])
    if any("bpb" in name for name in report.get("pretrain", {})):
        figures["bits_per_byte"] = plots.bits_per_byte(report["pretrain"])
    if any(name.startswith("recall") for name in report.get("sft", {})):
        figures["recall"] = plots.recall(report["sft"])
    if thinking := _chosen(report.get("think", {}), THINKING):
        figures["think"] = plots.bars({"share right": thinking})
    if reading := _chosen(report.get("context", {}), READING):
        figures["context"] = plots.bars({"share right": reading})
    if tools := _chosen(report.get("tools", {}), TOOLS):
        figures["tools"] = plots.bars({"share": tools}, ylabel="share of questions")
    rl = {f"{when} RL": _chosen(report.get("rl", {}), BEFORE_AFTER, "{}_" + when) for when in ("before", "after")}
    if any(rl.values()):
        figures["rl_bars"] = plots.bars(rl, ylabel="share of answers")
    if report.get("passk", {}).keys() & {"before", "after"}:
        figures["pass_at_k"] = plots.pass_at_k(report["passk"])
    figures |= knowledge.figures(report)
    # The drawings are the program's own: every name in them went through matplotlib's XML escaping.
    return {name: Markup(svg) for name, svg in figures.items()}


def from_pages(report: dict[str, Any]) -> bool:
    """Whether the run has trained the base model itself: it may have begun with another run's, or an imported one."""
    return any(STAGES[name].kind == "base" for name in report.get("seconds", {}) if name in STAGES)


def headlines(report: dict[str, Any]) -> list[tuple[str, Metric, str]]:
    """The key figures on top of the page: what it is, the metric, its format."""
    total = "from raw pages to this report" if from_pages(report) else "all stages of this run"
    wanted = [
        (total, ("total_seconds",), "seconds"),
        ("bits per byte of held-out text", ("pretrain", "val_bpb"), "bits"),
        ("facts recalled that the pages state 100 times", ("sft", "recall_tier_100"), "share"),
        (
            "invented about people it never met, before it was taught to abstain",
            ("abstain", "wrong_unknown_before"),
            "share",
        ),
        ("and after", ("abstain", "wrong_unknown"), "share"),
        ("right with a tool", ("tools", "with"), "share"),
        ("sums right, before it was trained on", ("real", "sums_direct_before"), "share"),
        ("sums right, with the tool", ("real", "sums_tool"), "share"),
        ("longer sums right, before", ("real", "think_before"), "share"),
        ("longer sums right, by thinking", ("real", "think_after"), "share"),
        ("reasoning problems right before RL", ("rl", "accuracy_before"), "share"),
        ("reasoning problems right after RL", ("rl", "accuracy_after"), "share"),
    ]
    found = dict(metrics.walk(report))
    return [(label, found[path], kind) for label, path, kind in wanted if path in found]


def timeline(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages in the order they ran, each with its seconds and its share of their sum."""
    seconds = report.get("seconds", {})
    names = [name for name in STAGES if name in seconds] + [name for name in seconds if name not in STAGES]
    total = sum(seconds[name]["value"] for name in names) or 1.0
    return [
        {
            "name": name,
            "label": STAGES[name].label if name in STAGES else name,
            "metric": seconds[name],
            "share": seconds[name]["value"] / total,
        }
        for name in names
    ]


def kept_abilities(report: dict[str, Any]) -> list[tuple[str, Metric, Metric, str]]:
    """The questions asked both after SFT and of the last checkpoint: before, after, what to make of it."""
    before = dict(metrics.walk(report))
    return [
        (
            f"{path[0]}: {', '.join(path[1:]).replace('_', ' ')}",
            before[path],
            after,
            CLEAR[metrics.direction(before[path], after)],
        )
        for path, after in metrics.walk(report.get("final", {}))
        if path[0] in ("sft", "think", "tools") and path in before
    ]


def answers(talk: dict[str, Any]) -> list[tuple[str, Any]]:
    """(who says it, what) of each stage's answer to a question."""
    said = lambda stage: "base model continues" if stage.kind == "base" else f"after {stage.label}"  # noqa: E731
    return [(said(STAGES[name]) if name in STAGES else name, words) for name, words in talk["answers"].items()]


def others(report: dict[str, Any]) -> list[tuple[str, list[dict[str, str]]]]:
    """Groups of measurements that no section of the page tells of, each as a table."""
    groups = {name: node for name, node in report.items() if name not in SECTIONS and not metrics.is_metric(node)}
    return [(name, table({name: node})) for name, node in groups.items()]


def table(report: dict[str, Any]) -> list[dict[str, str]]:
    """Every metric of the report as a row of text."""
    rows = []
    for path, metric in metrics.walk(report):
        if path[:2] == ("final", "map"):  # the same as `map`
            continue
        kind = metrics.kind_of(path, metric)
        rows.append(
            {
                "name": " / ".join(path),
                "value": metrics.number(metric, kind),
                "interval": metrics.interval(metric, kind),
                "n": f"{metric['n']:,}" if "n" in metric else "",
            }
        )
    return rows


def write_page(workdir: Path) -> Path:
    """Render the page of the run in `workdir` and return where it lies."""
    report = metrics.measured(read_json(workdir / "report" / "report.json"))
    curves = {stage: whole_lines(workdir / stage / "metrics.jsonl") for stage in trained()}
    html = rendered(
        "page.html",
        r=report,
        samples=read_json(workdir / "report" / "samples.json"),
        plots=draw(report, curves),
        from_pages=from_pages(report),
        headlines=headlines(report),
        stages=timeline(report),
        crawl_steps=CRAWL_STEPS,
        real=[(what, *(report.get("real", {}).get(name) for name in names)) for what, names in REAL.items()],
        found=FOUND.items(),
        map=heatmap.values({"this run": report.get("map", {})}),
        causes=knowledge.causes(report),
        kept=kept_abilities(report),
        table=table(report),
        others=others(report),
        answers=answers,
        more_curves=[(STAGES[stage].label, f"{stage}_loss") for stage in curves if stage not in SECTIONS],
        direction=metrics.direction,
    )
    path = workdir / "report" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path
