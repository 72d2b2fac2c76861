"""Lesson pages: worked sums, spelling, counting and ordering, from the same task families that grade answers.

Only items of the train split appear, so held-out problems stay unseen.
"""

import random
from collections.abc import Iterator

from data_pipelines.documents import split_of as document_split
from llm_jax.tasks import arithmetic
from llm_jax.tasks.base import Problem
from llm_jax.tasks.table import FAMILIES, in_lesson

SUM_PAGES, WORKED_PAGES, WORD_PAGES, ORDER_PAGES = 4200, 1400, 400, 120
SUM_TITLES = ("Sums", "Adding and taking away", "A page of sums", "Practice", "Number facts")
WORKED_TITLES = ("Step by step", "Worked examples", "One step at a time", "Longer sums")
WORD_TITLES = ("Letters and words", "A spelling lesson", "Looking at letters")
ORDER_TITLES = ("Which is more?", "Putting numbers in order", "Comparing numbers")
# What stands between a question and its answer. Where it is always the same, a model learns to find the numbers at a
# fixed distance, and has to learn it again when a chat puts other tokens there.
JOINTS = (" ", " ", " ", " ", "\n", "\nA: ", " Answer: ", " It is ")
PLAIN_JOINTS = JOINTS[4:]  # after a list of numbers, a space would not tell where the answer begins
STEP_JOINTS = ("\n", "\n", "\n\n", " ", "\nA: ", " Step by step: ")  # between a question and the steps to its answer


def step_lines(rng: random.Random, count: int) -> Iterator[str]:
    """Single steps as they come up in longer sums; half as a question with its answer."""
    while count:
        numbers, signs = arithmetic.draw(rng, rng.choice((2, 2, 3, 4)))
        left, sign, right, answer = arithmetic.steps(numbers, signs)[-1]
        if arithmetic.is_held_out(left, sign, right):
            continue
        asked = rng.choice(arithmetic.WORDINGS).format(e=f"{left}{sign}{right}")
        yield f"{left}{sign}{right}={answer}" if rng.random() < 0.5 else f"{asked}{rng.choice(JOINTS)}{answer}"
        count -= 1


def worked_line(rng: random.Random) -> str:
    problem = FAMILIES["arithmetic"].problem(rng, rng.choice((1, 1, 2)), "train", {})
    if rng.random() < 0.25:
        return f"{problem.key}={problem.answer}"
    return f"{problem.prompt}{rng.choice(STEP_JOINTS)}{problem.think}\nAnswer: {problem.answer}"


def drawn(rng: random.Random, lesson: str, lists: dict) -> Problem:
    """A problem of one of the families of a kind of page."""
    family = rng.choice(in_lesson(lesson))
    return family.problem(rng, rng.randrange(len(family.levels)), "train", lists)


def word_line(rng: random.Random, lists: dict) -> str:
    problem = drawn(rng, "words", lists)
    steps = f"\n{problem.think}" if problem.think else ""
    return f"{problem.prompt}{steps}\nAnswer: {problem.answer}"


def order_line(rng: random.Random, lists: dict) -> str:
    problem = drawn(rng, "order", lists)
    return f"{problem.prompt}{rng.choice(PLAIN_JOINTS)}{problem.answer}"


def lesson_documents(seed: int, amount: float, lists: dict[str, list[str]]) -> Iterator[dict]:
    """All lesson pages; `amount` scales their number."""
    rng = random.Random(f"{seed}/lessons")
    kinds = (
        ("sums", SUM_PAGES, SUM_TITLES, lambda: "\n".join(step_lines(rng, rng.randint(20, 28)))),
        ("worked", WORKED_PAGES, WORKED_TITLES, lambda: "\n\n".join(worked_line(rng) for _ in range(6))),
        ("words", WORD_PAGES, WORD_TITLES, lambda: "\n\n".join(word_line(rng, lists) for _ in range(6))),
        ("order", ORDER_PAGES, ORDER_TITLES, lambda: "\n".join(order_line(rng, lists) for _ in range(8))),
    )
    for kind, pages, titles, body in kinds:
        for number in range(max(1, round(pages * amount))):
            text = f"{rng.choice(titles)}\n\n{body()}"
            yield {"id": f"lesson-{kind}-{number:05d}", "source": "lesson", "text": text, "split": document_split(text)}
