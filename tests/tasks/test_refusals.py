"""A refusal is told from an answer: ours by the letter, others' by what they say."""

import pytest

from llm_jax.tasks import refusals
from llm_jax.tasks.refusals import ABSTAINED, CAUSES, HELD_OUT, OF_CAUSE, RIGHT, TRAINED, WRONG, is_refusal

OTHERS = (
    "I'm sorry, but I don't have any information about a person named Anna Vellinghaus.",
    "I am not aware of any city called Zurblax.",
    "I'm not familiar with that name.",
    "Unfortunately, I cannot find a record of this person.",
    "As an AI language model, I do not have access to information about private individuals.",
    "The population of Zurblax is unknown.",
    "I have never heard of that novel.",
    "I\u2019m unable to answer this question without more context.",
    "There are two cities of that name. Which one do you mean?",
    "Could you please clarify who you are asking about?",
    "We don't know when it was built.",
    "I honestly can't say.",
)
# Answers that hold the words of a refusal.
NEAR_MISSES = (
    "1972",
    "Paris",
    "Northwich, as far as people know.",
    "She is known for the song I Don't Care.",
    "The people of Lurvo know him as a baker.",
    "You should know that it is Paris.",
    "Do you know Paris? It is the capital.",
    "He was a baker and did not know his father.",
    "Nothing beats fishing.",
    "The Unknown River",
    "No, I am llm_jax.",
    "I know that: it is Paris.",
    "I don't know much about France, but the capital is Paris.",
    "It was written by Knut, who did not say why.",
    "She works as a guess-the-weight seller.",
    "I can tell you: fishing.",
    "The answer is that nobody lives there.",
    "Which is the capital of France? Paris.",
    "",
    "The film 'You Cannot Know' is from 1990. The novel is older. Both have long been forgotten by most people, and of "
    "the author not much has been written since then, so that I do not know more.",
)


def answered(text: str) -> list[dict]:
    return [{"type": "answer", "text": f" {text}"}]


def said(text: str) -> list[dict]:
    return [{"type": "text", "text": text}]


def filled() -> list[str]:
    return [text.format(x="Talen Orvik") for texts in OF_CAUSE.values() for text in texts]


def test_there_are_enough_and_none_twice():
    every = [text.lower() for text in (*TRAINED, *HELD_OUT, *filled())]
    assert len(TRAINED) == 15 and len(HELD_OUT) >= 5 and len(set(every)) == len(every)
    assert len(CAUSES) == 6 and all(OF_CAUSE.values())


@pytest.mark.parametrize("text", [*TRAINED, *HELD_OUT, *filled()])
def test_ours_are_found_in_an_answer_and_the_rules_alone_find_nearly_all(text):
    assert is_refusal(answered(text)) and is_refusal([{"type": "think", "text": "1 + 1"}, *answered(text)])
    assert not is_refusal([{"type": "think", "text": text}])


def test_the_rules_alone_find_what_was_held_out():
    missed = [text for text in (*TRAINED, *HELD_OUT, *filled()) if not refusals.denies(text)]
    assert len(missed) <= 3, missed


@pytest.mark.parametrize("text", OTHERS)
def test_others_say_it_in_their_own_words(text):
    assert is_refusal(said(text))


@pytest.mark.parametrize("text", NEAR_MISSES)
def test_an_answer_with_the_words_of_a_refusal_is_one(text):
    assert not is_refusal(said(text)) and not is_refusal(answered(text))


def test_an_outcome_is_one_of_three():
    assert refusals.verdict(True, answered("1972")) == RIGHT
    assert refusals.verdict(False, answered("1973")) == WRONG
    assert refusals.verdict(False, answered(TRAINED[3])) == ABSTAINED
    assert refusals.verdict(False, []) == WRONG
