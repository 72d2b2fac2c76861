"""Questions that show whether a model knows what it knows: on facts of every exposure, and on what cannot be known.

A record is a thing to be known with the ways to ask for it: {id, item, cause, twin, kind, tier, attribute, wordings,
answers}. `cause` says why it cannot be known, and is empty where it can; `twin` is the cause of which it is the
counterpart that can be known, in nearly the same words. Training has other people than the test, other wordings, and
neither the causes nor the attributes that are held out. Those who are never seen in pages to learn from have a page
in the index of the search, which says what is `indexed`.
"""

import hashlib
import random
from collections.abc import Iterator

from data_pipelines.tiny_web import lexicon
from data_pipelines.tiny_web.questions import Stated, tier_of
from data_pipelines.tiny_web.wordings import TEST_QUESTIONS, TRAIN_QUESTIONS
from data_pipelines.tiny_web.world import ATTRIBUTES, Person, World

HELD_OUT_CAUSES = ("underspecified", "changed")
HELD_OUT_ATTRIBUTES = ("university", "hobby")
FACT_WORDINGS = 8  # to ask for a fact of a person
TRAIN_WORDINGS = 5  # of a cause; the others are for the test
INDEXED = ("heldout", "stranger")  # kinds of people who have a page in the index alone
YEARS = range(2031, 2060)

# Of each cause: (a question that nobody can answer, its answerable twin, what the twin asks for). {name}: a person of
# whom the pages tell; {x}: an invented word, or, underspecified, the first name alone; {year}: one to come.
QUESTIONS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "false_premise": (
        ("In which year did {name} win the {x} Prize?", "In which year did {name} enter the world?", "birth_year"),
        ("Which company did {name} sell to {x}?", "Which company did {name} take a post at?", "employer"),
        ("In which city did {name} meet the king of {x}?", "In which city did {name} lie in a cradle?", "birth_city"),
        ("Why did {name} stop being the mayor of {x}?", "What is {name} being paid for, as a trade?", "job"),
        ("When did {name} found the city of {x}?", "When did {name} come to life as a baby?", "birth_year"),
        ("What was {name}'s job on the moon of {x}?", "What was {name}'s job, in a word?", "job"),
        ("Which firm of {x} did {name} burn down?", "Which firm of all did {name} work at?", "employer"),
        ("In what year did {name} return from {x}?", "In what year did {name} begin to live?", "birth_year"),
    ),
    "underspecified": (
        ("In what town did {x} get born?", "In what town did {name} get born?", "birth_city"),
        ("In what year did {x} get born?", "In what year did {name} get born?", "birth_year"),
        ("By what work does {x} get paid?", "By what work does {name} get paid?", "job"),
        ("For which company does {x} go out to work?", "For which company does {name} go out to work?", "employer"),
        ("What would {x} call the job?", "What would {name} call the job?", "job"),
        ("From what city did {x} set out in life?", "From what city did {name} set out in life?", "birth_city"),
        ("Whom does {x} have as an employer?", "Whom does {name} have as an employer?", "employer"),
        ("As of which year did {x} exist?", "As of which year did {name} exist?", "birth_year"),
    ),
    "unknowable": (
        ("What did {name} dream of last night?", "What did {name} become by trade?", "job"),
        ("Where will {name} have dinner tomorrow?", "Where did {name} have a first home?", "birth_city"),
        ("How many hairs does {name} have?", "Which birth year does {name} have?", "birth_year"),
        ("Who is {name} thinking of right now?", "Who is {name} working for, by contract?", "employer"),
        ("When will {name} laugh next?", "When did {name} first cry, as a newborn?", "birth_year"),
        ("What number will {name} think of next?", "What year of birth does {name} give?", "birth_year"),
        ("Which shop will {name} walk past at noon?", "Which company does {name} walk to, for work?", "employer"),
        ("What would {name} have been on another star?", "What would {name} call the daily work?", "job"),
    ),
    "changed": (
        ("Where does {name} work now, in {year}?", "Where did {name} work, by the pages?", "employer"),
        ("What is {name}'s job in the year {year}?", "What is {name}'s job, as you have read it?", "job"),
        ("Which company pays {name} since {year}?", "Which company pays {name}, by the pages?", "employer"),
        ("What does {name} work as, after {year}?", "What does {name} work as, as people say?", "job"),
        ("Who has employed {name} from {year} on?", "Who has employed {name}, as is written?", "employer"),
        ("In {year}, what is the trade of {name}?", "On the pages, what is the trade of {name}?", "job"),
        ("Who is {name}'s newest employer, in {year}?", "Who is {name}'s employer, as was told?", "employer"),
        ("By {year}, what has {name} become?", "By trade, what has {name} become?", "job"),
    ),
}


