import random

from llm_jax.tasks import portrait

FACTS = {"birth_year": "1939", "birth_city": "Pregate", "job": "geologist", "hobby": "painting"}


def test_a_portrait_reads_back_as_what_it_states():
    for count in range(len(FACTS) + 1):
        some = dict(random.Random(count).sample(sorted(FACTS.items()), count))
        assert portrait.read(portrait.written("Gruta Solund", some)) == some


def test_what_it_covers_and_makes_up_is_counted():
    said = portrait.written("Gruta Solund", FACTS)
    assert portrait.counted(said, FACTS) == (4, 0)
    assert portrait.counted(said.replace("1939", "1940"), FACTS) == (3, 1)
    assert portrait.counted(said, {"job": "geologist"}) == (1, 3)


def test_what_is_not_of_the_form_states_nothing():
    for text in ("", "Gruta Solund", "Gruta Solund: 1939.", "born in 1939; likes painting", "Gruta Solund: born in ."):
        assert portrait.counted(text, FACTS) == (0, 0), text
