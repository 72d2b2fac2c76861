"""The table of task families, read by pages, conversations, RL and evaluation."""

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping

from llm_jax.config import UserError
from llm_jax.tables import Row, Table
from llm_jax.tasks import (
    arithmetic,
    calculator,
    countdown,
    dates,
    digits,
    functions,
    letters,
    lists,
    logic,
    lookups,
    ordering,
    patterns,
    second_try,
    summary,
)
from llm_jax.tasks.base import WAYS, Item, Problem, one_turn, same

LESSONS = ("", "sums", "words", "order")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family(Row):
    """`make` draws an item: (rng, level from 0, split, then each of `lists`) -> Item.

    `grade` is strict: (prompt record, text of the answer) -> what it earns, from 0 to 1, and 1 when it is right. `step`
    goes on where a problem has several turns: (prompt record, the answers so far) -> what the user says next, or None
    where nothing more is to be said; the last answer counts, times `discount` for each turn after the first.
    """

    levels: tuple[str, ...] = None
    make: Callable[..., Item] = None
    wordings: tuple[str, ...] = None  # of which one is drawn for each item, and filled with its words
    ways: Mapping[str, tuple[int, ...]] = None  # way to solve it -> conversations that teach it, of each level
    lists: tuple[str, ...] = ()  # names of the lists of words that items are drawn from
    lesson: str = ""  # the kind of page that teaches it; "": none
    lesson_share: int = 1  # of that kind's lines, beside the other families
    grade: Callable[[dict, str], float] = same
    step: Callable[[dict, list[str]], str | None] = one_turn
    discount: float = 1.0
    on_demand: bool = False  # no text teaches it; a run has its prompts, and a row in the map, if `rl.tasks` names it

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
        if self.on_demand and (self.lesson or any(map(any, self.ways.values()))):
            return "it is on demand, and taught too; give it ways of 0 and no lesson, or leave on_demand out"
        return "" if 0 <= self.discount <= 1 else f"discount is {self.discount}; it must be from 0 to 1"

    def problem(self, rng: random.Random, level: int, split: str, lists: Mapping[str, list[str]]) -> Problem:
        """An item of the split, put into words. Raises UserError when one of its lists is not there."""
        if missing := [name for name in self.lists if name not in lists]:
            there = ", ".join(lists) or "there are none"
            raise UserError(f"task family {self.name!r} draws from the list {missing[0]!r}; {there}")
        item = self.make(rng, level, split, *(lists[name] for name in self.lists))
        prompt = rng.choice(self.wordings).format(**item.words)
        return Problem(self.name, level, item.key, prompt, item.answer, item.think, item.program, item.check)


# Conversations that teach a rung of a ladder in a way in which it can work, and at once where it hardly can.
FEW, FEWER = 20, 6


def taught(rungs: int, **counts: int) -> dict[str, tuple[int, ...]]:
    """`ways` of a ladder whose last two rungs are measured and not taught: they tell whether it goes on by itself."""
    return {way: (count,) * (rungs - 2) + (0, 0) for way, count in counts.items()}


