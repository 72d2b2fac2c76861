"""Adapters to the field's libraries: what is right by theirs, and what hedges stays wrong; skipped where one lacks."""

import importlib
import sys

import pytest

from llm_jax.config import UserError
from llm_jax.tables import extend
from llm_jax.tasks.grading import score
from llm_jax.tasks.records import DRAWN, drawn
from llm_jax.tasks.shapes import SHAPES
from llm_jax.tasks.table import FAMILIES


@pytest.mark.parametrize("name, extra", [("math_verify", "math"), ("reasoning_gym", "gym")])
def test_without_the_library_the_mend_is_told(name, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, f"{name}.factory", None)
    monkeypatch.delitem(sys.modules, f"llm_jax.tasks.{name}", raising=False)
    with pytest.raises(UserError, match=rf"pip install 'llm_jax\[{extra}\]'"):
        extend([f"llm_jax.tasks.{name}"])


@pytest.mark.parametrize("right, same, other", [
    ("x^2+1", ["1+x^2", r"\boxed{1 + x^2}", "x^2 + 1"], ["x^2-1", "x^2", "x^2+1 or x^2", "x^2+1, x^2", ""]),
    (r"\frac{\sqrt{2}}{2}", [r"\frac{1}{\sqrt{2}}"], [r"\sqrt{2}", r"\frac{1}{\sqrt{2}}=1", r"1=\frac{1}{\sqrt{2}}"]),
    ("12", ["12", "12.0"], ["12 or 13", "13}\\boxed{12", r"\boxed{13}\boxed{12}", "$13$ $12$", "13;12", "١٢", "3*4"]),
])  # fmt: skip
def test_math_verify_takes_equal_expressions(right, same, other):
    pytest.importorskip("math_verify", reason="math-verify is not installed (pip install 'llm_jax[math]')")
    row = SHAPES["math"]
    try:
        importlib.reload(importlib.import_module("llm_jax.tasks.math_verify"))
        prompt = {"task": "math", "answer": right}
        assert [text for text in same if score(prompt, text) != 1] == []
        assert [text for text in other if score(prompt, text)] == []
    finally:
        SHAPES.remove("math")
        SHAPES.add(row)


def test_datasets_of_reasoning_gym_are_families(monkeypatch):
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (pip install 'llm_jax[gym]')")
    before = set(FAMILIES)
    try:
        monkeypatch.delitem(sys.modules, "llm_jax.tasks.reasoning_gym", raising=False)
        extend(["llm_jax.tasks.reasoning_gym"])
        monkeypatch.setitem(DRAWN, "test", 3)
        for name in ("gym_chain_sum", "gym_letter_counting"):
            prompts = list(drawn(FAMILIES[name], "test"))
            assert len(prompts) == 3 and prompts == list(drawn(FAMILIES[name], "test"))
            for prompt in prompts:
                right, asked = prompt["answer"], prompt["messages"][0]["content"]
                assert score(prompt, right) == 1
                wrong = [f"{right}1", f"{right} or 1", "", asked, f"the {right}", f"{asked} {right}"]
                assert [text for text in wrong if score(prompt, text)] == []
    finally:
        for name in set(FAMILIES) - before:
            FAMILIES.remove(name)
