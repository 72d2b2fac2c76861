"""The page of a run: whole, self-contained and safe, from full, partial and hostile inputs."""

import json
import math
import random
import re
from pathlib import Path

import pytest

from llm_jax.evals.map import summary
from llm_jax.report.metrics import direction, measured, quoted
from llm_jax.report.page import write_page
from llm_jax.report.plots import smooth

PLOTS = {
    "pretrain_loss",
    "bits_per_byte",
    "sft_loss",
    "recall",
    "knowledge_by_exposure",
    "knowledge_reliability",
    "think",
    "tools",
    "rl_curves",
    "rl_bars",
    "pass_at_k",
    "map",
}
HOSTILE = "<script>alert('hello')</script>"


def share(value: float, n: int = 200) -> dict:
    half = 1.96 * math.sqrt(max(value * (1 - value), 0.002) / n)
    return {"value": value, "n": n, "ci95": [max(0.0, value - half), min(1.0, value + half)]}


def shares(**values: float) -> dict:
    return {name: share(value) for name, value in values.items()}


def plain(**values: float) -> dict:
    return {name: {"value": value} for name, value in values.items()}


def fake_map() -> dict:
    """Three families: one with a cliff, one that the tool helps, one that was not asked to think."""
    cell = lambda value: share(value) | {"lenient": min(1.0, value + 0.1)}  # noqa: E731
    ways = lambda *values: dict(zip(("direct", "think", "tool"), map(cell, values), strict=False))  # noqa: E731
    found = {
        "adding_up": {"2 digits": ways(0.95, 0.97, 1.0), "3 digits": ways(0.12, 0.95, 0.99)},
        "spelling": {"3 letters": {"direct": cell(0.2), "tool": cell(0.9)}, "4 letters": {"direct": cell(0.0)}},
        "copying": {"2 words": ways(1.0), "4 words": ways(0.6), "6 words": ways(0.1)},
    }
    told = {"family": "adding_up", "level": "3 digits", "way": "direct", "prompt": f"12+30? {HOSTILE}"}
    examples = [{**told, "answer": "42", "parts": fake_parts("42"), "right": True}]
    return {**found, **summary(found), "examples": {"value": 1, "found": examples}}


def fake_knowledge() -> dict:
    names = ("0", "1", "3", "10", "30", "100", "never_seen", "near_miss")
    stacked = {n: shares(right=0.1 * i, wrong=0.1, abstained=0.9 - 0.1 * i) for i, n in enumerate(names)}
    bins = {str(n): plain(confidence=n / 10, right=n / 12) for n in range(11)}
    causes = {c: shares(abstained=0.7, twin_right=0.6) for c in ("never_seen", "unknowable", "changed")}
    sides = {"by_exposure": stacked, "reliability": bins, "causes": causes}
    return {
        **shares(wrong_unknown=0.08, wrong_unknown_before=0.95, over_refusal=0.03, f=0.5, f_random=0.3, after_rl=0.12),
        **{name: {"before": part, "after": part} for name, part in sides.items()},
    }


