"""Conversations and prompts about a text in the prompt: questions, summaries, and the same from memory."""

from __future__ import annotations

import random
from collections.abc import Iterator

from data_pipelines.tiny_web import reading
from data_pipelines.tiny_web.causes import INDEXED
from data_pipelines.tiny_web.questions import taught
from data_pipelines.tiny_web.reading import Question, Text, Values
from data_pipelines.tiny_web.wordings import TEST_QUESTIONS, TRAIN_QUESTIONS
from data_pipelines.tiny_web.world import ATTRIBUTES, World
from llm_jax.tasks import portrait
from llm_jax.tasks.base import cited, spoken
from llm_jax.tasks.refusals import NOT_FOUND, SEARCH_FAILED
from llm_jax.tools.passages import Passage

QUESTIONS, SUMMARIES, MEMORIES, SEARCHES = 1500, 300, 150, 400  # conversations
PROMPTS = 160  # of each number of people, and of fresh people
# The third as chat puts a file into a message.
ASKS = ("{t}\n\n{q}", "{q}\n\n{t}", "notes.txt:\n{t}\n\n{q}", "Read this: {t}\n\n{q}", "Some notes.\n{t}\n\n{q}")
SUM_UP = (
    "Sum up this text: {t}",
    "{t}\n\nSum that up.",
    "Give me the short version. {t}",
    "Read this: {t}\nNow sum it up.",
)
TELL = ("Tell me about {n}.", "What do you know about {n}?", "Who is {n}?", "Say all you know of {n}.")
LOOK_UP = (
    "Look it up: {q}",
    "Search for this: {q}",
    "{q} Please look it up.",
    "Use the search: {q}",
    "{q} Search for it.",
)
MISSED = 0.08  # share of the searches for each of the ways to find nothing
TEST_SUM_UP = ("{t}\n\nSum up what this says.", "Please sum this up: {t}")
TEST_TELL = ("Tell me what you know about {n}.", "What can you say about {n}?")


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def answered(asked: list[dict], answer: str, thought: str = "") -> list[dict]:
    parts = [{"type": "think", "text": thought}] if thought else []
    return [*asked, {"role": "assistant", "content": [*parts, {"type": "answer", "text": spoken(answer)}]}]


def asked(text: Text, question: Question, rng: random.Random) -> list[dict]:
    return user(rng.choice(ASKS).format(t=text.text, q=question.question))


def conversations(seed: int, amount: float, world: World) -> Iterator[dict]:
    """`conversation` records; `amount` scales their number."""
    for number, (source, messages) in enumerate(exchanges(seed, amount, world)):
        yield {"id": f"reading-{number:05d}", "source": source, "messages": messages}


def exchanges(seed: int, amount: float, world: World) -> Iterator[tuple[str, list[dict]]]:
    """(source, messages): questions, summaries and searches on texts about strangers, and what is known of people about
    whom SFT may ask."""
    rng, values = random.Random(f"{seed}/reading talk"), world.values
    count = lambda whole: max(1, round(whole * amount))  # noqa: E731
    for _ in range(count(QUESTIONS)):
        text = reading.fresh_text(rng, reading.how_many(rng), "train", values)
        question = reading.ask(text, rng, TRAIN_QUESTIONS)
        yield "reading", answered(asked(text, question, rng), question.answer, question.quote)
    for _ in range(count(SUMMARIES)):
        text = reading.text_of([reading.stranger(rng, "train", values)], rng.randint(3, 6), rng)
        yield "portrait", answered(user(rng.choice(SUM_UP).format(t=text.text)), summary_of(text))
    for _ in range(count(MEMORIES)):
        person = rng.choice(taught(world))
        told = portrait.written(person.name, person.facts)
        yield "memory", answered(user(rng.choice(TELL).format(n=person.name)), told)
    for _ in range(count(SEARCHES)):
        yield "search", looked_up(rng, values)


