"""Our blocks decide as datatrove's do, given the same words."""

import random
import string

import numpy as np
import pytest
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter, URLFilter
from datatrove.utils.text import simplify_text
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.tiny_web.grammar import paragraph
from data_pipelines.web import dedup, filters, pii, urls, words


def texts() -> list[str]:
    """Prose, and prose made worse in every way that a filter looks for, by more and less."""
    rng, made = random.Random(0), []
    for _ in range(60):
        good = paragraph(rng, rng.randint(2, 12))
        parts = good.split(". ")
        made += [
            good,
            "\n\n".join(rng.choice(parts) for _ in range(len(parts))),
            "\n".join([*parts, *parts[: rng.randint(0, len(parts))]]),
            " ".join(rng.choice(good.split()[: rng.randint(3, 60)]) for _ in range(100)),
            good + " ".join(["buy it now"] * rng.randint(1, 40)),
            good + " #" * rng.randint(1, 30),
            "\n".join(rng.choice(("- ", "• ", "")) + part + rng.choice(("...", "…", "")) for part in parts),
            " ".join(rng.choice(("12", "==", word)) for word in good.split()),
            " ".join(word * rng.randint(1, 4) for word in good.split()),
        ]
    return [*made, "", "  \n ", "a", "a a a a a a", "Don't. It's 3.5 o'clock... (really)!"]


def decisions(block, made: list[str]) -> list[tuple[bool, str | None]]:
    out = []
    for text in made:
        result = block.filter(Document(text=text, id="x"))
        out.append(result if isinstance(result, tuple) else (bool(result), None))
    return out


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (filters.Repetition(), GopherRepetitionFilter(language=words.ENGLISH)),
        (filters.Quality(), GopherQualityFilter(language=words.ENGLISH)),
    ],
)
def test_gopher_filters_decide_as_datatrove_and_for_the_same_reason(ours, theirs):
    made = [text for text in texts() if text.strip()]  # datatrove divides by zero on a text without words
    wanted = decisions(theirs, made)
    assert decisions(ours, made) == wanted
    assert len({reason for _, reason in wanted}) >= 6  # each kind of text was seen


def test_c4_decides_and_cuts_as_datatrove_does():
    rng = random.Random(2)
    lines = [
        "Accept our cookie policy now.",
        "Please enable JavaScript here.",
        "[1] [2] [3]",
        "a{b} c d",
        "Lorem ipsum dolor.",
    ]
    lines += ["Two words.", "x" * 1001 + " y z.", "He said [12] so [edit] twice! Did he? Yes."]
    made = []
    for text in texts():
        parts = text.split(". ")
        for _ in range(2):
            parts.insert(rng.randint(0, len(parts)), rng.choice(lines))
        made += [text, ".\n".join(parts), ".\n".join(parts[: rng.randint(1, 8)])]
    ours, theirs = filters.C4(), C4QualityFilter(filter_no_terminal_punct=False, language=words.ENGLISH)
    reasons = set()
    for text in made:
        mine, wanted = (Document(text=text, id="x") for _ in range(2))
        results = [block.filter(doc) for block, doc in ((ours, mine), (theirs, wanted))]
        assert results[0] == results[1] and mine.text == wanted.text
        reasons.add(results[1] if results[1] is True else results[1][1])
    assert reasons == {True, "lorem_ipsum", "curly_bracket", "too_few_sentences"}


def test_texts_without_words_are_dropped_and_break_nothing():
    for block in (filters.Repetition(), filters.Quality()):
        assert not any(ok for ok, _ in decisions(block, ["", " \n "])[:1])


@given(st.text(alphabet=string.printable + "éßñ中。“”’–\u0301", max_size=200))
@settings(max_examples=200, deadline=None)
def test_signatures_see_the_text_as_datatrove_does(text):
    assert dedup.simplified(text).split() == simplify_text(text).split()


def test_signatures_of_near_duplicates_share_a_band_and_others_do_not(tmp_path):
    signature, rng = dedup.Signature(str(tmp_path)), random.Random(1)
    text = paragraph(rng, 30)
    changed = text.replace(text.split(". ")[7], paragraph(rng, 1).rstrip("."))
    bands = lambda text: [tuple(band) for band in signature.get_signature(signature.get_shingles(text))][:14]  # noqa: E731
    shared = lambda a, b: sum(x == y for x, y in zip(bands(a), bands(b), strict=True))  # noqa: E731
    assert shared(text, changed) >= 1
    assert shared(text, paragraph(rng, 30)) == 0
    assert shared("Too short", "too short!") == 14
    assert len(bands(text)) == 14 and len(bands(text)[0]) == 8
    theirs = MinhashDedupSignature(str(tmp_path), dedup.CONFIG, language=words.ENGLISH)
    assert bands(text) == [tuple(band) for band in theirs.get_signature(signature.get_shingles(text))][:14]


def test_only_equal_ids_share_the_band_of_ids(tmp_path):
    signature, bands = dedup.Signature(str(tmp_path)), []
    for signature.id, text in (("a", "One text here."), ("a", "Quite another one."), ("b", "One text here.")):
        bands.append(signature.get_signature(signature.get_shingles(text))[dedup.BANDS])
    assert bands[0] == bands[1] != bands[2]


