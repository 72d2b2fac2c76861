r"""Answers of the MATH set (Hendrycks et al. 2021): what stands in \boxed{...}, compared by what it says."""

import re

from llm_jax.tasks.base import equal

BOXED = r"\boxed{"
# What only changes how an answer looks: spaces, sizes, signs around a formula, degrees and percent.
LOOKS = re.compile(r"\s+|\\[!,;: ]|\\left(?![a-z])|\\right(?![a-z])|\\?[$%]|\^\{?\\circ\}?|\\displaystyle")
WORDS = re.compile(r"\\(?:text|mathrm|textbf|mbox)\{([^{}]*)\}")
SHORT = re.compile(r"\\frac(?:(\d)(\d)|(\d)\{([^{}]*)\}|\{([^{}]*)\}(\d))")  # \frac12, \frac1{72}, \frac{72}1
RATIO = re.compile(r"(-?)\\frac\{(-?[0-9]+)\}\{([0-9]+)\}")
THOUSANDS = re.compile(r"-?[0-9]{1,3}(,[0-9]{3})+")


def boxed(text: str) -> str:
    r"""What stands in the last \boxed{...}, brackets matched; empty where there is none, or it is not closed."""
    _, found, after = text.rpartition(BOXED)
    depth = 1
    for place, sign in enumerate(after):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if not depth:
            return after[:place].strip() if found else ""
    return ""


def plain(answer: str) -> str:
    """An answer without what changes nothing about it."""
    text = WORDS.sub(r"\1", answer.strip())
    text = re.sub(r" +", " ", LOOKS.sub(" ", text))
    text = re.sub("(?<![0-9]) | (?![0-9])", "", text)  # 1 2 is not 12
    text = re.sub(r"\\[dt]frac", r"\\frac", text).removesuffix(".")
    text = SHORT.sub(lambda found: r"\frac{{{}}}{{{}}}".format(*(part for part in found.groups() if part)), text)
    if ratio := RATIO.fullmatch(text):
        sign, above, below = ratio.groups()
        text = f"{sign}{above}/{below}".removeprefix("--")
    if THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    return f"0{text}" if re.fullmatch(r"\.[0-9]+", text) else text


def grade(prompt: dict, given: str) -> bool:
    r"""Whether an answer, which may itself stand in \boxed{...}, says what the prompt's does."""
    inside = boxed(given)
    if inside and given.strip() == f"{BOXED}{inside}}}":
        given = inside
    return bool(given) and equal(plain(prompt["answer"]), plain(given))
