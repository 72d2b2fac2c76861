"""Two runs side by side: on a page and in a terminal, and what cannot be compared."""

import json
import re
from pathlib import Path

import pytest

from llm_jax import config
from llm_jax.config import UserError
from llm_jax.evals.statistics import rate
from llm_jax.report.comparison import compare
from llm_jax.runs import note
from tests.commands import refused, run


def made(workdir: Path, right: int, more: dict, **model) -> Path:
    """A run whose tool was right so many times of 100."""
    (workdir / "report").mkdir(parents=True)
    c = config.default()
    c.model.update(model)
    note(workdir, c)
    tools = {"with": rate([1.0] * right + [0.0] * (100 - right), range(100))}
    report = {"total_seconds": {"value": 61.0}, "pretrain": {"val_bpb": {"value": 1.25}}, "tools": tools, **more}
    (workdir / "report/report.json").write_text(json.dumps(report))
    return workdir


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """Two that have the same name; `final` is in the first alone, `real` in the second."""
    folder = tmp_path_factory.mktemp("runs")
    lost = {"final": {"sft": {"recall": {"value": 0.5, "n": 8, "ci95": [0.2, 0.8]}, "empty": {"value": None}}}}
    bits = {"real": {"bpb_before": {"value": 0.9, "n": 40, "ci95": [0.88, 0.93]}}}
    kind = lambda text: {"rl": {"kind_of_gain": {"value": text}}}  # noqa: E731
    first = made(folder / "a/<b>", 50, lost | kind("Reliability."))
    return first, made(folder / "c/<b>", 90, bits | kind("Ability."), layers=12, layer_pattern=("full", "window:8"))


def test_intervals_that_do_not_meet_are_marked(runs, tmp_path):
    found = compare(*runs)
    lines = {group: {line.name: line for line in lines} for group, lines in found.groups.items()}
    assert found.names == ["a/<b>", "c/<b>"]
    assert lines["tools"]["with"].apart and found.count("apart") == 1 and found.count("both") == 4
    assert [cell[:6] for cell in lines["tools"]["with"].cells] == ["50.0\u00a0%", "90.0\u00a0%"]
    assert lines["final"]["sft / recall"].cells == ("50.0\u00a0% (20.0 – 80.0\u00a0%)", "") and len(lines["final"]) == 1
    assert lines["real"]["bpb_before"].cells == ("", "0.900 (0.880 – 0.930)")
    assert lines["the whole run"]["total_seconds"].cells == ("1 min 01 s",) * 2
    assert lines["rl"]["kind_of_gain"].cells == ("Reliability.", "Ability.")
    assert {line.name: line.cells for line in found.config} == {
        "model.layers": ("6", "12"),
        "model.layer_pattern": ('["full"]', '["full", "window:8"]'),
    }
    near = compare(runs[0], made(tmp_path / "near", 55, {}))
    assert not near.count("apart") and not near.config


def test_a_page_and_a_table(runs, tmp_path):
    done = run("llm_jax.compare", *map(str, runs), f"--output={tmp_path}/page.html")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("tools / with")]
    assert re.search(r"50.0.% \([\d.]+ – [\d.]+.%\) +90.0.% \(.*\) +apart$", line.rstrip())
    assert re.search(r"^model.layers +6 +12 *$", done.stdout, re.MULTILINE)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(re.findall('<tr class="apart">', page)) == 1
    assert "<b>" not in re.sub(r"<b>\d+</b>", "", page) and "a/&lt;b&gt;" in page
    assert not re.findall(r"""(?:src|href)\s*=|@import|url\(""", page)


def test_what_cannot_be_compared(runs, tmp_path):
    refused(run("llm_jax.compare", str(runs[0])), "RUN_B is missing", "RUN_A RUN_B")
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(UserError, match=r"bare is no run"):
        compare(runs[0], bare)
    note(bare, config.default())
    done = run("llm_jax.compare", str(bare), str(runs[0]), f"--output={tmp_path}/p")
    refused(done, "bare has no report", "--stages=evaluate,report")
    assert not (tmp_path / "p").exists()
    (tmp_path / "link").symlink_to(runs[0])
    with pytest.raises(UserError, match="are one run"):
        compare(runs[0], tmp_path / "link")