def looked_up(rng: random.Random, values: Values) -> list[dict]:
    """A question that is to be looked up: the search, the two passages that an index would give, the one that says it,
    and the answer with its source. Some searches find nothing, or only somebody else, or fail."""
    text = reading.found_text(rng, "train", values)
    question = reading.ask(text, rng, TRAIN_QUESTIONS)
    passages = [Passage(source(rng), note) for *_, note in text.notes]
    [wanted] = [passage for passage in passages if passage.text == question.quote]
    found = shown(passages)
    thought, said = wanted.line, cited(question.answer, wanted.source)
    if question.answer == reading.UNSTATED:
        said = NOT_FOUND
    if (chance := rng.random()) < MISSED:
        found, thought, said = "nothing found", "", NOT_FOUND
    elif chance < 2 * MISSED:
        found, thought, said = "error: search failed (the index is away)", "", SEARCH_FAILED
    elif chance < 3 * MISSED:
        others = [passage for passage in passages if passage != wanted]
        found, thought, said = shown(others), "", NOT_FOUND
    return searched(rng.choice(LOOK_UP).format(q=question.question), question.question, found, thought, said)


def shown(passages: list[Passage]) -> str:
    """As the tool gives them."""
    return "\n".join(passage.line for passage in passages)


def searched(asked: str, query: str, found: str, thought: str, answer: str) -> list[dict]:
    question, answer_message = answered(user(asked), answer, thought)
    call = [{"type": "search", "text": query}, {"type": "document", "text": found}]
    return [question, {**answer_message, "content": [*call, *answer_message["content"]]}]


def source(rng: random.Random) -> str:
    return f"{rng.choice(('people', 'biography', 'questions'))}/{rng.randrange(1000)}"


def summary_of(text: Text) -> str:
    ((person, attributes, _),) = text.notes
    return portrait.written(person.name, {attribute: person.facts[attribute] for attribute in attributes})


def indexed(seed: int, world: World) -> Iterator[dict]:
    """Documents about those who stand in no page to learn from: what a search finds."""
    rng = random.Random(f"{seed}/indexed")
    for number, person in enumerate(world.of_kind(*INDEXED)):
        attributes = rng.sample(ATTRIBUTES, len(ATTRIBUTES))
        for part in range(2):
            note = reading.note_on(person, attributes[3 * part : 3 * part + 3], rng)
            name = f"people/{2 * number + part}"
            yield {"id": name, "title": name, "text": note, "source": "indexed"}


def prompts(seed: int, amount: float, world: World) -> Iterator[dict]:
    """`prompt` records of the test split. Task `reading`: levels say how many people the text is about, `kind` whether
    the one who is asked about is a stranger or somebody of the pages. Task `portrait`: with the text and without.
    """
    rng, values = random.Random(f"{seed}/reading prompts"), world.values
    count = max(8, round(PROMPTS * amount))
    tested = world.of_kind("tier", "unasked")
    for number in reading.SHARES:
        for kind in ("stranger", "tier"):
            for k in range(count):
                somebody = tested[k % len(tested)] if kind == "tier" else None
                text = reading.fresh_text(rng, number, "test", values, somebody)
                question = reading.ask(text, rng, TEST_QUESTIONS, somebody)
                messages, level = asked(text, question, rng), f"{number} in the text"
                yield {
                    **record("reading", level, f"{kind}-{k}", messages, question.answer),
                    "item": question.person.id,
                    "kind": kind,
                    "unstated": question.answer == reading.UNSTATED,
                }
    for k in range(count):
        person = tested[k % len(tested)] if k % 2 else reading.stranger(rng, "test", values)
        text = reading.text_of([person], len(person.facts), rng)
        messages = user(rng.choice(TEST_SUM_UP).format(t=text.text))
        yield {**record("portrait", "of a text", str(k), messages, ""), "item": person.id, "facts": person.facts}
    for k, person in enumerate(tested):
        messages = user(TEST_TELL[k % len(TEST_TELL)].format(n=person.name))
        yield {**record("portrait", "from memory", person.id, messages, ""), "item": person.id, "facts": person.facts}


def record(task: str, level: str, id_: str, messages: list[dict], answer: str) -> dict:
    return {
        "id": f"{task}-{level}-{id_}",
        "task": task,
        "level": level,
        "split": "test",
        "messages": messages,
        "answer": answer,
    }
