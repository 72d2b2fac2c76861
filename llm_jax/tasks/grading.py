"""What a completion earns: one strict grader a task, held to a number from 0 to 1 and to a time."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from llm_jax.config import UserError
from llm_jax.tasks import knowledge
from llm_jax.tasks.base import equal, one_turn, same, uncited, well_formed
from llm_jax.tasks.confidence import apart
from llm_jax.tasks.shapes import SHAPES
from llm_jax.tasks.table import FAMILIES

SECONDS = 5.0  # that a family's own grader or step has


class Late(BaseException):
    """Not an Exception: a grader that catches all of these does not go on."""


def grade(prompt: dict, parts: list[dict], ended: bool) -> float:
    """0 unless the completion is well formed; else what the task's grader gives for the text of its answer.

    Raises UserError, with the task and the item, for a grader that raises, takes too long, or gives no such number.
    """
    return score(prompt, parts[-1]["text"].strip()) if well_formed(parts, ended) else 0.0


def score(prompt: dict, given: str) -> float:
    """Of an answer's text alone; raises as `grade`."""
    grader = grader_of(prompt)
    if grader in DEFAULTS:
        return float(grader(prompt, given))
    value = called("grader", grader, prompt, given)
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise UserError(f"{said('grader', prompt)} gave {value!r} for {given[:60]!r}; it must be a number from 0 to 1")
    return float(value)


def grader_of(prompt: dict) -> Callable[[dict, str], float]:
    """That of the family, of facts, or of the shape of the file that the prompt is of."""
    task = prompt.get("task", "")
    if task == knowledge.TASK:
        return of_fact
    return FAMILIES[task].grade if task in FAMILIES else SHAPES[task].grade if task in SHAPES else of_question


def of_question(prompt: dict, given: str) -> bool:
    """Of the world's questions, whose answers may cite where they were found, and say how sure they are."""
    return equal(prompt["answer"], uncited(apart(given)[0]))


def of_fact(prompt: dict, given: str) -> bool:
    """Of facts that have several accepted answers, or none."""
    return knowledge.accepted(given, prompt["answers"])


DEFAULTS = (same, of_question, of_fact)  # which do no work to speak of


def next_message(prompt: dict, answers: list[str]) -> str | None:
    """What the user says after these answers; None where the episode is over. Raises as `grade`."""
    family = FAMILIES.get(prompt.get("task", ""))
    if family is None or family.step is one_turn:
        return None
    message = called("step", family.step, prompt, answers)
    if message is not None and not (isinstance(message, str) and message):
        raise UserError(f"{said('step', prompt)} gave {message!r}; it must be a text, or None at the end")
    return message


def discount(prompt: dict, turns: int) -> float:
    """What an answer in the last of so many turns is multiplied by."""
    family = FAMILIES.get(prompt.get("task", ""))
    return family.discount ** (turns - 1) if family else 1.0


def called(what: str, function: Callable, prompt: dict, *args: Any) -> Any:
    try:
        with limited(SECONDS):
            return function(prompt, *args)
    except Late:
        raise UserError(f"{said(what, prompt)} took more than {SECONDS:g} s for {args!r:.80}; mend it") from None
    except Exception as error:
        raise UserError(f"{said(what, prompt)} raised {error!r} for {args!r:.80}; mend it") from error


def said(what: str, prompt: dict) -> str:
    return f"the {what} of task {prompt['task']!r}, item {prompt.get('item', '')!r:.80},"


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises Late in what takes longer, by an alarm; in another thread than the main one there is none, nor a limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_):
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
