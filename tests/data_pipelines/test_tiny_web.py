"""The tiny web: the same bytes from the same seed, counted exposure of facts, and questions that stay apart."""

import contextlib
import html
import io
import random
import re
from collections import Counter, defaultdict

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter

from data_pipelines.tiny_web import crawl, grammar, lexicon, markup, pages, programs, wordings
from data_pipelines.tiny_web.questions import count_statements, person_record, question_sets, tier_of
from data_pipelines.tiny_web.score import score
from data_pipelines.tiny_web.world import ATTRIBUTES, TIERS, make_world
from data_pipelines.web import filters, words
from data_pipelines.web.extract import Extract

TEST_WORDINGS = "41f132710fc9a74854ffa2b7e21a6190573d7fa36ca6c42edd7134acdf883555"


@pytest.fixture(scope="module")
def world():
    return make_world(5, people_per_tier=2, extra_people=4, unasked_people=4, heldout_people=4)


@pytest.fixture(scope="module")
def made(world):
    return pages.world_pages(world, 5, howtos=10)


@pytest.fixture(scope="module")
def stated(made):
    """As when nothing is lost on the way."""
    return count_statements((page, page.text) for page in made)


def test_same_seed_same_pages_and_questions(world, made, stated):
    assert pages.world_pages(world, 5, howtos=10) == made != pages.world_pages(world, 6, howtos=10)
    assert question_sets(world, 5, stated) == question_sets(world, 5, stated) != question_sets(world, 6, stated)
    ids = [record["id"] for records in question_sets(world, 5, stated).values() for record in records]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("source", ["biography", "questions"])
def test_exposure_is_what_the_documents_state(world, made, stated, source):
    for person in world.people:
        assert person_record(person, stated)["stated"] == dict.fromkeys(ATTRIBUTES, person.exposure)
    page = next(page for page in made if page.source == source)
    facts = Counter((person, attribute) for person, attribute, _ in page.facts)
    copied = count_statements([(page, page.text), (page, page.text.replace(" ", "\n"))])
    assert copied == facts  # a copy, or other spaces, state nothing new
    person, attribute, said = page.facts[0]
    changed = count_statements([(page, page.text.replace(said, "Gone."))])
    assert changed == facts - Counter([(person, attribute)])


def test_a_tier_is_reached_by_most_of_its_statements():
    assert [tier_of(count) for count in (0, 1, 2, 3, 7, 8, 23, 24, 79, 80, 100)] == [
        0,
        1,
        1,
        3,
        3,
        10,
        10,
        30,
        30,
        100,
        100,
    ]
    assert all(tier_of(tier) == tier == sum(planned) for tier, planned in TIERS.items())


def test_questions_carry_the_tier_that_was_counted(world, stated):
    person = next(person for person in world.people if person.exposure == 100)
    fewer = stated.copy()
    fewer[person.id, "job"] = 31
    tiers = {(q["person"], q["attribute"]): q["tier"] for q in question_sets(world, 5, fewer)["test"]}
    assert tiers[person.id, "job"] == 30 and tiers[person.id, "hobby"] == 100


def test_pages_pass_the_filters_of_a_real_crawl(made):
    blocks = [
        Extract(),
        filters.Language("en", 0.65),
        filters.Repetition(),
        filters.Quality(),
        C4QualityFilter(filter_no_terminal_punct=False, language=words.ENGLISH),
        FineWebQualityFilter(language=words.ENGLISH),
    ]
    rng, passed, seen = random.Random(0), Counter(), Counter()
    sites = markup.make_sites(rng, 30)
    for page in made:
        source = markup.render(rng.choice(sites), rng, page.title, list(page.paragraphs))
        doc = Document(text=source, id="", metadata={"markup": "html"})
        seen[page.source] += 1
        passed[page.source] += all(block.filter(doc) is True for block in blocks)
    blocks[0].stop()
    assert set(seen) == set(pages.SECTIONS)
    assert passed.total() >= 0.95 * seen.total()
    assert all(passed[source] >= 0.85 * seen[source] for source in seen)


