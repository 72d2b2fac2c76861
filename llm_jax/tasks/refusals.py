"""Ways to say that one does not know, and how to tell that somebody did.

Ours are learned as whole answers, so they are found exactly. What another model says in its own words is told by rules:
a sentence near the beginning that denies knowledge, or asks which one is meant.
"""

import re
from typing import NamedTuple

# What is learned; a place for the question's subject is not needed: a refusal that names nothing fits every question.
TRAINED = (
    "I do not know that.",
    "I do not know.",
    "I don't know.",
    "I don't know that one.",
    "That is not something I know.",
    "I am not sure about that.",
    "I have no knowledge of that.",
    "I cannot say; I do not know it.",
    "I never read about that.",
    "My pages do not tell me that.",
    "I would only be guessing.",
    "I cannot answer that.",
    "That is unknown to me.",
    "I have not learned that.",
    "Sorry, I do not know the answer.",
)
# Kept from training: they test the detector, and whatever else is to tell a refusal by more than the letters.
HELD_OUT = (
    "I really could not tell you.",
    "Nothing that I have read says so.",
    "I'm afraid that I don't have that information.",
    "It is beyond what I know.",
    "No idea, I never learned it.",
    "I am unable to answer this.",
)
# After a search.
NOT_FOUND = "I have searched, and found nothing about that."
SEARCH_FAILED = "The search failed, so I do not know."
# Of a cause: what there is to be said beyond not knowing. `x` stands for what the question is about.
OF_CAUSE = {
    "never_seen": ("I have never heard of {x}.", "I do not know who {x} is."),
    "near_miss": ("I do not know a person called {x}.", "I know a similar name, but not {x}."),
    "false_premise": ("There is no such thing that I know of.", "That is not so, as far as I know."),
    "underspecified": ("Which {x} do you mean?", "There are several called {x}; which one do you mean?"),
    "unknowable": ("Nobody can know that.", "That cannot be known."),
    "changed": ("That may have changed since I was trained.", "I only know how it was when I was trained."),
}
CAUSES = tuple(OF_CAUSE)

RIGHT, WRONG, ABSTAINED = "right", "wrong", "abstained"

NEAR = 160  # characters at the beginning within which a refusal in free words must stand
DENIES = re.compile(
    r"""\b(i|we)\ (really\ |just\ |simply\ |honestly\ |actually\ )?
        (do\ not|don't|did\ not|didn't|cannot|can't|can\ not|could\ not|couldn't|am\ not\ able\ to|am\ unable\ to)
        \ (really\ |actually\ )?
        (know|recall|remember|say|tell|answer|find|have\ (any\ |that\ |this\ |the\ |enough\ |access\ to\ )*
        (information|knowledge|data|record|details|idea|specific|answer)|provide|confirm|verify|determine)
      | \bi(\ am|'m)\ (not\ (sure|certain|aware|familiar)|unsure|unaware|unfamiliar)
      | \bi(\ am|'m)\ unable\ to\ (answer|say|tell|find|provide)
      | \bi\ have\ (no|never)\ (idea|information|knowledge|record|data|heard|read|seen|learned|met|clue)
      | \bi(\ have\ not|\ haven't)\ (learned|heard|read|met|seen)
      | \bi\ never\ (read|heard|learned|met|saw)
      | \b(is|are|remains?)\ (unknown|not\ known|beyond\ what\ i\ know)\b
      | \bnobody\ (can\ know|knows) | \b(cannot|can't)\ be\ known
      | \bnot\ something\ i\ know | \bno\ (idea|such\ (thing|person|place))\b | \bonly\ be\ guessing
      | \bthere\ is\ no\b.{0,40}\bthat\ i\ know\ of | \bas\ far\ as\ i\ know,?\ (no|there\ is\ no)
      | \bnothing\ that\ i\ have\ read | \bdo\ not\ tell\ me\ that
      | \bwhich\b.{0,40}\bdo\ you\ mean | \bcould\ you\ (please\ )?(clarify|specify|be\ more\ specific)
      | \bmay\ have\ changed\ since | \bonly\ know\ how\ it\ was | \bthat\ is\ not\ so,
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Who denies and then answers after all has answered: "I don't know much, but it is Paris."
AFTER_ALL = re.compile(r"\bbut\b.{0,30}\b(is|was|were|are|it's)\b(?!.{0,30}\b(known|unknown|not)\b)", re.IGNORECASE)


class Fixed(NamedTuple):
    """Refusals of ours by their letters, those of a cause as patterns."""

    whole: frozenset[str]
    patterns: tuple[re.Pattern, ...]

    def holds(self, text: str) -> bool:
        return text in self.whole or any(pattern.fullmatch(text) for pattern in self.patterns)


def _fixed() -> Fixed:
    of_cause = [text for texts in OF_CAUSE.values() for text in texts]
    patterns = [re.escape(text).replace(re.escape("{x}"), ".{1,60}") for text in of_cause]
    return Fixed(frozenset((*TRAINED, *HELD_OUT, NOT_FOUND, SEARCH_FAILED)), tuple(map(re.compile, patterns)))


OURS = _fixed()


def is_refusal(parts: list[dict]) -> bool:
    """Whether a completion's parts decline to answer: an answer span that holds one of ours, or free text that says so
    in its own words. An empty answer is none."""
    said = [part["text"].strip() for part in parts if part["type"] in ("answer", "text") and part["text"].strip()]
    return any(map(OURS.holds, said)) or (bool(said) and denies(said[-1]))


def denies(text: str) -> bool:
    """Whether free text says, near its beginning, that the answer is not known, and does not give one after all."""
    text = re.sub(r"\s+", " ", text.replace("\u2019", "'"))
    found = DENIES.search(text[:NEAR])
    return bool(found) and not AFTER_ALL.search(text[found.end() :])


def verdict(right: bool, parts: list[dict]) -> str:
    """RIGHT, WRONG or ABSTAINED; what is neither right nor a refusal is wrong, however it fails."""
    return RIGHT if right else ABSTAINED if is_refusal(parts) else WRONG
