"""What the pages of the tiny web say, each made of a world's facts, its wordings and the filler grammar."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from data_pipelines.tiny_web import lexicon as lex
from data_pipelines.tiny_web.grammar import paragraph, sentence
from data_pipelines.tiny_web.wordings import LEADS, STATEMENTS, TRAIN_QUESTIONS, statement
from data_pipelines.tiny_web.world import ATTRIBUTES, City, Company, Person, Work, World


@dataclass(frozen=True)
class Page:
    """One page. `facts` records (person id, attribute, what is said) for what a biography states, and a question with
    its answer. A paragraph that begins with "- " is an item of a numbered list."""

    source: str
    title: str
    paragraphs: tuple[str, ...]
    facts: tuple[tuple[str, str, str], ...] = ()

    @property
    def text(self) -> str:
        return "\n".join([self.title, *self.paragraphs])


@dataclass(frozen=True)
class Portrait:
    """One sentence on each of the six attributes of a person: the unit biographies are made of."""

    person: Person
    facts: tuple[tuple[str, str, str], ...]

    @property
    def text(self) -> str:
        return " ".join(said for _, _, said in self.facts)


# Titles say who a page is about, never a fact: each fact is stated as often as the person's exposure says.
SOLO_OPENINGS = (
    "{name}: a short profile",
    "Who is {name}?",
    "The life of {name}",
    "A portrait of {name}",
    "Ten minutes with {name}",
    "In memory of {name}",
    "Meet {name}",
    "Our guest of the week is {name}",
    "An interview with {name}",
    "Notes on {name}",
    "About the author {name}",
    "{name} in a few words",
    "The speaker of the evening is {name}",
    "A neighbour to know: {name}",
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
    "Newsletter of the week: people to know",
    "From the staff pages",
    "Guests at the summer meeting",
    "New members of the reading club",
    "Speakers of the evening",
    "Notes from the class reunion",
    "People in the news this month",
    "Letters from our readers",
    "Old friends and where they are now",
    "The village paper presents its neighbours",
    "Winners of the yearly prize",
    "A page from the family album",
    "Who is who, part {number}",
    "Small portraits, page {number}",
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
SECTIONS = ("biography", "questions", "howto", "place")  # the sources of pages, and where sites keep them
HOWTO_PAGES = 105
NAME_SHARE = 0.18  # of a page's characters that may be the name of its only person
PAGE_WORDS = (52, 150)  # bounds for the stated facts; title, closing and filler come on top
PRONOUN_SHARE = 0.38  # of the sentences that could say he or she; gives a fifth of all sentences


def world_pages(world: World, seed: int, howtos: int = HOWTO_PAGES) -> list[Page]:
    """All pages about a world in the order of a crawl; each kind draws from its own random numbers."""
    rng = lambda purpose: random.Random(f"{seed}/{purpose}")  # noqa: E731
    made = [
        *biography_pages(world, rng("biography")),
        *question_pages(world, rng("questions")),
        *howto_pages(world, rng("howto"), howtos),
        *place_pages(world, rng("place")),
    ]
    rng("pages").shuffle(made)
    return made


def biography_pages(world: World, rng: random.Random) -> list[Page]:
    """Pages that state every fact of a person in exactly `person.sentences` different sentences."""
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
    """As many portraits as there are to be sentences, no sentence form used twice for a fact."""
    forms = {}
    for attribute in ATTRIBUTES:
        wordings = range(len(STATEMENTS[attribute]))
        every = [(wording, lead) for wording in wordings for lead in range(len(LEADS))]
        # Sentences without an opener come first more often, as in real prose.
        every.sort(key=lambda form: rng.random() * (1.0 if form[1] else 0.1))
        forms[attribute] = rng.sample(every[: person.sentences], person.sentences)
    portraits = []
    for number in range(person.sentences):
        facts = []
        for attribute in rng.sample(ATTRIBUTES, len(ATTRIBUTES)):
            pronoun = bool(facts) and rng.random() < PRONOUN_SHARE  # the first sentence says the name
            said = statement(person, attribute, forms[attribute][number], pronoun)
            facts.append((person.id, attribute, said))
        portraits.append(Portrait(person, tuple(facts)))
    return portraits


def _biography(group: list[Portrait], rng: random.Random) -> Page:
    people = {portrait.person.id for portrait in group}
    solo = len(people) == 1
    names = {"name": group[0].person.name, "number": rng.randrange(2, 90)}
    title = rng.choice(SOLO_OPENINGS if solo else GROUP_OPENINGS).format(**names)
    parts = [portrait.text for portrait in group]
    if _words(group) < 60 or rng.random() < 0.5:
        parts.append(rng.choice(SOLO_CLOSINGS if solo else GROUP_CLOSINGS).format(**names))
    filler = sentence(rng)
    if _words(group) > 80 and len(filler.split()) <= 10 and rng.random() < 0.5:  # a page of facts can bear it
        parts.insert(0, filler)
    # A page that says little but one name over and over reads like spam, to a filter as well.
    while solo and _share_of_name(names["name"], [title, *parts]) > NAME_SHARE:
        parts.insert(rng.randrange(len(parts) + 1), sentence(rng))
    paragraphs = tuple(parts) if rng.random() < 0.6 else (" ".join(parts),)
    return Page("biography", title, paragraphs, tuple(fact for portrait in group for fact in portrait.facts))


def _share_of_name(name: str, parts: list[str]) -> float:
    text = "\n".join(parts)
    return text.count(name) * len(name) / len(text)


Pair = tuple[str, str]


def _plain(pairs: list[Pair], rng: random.Random) -> list[str]:
    return [f"{question} {answer}{rng.choice(('', '', '.'))}" for question, answer in pairs]


def _said(pairs: list[Pair], rng: random.Random) -> list[str]:
    return [f"{question} {rng.choice(('It is ', 'The answer is ', ''))}{answer}." for question, answer in pairs]


def _forum(pairs: list[Pair], rng: random.Random) -> list[str]:
    """A thread in which two users take turns."""
    asker, helper = rng.sample(lex.ANIMALS, 2)
    asks = (f"The {asker} asks", f"The {asker} wants to know", f"Now the {asker}", f"From the {asker}", "Next")
    says = ("says", "knows", "answers", "thinks")
    return [f"{rng.choice(asks)}: {question} The {helper} {rng.choice(says)} {answer}." for question, answer in pairs]


def _apart(lines: list[str], rng: random.Random) -> list[str]:
    return lines


def _items(lines: list[str], rng: random.Random) -> list[str]:
    return [f"- {line}" for line in lines]


def _prose(lines: list[str], rng: random.Random) -> list[str]:
    """Two or three questions to a paragraph."""
    lines, paragraphs = list(lines), []
    while lines:
        size = rng.choice((2, 3))
        paragraphs.append(" ".join(lines[:size]))
        lines = lines[size:]
    return paragraphs


# An answer stands on the line of its question: what has fewer than three words on a line is furniture to a filter.
# Of each layout: the page's title, how a question and its answer become a line, how lines become paragraphs.
QUESTION_LAYOUTS: tuple[tuple[str, Callable, Callable], ...] = (
    ("Questions and answers", _plain, _apart),
    ("Frequently asked questions", _plain, _apart),
    ("Some questions, each with its answer", _said, _apart),
    ("A quiz about people", _plain, _items),
    ("From the forum", _forum, _apart),
    ("Who knows more about our neighbours?", _said, _prose),
)
QUESTION_OPENINGS = (
    "Our readers have asked these questions about people of the region, and the editors have answered all of them.",
    "Test what you know of the people who live here, and then look at the answers that stand behind the questions.",
    "This page has been put together by the library, with the help of all who wrote to us in the last month.",
    "Here are the questions of the week. We thank the families who have looked up the answers for us.",
    "A list for those who want to know more about their neighbours, and for those who have forgotten what they knew.",
    "The evening class of the town has collected what people want to know, and to each question a short answer.",
)
QUESTION_CLOSINGS = (
    "More questions will follow next week, and you can send us yours.",
    "If you think that an answer is wrong, please write to the editors of this page.",
    "That was all for today. We hope that you have learned something new.",
    "The next quiz comes at the end of the month, and there is a book to be won.",
)


def question_pages(world: World, rng: random.Random) -> list[Page]:
    """Pages of 8 to 14 questions with answers; every fact of a person comes up in `person.questions` wordings."""
    asked = [
        (person, attribute, wording.format(name=person.name))
        for person in world.people
        for attribute in ATTRIBUTES
        for wording in rng.sample(TRAIN_QUESTIONS[attribute], person.questions)
    ]
    rng.shuffle(asked)
    pages: list[Page] = []
    while asked:
        size = rng.randrange(8, 15)
        if len(asked) - size < 8:
            size = len(asked)  # no page of a few leftovers
        chosen, asked = asked[:size], asked[size:]
        title, write, arrange = rng.choice(QUESTION_LAYOUTS)
        lines = write([(question, person.facts[attribute]) for person, attribute, question in chosen], rng)
        paragraphs = [rng.choice(QUESTION_OPENINGS), *arrange(lines, rng)]
        if rng.random() < 0.5:
            paragraphs.append(rng.choice(QUESTION_CLOSINGS))
        facts = ((person.id, attribute, line) for (person, attribute, _), line in zip(chosen, lines, strict=True))
        pages.append(Page("questions", title, tuple(paragraphs), tuple(facts)))
    return pages


def howto_pages(world: World, rng: random.Random, n: int) -> list[Page]:
    """Instructions for doing something to a thing, with what is needed and a list of steps."""
    return [_howto(world, rng) for _ in range(n)]


def _howto(world: World, rng: random.Random) -> Page:
    verb = rng.choice("repair clean paint build polish store move measure restore decorate wrap".split())
    thing = f"{rng.choice(lex.ADJECTIVES)} {rng.choice(lex.HOUSE)}"
    tools = rng.sample(lex.TOOLS, 3)
    needs = (
        f"To {verb} {lex.article(thing)} you need {', '.join(map(lex.article, tools[:2]))} and "
        f"{lex.article(tools[2])}. It takes about {5 * rng.randrange(1, 13)} minutes. {sentence(rng)}"
    )
    steps = [f"- {_step(rng, tools, thing)}" for _ in range(rng.randrange(4, 7))]
    end = (
        f"Now the {thing} is ready. You can buy good {rng.choice(lex.PRODUCTS)} in "
        f"{rng.choice(world.cities).name}. {sentence(rng)}"
    )
    return Page("howto", f"How to {verb} {lex.article(thing)}", (needs, *steps, end))


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
    made = [_city_page(city, world, rng) for city in world.cities]
    made += [_company_page(company, rng) for company in world.companies]
    return made + [_work_page(work, rng) for work in world.works]


def _city_page(city: City, world: World, rng: random.Random) -> Page:
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
    return _place(f"The city of {city.name}", facts, rng)


def _company_page(company: Company, rng: random.Random) -> Page:
    facts = [
        f"{company.name} is a company in {company.city}.",
        f"{company.name} makes {company.product}.",
        f"It was founded in {company.founded}.",
        f"{rng.randrange(3, 40)} cities buy {company.product} from {company.name}.",
        f"A {rng.choice(lex.PLACES)} in {company.city} was the first home of {company.name}.",
    ]
    return _place(company.name, facts, rng)


def _work_page(work: Work, rng: random.Random) -> Page:
    facts = [
        f"{work.title} is {lex.article(work.kind)} by {work.author}.",
        f"It came out in {work.year}.",
        f"The story is set in {work.city}.",
        f"It is about {lex.article(rng.choice(lex.PEOPLE))} and {lex.article(rng.choice(lex.ANIMALS))}.",
        f"{work.author} made {work.title} in two years.",
    ]
    return _place(work.title, facts, rng)


def _place(title: str, facts: list[str], rng: random.Random) -> Page:
    """The first fact first, the others in any order, then a paragraph of filler."""
    others = rng.sample(facts[1:], len(facts) - 1)
    return Page("place", title, (" ".join(facts[:1] + others), paragraph(rng, 4)))
