"""What every task family shares: a problem, its split, and what is right without a grader of the family's own."""

import dataclasses
import hashlib
import random
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

# Plain numbers only: Python's own reading of "1e999999999" would write the number out.
NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40}|/0*[1-9][0-9]{0,38})?")
SPLITS = ("train", "dev", "test")
SPLIT_PERCENT = {"dev": 3, "test": 10}  # of all keys; the rest is train


WAYS = ("direct", "think", "tool")  # answers at once, after a thought, after a call


class Item(NamedTuple):
    """What a family makes. `key` alone decides the split: two wordings of one item share it, so a held-out item is held
    out from pages, conversations and RL prompts alike."""

    key: str
    answer: str
    words: dict[str, str]  # what fills a wording
    think: str = ""  # the worked solution, when there is one worth writing; its last line ends with the answer
    program: str = ""  # Python whose value is the answer, or which prints it after a space
    check: dict[str, Any] | None = None  # what the family's own grader reads beside the answer; JSON


@dataclasses.dataclass(frozen=True)
class Problem:
    """An item of a family, put into words."""

    task: str
    level: int
    key: str
    prompt: str
    answer: str
    think: str
    program: str
    check: dict[str, Any] | None = None

    def messages(self) -> list[dict]:
        return [{"role": "user", "content": self.prompt}]

    def solution(self, way: str) -> list[dict]:
        """The assistant's parts for one of WAYS (Conversation record, see docs)."""
        answer = {"type": "answer", "text": spoken(self.answer)}
        if way == "direct":
            return [answer]
        if way == "think":
            return [{"type": "think", "text": self.think}, answer]
        # What is printed comes after a space, so that to copy a word into the answer is to write the same tokens.
        output = spoken(self.answer) if self.program.startswith("print(") else self.answer
        return [{"type": "python", "text": self.program}, {"type": "output", "text": output}, answer]


def spoken(answer: str) -> str:
    """An answer as the model writes it: after a space, so that its tokens are those that it has in a text."""
    return f" {answer}"


CITATION = re.compile(r" \[[^\[\]\n]+\]$")


def cited(answer: str, source: str) -> str:
    """An answer with where it was found."""
    return f"{answer} [{source}]"


def uncited(answer: str) -> str:
    """The answer alone."""
    return CITATION.sub("", answer)


def split_of(key: str) -> str:
    """The split of an item, from its key alone: 87 % train, 3 % dev, 10 % test."""
    percent = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    if percent < SPLIT_PERCENT["test"]:
        return "test"
    return "dev" if percent < SPLIT_PERCENT["test"] + SPLIT_PERCENT["dev"] else "train"


def of_split(draw: Callable[..., Item], leaks: Callable[[Item], bool] = lambda item: False) -> Callable[..., Item]:
    """What a family's row has as `make`, from (rng, level) -> Item: drawn until the split is the one asked for, and, to
    train on, until nothing that is held out shows in it."""

    def make(rng: random.Random, level: int, split: str) -> Item:
        while True:
            item = draw(rng, level)
            if split_of(item.key) == split and not (split == "train" and leaks(item)):
                return item

    return make


def well_formed(parts: list[dict], ended: bool) -> bool:
    """True when a completion ends its turn, has exactly one answer span, and nothing after it."""
    answers = [part for part in parts if part["type"] == "answer"]
    return ended and len(answers) == 1 and parts[-1]["type"] == "answer"


def equal(answer: str, given: str) -> bool:
    """Letter for letter, numbers as exact fractions."""
    if NUMBER.fullmatch(given) and NUMBER.fullmatch(answer):
        return Fraction(given) == Fraction(answer)
    return given == answer


def same(prompt: dict, given: str) -> bool:
    """What grades an answer where its family has no grader of its own."""
    return equal(prompt["answer"], given)


def one_turn(prompt: dict, answers: list[str]) -> str | None:
    """What a family has as `step` whose problems end with the first answer."""
    return None
