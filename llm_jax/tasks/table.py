"""The table of task families, read by pages, conversations, RL and evaluation."""

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping

from llm_jax.config import UserError
from llm_jax.tables import Row, Table
from llm_jax.tasks import arithmetic, calculator, letters, ordering, summary
from llm_jax.tasks.base import WAYS, Item, Problem

LESSONS = ("", "sums", "words", "order")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family(Row):
    """`make` draws an item: (rng, level from 0, split, then each of `lists`) -> Item."""

    levels: tuple[str, ...] = None
    make: Callable[..., Item] = None
    wordings: tuple[str, ...] = None  # of which one is drawn for each item, and filled with its words
    ways: Mapping[str, tuple[int, ...]] = None  # way to solve it -> conversations that teach it, of each level
    lists: tuple[str, ...] = ()  # names of the lists of words that items are drawn from
    lesson: str = ""  # the kind of page that teaches it; "": none
    lesson_share: int = 1  # of that kind's lines, beside the other families

    def wrong(self, names: Iterable[str]) -> str:
        if not self.levels or not self.wordings:
            return "it needs at least one level and one wording"
        if self.lesson not in LESSONS:
            return f"lesson is {self.lesson!r}; choose from {', '.join(map(repr, LESSONS))}"
        for way, counts in self.ways.items():
            if way not in WAYS:
                return f"ways has {way!r}; choose from {', '.join(WAYS)}"
            if len(counts) != len(self.levels):
                return f"ways has {len(counts)} counts for {way!r}, and it has {len(self.levels)} levels"
        return ""

    def problem(self, rng: random.Random, level: int, split: str, lists: Mapping[str, list[str]]) -> Problem:
        """An item of the split, put into words. Raises UserError when one of its lists is not there."""
        if missing := [name for name in self.lists if name not in lists]:
            there = ", ".join(lists) or "there are none"
            raise UserError(f"task family {self.name!r} draws from the list {missing[0]!r}; {there}")
        item = self.make(rng, level, split, *(lists[name] for name in self.lists))
        prompt = rng.choice(self.wordings).format(**item.words)
        return Problem(self.name, level, item.key, prompt, item.answer, item.think, item.program)


# Longer sums are answered at once more often than they are written out, so that a model that takes the likelier way
# guesses: to think first is what RL is there to find.
FAMILIES: Table[Family] = Table(
    "task family",
    (
        Family(
            name="arithmetic",
            levels=arithmetic.LEVELS,
            make=arithmetic.make,
            wordings=arithmetic.WORDINGS,
            ways={"direct": (2600, 1000, 650), "think": (150, 720, 470)},
            lesson="sums",
        ),
        Family(
            name="calculator",
            levels=calculator.LEVELS,
            make=calculator.make,
            wordings=calculator.WORDINGS,
            ways={"tool": (700, 700, 900), "direct": (60, 60, 80)},
        ),
        Family(
            name="spelling",
            levels=letters.LEVELS,
            make=letters.make_spelling,
            wordings=letters.SPELL,
            ways={"direct": (120,) * 3},
            lists=("word",),
            lesson="words",
            lesson_share=2,
        ),
        Family(
            name="counting",
            levels=letters.LEVELS,
            make=letters.make_counting,
            wordings=letters.COUNT,
            ways={"think": (100,) * 3},
            lists=("word",),
            lesson="words",
        ),
        Family(
            name="reversing",
            levels=letters.LEVELS,
            make=letters.make_reversing,
            wordings=letters.REVERSE,
            ways={"think": (80,) * 3},
            lists=("word",),
            lesson="words",
        ),
        Family(
            name="comparing",
            levels=ordering.COMPARE_LEVELS,
            make=ordering.make_comparing,
            wordings=ordering.COMPARE,
            ways={"direct": (80,) * 3},
            lesson="order",
        ),
        Family(
            name="sorting",
            levels=ordering.SORT_LEVELS,
            make=ordering.make_sorting,
            wordings=ordering.SORT,
            ways={"direct": (80,) * 3},
            lesson="order",
        ),
        Family(
            name="summary",
            levels=summary.LEVELS,
            make=summary.make,
            wordings=summary.ASK,
            ways={"direct": (250,) * 3},
            lists=("first", "last", "job", "city", "hobby"),
        ),
    ),
)


def in_lesson(kind: str) -> list[Family]:
    """The families of a kind of lesson page, each as often as its share."""
    return [family for family in FAMILIES.values() if family.lesson == kind for _ in range(family.lesson_share)]
