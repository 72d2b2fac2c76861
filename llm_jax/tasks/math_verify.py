"""Answers of the MATH shape compared by math-verify where our own rules do not take them: named in `extensions`."""

import dataclasses
import logging

from llm_jax.config import UserError
from llm_jax.tasks import latex
from llm_jax.tasks.base import NUMBER
from llm_jax.tasks.shapes import SHAPES

try:
    from math_verify import parse, verify
except ImportError as error:
    raise UserError("llm_jax.tasks.math_verify needs math-verify; pip install 'llm_jax[math]'") from error

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it keeps no time, and we do
HEDGES = ("$", "\n", "=", ";", ",", " or ", " and ", latex.BOXED)  # of several expressions it would choose one


def grade(prompt: dict, given: str) -> bool:
    """Whether the answer says the same by our rules, or is one expression that equals the prompt's by its.

    Where the answer is a number, ours alone count: else 17*23 would answer what 17*23 is. Still, who is to simplify a
    root may repeat it: fit to measure with, less so as a reward. Its own limits on time are off, since they take the
    alarm that ours needs.
    """
    if latex.grade(prompt, given):
        return True
    if NUMBER.fullmatch(latex.plain(prompt["answer"])):
        return False
    inside = latex.boxed(given) if given.startswith(latex.BOXED) else given
    if not inside or not inside.isascii() or any(sign in inside for sign in HEDGES):
        return False
    said, answer = (parse(f"{latex.BOXED}{text}}}", parsing_timeout=None) for text in (inside, prompt["answer"]))
    return bool(said) and verify(answer, said, timeout_seconds=None)


row = SHAPES["math"]
SHAPES.remove(row.name)
SHAPES.add(dataclasses.replace(row, grade=grade))
