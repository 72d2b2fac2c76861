"""A small recursive grammar that makes filler sentences: correct English about nothing in particular."""

from __future__ import annotations

import random

from data_pipelines.tiny_web import lexicon as lex

BEINGS = lex.PEOPLE + lex.ANIMALS
THINGS = lex.FOODS + lex.TOOLS + lex.HOUSE + lex.NATURE + lex.GOODS
EVERYTHING = THINGS + lex.IDEAS + lex.BODY
SINGULAR_DETERMINERS = "the the the this that every each".split()
PLURAL_DETERMINERS = "the the these those some many most few".split()
JOINERS = "because while although before after since when until".split()
OPENERS = """In the morning|Late in the evening|After the festival|Before the winter|During the summer
    |On the first day|At the end of the week|Most of the time|Long ago|Some years later|For a while
    |In the old days|From time to time|As a rule|Not far away|On market days|In the end""".split("|")


def sentence(rng: random.Random) -> str:
    """One filler sentence, capitalised and ended."""
    kind = rng.choice((_plain, _plain, _opened, _subordinate, _coordinate, _listing, _comparison))
    text = kind(rng)
    return text[0].upper() + text[1:] + "."


def paragraph(rng: random.Random, n: int) -> str:
    """A paragraph of n filler sentences."""
    return " ".join(sentence(rng) for _ in range(n))


def noun_phrase(rng: random.Random, nouns: list[str], depth: int = 1) -> tuple[str, bool]:
    """A noun phrase of at most `depth` nested modifiers, and whether it is plural."""
    many = rng.random() < 0.35
    noun = rng.choice(nouns)
    words = [rng.choice(lex.ADJECTIVES)] if rng.random() < 0.5 else []
    words.append(lex.plural(noun) if many else noun)
    if not many and rng.random() < 0.3:
        text = lex.article(" ".join(words))
    else:
        text = " ".join([rng.choice(PLURAL_DETERMINERS if many else SINGULAR_DETERMINERS), *words])
    if depth > 0 and rng.random() < 0.4:
        text += " " + (_relative(rng, nouns, depth) if rng.random() < 0.5 else _prepositional(rng, depth))
    return text, many


def _prepositional(rng: random.Random, depth: int) -> str:
    return f"{rng.choice(lex.PREPOSITIONS)} {noun_phrase(rng, lex.PLACES, depth - 1)[0]}"


def _relative(rng: random.Random, nouns: list[str], depth: int) -> str:
    """A relative clause: with the head as its subject, or as its object."""
    if rng.random() < 0.4:
        return f"that {noun_phrase(rng, BEINGS, 0)[0]} {lex.past(rng.choice(lex.TRANSITIVE))}"
    if nouns is BEINGS:
        return f"who {_verb_phrase(rng, depth - 1)}"
    return f"that {lex.past(rng.choice(('stand', 'rest', 'fall', 'remain')))} {_prepositional(rng, depth)}"


def _verb_phrase(rng: random.Random, depth: int) -> str:
    """A verb in the past with what it needs; the past spares the grammar all agreement."""
    if rng.random() < 0.35:
        verb = lex.past(rng.choice(lex.INTRANSITIVE))
        ending = rng.choice((rng.choice(lex.MANNER), rng.choice(lex.ADVERBS), _prepositional(rng, depth)))
        return f"{verb} {ending}"
    manner = rng.choice(lex.MANNER) + " " if rng.random() < 0.15 else ""
    return f"{manner}{lex.past(rng.choice(lex.TRANSITIVE))} {noun_phrase(rng, EVERYTHING, depth)[0]}"


def clause(rng: random.Random, depth: int = 1) -> str:
    """A subject with its verb phrase."""
    return f"{noun_phrase(rng, BEINGS, depth)[0]} {_verb_phrase(rng, depth)}"


def _plain(rng: random.Random) -> str:
    return clause(rng, 2)


def _opened(rng: random.Random) -> str:
    return f"{rng.choice(OPENERS).strip()}, {clause(rng)}"


def _subordinate(rng: random.Random) -> str:
    joiner = rng.choice(JOINERS)
    if rng.random() < 0.5:
        return f"{joiner} {clause(rng, 0)}, {clause(rng, 0)}"
    return f"{clause(rng, 0)} {joiner} {clause(rng, 0)}"


def _coordinate(rng: random.Random) -> str:
    return f"{clause(rng, 0)}, {rng.choice(('and', 'but', 'so', 'and then'))} {clause(rng, 0)}"


def _listing(rng: random.Random) -> str:
    """A clause whose object is a list of three things."""
    items = [noun_phrase(rng, THINGS, 0)[0] for _ in range(3)]
    subject = noun_phrase(rng, BEINGS, 1)[0]
    return f"{subject} {lex.past(rng.choice(lex.TRANSITIVE))} {items[0]}, {items[1]} and {items[2]}"


def _comparison(rng: random.Random) -> str:
    left, many = noun_phrase(rng, THINGS, 1)
    right = noun_phrase(rng, THINGS, 0)[0]
    return f"{left} {'were' if many else 'was'} {lex.comparative(rng.choice(lex.ADJECTIVES))} than {right}"
