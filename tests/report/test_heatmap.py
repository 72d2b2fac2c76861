"""The map as a figure, in sentences and beside another run's; and the page that is made of what evaluate printed."""

import json
import re

import pytest

from llm_jax.config import UserError
from llm_jax.report import heatmap, metrics
from tests.commands import refused, run
from tests.report.test_page import fake_map


def titles(svg: str) -> list[str]:
    return re.findall(r"<title>([^<]*)</title>", svg)


def test_every_cell_has_its_rung_and_interval_as_a_title():
    told = titles(heatmap.figure({"this run": fake_map()}))
    assert len(told) == 3 * 7  # rungs of all families, for each way
    (cell,) = [title for title in told if title.startswith("adding_up, 3 digits, at once")]
    assert re.search(r"12.0\xa0% \(7.5 – 16.5\xa0%\), n = 200, lenient 22 %", cell)
    assert "spelling, 4 letters, with the tool: not asked this way" in told


def test_what_a_family_is_called_is_escaped():
    group = {"<b>&": fake_map()["copying"]}
    assert (
        "<b>" not in heatmap.figure({"run": group})
        and "&lt;b&gt;&amp;, 2 words" in titles(heatmap.figure({"run": group}))[0]
    )


def test_a_hole_is_empty_and_what_works_is_full():
    full, empty = heatmap.COLOURS(1.0), heatmap.COLOURS(0.0)
    assert full[3] == 1 and empty[3] == 0


def test_sentences_are_sharpest_first():
    told = heatmap.sentences(fake_map())
    assert [line.split(",")[0] for line in told["cliffs"]] == ["copying", "adding up"]
    assert told["cliffs"][1] == "adding up, at once: right on 95.0\xa0% with 2 digits, on 12.0\xa0% with 3 digits."
    assert told["helped"][0] == "adding up, 3 digits: 12.0\xa0% at once, 99.0\xa0% with the tool."


def test_two_runs_stand_side_by_side_also_where_they_have_other_families():
    other = {"doubling": {"only": {"direct": metrics.Metric(value=0.5, n=64, ci95=[0.4, 0.6])}}}
    told = titles(heatmap.figure({"a": fake_map(), "b": other}))
    assert len(told) == 3 * 7 + 1 and "doubling, only, at once: 50.0\xa0% (40.0 – 60.0\xa0%), n = 64" in told
    assert heatmap.values({"a": {}})["figure"] == ""


def test_a_page_of_what_was_printed(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.json").write_text("evaluate  map: 1.0 s\n" + json.dumps({"map": fake_map()}) + "\n")
    command = ("llm_jax.report.heatmap", f"{tmp_path}/one.json", f"--output={tmp_path}/page.html")
    done = run(*command, f"--beside={tmp_path}/two.json")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "one.json and two.json" in page and "<script" not in page and "&lt;script&gt;" in page
    assert page.count("Works here, fails a step further") == 2 and "✓ right" in page
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    refused(run(*command, f"--beside={tmp_path}/none.json"), "none.json is not there", "--tasks=map")
    (tmp_path / "two.json").write_text('{"think": {}}')
    with pytest.raises(UserError, match="does not end with the map"):
        heatmap.printed(tmp_path / "two.json")
