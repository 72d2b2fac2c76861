"""Problems as `prompt` records: of families, and of files in the shapes of GSM8K and MATH."""

import random
from collections.abc import Iterator, Mapping

from llm_jax.config import UserError
from llm_jax.files import matching
from llm_jax.tasks import shapes
from llm_jax.tasks.base import Problem, split_of
from llm_jax.tasks.table import Family
from llm_jax.tasks.words import LISTS

TRIES = 20  # draws for each problem wanted: a level may have fewer
DRAWN = {"train": 600, "dev": 100, "test": 640}  # of each level of a family on demand


def record(problem: Problem, level: str, split: str, id_: str) -> dict:
    made = {
        "id": id_,
        "task": problem.task,
        "level": level,
        "split": split,
        "messages": problem.messages(),
        "answer": problem.answer,
        "item": problem.key,
    }
    return made | ({"check": problem.check} if problem.check else {})


def records(
    rng: random.Random, family: Family, level: int, split: str, count: int, lists: Mapping[str, list[str]]
) -> Iterator[dict]:
    """Different prompts of a level: `count`, or fewer where it has fewer."""
    seen: set[str] = set()
    for _ in range(TRIES * count):
        problem = family.problem(rng, level, split, lists)
        if problem.prompt not in seen:
            seen.add(problem.prompt)
            yield record(problem, family.levels[level], split, f"{family.name}-{level}-{len(seen)}")
        if len(seen) == count:
            return


def drawn(family: Family, split: str) -> Iterator[dict]:
    """The prompts of a family that stage `data` did not write: the same ones in every run."""
    rng = random.Random(f"{family.name}/{split}")
    for level in range(len(family.levels)):
        yield from records(rng, family, level, split, DRAWN[split], LISTS)


def of_files(pattern: str, split: str) -> list[dict]:
    """The problems of a split, by the hash of each, of files in a shape with problems to practise on: `task` is the
    name of the shape and `level` that of the file. Raises UserError where no file matches or one is in none."""
    if not pattern:
        return []
    paths = matching(pattern)
    if not paths:
        raise UserError(f"no file matches rl.prompts {pattern!r}; give a glob of JSON lines with problems")
    found = []
    for path in paths:
        shape, problems = shapes.problems(path)
        for number, (asked, answer) in enumerate(problems, 1):
            problem = Problem(shape, 0, asked, asked, answer, "", "")
            if split_of(asked) == split:
                found.append(record(problem, path.stem, split, f"{path.stem}-{number}"))
    return found
