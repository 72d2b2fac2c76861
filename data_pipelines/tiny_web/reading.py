"""Reading: questions whose answer stands in the text before them, about people whom no other text knows.

A model learns to copy where nothing but the context can predict what comes, as in lists of random words that are
written again: there it changes within a hundred steps, and without them it does not (Olsson et al. 2022). Short lists
of single tokens come first, then longer ones of any words, then values to look up by name; then it can learn to read
(`PAGES`). Of several people it quotes the note on the one who is asked about before it answers: to find the note and to
find the fact in it are two steps.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from data_pipelines.tiny_web import lexicon as lex
from data_pipelines.tiny_web.wordings import STATEMENTS, TRAIN_QUESTIONS, Wordings, statement
from data_pipelines.tiny_web.world import ATTRIBUTES, Person
from llm_jax.tasks.base import split_of
from llm_jax.tokenizer import Tokenizer

SHARES = {1: 3, 2: 3, 3: 2, 5: 2}  # people in a text -> share of the texts
FACTS = {1: (1, 6), 2: (1, 4), 3: (1, 3), 5: (1, 2)}  # people in a text -> fewest and most facts on each
PRONOUNS = 0.3  # share of the sentences after the first of a note that say he or she
QUESTIONS = 6  # on a page at most
LONGEST = 700  # characters of a page, which is to fit into a row: some 220 tokens
# The wordings of each attribute that begin with the name.
OPENING = {name: [k for k, said in enumerate(all_) if said.startswith("{name}")] for name, all_ in STATEMENTS.items()}
UNSTATED = "The text does not say."
UNSTATED_SHARE = 0.12
COPIES = 3
# Words of a list. Of 12 to 40 words copying had not appeared after 400 steps, of the short ones it did in 140.
SHORT, LONG = (4, 12), (4, 30)
WITH_COMMAS = 0.4  # share of the long lists
PAIRS = (2, 10)  # names and values on a page to look up, of which so many at most are asked for
LOOK_UPS = 4
REHEARSED = 0.1  # share of the reading pages that are lists instead, and as many look-ups
EVERYDAY = sorted(lex.EVERYDAY)
TITLES = ("Reading", "A text and questions", "Read and answer", "Who is it?", "Notes, and what they say")

Values = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Text:
    """Notes on a few people: (person, the attributes that it states, note)."""

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
    """A sentence on each of the attributes, in any order. As in a dictionary the name comes first, so that who looks
    for it finds the beginning of the note: before it a causal model cannot know whom a note is about."""
    said = []
    for attribute in attributes:
        form = rng.choice(range(len(STATEMENTS[attribute])) if said else OPENING[attribute]), 0
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


def found_text(rng: random.Random, split: str, values: Values) -> Text:
    """Two notes as a search finds them: on two people, or both on one."""
    if rng.random() < 0.5:
        return fresh_text(rng, 2, split, values, most=3)
    person, attributes = stranger(rng, split, values), tuple(rng.sample(ATTRIBUTES, len(ATTRIBUTES)))
    return Text(tuple((person, some, note_on(person, some, rng)) for some in (attributes[:3], attributes[3:])))


def ask(text: Text, rng: random.Random, wordings: Wordings, person: Person | None = None) -> Question:
    """About a fact of this person, or somebody, in the text; some of the times about one that it does not state."""
    person, stated, note = text.about(person) if person else rng.choice(text.notes)
    told = {attribute for one, attributes, _ in text.notes if one == person for attribute in attributes}
    missing = [attribute for attribute in ATTRIBUTES if attribute not in told]
    is_missing = bool(missing) and rng.random() < UNSTATED_SHARE
    attribute = rng.choice(missing if is_missing else stated)
    answer = UNSTATED if is_missing else person.facts[attribute]
    question = rng.choice(wordings[attribute]).format(name=person.name)
    return Question(person, attribute, question, note if len(text.notes) > 1 else "", answer)


def whole_words(tokenizer: Tokenizer) -> list[str]:
    """Those that are one token after a space; of a tokenizer that has none, everyday ones."""
    texts = map(tokenizer.decode, ([id_] for id_ in range(tokenizer.vocab_size)))
    found = (text[1:] for text in texts if text.startswith(" ") and text[1:].isalpha())
    return [word for word in found if len(tokenizer.encode(f" {word}")) == 1] or EVERYDAY


def documents(seed: int, pages: Mapping[str, int], values: Values, words: Sequence[str]) -> Iterator[dict]:
    """So many pages of each source of PAGES. `words`: see `whole_words`. None is held out: of lists of chance nothing
    can be foretold, and the people of the texts are held out by name."""
    for source, count in pages.items():
        rng = random.Random(f"{seed}/{source}")
        for number in range(count):
            text = PAGES[source](rng, values, words)
            yield {"id": f"{source}-{number:05d}", "source": source, "text": text, "split": "train"}


def short_list(rng: random.Random, values: Values, words: Sequence[str]) -> str:
    return again(rng.choices(words, k=rng.randint(*SHORT)))


def long_list(rng: random.Random, values: Values, words: Sequence[str]) -> str:
    chosen = [any_word(rng, words) for _ in range(rng.randint(*LONG))]
    return again(chosen, ", " if rng.random() < WITH_COMMAS else " ")


def again(words: Sequence[str], between: str = " ") -> str:
    """The words, COPIES times: only the list itself says how it goes on."""
    return "\n".join([between.join(words)] * COPIES)


def any_word(rng: random.Random, words: Sequence[str]) -> str:
    kind = rng.choices(("token", "everyday", "name"), (6, 2, 2))[0]
    if kind == "name":
        return fresh_name(rng, lex.FAMILY_NAME_ENDINGS)
    return rng.choice(words if kind == "token" else EVERYDAY)


def look_up(rng: random.Random, values: Values, words: Sequence[str]) -> str:
    """Names with a value each, and then some of the names again, each with its value."""
    value = {fresh_name(rng, lex.FIRST_NAME_ENDINGS): any_word(rng, words) for _ in range(rng.randint(*PAIRS))}
    asked = rng.sample(sorted(value), min(len(value), LOOK_UPS))
    return "\n".join([*(f"{name}: {value[name]}" for name in value), *(f"{name}? {value[name]}" for name in asked)])


def read_and_answer(rng: random.Random, values: Values, words: Sequence[str]) -> str:
    """A text with questions on it, each with its answer; some of the time what came before such texts."""
    chance = rng.random()
    if chance < REHEARSED:
        return long_list(rng, values, words)
    if chance < 2 * REHEARSED:
        return look_up(rng, values, words)
    return asked_and_answered(rng, values)


# Source -> (rng, values, words) -> text
PAGES = {
    "short_lists": short_list,
    "long_lists": long_list,
    "look_ups": look_up,
    "texts": read_and_answer,
    "reading": read_and_answer,
}
FIRST = tuple(PAGES)[:-1]  # are read in this order before anything else


def asked_and_answered(rng: random.Random, values: Values) -> str:
    text = fresh_text(rng, how_many(rng), "train", values)
    page, more = f"{rng.choice(TITLES)}\n\n{text.text}", ""
    for _ in range(QUESTIONS):
        page += more
        q = ask(text, rng, TRAIN_QUESTIONS)
        quote = f'"{q.quote}"\n' if q.quote else ""
        more = f"\n\n{q.question}\n{quote}Answer: {q.answer}"
        if len(page) + len(more) > LONGEST:
            break
    return page
