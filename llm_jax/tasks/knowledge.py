"""Facts that a model is asked for, whether it knows them or not: read from files, put to it, graded."""

import dataclasses
import re
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from llm_jax.config import UserError
from llm_jax.files import named_or_own, numbered_lines
from llm_jax.tasks.base import split_of, uncited
from llm_jax.tasks.confidence import apart
from llm_jax.tasks.refusals import CAUSES, verdict

TASK = "knowledge"  # as which RL asks for them
OF_FACTS = ("facts", TASK)  # the tasks that ask for something known or not: stage `data` writes the first
ANSWERABLE = "answerable"  # the level of what can be known; that of the others is their cause

# How a question is asked in other words where its record has one wording only.
FRAMES = ("{q}", "Tell me: {q}", "I have a question: {q}", "Please answer this: {q}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fact:
    """What can be asked in any of its wordings, and is answered by any of `answers`; by none where there is a `cause`
    for which it cannot be known. `twin` is the cause of which it is the answerable counterpart; `tier` how often the
    pages state it, where that is known; `item` what the bootstrap goes by; `held_out` of a kind that training lacks;
    `indexed` what a search finds of what no page to learn from says."""

    id: str
    item: str
    wordings: tuple[str, ...]
    answers: tuple[str, ...] = ()
    cause: str = ""
    twin: str = ""
    kind: str = ""
    tier: int | None = None
    attribute: str = ""
    held_out: bool = False
    indexed: tuple[str, ...] = ()

    def asked(self, count: int) -> tuple[str, ...]:
        """That many wordings, or all there are; a single one is put into frames."""
        only = self.wordings[0]
        return (self.wordings if self.wordings[1:] else tuple(frame.format(q=only) for frame in FRAMES))[:count]

    def verdict(self, parts: list[dict], ended: bool) -> str:
        """RIGHT, WRONG or ABSTAINED."""
        return verdict(ended and self.right(parts), parts)

    def right(self, parts: list[dict]) -> bool:
        """Whether the answer span is one of the answers, but for case, punctuation and articles; of free text, whether
        one stands in it, as a model that knows no spans says it."""
        spans = [part["text"] for part in parts if part["type"] == "answer"]
        if spans:
            return len(spans) == 1 and accepted(spans[0].strip(), self.answers)
        said = plain(" ".join(part["text"] for part in parts if part["type"] == "text"))
        return any(f" {' '.join(plain(answer))} " in f" {' '.join(said)} " for answer in self.answers)


def accepted(given: str, answers: Iterable[str]) -> bool:
    """Whether an answer's text is one of these, whatever source it cites and however sure it says it is."""
    return plain(uncited(apart(given)[0])) in map(plain, answers)


def plain(text: str) -> list[str]:
    """Words in lower case, without punctuation and articles."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return [word for word in text.split() if word not in ("a", "an", "the")]


def read(path: Path) -> list[Fact]:
    """The facts of a file of JSON lines: {question, answer or answers}, as question sets have them, or `wordings` in
    place of the question, and the other fields of a Fact. Raises UserError, with file and line, for what is none.
    """
    found = []
    for number, record in numbered_lines(path):
        try:
            found.append(fact_of(record, f"{path.stem}-{number}"))
        except UserError as error:
            raise UserError(f"{path} line {number}: {error}") from error
    if not found:
        raise UserError(f"{path} has no line; give a file of questions, each with an answer")
    return found


def fact_of(record: dict[str, Any], id_: str) -> Fact:
    """Raises UserError for the first field that is missing, or of another kind."""
    cause, twin = record.get("cause", ""), record.get("twin", "")
    for name, value in (("cause", cause), ("twin", twin)):
        if value not in ("", *CAUSES):
            raise UserError(f"`{name}` is {value!r}; it must be one of {', '.join(CAUSES)}, or empty")
    wordings = texts(record, ("wordings", "question"))
    answers = () if cause else texts(record, ("answers", "answer"))
    if not all(map(plain, answers)):
        raise UserError("`answers` has one without a word; leave the line out")
    rest = {name: record[name] for name in ("id", "item", "kind", "tier", "attribute", "held_out") if name in record}
    rest |= {"indexed": texts(record, ("indexed",))} if record.get("indexed") else {}
    return Fact(**{"id": id_, "item": wordings[0]} | rest, wordings=wordings, answers=answers, cause=cause, twin=twin)


def texts(record: dict[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
    """The texts of the first of these fields that is there: one, or a list of them."""
    name = next((name for name in names if name in record), None)
    if name is None:
        raise UserError(f"it has no `{names[-1]}` (its fields: {', '.join(record) or 'none'}); give it one")
    value = record[name]
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(t, str) and t.strip() for t in found):
        shown = re.sub(r"(.{60}).+", r"\1...", repr(value))
        raise UserError(f"`{name}` is {shown}; it must be a text, or a list of some, none empty")
    return tuple(found)


def of_split(facts: list[Fact], split: str) -> list[Fact]:
    """Those of a user's file that belong to "train" or "test": by the hash of what they are about."""
    return [fact for fact in facts if split_of(fact.item) == split]


# Those that may be asked before the test


def training_files(config: ConfigDict, workdir: Path) -> list[Path]:
    """Raises UserError where there is none."""
    own = workdir / "data" / "knowledge_train.jsonl"
    found = named_or_own(config.abstain.questions, "abstain.questions", own)
    if not found:
        mend = f"set abstain.arm to 'none' and leave {TASK!r} out of rl.tasks"
        what = f"stage 'data' has made no questions on what is known ({own} is not there)"
        raise UserError(f"{what}; name a file of your own in abstain.questions, or {mend}")
    return found


def training_facts(config: ConfigDict, workdir: Path) -> list[Fact]:
    """The facts that may be asked for before the test. Raises UserError as `training_files` and `read`."""
    facts = [fact for path in training_files(config, workdir) for fact in read(path)]
    return of_split(facts, "train") if config.abstain.questions else facts


def prompts(config: ConfigDict, workdir: Path, split: str) -> list[dict]:
    """Each of them in the wordings in which stage `abstain` probes it, as `prompt` records of RL. All about an item are
    in "train" or in "dev", by its hash; the test has facts of its own, and no such prompts."""
    wanted = {"train": ("train",), "dev": ("dev", "test")}.get(split, ())
    facts = [f for f in training_facts(config, workdir) if split_of(f"{TASK}/{f.item}") in wanted] if wanted else []
    return [
        {
            "id": f"{fact.id}-{way}",
            "task": TASK,
            "level": fact.cause or ANSWERABLE,
            "split": split,
            "messages": [{"role": "user", "content": question}],
            "answer": next(iter(fact.answers), ""),
            "answers": list(fact.answers),
            "item": fact.item,
        }
        for fact in facts
        for way, question in enumerate(fact.asked(config.abstain.wordings))
    ]
