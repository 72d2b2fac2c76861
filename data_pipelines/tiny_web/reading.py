"""Reading: questions whose answer stands in the text before them, about people whom no other text knows.

A model learns to copy where nothing but the context can predict what comes, as in lists of random words that are
written again (`copy_documents`): there it changes within a hundred steps, and without them it does not (Olsson et al.
2022). Then it can learn to look up (`reading_documents`). Of several people it quotes the note on the one who is
asked about before it answers: to find the note and to find the fact in it are two steps.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from data_pipelines.documents import split_of as document_split
from data_pipelines.tiny_web import lexicon as lex
from data_pipelines.tiny_web.wordings import STATEMENTS, TRAIN_QUESTIONS, Wordings, statement
from data_pipelines.tiny_web.world import ATTRIBUTES, Person
from llm_jax.tasks.base import split_of

SHARES = {1: 3, 2: 3, 3: 2, 5: 2}  # people in a text -> share of the texts
FACTS = {1: (6, 6), 2: (3, 4), 3: (2, 3), 5: (2, 2)}  # people in a text -> fewest and most facts on each
PRONOUNS = 0.3  # share of the sentences after the first of a note that say he or she
QUESTIONS = {1: 4, 2: 2, 3: 2, 5: 1}  # on a page, which is to fit into a row
UNSTATED = "The text does not say."
UNSTATED_SHARE = 0.12
COPIES = 3
COPIED = (4, 12)  # words of a list. Of 12 to 40 words copying had not appeared after 400 steps, of these it did in 140
TITLES = ("Reading", "A text and questions", "Read and answer", "Who is it?", "Notes, and what they say")

Values = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Text:
    """Notes on a few people. `facts` has what each note states: (person, attributes, note)."""

    notes: tuple[tuple[Person, tuple[str, ...], str], ...]

    @property
    def text(self) -> str:
        return "\n".join(note for *_, note in self.notes)

    def about(self, person: Person) -> tuple[Person, tuple[str, ...], str]:
        return next(note for note in self.notes if note[0] == person)


@dataclass(frozen=True)
class Question:
    """About a text. `quote` is the note that says it, where there are several."""

    person: Person
    attribute: str
    question: str
    quote: str
    answer: str


def stranger(rng: random.Random, split: str, values: Values) -> Person:
    """Somebody whom no page knows; the name alone decides the split."""
    while True:
        first, family = (fresh_name(rng, e) for e in (lex.FIRST_NAME_ENDINGS, lex.FAMILY_NAME_ENDINGS))
        name = f"{first} {family}"
        if split_of(f"reading:{name}") == split:
            facts = {attribute: rng.choice(values[attribute]) for attribute in ATTRIBUTES}
            return Person(f"s-{first}-{family}".lower(), name, "stranger", 0, 0, rng.random() < 0.5, facts)


def fresh_name(rng: random.Random, endings: str) -> str:
    return lex.invent(rng, 1, endings, [])[0]


def note_on(person: Person, attributes: Sequence[str], rng: random.Random) -> str:
    """A sentence on each of the attributes, in any order; the first one says the name."""
    said = []
    for attribute in attributes:
        form = rng.randrange(len(STATEMENTS[attribute])), 0
        said.append(statement(person, attribute, form, bool(said) and rng.random() < PRONOUNS))
    return " ".join(said)


def how_many(rng: random.Random) -> int:
    return rng.choices(list(SHARES), list(SHARES.values()))[0]


def text_of(people: Sequence[Person], facts: int, rng: random.Random) -> Text:
    notes = []
    for person in people:
        attributes = tuple(rng.sample(ATTRIBUTES, facts))
        notes.append((person, attributes, note_on(person, attributes, rng)))
    return Text(tuple(notes))


def fresh_text(
    rng: random.Random, people: int, split: str, values: Values, somebody: Person | None = None, most: int = 6
) -> Text:
    """About strangers, and somebody, who all differ in both names."""
    found = [somebody] if somebody else []
    while len(found) < people:
        one = stranger(rng, split, values)
        if not {part for p in found for part in p.name.split()} & set(one.name.split()):
            found.append(one)
    rng.shuffle(found)
    return text_of(found, min(most, rng.randint(*FACTS[people])), rng)


def ask(text: Text, rng: random.Random, wordings: Wordings, person: Person | None = None) -> Question:
    """About a fact of this person, or somebody, in the text; some of the times about one that it does not state."""
    person, stated, note = text.about(person) if person else rng.choice(text.notes)
    missing = [attribute for attribute in ATTRIBUTES if attribute not in stated]
    is_missing = bool(missing) and rng.random() < UNSTATED_SHARE
    attribute = rng.choice(missing if is_missing else stated)
    answer = UNSTATED if is_missing else person.facts[attribute]
    question = rng.choice(wordings[attribute]).format(name=person.name)
    return Question(person, attribute, question, note if len(text.notes) > 1 else "", answer)


def reading_documents(seed: int, pages: int, values: Values) -> Iterator[dict]:
    """Pages with a text and questions on it, each with its answer."""
    rng = random.Random(f"{seed}/reading")
    for number in range(pages):
        people = how_many(rng)
        text = fresh_text(rng, people, "train", values)
        lines = [rng.choice(TITLES), "", text.text]
        for _ in range(QUESTIONS[people]):
            q = ask(text, rng, TRAIN_QUESTIONS)
            quote = f'"{q.quote}"\n' if q.quote else ""
            lines.append(f"\n{q.question}\n{quote}Answer: {q.answer}")
        yield page("reading", number, "\n".join(lines))


def copy_documents(seed: int, pages: int) -> Iterator[dict]:
    """Lists of words drawn uniformly, each written COPIES times: only the list itself says how it goes on."""
    rng = random.Random(f"{seed}/copies")
    everyday = sorted(lex.EVERYDAY)
    for number in range(pages):
        words = rng.choices(everyday, k=rng.randint(*COPIED))
        yield page("copies", number, "\n".join([rng.choice((" ", ", ", " ")).join(words)] * COPIES))


def page(source: str, number: int, text: str) -> dict:
    return {"id": f"{source}-{number:05d}", "source": source, "text": text, "split": document_split(text)}