def fake_report() -> dict:
    sft = shares(
        ends_turn=0.99,
        recall_people_never_asked=0.33,
        recall_tier_0=0.01,
        recall_tier_1=0.03,
        recall_tier_3=0.09,
        recall_tier_10=0.23,
        recall_tier_30=0.44,
        recall_tier_100=0.65,
        invented_heldout=0.94,
    ) | {
        turn: shares(sums=0.95, tools=0.97, recall=value)
        for turn, value in (("first_turn", 0.66), ("second_turn", 0.64))
    }
    think = shares(direct=0.21, with_thinking=0.58, two_number_direct=0.61)
    tools = shares(call_rate=0.93, call_correct=0.88, format_without=0.97) | {
        "with": share(0.9),
        "without": share(0.12),
    }
    tries = (1, 2, 4, 8, 16)
    rl = shares(
        accuracy_before=0.55,
        accuracy_after=0.74,
        sampled_before=0.41,
        sampled_after=0.72,
        format_before=0.9,
        format_after=0.99,
        thinks_before=0.8,
        thinks_after=0.99,
        accuracy_made_to_think_before=0.6,
        accuracy_made_to_think_after=0.75,
    )
    return {
        **plain(total_seconds=780.4, machine_gflops=118.0, normalised_seconds=837.2),
        "data": plain(documents=41213, bytes=52.1e6, bytes_per_token=3.9, tokens=13.2e6, rows=25900, padding=0.013)
        | {"epochs": plain(biography=3, questions=4)},
        "seconds": plain(data=31, pretrain=402.5, sft=96, rl=190, evaluate=55, report=5.9),
        "pretrain": {
            **plain(
                xz_bpb=1.92,
                parameters=6_291_456,
                tokens=13.1e6,
                first_step_seconds=7.7,
                tokens_per_second=33100,
            ),
            **{
                f"val_bpb{source}": {"value": bits, "n": 300, "ci95": [bits - 0.04, bits + 0.05]}
                for source, bits in {
                    "": 1.31,
                    "_biography": 0.82,
                    "_questions": 0.95,
                    "_lesson": 1.2,
                    "_python_docs": 2.05,
                }.items()
            },
        },
        "sft": sft,
        "abstain": fake_knowledge(),
        "self": shares(right=0.96, right_told=0.97, false_claims_accepted=0.02, false_claims_accepted_told=0.01),
        "think": think,
        "tools": tools,
        "rl": rl
        | plain(logp_gap_max=0.011, steps=120)
        | {"kind_of_gain": {"value": "Mostly reliability: pass@1 rose and pass@16 did not move."}},
        "passk": {
            "before": {str(k): share(0.93 - 0.52 / k) for k in tries},
            "after": {str(k): share(0.93 - 0.2 / k) for k in tries},
            "problems": {"value": 200},
        },
        "map": fake_map(),
        "final": {
            "sft": sft | shares(recall_tier_100=0.4),
            "think": think | shares(with_thinking=0.75),
            "tools": tools,
        },
    }


def fake_parts(answer: str) -> list[dict]:
    return [
        {"type": "think", "text": "17 + 25: 7 + 5 = 12, carry 1.\n1 + 2 + 1 = 4, so 42."},
        {"type": "python", "text": "print(17 + 25)"},
        {"type": "output", "text": "42"},
        {"type": "text", "text": "Seventeen and twenty-five make "},
        {"type": "answer", "text": answer},
    ]


def fake_samples(hostile: str) -> dict:
    said = f"What is 17 + 25? {hostile}"
    tries = [
        {"prompt": said, "answer": "42", "parts": fake_parts(a), "reward": int(a == "42"), "step": 3}
        for a in ("42", f"41 {hostile}")
    ]
    talk = {
        "messages": [{"role": "user", "content": said}],
        "prompt": said,
        "answers": {
            "pretrain": "It was said that the river rose in spring, and the river rose again. " * 5,
            "sft": fake_parts("41"),
            "rl": fake_parts("42"),
        },
    }
    return {
        "documents": [
            {
                "prompt": "Mara Lindqvist was born",
                "text": " in a harbour town, where she repaired clocks. " * 8,
            }
        ]
        * 3,
        "conversations": [talk, talk | {"messages": []}],
        "rl_transcripts": {"start": tries, "middle": tries, "end": tries},
    }


def fake_curves(steps: int = 1200) -> dict[str, list[dict]]:
    noise = random.Random(1)
    loss = [
        {"step": s, "loss": 2 + 5 * math.exp(-s / 150) + noise.gauss(0, 0.1), "learning_rate": 1e-3}
        for s in range(steps)
    ]
    loss += [{"step": s, "val_loss": 2.1 + 5 * math.exp(-s / 150)} for s in range(100, steps, 200)]
    rl = [
        {
            "step": s,
            "reward": 0.4 + 0.3 * s / 120 + noise.gauss(0, 0.05),
            "thinks": min(1.0, 0.8 + s / 500),
            "entropy": 0.4,
            "completion_length": 60 + s / 4 + noise.gauss(0, 5),
            "logp_gap_max": abs(noise.gauss(0.005, 0.002)),
            "accuracy": 0.35 + 0.3 * s / 120 + noise.gauss(0, 0.05),
        }
        for s in range(120)
    ]
    return {"pretrain": loss, "sft": loss[:200], "rl": rl}