@pytest.mark.slow  # to read the lists as datatrove does takes half a minute
def test_url_lists_decide_as_datatrove(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    urls.mapped.cache_clear()
    theirs, ours = URLFilter(), urls.Urls(("bad.example",))
    theirs.tldextractor = __import__("tldextract").TLDExtract(suffix_list_urls=(), cache_dir=None)
    theirs.download_data()
    listed = sorted(theirs.block_listed_domains)
    rng = np.random.default_rng(0)
    hosts = [listed[i] for i in rng.integers(len(listed), size=300)] + ["example.org", "docs.python.org", "x.test"]
    cases = [f"http://{host}/{path}" for host in hosts for path in ("", "viagra/1.html", "a?b=c")]
    docs = [Document(text="", id="x", metadata={"url": url}) for url in cases]
    wanted = [theirs.filter(doc) for doc in docs]
    assert [ours.filter(doc) for doc in docs] == wanted
    assert wanted.count(True) >= 4 and wanted.count(True) < 30
    blocked = ours.filter(Document(text="", id="x", metadata={"url": "https://a.bad.example/page"}))
    assert blocked == (False, "blocked_host")
    assert ours.filter(Document(text="", id="x")) is True
    urls.mapped.cache_clear()


@pytest.mark.parametrize(
    "text, masked, count",
    [
        ("Write to ann.lee+x@mail.example.co.uk, please.", "Write to email@example.com, please.", 1),
        ("At 8.8.8.8 and 10.0.0.1.", "At 192.0.2.1 and 10.0.0.1.", 1),
        ("Version 1.2.3.4.5 and 999.1.1.1", "Version 1.2.3.4.5 and 999.1.1.1", 0),
        ("Ask 2a00:1450:4001::200e now at 12:30:45", "Ask 2001:db8::1 now at 12:30:45", 1),
        ("Call +49 30 1234 5678 or (212) 555-0173.", "Call 555-0100 or 555-0100.", 2),
        ("In 1999-2001 we sold 12 345 678 of 555 1234.", "In 1999-2001 we sold 12 345 678 of 555 1234.", 0),
        ("At ::ffff:8.8.8.8 or ::ffff:10.0.0.1, ::1", "At 2001:db8::1 or ::ffff:10.0.0.1, ::1", 1),
        ("It is 2001:4860:4860::8888: ask", "It is 2001:db8::1: ask", 1),
        ("Ring +33 1 42 00 00 00 10-12 am or +1 415 555 0142x9", "Ring 555-0100 10-12 am or 555-0100x9", 2),
        ("联系jo@bar.com谢谢", "联系email@example.com谢谢", 1),
    ],
)
def test_what_names_a_person_is_replaced_and_other_numbers_are_not(text, masked, count):
    assert pii.masked(text) == (masked, count)


PHONES = """+14155550142;+1 415 555 0142;+1-415-555-0142;+1 (415) 555-0142;+1.415.555.0142;1-415-555-0142;
(415) 555 0142;415.555.0142;415 555 0142;+49 30 1234567;+4930123456;+49 (0)30 123456-78;+49/30/123456;
0049 30 1234567;011 49 30 1234567;+33 1 42 00 00 00;+44 7700 900123;+44 (0) 20 7946 0018;(+44) 20 7946 0018;
+86 138 0013 8000;+91-98765-43210;+55 (11) 91234-5678;+81-3-1234-5678;+7 (495) 123-45-67;+7(495)1234567;
+1 415\u2013555\u20130142;+1\u00a0415\u00a0555\u00a00142"""
EMAILS = """jürgen@müller.de;用户@例子.广告;"john doe"@example.org;john..doe@docomo.ne.jp;JOHN@X.COM;
user@[192.0.2.5];ivan.петров@почта.рф;अजय@डाटा.भारत;o'brien@x.com;ann (at) example (dot) org;ann [at] example.org"""
ADDRESSES = """2a00:1450:4001::200e;2001:4860:4860:0:0:0:0:8888;2A00:1450:4001:081B::200E;64:ff9b::8.8.8.8;
2001:4860:4860::;::ffff:8.8.8.8"""
NO_NAMES = """12:30:45;std::vector;a::b;Add::ed;fe80::1;00:1a:2b:3c:4d:5e;1:2:3;a@b;@handle;meet (at) noon;
+100 000 000;10 000 000;2012-11-05 10:30;978-3-16-148410-0;4111 1111 1111 1111;+1-2+3-4=5;0.0012345678;5@1.25"""


@pytest.mark.parametrize(
    "spellings, nobody",
    [(PHONES, "555-0100"), (EMAILS, "email@example.com"), (ADDRESSES, "2001:db8::1"), (NO_NAMES, None)],
)
def test_names_of_people_are_replaced_whole_however_they_are_written(spellings, nobody):
    for one in spellings.replace("\n", "").split(";"):
        for text in ("Write to {} now.", "{}", "It is ({}), they say.", "On\n{}\nagain"):
            wanted = text.format(nobody or one), int(nobody is not None)
            assert pii.masked(text.format(one)) == wanted, one


def test_a_text_that_is_one_long_word_is_searched_once():
    """Seconds at the most; a search from each character on would take hours."""
    for text in ("a" * 200_000 + "@", "1 " * 100_000, ":" * 100_000 + "@", "a.b@" * 20_000, "(at)" * 20_000):
        assert pii.masked(text)[0]


def test_the_language_is_known_without_a_download():
    block = filters.Language("en", 0.65)
    english = Document(text=paragraph(random.Random(0), 10), id="x")
    assert block.filter(english)
    assert english.metadata["language"] == "en" and english.metadata["language_score"] > 0.9
    german = "Der alte Mann kauft heute auf dem Markt einen großen Hut, weil es draußen regnet."
    assert block.filter(Document(text=german, id="x")) == (False, "language_de")