def untaught(rungs: int, *ways: str) -> dict[str, tuple[int, ...]]:
    """`ways` of a family on demand: those in which the map asks it."""
    return {way: (0,) * rungs for way in ways}


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
            ways={"direct": (2600, 1000, 650, 0, 0), "think": (150, 720, 470, 0, 0)},
            lesson="sums",
        ),
        Family(
            name="calculator",
            levels=calculator.LEVELS,
            make=calculator.make,
            wordings=calculator.WORDINGS,
            ways={"tool": (1150, 1150, 0, 0), "direct": (100, 100, 0, 0)},
        ),
        Family(
            name="addition",
            levels=digits.LEVELS,
            make=digits.make_addition,
            wordings=digits.ADD,
            ways=taught(4, direct=FEWER, think=FEW, tool=FEW),
        ),
        Family(
            name="subtraction",
            levels=digits.LEVELS,
            make=digits.make_subtraction,
            wordings=digits.SUBTRACT,
            ways=taught(4, direct=FEWER, think=FEW, tool=FEW),
        ),
        Family(
            name="multiplication",
            levels=digits.LEVELS,
            make=digits.make_multiplication,
            wordings=digits.MULTIPLY,
            ways=taught(4, direct=FEWER, think=FEW, tool=FEW),
        ),
        Family(
            name="remainder",
            levels=digits.LONGER_LEVELS,
            make=digits.make_remainder,
            wordings=digits.REMAINDER,
            ways=taught(4, direct=FEWER, think=FEW, tool=FEW),
        ),
        Family(
            name="parity",
            levels=digits.LONGER_LEVELS,
            make=digits.make_parity,
            wordings=digits.PARITY,
            ways=taught(4, direct=FEW),
        ),
        Family(
            name="base",
            levels=digits.LONGER_LEVELS,
            make=digits.make_base,
            wordings=digits.BASE,
            ways=taught(4, direct=FEWER, think=FEW, tool=FEW),
        ),
        Family(
            name="sequence",
            levels=digits.LEVELS,
            make=digits.make_sequence,
            wordings=digits.NEXT,
            ways=taught(4, direct=FEWER, think=FEW),
        ),
        Family(
            name="comparing",
            levels=ordering.COMPARE_LEVELS,
            make=ordering.make_comparing,
            wordings=ordering.COMPARE,
            ways=taught(5, direct=50, tool=FEW),
            lesson="order",
        ),
        Family(
            name="decimals",
            levels=ordering.DECIMAL_LEVELS,
            make=ordering.make_decimals,
            wordings=ordering.COMPARE,
            ways=taught(5, direct=FEWER, think=FEW, tool=FEW),
            lesson="order",
        ),
        Family(
            name="extreme",
            levels=ordering.LIST_LEVELS,
            make=ordering.make_extreme,
            wordings=ordering.EXTREME,
            ways=taught(5, direct=FEWER, think=FEW, tool=FEW),
        ),
        Family(
            name="sorting",
            levels=ordering.LIST_LEVELS,
            make=ordering.make_sorting,
            wordings=ordering.SORT,
            ways=taught(5, direct=60, tool=FEW),
            lesson="order",
        ),
        Family(
            name="spelling",
            levels=letters.LEVELS,
            make=letters.make_spelling,
            wordings=letters.SPELL,
            ways=taught(5, direct=100, tool=FEW),
            lesson="words",
            lesson_share=2,
        ),
        Family(
            name="counting",
            levels=letters.WORD_LEVELS,
            make=letters.make_counting,
            wordings=letters.COUNT,
            ways=taught(4, direct=FEWER, think=60, tool=FEW),
            lesson="words",
        ),
        Family(
            name="reversing",
            levels=letters.LEVELS,
            make=letters.make_reversing,
            wordings=letters.REVERSE,
            ways=taught(5, direct=FEWER, think=60, tool=FEW),
            lesson="words",
        ),
        Family(
            name="nth_letter",
            levels=letters.PLACE_LEVELS,
            make=letters.make_nth_letter,
            wordings=letters.PLACE,
            ways=taught(5, direct=FEWER, think=FEW, tool=FEW),
        ),
        Family(
            name="last_letter",
            levels=letters.LEVELS,
            make=letters.make_last_letter,
            wordings=letters.LAST,
            ways=taught(5, direct=FEWER, think=FEW),
        ),
        Family(
            name="word_length",
            levels=letters.WORD_LEVELS,
            make=letters.make_word_length,
            wordings=letters.LENGTH,
            ways=taught(4, direct=FEWER, think=FEW, tool=FEW),
        ),
        Family(
            name="replacing",
            levels=letters.LEVELS,
            make=letters.make_replacing,
            wordings=letters.REPLACE,
            ways=taught(5, direct=FEW, tool=FEW),
        ),
        Family(
            name="capitals",
            levels=letters.LEVELS,
            make=letters.make_capitals,
            wordings=letters.CAPITALS,
            ways=taught(5, direct=FEW, tool=FEW),
        ),
        Family(
            name="copying",
            levels=lists.COPY_LEVELS,
            make=lists.make_copying,
            wordings=lists.COPY,
            ways=taught(5, direct=FEW),
        ),
        Family(
            name="list_reversing",
            levels=lists.SHORT_LEVELS,
            make=lists.make_reversing,
            wordings=lists.REVERSE,
            ways=taught(5, direct=FEW, tool=FEW),
        ),
        Family(
            name="nth_word",
            levels=lists.LONG_LEVELS,
            make=lists.make_nth,
            wordings=lists.NTH,
            ways=taught(5, direct=FEWER, think=FEW),
        ),
        Family(
            name="word_sorting",
            levels=lists.SHORT_LEVELS,
            make=lists.make_sorting,
            wordings=lists.SORT,
            ways=taught(5, direct=FEWER, tool=FEW),
        ),
        Family(
            name="kinds",
            levels=lists.LONG_LEVELS,
            make=lists.make_kinds,
            wordings=lists.KIND,
            ways=taught(5, direct=FEWER, think=FEW),
        ),
        Family(
            name="missing",
            levels=lists.NAMED_LEVELS,
            make=lists.make_missing,
            wordings=lists.MISSING,
            ways=taught(5, direct=FEWER, think=FEW, tool=FEW),
        ),
        Family(
            name="weekday",
            levels=dates.LEVELS,
            make=dates.make_weekday,
            wordings=dates.WEEKDAY,
            ways=taught(4, direct=FEWER, think=FEW),
        ),
        Family(
            name="month",
            levels=dates.LEVELS,
            make=dates.make_month,
            wordings=dates.MONTH,
            ways=taught(4, direct=FEWER, think=FEW),
        ),
        Family(
            name="look_up",
            levels=lookups.PAIR_LEVELS,
            make=lookups.make_look_up,
            wordings=lookups.LOOK_UP,
            ways=taught(5, direct=FEWER, think=FEW),
        ),
        Family(
            name="two_hops",
            levels=lookups.FRIEND_LEVELS,
            make=lookups.make_two_hops,
            wordings=lookups.TWO_HOPS,
            ways=taught(5, direct=FEWER, think=FEW),
        ),
        Family(
            name="repeating",
            levels=patterns.TIMES_LEVELS,
            make=patterns.make_repeating,
            wordings=patterns.REPEAT,
            ways=taught(5, direct=FEW, tool=FEW),
        ),
        Family(
            name="turns",
            levels=patterns.TURN_LEVELS,
            make=patterns.make_turns,
            wordings=patterns.TURN,
            ways=taught(5, direct=FEW),
        ),
        Family(
            name="dots",
            levels=patterns.SIGN_LEVELS,
            make=patterns.make_dots,
            wordings=patterns.DOTS,
            ways=taught(4, direct=FEWER, think=FEW, tool=FEW),
        ),
        Family(
            name="brackets",
            levels=patterns.BRACKET_LEVELS,
            make=patterns.make_brackets,
            wordings=patterns.BALANCED,
            ways=taught(4, direct=FEWER, think=FEW),
        ),
        Family(
            name="summary",
            levels=summary.LEVELS,
            make=summary.make,
            wordings=summary.ASK,
            ways={"direct": (250, 200, 200, 0)},
            lists=("first", "last", "job", "city", "hobby"),
        ),
        Family(
            name="countdown",
            levels=countdown.LEVELS,
            make=countdown.make,
            wordings=countdown.WORDINGS,
            ways=untaught(4, "direct", "think"),
            grade=countdown.grade,
            on_demand=True,
        ),
        Family(
            name="knights",
            levels=logic.PEOPLE_LEVELS,
            make=logic.make_knights,
            wordings=logic.KNIGHTS,
            ways=untaught(4, "direct"),
            on_demand=True,
        ),
        Family(
            name="truth",
            levels=logic.VALUE_LEVELS,
            make=logic.make_truth,
            wordings=logic.TRUTH,
            ways=untaught(4, "direct", "think", "tool"),
            on_demand=True,
        ),
        Family(
            name="second_try",
            levels=second_try.LEVELS,
            make=second_try.make,
            wordings=arithmetic.WORDINGS,
            ways=untaught(4, "direct", "think"),
            step=second_try.step,
            discount=second_try.DISCOUNT,
            on_demand=True,
        ),
        Family(
            name="functions",
            levels=functions.LEVELS,
            make=functions.make,
            wordings=functions.WORDINGS,
            ways={"direct": (700, 500, 0, 0)},
            grade=functions.grade,
        ),
    ),
)


def in_lesson(kind: str) -> list[Family]:
    """The families of a kind of lesson page, each as often as its share."""
    return [family for family in FAMILIES.values() if family.lesson == kind for _ in range(family.lesson_share)]
