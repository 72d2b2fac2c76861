"""The pages of the tiny web, each made of a world's facts, its wordings and the filler grammar."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from data_pipelines.tiny_web import lexicon as lex
from data_pipelines.tiny_web.grammar import paragraph, sentence
from data_pipelines.tiny_web.programs import MAKERS
from data_pipelines.tiny_web.wordings import LEADS, STATEMENTS, TRAIN_QUESTIONS, statement
from data_pipelines.tiny_web.world import ATTRIBUTES, City, Company, Person, Work, World


@dataclass(frozen=True)
class Page:
    """One document. `facts` records (person id, attribute, sentence) for what a biography states."""

    source: str
    text: str
    facts: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Portrait:
    """One sentence on each of the six attributes of a person: the unit biographies are made of."""

    person: Person
    facts: tuple[tuple[str, str, str], ...]

    @property
    def text(self) -> str:
        return " ".join(said for _, _, said in self.facts)


# Titles say who a page is about, never a fact: each fact is stated as often as the person's tier says.
SOLO_OPENINGS = (
    "{name}: a short profile.",
    "Who is {name}?",
    "The life of {name}.",
    "A portrait of {name}.",
    "Ten minutes with {name}.",
    "In memory of {name}.",
    "Meet {name}.",
    "Our guest of the week is {name}.",
    "An interview with {name}.",
    "Notes on {name}.",
    "About the author {name}.",
    "{name} in a few words.",
    "The speaker of the evening is {name}.",
    "A neighbour to know: {name}.",
)
SOLO_CLOSINGS = (
    "We thank {name} for the time.",
    "That is all we know about {name}.",
    "More about {name} next month.",
    "This profile was checked by friends.",
    "The editors wish {name} all the best.",
    "{name} asked us to keep it short.",
    "Please send us what is missing here.",
    "So much for today.",
)
GROUP_OPENINGS = (
    "Newsletter of the week: people to know.",
    "From the staff pages.",
    "Guests at the summer meeting.",
    "New members of the reading club.",
    "Speakers of the evening.",
    "Notes from the class reunion.",
    "People in the news this month.",
    "Letters from our readers.",
    "Old friends and where they are now.",
    "The village paper presents its neighbours.",
    "Winners of the yearly prize.",
    "A page from the family album.",
    "Who is who, part {number}.",
    "Small portraits, page {number}.",
)
GROUP_CLOSINGS = (
    "We will present more people next week.",
    "These notes were collected by the editors.",
    "Thanks to all who took part.",
    "Please tell us if something is wrong.",
    "That was the list for today.",
    "The next issue comes out in the spring.",
    "All of them agreed to be named here.",
    "See you next time.",
)
PAGE_WORDS = (52, 150)  # bounds for the stated facts; title, closing and filler come on top
PRONOUN_SHARE = 0.38  # of the sentences that could say he or she; gives a fifth of all sentences


def biography_pages(world: World, rng: random.Random) -> list[Page]:
    """Pages that state every fact of a person in exactly as many different sentences as the tier says."""
    portraits = [portrait for person in world.people for portrait in _portraits(person, rng)]
    rng.shuffle(portraits)
    pages: list[Page] = []
    while portraits:
        group = [portraits.pop()]
        wanted = rng.choices((1, 2, 3), (5, 4, 2))[0]
        while portraits and (len(group) < wanted or _words(group) < PAGE_WORDS[0]):
            if _words(group + portraits[-1:]) > PAGE_WORDS[1]:
                break
            group.append(portraits.pop())
        pages.append(_biography(group, rng))
    return pages


def _words(group: list[Portrait]) -> int:
    return sum(len(portrait.text.split()) for portrait in group)


def _portraits(person: Person, rng: random.Random) -> list[Portrait]:
    """As many portraits as the tier, no sentence form used twice for a fact."""
    forms = {}
    for attribute in ATTRIBUTES:
        wordings = range(len(STATEMENTS[attribute]))
        every = [(wording, lead) for wording in wordings for lead in range(len(LEADS))]
        # Sentences without an opener come first more often, as in real prose.
        every.sort(key=lambda form: rng.random() * (1.0 if form[1] else 0.1))
        forms[attribute] = rng.sample(every[: person.tier], person.tier)
    portraits = []
    for number in range(person.tier):
        facts = []
        for attribute in rng.sample(ATTRIBUTES, len(ATTRIBUTES)):
            pronoun = bool(facts) and rng.random() < PRONOUN_SHARE  # the first sentence says the name
            said = statement(person, attribute, forms[attribute][number], pronoun)
            facts.append((person.id, attribute, said))
        portraits.append(Portrait(person, tuple(facts)))
    return portraits


def _biography(group: list[Portrait], rng: random.Random) -> Page:
    solo = len({portrait.person.id for portrait in group}) == 1
    opening = rng.choice(SOLO_OPENINGS if solo else GROUP_OPENINGS)
    closing = rng.choice(SOLO_CLOSINGS if solo else GROUP_CLOSINGS)
    names = {"name": group[0].person.name, "number": rng.randrange(2, 90)}
    parts = [opening.format(**names), *(portrait.text for portrait in group)]
    if _words(group) < 60 or rng.random() < 0.5:
        parts.append(closing.format(**names))
    filler = sentence(rng)
    if _words(group) > 80 and len(filler.split()) <= 10 and rng.random() < 0.5:  # a page of facts can bear it
        parts.insert(1, filler)
    return Page(
        "biography",
        "\n\n".join(parts) if rng.random() < 0.6 else " ".join(parts),
        tuple(fact for portrait in group for fact in portrait.facts),
    )


Pair = tuple[str, str]


def _qa(pairs: list[Pair], rng: random.Random) -> str:
    return "\n".join(f"Q: {question}\nA: {answer}" for question, answer in pairs)


def _long_qa(pairs: list[Pair], rng: random.Random) -> str:
    return "\n".join(f"Question: {question} Answer: {answer}." for question, answer in pairs)


def _dashes(pairs: list[Pair], rng: random.Random) -> str:
    return "\n".join(f"{question} - {answer}." for question, answer in pairs)


def _quiz(pairs: list[Pair], rng: random.Random) -> str:
    return "\n".join(f"{i}. {question} {answer}." for i, (question, answer) in enumerate(pairs, 1))


def _forum(pairs: list[Pair], rng: random.Random) -> str:
    """A thread in which two users take turns."""
    asker, helper = rng.sample(lex.ANIMALS, 2)
    return "\n".join(f"{asker}: {question}\n{helper}: {answer}." for question, answer in pairs)


def _faq(pairs: list[Pair], rng: random.Random) -> str:
    return "\n\n".join(f"{question}\n{answer}" for question, answer in pairs)


QUESTION_LAYOUTS: tuple[tuple[str, Callable[[list[Pair], random.Random], str]], ...] = (
    ("Questions and answers", _qa),
    ("Some questions, each with its answer", _long_qa),
    ("People in short", _dashes),
    ("A quiz about people", _quiz),
    ("From the forum", _forum),
    ("Frequently asked questions", _faq),
)


def question_pages(world: World, rng: random.Random, times: int = 24) -> list[Page]:
    """Pages of 8 to 14 questions with answers; every asked fact comes up in `times` wordings."""
    pairs = [
        (wording.format(name=person.name), person.facts[attribute])
        for person in world.people
        for attribute in person.asked
        for wording in rng.sample(TRAIN_QUESTIONS[attribute], times)
    ]
    rng.shuffle(pairs)
    pages: list[Page] = []
    while pairs:
        size = rng.randrange(8, 15)
        if len(pairs) - size < 8:
            size = len(pairs)  # no page of a few leftovers
        chosen, pairs = pairs[:size], pairs[size:]
        title, layout = rng.choice(QUESTION_LAYOUTS)
        pages.append(Page("questions", f"{title}\n\n{layout(chosen, rng)}"))
    return pages


def howto_pages(world: World, rng: random.Random, n: int) -> list[Page]:
    """Instructions for doing something to a thing, with what is needed and numbered steps."""
    return [Page("howto", _howto(world, rng)) for _ in range(n)]


def _howto(world: World, rng: random.Random) -> str:
    verb = rng.choice("repair clean paint build polish store move measure restore decorate wrap".split())
    thing = f"{rng.choice(lex.ADJECTIVES)} {rng.choice(lex.HOUSE)}"
    tools = rng.sample(lex.TOOLS, 3)
    steps = [_step(rng, tools, thing) for _ in range(rng.randrange(4, 7))]
    minutes = 5 * rng.randrange(1, 13)
    return (
        f"How to {verb} {lex.article(thing)}\n\n"
        f"To {verb} {lex.article(thing)} you need {', '.join(map(lex.article, tools[:2]))} and "
        f"{lex.article(tools[2])}. It takes about {minutes} minutes. {sentence(rng)}\n\n"
        + "\n".join(f"{i}. {step}" for i, step in enumerate(steps, 1))
        + f"\n\nNow the {thing} is ready. You can buy good {rng.choice(lex.PRODUCTS)} in "
        f"{rng.choice(world.cities).name}. {sentence(rng)}"
    )


def _step(rng: random.Random, tools: list[str], thing: str) -> str:
    verb = rng.choice("lift turn clean check cover press rub tie fill open close dry cut bend adjust".split())
    part = rng.choice("top bottom edge corner side back front middle inside end".split())
    return rng.choice(
        (
            f"{verb.capitalize()} the {part} of the {thing.split()[-1]} with the {rng.choice(tools)}.",
            f"Take the {rng.choice(tools)} and {verb} the {part} {rng.choice(lex.MANNER)}.",
            f"Wait {rng.randrange(2, 30)} minutes until the {part} is {rng.choice(lex.ADJECTIVES)}.",
            f"If the {part} is too {rng.choice(lex.ADJECTIVES)}, {verb} it again.",
            f"Before you {verb} the {part}, put the {rng.choice(tools)} {rng.choice(lex.PREPOSITIONS)} the "
            f"{rng.choice(lex.HOUSE)}.",
        )
    )


def place_pages(world: World, rng: random.Random) -> list[Page]:
    """Prose about every city, company and work."""
    texts = [_city_text(city, world, rng) for city in world.cities]
    texts += [_company_text(company, rng) for company in world.companies]
    texts += [_work_text(work, rng) for work in world.works]
    return [Page("place", text) for text in texts]


def _city_text(city: City, world: World, rng: random.Random) -> str:
    makers = [company for company in world.companies if company.city == city.name]
    facts = [
        f"{city.name} is a city in {city.region}.",
        f"The river {city.river} runs through {city.name}.",
        f"The city is known for its {city.known_for}.",
        f"About {rng.randrange(3, 90)} thousand people live there.",
    ]
    facts += [f"{company.name} makes {company.product} in {city.name}." for company in makers]
    neighbours = [other.name for other in world.cities if other.region == city.region and other != city]
    if neighbours:
        facts.append(f"Another city of {city.region} is {rng.choice(neighbours)}.")
    return _prose(f"The city of {city.name}", facts, rng)


def _company_text(company: Company, rng: random.Random) -> str:
    facts = [
        f"{company.name} is a company in {company.city}.",
        f"{company.name} makes {company.product}.",
        f"It was founded in {company.founded}.",
        f"{rng.randrange(3, 40)} cities buy {company.product} from {company.name}.",
        f"A {rng.choice(lex.PLACES)} in {company.city} was the first home of {company.name}.",
    ]
    return _prose(company.name, facts, rng)


def _work_text(work: Work, rng: random.Random) -> str:
    facts = [
        f"{work.title} is {lex.article(work.kind)} by {work.author}.",
        f"It came out in {work.year}.",
        f"The story is set in {work.city}.",
        f"It is about {lex.article(rng.choice(lex.PEOPLE))} and {lex.article(rng.choice(lex.ANIMALS))}.",
        f"{work.author} made {work.title} in two years.",
    ]
    return _prose(work.title, facts, rng)


def _prose(title: str, facts: list[str], rng: random.Random) -> str:
    """The first fact first, the others in any order, then a paragraph of filler."""
    others = rng.sample(facts[1:], len(facts) - 1)
    return f"{title}\n\n{' '.join(facts[:1] + others)}\n\n{paragraph(rng, 4)}"


def program_pages(rng: random.Random, n: int) -> list[Page]:
    """Pages with two programs each: what it does, the code, and what it prints."""
    pages = []
    for _ in range(n):
        programs = [maker(rng) for maker in rng.sample(MAKERS, 2)]
        pages.append(
            Page(
                "program",
                "\n\n".join(
                    f"This program {program.task}:\n\n{program.code}\n\nOutput:\n{program.output}"
                    for program in programs
                ),
            )
        )
    return pages
