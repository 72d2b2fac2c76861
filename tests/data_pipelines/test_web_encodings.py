"""Encodings by the names of the web's standard and its order of evidence: mark, header, the page's tags, a guess."""

import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.web.encodings import codec_of, decoded, is_text
from tests.data_pipelines.test_web import read, warc_of

JAPANESE, CHINESE, RUSSIAN = (
    "①髙い港の古い倉庫には手紙が残されている",
    "镕城的旧港口有三个码头，€",
    "Старый порт города был построен",
)
QUOTED = "It’s “quoted” – and costs 5 €"


@pytest.mark.parametrize(
    "text, codec, label",
    [
        (QUOTED, "cp1252", "ISO-8859-1"),
        (QUOTED, "cp1252", "us-ascii"),
        (QUOTED, "cp1252", "latin1"),
        (CHINESE, "gb18030", "gb2312"),
        (CHINESE, "gb18030", "x-gbk"),
        (JAPANESE, "cp932", "Shift_JIS"),
        (JAPANESE[2:], "iso2022_jp", "iso-2022-jp"),
        (JAPANESE[2:], "euc_jp", "x-euc-jp"),
        ("뷁 한국어 문서입니다", "cp949", "ks_c_5601-1987"),
        ("這個城市的舊港口嘅", "big5hkscs", "Big5"),
        ("สวัสดีชาวโลก “ไทย”", "cp874", "tis-620"),
        (RUSSIAN, "koi8_r", "koi8"),
        (QUOTED, "utf-16-le", "utf-16"),
        (QUOTED, "utf-16-be", "UTF-16BE"),
    ],
)
def test_a_label_is_read_as_browsers_read_it(text, codec, label):
    page = f"<p>{text}</p>".encode(codec)
    assert decoded(page, f'text/html; Charset = "{label}"', markup=True) == f"<p>{text}</p>"
    if not codec.startswith("utf-16"):
        for tag in (f"<meta charset={label}>", f"<META http-equiv=Content-Type content='text/html; charset={label}'>"):
            assert decoded(tag.encode() + page, markup=True) == f"{tag}<p>{text}</p>"
        assert decoded(f'<?xml version="1.0" encoding="{label}"?>'.encode() + page, markup=True).endswith(
            f"<p>{text}</p>"
        )


@pytest.mark.parametrize(
    "label",
    ["undefined", "idna", "rot13", "hex", "zlib", "utf-7", "no\0name", "", "é", "x" * 9999, "utf-8utf-8", "none"],
)
def test_a_label_of_no_encoding_is_no_evidence(label):
    assert codec_of(label) is None
    assert (
        decoded(f"<p>{QUOTED}</p>".encode("cp1252"), f"text/html; charset={label}", markup=True) == f"<p>{QUOTED}</p>"
    )


def test_evidence_goes_by_mark_then_header_then_tags():
    meta = b'<meta charset="windows-1251"><p>'
    page = meta + RUSSIAN.encode("koi8_r")
    assert RUSSIAN in decoded(page, "text/html; charset=koi8-r", markup=True)
    assert RUSSIAN in decoded(codecs.BOM_UTF8 + meta + RUSSIAN.encode(), "text/html; charset=koi8-r", markup=True)
    assert RUSSIAN in decoded(codecs.BOM_UTF16_LE + RUSSIAN.encode("utf-16-le"), "text/html; charset=koi8-r")
    assert RUSSIAN in decoded(meta + RUSSIAN.encode("cp1251"), markup=True)
    commented = b'<!-- <meta charset="koi8-r"> -->' + meta + RUSSIAN.encode("cp1251")
    assert RUSSIAN in decoded(commented, markup=True)
    # Tags that can be read are not UTF-16, whatever they say.
    assert RUSSIAN in decoded(b'<meta charset="utf-16"><p>' + RUSSIAN.encode(), markup=True)


def test_what_the_bytes_are_not_is_no_evidence():
    for header in ("utf-8", "utf-16", "iso-2022-jp", "shift_jis"):
        assert (
            RUSSIAN in decoded(RUSSIAN.encode("cp1251") + b" " * 9, f"text/html; charset={header}")
            or header == "shift_jis"
        )
    assert QUOTED in decoded(QUOTED.encode(), "text/html; charset=iso-8859-1")
    broken = f"<p>{RUSSIAN * 3}".encode()[:-1] + b"</p>"
    assert decoded(broken, "text/html; charset=utf-8") == f"<p>{RUSSIAN * 3}"[:-1] + "\ufffd</p>"


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "cp1251", "koi8_r", "utf-8"])
def test_a_page_that_says_nothing_is_guessed(codec):
    page = f"<html><p>{RUSSIAN} {RUSSIAN[::-1]}</p>"
    assert decoded(page.encode(codec), markup=True) == page


@given(st.binary(max_size=400), st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_a_text(content, header):
    assert isinstance(decoded(content, f"text/html; charset={header}", markup=True), str)


def test_bytes_are_no_text_and_a_few_odd_characters_are_no_reason():
    assert not is_text(decoded(bytes(range(256)) * 8))
    assert is_text("Some words.\x0b" + "More of them. " * 20) and is_text("")


def test_pages_of_an_archive_bring_their_headers(tmp_path):
    page = f"<p>{QUOTED}</p>"
    labelled = [
        warc_of([page.encode("cp1252")], **{"Content-Type": f"text/html; charset={one}"})
        for one in ("undefined", "latin1")
    ]
    wide = warc_of([page.encode("utf-16-le")], **{"Content-Type": "text/html;charset=UTF-16LE"})
    (tmp_path / "a.warc.gz").write_bytes(b"".join([*labelled, wide]))
    made, reasons = read(tmp_path / "a.warc.gz")
    assert [doc.text for doc in made] == [page] * 3 and not reasons
