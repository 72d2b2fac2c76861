"""The fictional world: people with six facts each, and the cities, companies and works around them."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from data_pipelines.tiny_web import lexicon as lex

ATTRIBUTES = ("birth_year", "birth_city", "job", "employer", "university", "hobby")
# How often the pages state each fact of a person: (sentences of biographies, questions with their answer). A person's
# tier is the sum.
TIERS = {0: (0, 0), 1: (1, 0), 3: (2, 1), 10: (6, 4), 30: (18, 12), 100: (60, 40)}
TWICE_AS_MANY = 30  # the tier whose people differ most in how well they are recalled
UNASKED = (100, 0)
EXTRA = (10, 14)
WORK_KINDS = ("novel", "play", "song", "film", "painting", "opera")


@dataclass(frozen=True)
class Person:
    """Someone of the world. The pages state each fact in `sentences` of biographies and in `questions`."""

    id: str
    name: str
    kind: str  # tier, extra, unasked, heldout, near_miss; on no page, for training: stranger, near_extra
    sentences: int
    questions: int
    female: bool
    facts: dict[str, str]

    @property
    def exposure(self) -> int:
        """How many statements of each fact the pages make."""
        return self.sentences + self.questions


@dataclass(frozen=True)
class City:
    name: str
    region: str
    river: str
    known_for: str


@dataclass(frozen=True)
class Company:
    name: str
    city: str
    product: str
    founded: int


@dataclass(frozen=True)
class Work:
    title: str
    author: str
    year: int
    kind: str
    city: str  # where the story is set


@dataclass(frozen=True)
class World:
    people: list[Person]
    cities: list[City]
    companies: list[Company]
    works: list[Work]

    @property
    def values(self) -> dict[str, list[str]]:
        """What each attribute can be, of somebody."""
        return {attribute: sorted({person.facts[attribute] for person in self.people}) for attribute in ATTRIBUTES}

    def of_kind(self, *kinds: str) -> list[Person]:
        """The people of the given kinds, in order."""
        return [person for person in self.people if person.kind in kinds]


def make_world(
    seed: int,
    people_per_tier: int = 12,
    extra_people: int = 52,
    unasked_people: int = 8,
    heldout_people: int = 64,
    strangers: int = 32,
) -> World:
    """Build the whole world from a seed; another seed gives other names and other facts."""
    rng = random.Random(f"{seed}/world")
    taken: list[str] = []
    cities = _cities(rng, taken)
    companies = _companies(rng, cities, taken)
    values = _closed_lists(rng, cities, companies, taken)
    people = {tier: people_per_tier * (2 if tier == TWICE_AS_MANY else 1) for tier in TIERS}
    kinds = [("tier", *stated) for tier, stated in TIERS.items() for _ in range(people[tier])]
    kinds += [("extra", *EXTRA)] * extra_people
    kinds += [("unasked", *UNASKED)] * unasked_people
    kinds += [("heldout", 0, 0)] * heldout_people
    firsts = lex.invent(rng, 400, lex.FIRST_NAME_ENDINGS, taken)
    families = lex.invent(rng, 400, lex.FAMILY_NAME_ENDINGS, taken)
    names = [f"{first} {family}" for first in firsts for family in families]
    people = [
        _person(rng, i, name, kind, values)
        for i, (name, kind) in enumerate(zip(rng.sample(names, len(kinds)), kinds, strict=True))
    ]
    often = [person for person in people if person.kind == "tier" and person.exposure >= 30]
    people += _near_misses(rng, "near_miss", often, people, (firsts, families), values)
    works = _works(rng, people, cities)
    # Nobody reads of these either; training may ask about them, so that what is tested need not be asked before.
    rng = random.Random(f"{seed}/strangers")
    unused = sorted(set(names) - {person.name for person in people})
    new = rng.sample(unused, strangers)
    people += [_person(rng, len(people) + i, name, ("stranger", 0, 0), values) for i, name in enumerate(new)]
    extra = [person for person in people if person.kind == "extra"]
    people += _near_misses(rng, "near_extra", extra, people, (firsts, families), values)
    return World(people, cities, companies, works)


def _cities(rng: random.Random, taken: list[str]) -> list[City]:
    names = lex.invent(rng, 40, lex.CITY_ENDINGS, taken)
    regions = lex.invent(rng, 8, lex.REGION_ENDINGS, taken)
    rivers = lex.invent(rng, 16, lex.RIVER_ENDINGS, taken)
    plants = lex.invent(rng, 40, lex.PLANT_ENDINGS, taken)
    goods = ("honey", "tea", "soup", "wine", "gardens", "festival", "soap", "bread")
    return [
        City(name, rng.choice(regions), rng.choice(rivers), f"{plant.lower()} {rng.choice(goods)}")
        for name, plant in zip(names, plants, strict=True)
    ]


def _companies(rng: random.Random, cities: list[City], taken: list[str]) -> list[Company]:
    products = rng.sample(lex.PRODUCTS, 40)
    return [
        Company(_with_kind(rng, name, lex.COMPANY_KINDS), rng.choice(cities).name, product, rng.randrange(1800, 1900))
        for name, product in zip(lex.invent(rng, 40, lex.COMPANY_ENDINGS, taken), products, strict=True)
    ]


def _with_kind(rng: random.Random, name: str, kinds: list[str]) -> str:
    return f"{name} {rng.choice(kinds)}" if rng.random() < 0.4 else name


def _closed_lists(
    rng: random.Random, cities: list[City], companies: list[Company], taken: list[str]
) -> dict[str, list[str]]:
    """The values each attribute can take."""
    universities = lex.invent(rng, 24, lex.UNIVERSITY_ENDINGS, taken)
    return {
        "birth_year": [str(year) for year in range(1900, 2000)],
        "birth_city": [city.name for city in cities],
        "job": lex.JOBS,
        "employer": [company.name for company in companies],
        "university": [f"{name} {rng.choice(lex.UNIVERSITY_KINDS)}" for name in universities],
        "hobby": lex.HOBBIES,
    }


def _person(
    rng: random.Random, number: int, name: str, kind: tuple[str, int, int], values: dict[str, list[str]]
) -> Person:
    facts = {attribute: rng.choice(values[attribute]) for attribute in ATTRIBUTES}
    return Person(f"p{number:04d}", name, *kind, rng.random() < 0.5, facts)


def _near_misses(
    rng: random.Random,
    kind: str,
    of: list[Person],
    people: list[Person],
    parts: tuple[list[str], list[str]],
    values: dict[str, list[str]],
) -> list[Person]:
    """For each person of some, one of this kind who shares a single name part with them and none of the facts."""
    used = {person.name for person in people}
    misses: list[Person] = []
    for part, person in zip(itertools.cycle((0, 1)), of, strict=False):
        first, family = person.name.split()
        same = [f"{other} {family}" for other in parts[0]] if part else [f"{first} {other}" for other in parts[1]]
        name = rng.choice([other for other in same if other not in used])
        used.add(name)
        others = {
            attribute: [value for value in values[attribute] if value != person.facts[attribute]]
            for attribute in ATTRIBUTES
        }
        misses.append(_person(rng, len(people) + len(misses), name, (kind, 0, 0), others))
    return misses


def _works(rng: random.Random, people: list[Person], cities: list[City]) -> list[Work]:
    """Works by people the pages tell about; their years are after every birth year."""
    authors = [person.name for person in people if person.exposure >= 10]
    adjectives = [word.capitalize() for word in lex.ADJECTIVES]
    nouns = [word.capitalize() for word in lex.NATURE + lex.PLACES]
    titles: list[str] = []
    while len(titles) < 40:
        title = f"The {rng.choice(adjectives)} {rng.choice(nouns)}"
        if title not in titles:
            titles.append(title)
    return [
        Work(title, rng.choice(authors), rng.randrange(2000, 2020), rng.choice(WORK_KINDS), rng.choice(cities).name)
        for title in titles
    ]