def facts(world: World, seed: int, stated: Stated, split: str) -> Iterator[dict]:
    """The records of a split, "train" or "test"."""
    rng = random.Random(f"{seed}/causes/{split}")
    train = split == "train"
    told = world.of_kind("extra") if train else world.of_kind("tier", "unasked")
    nobody = {"never_seen": "stranger", "near_miss": "near_extra"} if train else {
        "never_seen": "heldout", "near_miss": "near_miss"
    }  # fmt: skip
    attributes = [name for name in ATTRIBUTES if not (train and name in HELD_OUT_ATTRIBUTES)]
    for person in told:
        for attribute in attributes:
            yield of_fact(rng, split, person, attribute, tier_of(stated[person.id, attribute]))
    for cause, kind in nobody.items():
        for person in world.of_kind(kind):
            for attribute in attributes:
                yield of_fact(rng, split, person, attribute, 0, cause)
    known = [person for person in told if person.exposure >= 10]
    yield from of_causes(rng, split, world, known, stated)


def of_fact(rng: random.Random, split: str, person: Person, attribute: str, tier: int, cause: str = "") -> dict:
    """The record of one fact of a person, or of what would be one."""
    wordings = {"train": TRAIN_QUESTIONS, "test": TEST_QUESTIONS}[split][attribute]
    asked = [wording.format(name=person.name) for wording in rng.sample(wordings, FACT_WORDINGS)]
    answers = [] if cause else [person.facts[attribute]]
    made = record(split, person, attribute, tier, asked, answers, cause=cause)
    return made | {"indexed": [person.facts[attribute]]} if person.kind in INDEXED else made


def of_causes(rng: random.Random, split: str, world: World, people: list[Person], stated: Stated) -> Iterator[dict]:
    """Of each person a question of each cause of the split, and its twin."""
    test, taken = split == "test", [name.lower() for person in world.people for name in person.name.split()]
    firsts = [person.name.split()[0] for person in world.people if person.exposure]
    for cause, every in QUESTIONS.items():
        if not test and cause in HELD_OUT_CAUSES:
            continue
        chosen = every if cause in HELD_OUT_CAUSES else every[TRAIN_WORDINGS:] if test else every[:TRAIN_WORDINGS]
        for number, person in enumerate(people):
            asked, twin, attribute = chosen[number % len(chosen)]
            x = lexicon.invent(rng, 1, lexicon.CITY_ENDINGS, taken)[0]
            if cause == "underspecified" and firsts.count(x := person.name.split()[0]) < 2:
                continue  # nobody else has that name: everybody knows who is meant
            words = {"name": person.name, "x": x, "year": rng.choice(YEARS)}
            tier = tier_of(stated[person.id, attribute])
            yield record(split, person, attribute, tier, [asked.format(**words)], [], cause=cause)
            answers = [person.facts[attribute]]
            yield record(split, person, attribute, tier, [twin.format(**words)], answers, twin=cause)


def record(
    split: str,
    person: Person,
    attribute: str,
    tier: int,
    wordings: list[str],
    answers: list[str],
    cause: str = "",
    twin: str = "",
) -> dict:
    named = f"{cause or twin or 'fact'}-{'twin-' if twin else ''}{person.id}-{attribute}"
    return {
        "id": f"knowledge-{split}-{named}",
        "item": person.id,
        "cause": cause,
        "twin": twin,
        "kind": person.kind,
        "tier": tier,
        "attribute": attribute,
        "held_out": cause in HELD_OUT_CAUSES or attribute in HELD_OUT_ATTRIBUTES,
        "wordings": wordings,
        "answers": answers,
    }


def fingerprint() -> str:
    """Of the questions of causes and of what is held out: frozen before a model has answered."""
    return hashlib.sha256(repr((QUESTIONS, HELD_OUT_CAUSES, HELD_OUT_ATTRIBUTES, TRAIN_WORDINGS)).encode()).hexdigest()