def test_a_crawl_has_each_page_of_the_world_once(made):
    for count in (1, 7, len(made)):
        crawled = list(crawl.crawl(crawl.pages_for(count), 1, made[:count]))
        own = [c for c in crawled if c.planted[0] in ("clean", "pii")]
        payloads = b"".join(c.payload for c in own)
        assert all(f">{html.escape(page.title)}</h".encode() in payloads for page in made[:count])
        stating = Counter(c.page.facts for c in own if c.page)
        assert stating == Counter(page.facts for page in made[:count] if page.facts)


def test_copies_say_the_same_and_nearly_the_same(made):
    crawled = list(crawl.crawl(600, 1, made))
    by_id = {c.id: c for c in crawled}
    text = lambda c: set(re.sub("<[^>]+>", " ", c.payload.decode()).split())  # noqa: E731
    copies = Counter()
    for copy in crawled:
        kind, _, source = copy.planted[0].partition(":")
        if source and by_id[source].page:
            shared = len(text(copy) & text(by_id[source])) / len(text(by_id[source]))
            copies[kind] += shared > 0.75
    assert copies["duplicate_of"] > 5 and copies["near_duplicate_of"] > 5


def test_the_score_counts_what_was_found_and_what_was_lost():
    planted = {"a": "clean", "b": "clean", "c": "spam", "d": "spam", "e": "duplicate_of:a", "f": "near_duplicate_of:b"}
    labels = [{"id": id_, "planted": [kind], "pii": []} for id_, kind in planted.items()]
    labels.append({"id": "g", "planted": ["pii"], "pii": ["a@b.test", "192.0.2.7"]})
    scores = score(labels, {"c": "", "e": "", "b": "", "f": "", "g": "mail a@b.test"})
    counts = {kind: (found.right, found.planted) for kind, found in scores.items()}
    assert counts == {
        "clean": (3, 3),  # a is there as its copy e
        "spam": (1, 2),
        "duplicate_of": (1, 1),
        "near_duplicate_of": (0, 1),
        "pii": (1, 2),
    }


@pytest.mark.parametrize("kind", ["sentences", "questions"])
def test_facts_are_stated_as_often_as_planned(world, kind):
    make = {"sentences": pages.biography_pages, "questions": pages.question_pages}[kind]
    made = make(world, random.Random(0))
    stated = defaultdict(set)
    people = {person.id: person for person in world.people}
    for page in made:
        for person, attribute, said in page.facts:
            assert said in page.text.replace("\n", " ") and people[person].facts[attribute] in said
            stated[person, attribute].add(said)
    assert sum(len(page.facts) for page in made) == sum(map(len, stated.values()))
    for person in world.people:
        for attribute in ATTRIBUTES:
            assert len(stated[person.id, attribute]) == getattr(person, kind)


def test_no_other_sentence_states_a_fact(world):
    """Found by reading: a sentence with a name and one of its values is one of the recorded statements."""
    made = pages.biography_pages(world, random.Random(0)) + pages.place_pages(world, random.Random(0))
    for page in made:
        recorded = {said for _, _, said in page.facts}
        for said in re.split(r"\n|(?<=[.?!])\s+", page.text):
            for person in world.people:
                if person.name in said and said not in recorded:
                    assert not any(re.search(rf"\b{value}\b", said) for value in person.facts.values()), said


def test_biographies_are_mostly_facts_and_of_page_length(world):
    made = pages.biography_pages(world, random.Random(0))
    whole = pages.biography_pages(make_world(0), random.Random(0))  # few people make many pages of one name
    sizes = [(len(page.text.split()), sum(len(said.split()) for *_, said in page.facts)) for page in whole]
    assert all(50 <= total <= 200 and said >= 0.35 * total for total, said in sizes)
    assert sum(said for _, said in sizes) >= 0.8 * sum(total for total, _ in sizes)
    sentences = [(person, said) for page in made for person, _, said in page.facts]
    names = {person.id: person.name for person in world.people}
    assert 0.7 < sum(names[person] in said for person, said in sentences) / len(sentences) < 0.9


