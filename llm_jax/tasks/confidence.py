"""A stated confidence: what an answer says, after itself, of how sure it is, as in "Kronberg (70% sure)"."""

import re

STATED = re.compile(r"(.*\S) \((0|[1-9][0-9]?|100)% sure\)", re.DOTALL)


def surely(answer: str, share: float) -> str:
    """An answer with its chance to be right, from 0 to 1, in tens of per cent."""
    return f"{answer} ({10 * round(10 * share)}% sure)"


def apart(text: str) -> tuple[str, float | None]:
    """(the answer alone, the confidence from 0 to 1 that it states). What states none is left as it is, and so is what
    states several, or one in another form: then the confidence is None."""
    found = STATED.fullmatch(text)
    if not found or "% sure)" in found[1]:
        return text, None
    return found[1], int(found[2]) / 100