def fake_run(workdir: Path, report: dict, curves: dict, samples: dict | None) -> Path:
    (workdir / "report").mkdir(parents=True)
    (workdir / "report/report.json").write_text(json.dumps(report))
    if samples:
        (workdir / "report/samples.json").write_text(json.dumps(samples))
    for stage, rows in curves.items():
        (workdir / stage).mkdir()
        (workdir / stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return workdir


def figures(html: str) -> set[str]:
    return set(re.findall(r'<figure id="plot-(\w+)"[^>]*>\s*<svg', html))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    workdir = fake_run(tmp_path_factory.mktemp("run") / "w", fake_report(), fake_curves(), fake_samples(HOSTILE))
    path = write_page(workdir)
    assert path == workdir / "report/index.html"
    return path.read_text(encoding="utf-8")


def test_page_has_every_plot_and_section_and_stays_small(page: str) -> None:
    assert figures(page) == PLOTS
    assert re.findall(r'<section id="(\w+)"', page) == [
        "path",
        "data",
        "pretrain",
        "sft",
        "abstain",
        "self",
        "think",
        "tools",
        "rl",
        "map",
        "times",
        "everything",
    ]
    assert len(page.encode()) < 3_000_000


def test_page_asks_nothing_of_the_outside(page: str) -> None:
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    assert not re.findall(r"""@import|url\(\s*["']?(?!#)""", page)
    assert set(re.findall(r"https?://[^\"'\s<]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_hostile_text_is_escaped(page: str) -> None:
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 5


def test_intervals_and_verdicts_are_in_the_text(page: str) -> None:
    assert "55.0\u00a0% (48.1 – 61.9\u00a0%)" in page
    assert "clearly up" in page and "no clear change" in page
    assert "pass@16 did not move" in page


def test_how_often_pages_are_read_is_said(page: str) -> None:
    assert re.search(r"sentences 3 times and those with questions\s+4 times", page)


def test_what_a_group_holds_inside_is_shown_and_compared(page: str) -> None:
    assert "<td>sft: second turn, recall</td>" in page
    assert re.search(r"<td>sums of two numbers</td>(<td[^>]*>95.0[^<]*</td>\s*){2}", page)


def test_run_without_rl_and_samples(tmp_path: Path) -> None:
    report = {name: group for name, group in fake_report().items() if name not in ("rl", "passk", "final")}
    curves = {name: rows for name, rows in fake_curves(50).items() if name != "rl"}
    html = write_page(fake_run(tmp_path / "w", report, curves, None)).read_text(encoding="utf-8")
    assert figures(html) == PLOTS - {"rl_curves", "rl_bars", "pass_at_k"}
    assert '<section id="rl"' not in html


def test_raw_pages_are_where_a_run_began_that_trained_the_base_model(page: str, tmp_path: Path) -> None:
    report = fake_report()
    del report["seconds"]["pretrain"]
    branch = write_page(fake_run(tmp_path / "w", report, {}, None)).read_text(encoding="utf-8")
    assert "from raw pages to this report" in page and "From raw pages" in page
    assert "raw pages" not in branch and "all stages of this run" in branch


@pytest.mark.parametrize(
    "group", ["data", "seconds", "pretrain", "sft", "think", "tools", "rl", "passk", "map", "final"]
)
def test_one_group_alone_renders(tmp_path: Path, group: str) -> None:
    assert write_page(fake_run(tmp_path / "w", {group: fake_report()[group]}, {}, None)).exists()


def test_what_has_no_value_was_not_measured() -> None:
    report = {
        "rl": {"a": {"value": None}, "b": {"value": math.nan}},
        "sft": {"c": {"value": 0.5, "ci95": [None, 1]}},
    }
    assert measured(report) == {"sft": {"c": {"value": 0.5}}}
    assert quoted({}) == "not measured"


def test_direction_is_called_only_beyond_the_noise() -> None:
    assert direction(share(0.5), share(0.7)) == "up"
    assert direction(share(0.7), share(0.5)) == "down"
    assert direction(share(0.5), share(0.54)) == "unclear"
    assert direction({"value": 0.1}, {"value": 0.9}) == "unclear"


def test_smoothing_keeps_lines_and_length() -> None:
    line = [float(i) for i in range(201)]
    assert smooth(line) == pytest.approx(line)
    assert len(smooth([])) == 0