def test_unseen_names_never_appear(world, made):
    everything = "\n".join(page.text for page in made)
    for person in world.people:
        assert (person.name in everything) == (person.exposure > 0)


def test_near_misses_share_one_name_part_and_no_fact(world):
    often = [person for person in world.of_kind("tier") if person.exposure >= 30]
    misses = [*world.of_kind("near_miss"), *world.of_kind("near_extra")]
    for miss, person in zip(misses, [*often, *world.of_kind("extra")], strict=True):
        shared = [a == b for a, b in zip(miss.name.split(), person.name.split(), strict=True)]
        assert sum(shared) == 1
        assert all(miss.facts[attribute] != person.facts[attribute] for attribute in ATTRIBUTES)
    assert len({person.name for person in world.people}) == len(world.people)


def test_question_pages_ask_as_often_as_planned(world):
    """Found by reading, whatever the pages record; one wording may be the end of another."""
    text = "\n".join(page.text for page in pages.question_pages(world, random.Random(0))).lower()
    assert {person.kind for person in world.people if person.questions} == {"tier", "extra"}
    for person in world.people:
        for attribute in ATTRIBUTES:
            asked = {wording.format(name=person.name).lower() for wording in wordings.TRAIN_QUESTIONS[attribute]}
            found = sum(question in text for question in asked)
            assert person.questions <= found <= 2 * person.questions


def test_question_files_cover_the_right_people(world, stated):
    sets = question_sets(world, 5, stated)
    assert {record["kind"] for record in sets["train"]} == {"extra"}
    assert {record["kind"] for record in sets["test"]} == {"tier", "unasked", "heldout", "near_miss"}
    assert len(sets["test"]) == 8 * 6 * len(world.of_kind("tier", "unasked", "heldout", "near_miss"))
    assert len(sets["dev"]) == 6 * 6 * len(world.of_kind("tier", "unasked", "heldout", "near_miss", "extra"))


def test_wordings_are_disjoint_and_enough():
    splits = [wordings.TRAIN_QUESTIONS, wordings.DEV_QUESTIONS, wordings.TEST_QUESTIONS]
    for attribute in ATTRIBUTES:
        assert len(set(wordings.STATEMENTS[attribute])) >= 30
        assert len(set(wordings.STATEMENTS[attribute])) * len(wordings.LEADS) >= 150
        assert [len(split[attribute]) for split in splits][1:] == [6, 8]
        assert len(splits[0][attribute]) >= 48
    plain = [
        re.sub("[^a-z{} ]", "", wording.lower()) for split in splits for group in split.values() for wording in group
    ]
    assert len(plain) == len(set(plain))
    assert all(wording.count("{name}") == 1 for split in splits for group in split.values() for wording in group)


def test_test_wordings_are_the_frozen_ones():
    assert wordings.test_wordings_sha256() == TEST_WORDINGS


def test_lexicon_is_large_and_inflects():
    assert len(set(lexicon.everyday_words())) >= 3000
    assert list(map(lexicon.plural, ("berry", "box", "wolf"))) == ["berries", "boxes", "wolves"]
    assert list(map(lexicon.past, ("stop", "carry", "buy"))) == ["stopped", "carried", "bought"]
    assert list(map(lexicon.ing, ("tie", "see", "run", "bake"))) == ["tying", "seeing", "running", "baking"]
    assert list(map(lexicon.comparative, ("big", "happy", "famous"))) == ["bigger", "happier", "more famous"]


def test_filler_sentences_are_sentences():
    rng = random.Random(0)
    made = [grammar.sentence(rng) for _ in range(300)]
    assert all(said[0].isupper() and said.endswith(".") and "  " not in said for said in made)
    assert len(set(made)) == len(made)


def test_programs_print_what_their_pages_say():
    rng = random.Random(0)
    for maker in programs.MAKERS:
        for _ in range(20):
            program = maker(rng)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(program.code, {})
            assert printed.getvalue().rstrip("\n") == program.output, program.code
