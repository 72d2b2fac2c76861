"""Summaries of what is said, or known, of a person: a fixed form with a place for each fact, so that what a summary
covers and what it invents can be counted."""

import re
from collections.abc import Mapping

FORM = {
    "birth_year": "born in {v}",
    "birth_city": "from {v}",
    "job": "works as a {v}",
    "employer": "is with {v}",
    "university": "studied at {v}",
    "hobby": "likes {v}",
}
READ = {name: re.compile(re.escape(form).replace(r"\{v\}", "(.+)")) for name, form in FORM.items()}


def written(name: str, facts: Mapping[str, str]) -> str:
    """'Gruta Solund: born in 1939; likes painting.', in the order of the form."""
    said = [form.format(v=facts[attribute]) for attribute, form in FORM.items() if attribute in facts]
    return f"{name}: {'; '.join(said)}."


def read(text: str) -> dict[str, str]:
    """The facts that a summary states; what is not of the form is no fact."""
    found = {}
    for said in text.strip().removesuffix(".").partition(": ")[2].split("; "):
        for attribute, pattern in READ.items():
            if match := pattern.fullmatch(said):
                found[attribute] = match[1]
    return found


def counted(text: str, facts: Mapping[str, str]) -> tuple[int, int]:
    """(facts that it states, facts that it makes up) of those that are so."""
    stated = read(text)
    right = sum(facts.get(attribute) == value for attribute, value in stated.items())
    return right, len(stated) - right
