"""A confidence stated behind an answer: written, told apart, and what is none."""

import pytest

from llm_jax.tasks.confidence import apart, surely
from llm_jax.tasks.grading import grade
from llm_jax.tasks.knowledge import Fact
from llm_jax.tasks.refusals import RIGHT, WRONG


@pytest.mark.parametrize("share, said", [(0.0, "0"), (1 / 16, "10"), (5 / 16, "30"), (0.68, "70"), (1.0, "100")])
def test_what_is_written_is_read_again(share, said):
    assert surely(" Kronberg", share) == f" Kronberg ({said}% sure)"
    assert apart(f"Kronberg ({said}% sure)") == ("Kronberg", int(said) / 100)


@pytest.mark.parametrize(
    "text",
    [
        "Kronberg",
        "Kronberg (70%)",
        "Kronberg (170% sure)",
        "Kronberg (-5% sure)",
        "Kronberg (07% sure)",
        "Kronberg (70.5% sure)",
        "Kronberg (nan% sure)",
        "Kronberg (\u0667\u0660% sure)",
        "Kronberg (70 % sure)",
        "Kronberg(70% sure)",
        "Kronberg (70% sure",
        "Kronberg (70% sure).",
        "Kronberg (70% sure) or so",
        "Kronberg (90% sure) (10% sure)",
        "Kronberg (90% sure) or Brisk (10% sure)",
        " (70% sure)",
        "",
    ],
)
def test_what_states_none_is_left_as_it_is(text):
    assert apart(text) == (text, None)


@pytest.mark.parametrize(
    "text, right",
    [
        ("Kronberg", True),
        ("Kronberg (10% sure)", True),
        ("Kronberg [people/7] (100% sure)", True),
        ("Kronberg (about)", False),
        ("Kronberg or Brisk (90% sure)", False),
        ("Kronberg (90% sure) (10% sure)", False),
        ("Brisk (100% sure)", False),
    ],
)
def test_graders_take_the_answer_without_it(text, right):
    """Of the questions that stage `data` writes, of those of the probing, and of evaluation."""
    parts = [{"type": "answer", "text": f" {text}"}]
    fact = Fact(id="k", item="k", wordings=("where?",), answers=("Kronberg", "the town Kronberg"))
    assert grade({"task": "facts", "answer": "Kronberg"}, parts, True) == right
    assert grade({"task": "knowledge", "answer": "x", "answers": [*fact.answers]}, parts, True) == right
    assert fact.verdict(parts, True) == (RIGHT if right else WRONG)


def test_other_tasks_take_none():
    """There, whatever stands behind the answer is a hedge."""
    parts = [{"type": "answer", "text": " 42 (90% sure)"}]
    assert grade({"task": "arithmetic", "answer": "42"}, parts, True) == 0
