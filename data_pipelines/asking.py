"""Questions about documents, by templates: what its sentences say of names and years, asked back.

    python -m data_pipelines.asking --input='notes/*.txt' --output=questions.jsonl [--most=5]

Writes JSON lines {question, answer, item, source}, which `abstain.questions` reads. `item`, by which training and test
are kept apart, is the name that a question is about. A document without such a sentence gives none, and a line says so.
"""

import re
from collections.abc import Iterator

from absl import flags

from data_pipelines.documents import read_documents, write_jsonl
from llm_jax.config import UserError
from llm_jax.files import user_path
from llm_jax.frame.cli import run_cli

NAME = r"(?P<name>(?:[A-Z][\w'’.-]+ ){1,3}[A-Z][\w'’-]+)"
YEAR = r"(?P<answer>1[0-9]{3}|20[0-9]{2})"
PLACE = r"(?P<answer>(?:[A-Z][\w'’-]+)(?: [A-Z][\w'’-]+){0,2})"
THING = r"(?P<answer>(?:an?|the) [a-z][\w'’ -]{2,40}?)"
# (a sentence, what asks for the part of it that is the answer); the first that fits counts.
TEMPLATES: tuple[tuple[re.Pattern, str], ...] = tuple(
    (re.compile(sentence), question)
    for sentence, question in (
        (rf"\b{NAME} was born in {YEAR}\b", "In which year was {name} born?"),
        (rf"\b{NAME} was born (?:in|at) {PLACE}\b", "Where was {name} born?"),
        (rf"\b{NAME} (?:\([^)]*\) )?died in {YEAR}\b", "In which year did {name} die?"),
        (rf"\b{NAME} was (?P<verb>founded|built|published|written|opened|completed|established) in {YEAR}\b",
         "In which year was {name} {verb}?"),
        (rf"\b{NAME} was (?P<verb>founded|built|written|designed|invented|discovered|painted|directed) by "
         r"(?P<answer>[A-Z][\w'’.-]+(?: [A-Z][\w'’.-]+){0,3})", "By whom was {name} {verb}?"),
        (rf"\b{NAME} (?:is|lies) (?:located )?in {PLACE}\b", "Where is {name}?"),
        (rf"\b{NAME} (?:is|was) {THING}(?=[,.;]| of | who | that | which | in | and )", "Who or what is {name}?"),
    )
)  # fmt: skip


def questions(text: str, most: int) -> Iterator[tuple[str, str, str]]:
    """(question, answer, name) of the first sentences of a text that fit, each question once."""
    asked: set[str] = set()
    for said in re.split(r"(?<=[.!?])\s+|\n+", text):
        for sentence, wording in TEMPLATES:
            if found := sentence.search(said):
                parts = {name: part.strip(" .") for name, part in found.groupdict().items()}
                question = wording.format(**parts)
                if question not in asked:
                    asked.add(question)
                    yield question, parts["answer"], parts["name"]
                break
        if len(asked) >= most:
            return


def records(pattern: str, most: int) -> Iterator[dict]:
    """Of all documents of a glob. Raises UserError as `read_documents`, and when none of them gives a question."""
    asked, without = set(), []
    for document in read_documents(pattern):
        new = [one for one in questions(document["text"], most) if one[0] not in asked]
        if not new:
            without.append(document["id"])
        for question, answer, name in new:
            asked.add(question)
            yield {"question": question, "answer": [answer], "item": name, "source": document["id"]}
    if not asked:
        raise UserError(f"no extractable facts in {pattern!r}: no sentence says when, where, by whom or what a name is")
    if without:
        print(f"no extractable facts in {len(without)} documents, the first {without[0]!r}", flush=True)


def define_flags() -> None:
    flags.DEFINE_string("input", None, "Glob of documents.", required=True)
    flags.DEFINE_string("output", None, "File of questions.", required=True)
    flags.DEFINE_integer("most", 5, "Questions of one document.", lower_bound=1)


def main() -> None:
    made = list(records(flags.FLAGS.input, flags.FLAGS.most))
    write_jsonl(user_path(flags.FLAGS.output, "--output"), made)
    print(f"{len(made)} questions in {flags.FLAGS.output}", flush=True)


if __name__ == "__main__":
    run_cli(main, define_flags)
