"""Bytes of a page -> its text: names of encodings and order of evidence as in browsers (encoding.spec.whatwg.org; HTML,
"determining the character encoding"): byte order mark, header, the page's own tags, a guess.

One thing is otherwise: bytes beyond ASCII that are valid UTF-8 are that, whatever a header says. Browsers show such a
page wrongly; no text of another encoding looks like it. And an encoding that the bytes do not fit is no evidence.
"""

import codecs
import contextlib
import re
from collections.abc import Iterator

import webencodings

MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# Python's codecs that read what browsers read under these names, and two that browsers do not read any more.
CODECS = {"gbk": "gb18030", "iso-2022-jp": "iso2022_jp_ext", "x-user-defined": "cp1252"}
OLD_CODECS = {"hz-gb-2312": "hz", "iso-2022-kr": "iso2022_kr"}
HEADER = re.compile(r"charset\s*=\s*[\"']?\s*([^\s\"';,]+)", re.IGNORECASE)
META = re.compile(
    rb"<meta\b[^>]*?\bcharset\s*=\s*[\"']?\s*([^\s\"'/>;]+)|\A\s*<\?xml[^>]*\bencoding\s*=\s*[\"']([^\"']+)",
    re.IGNORECASE,
)
COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
META_BYTES = 4096  # of a page that are searched; browsers search 1024, and the rest of its head when they get there
SHIFTS, ZERO = re.compile(rb"\x1b|~\{|\0"), re.compile(rb"\0")  # in what may be ISO-2022, HZ or UTF-16
ASCII = bytes(range(128))
# Of the bytes beyond ASCII, so many may be wrong. Next to none of other encodings are right as UTF-8.
MOST_BAD, MOST_BAD_UTF8 = 0.05, 0.3
ODD = re.compile("[\0-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f-\x9f\ufffd]")  # characters of no text
MOST_ODD = 1 / 32  # of a page's first characters; packed or encrypted bytes have an eighth at the least


def decoded(content: bytes, header: str = "", markup: bool = False) -> str:
    """`header` is a Content-Type. Text without a byte order mark; U+FFFD for what is of no encoding."""
    for mark, codec in MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(codec, "replace")
    if not (SHIFTS if content.isascii() else ZERO).search(content, 0, 2**16):
        with contextlib.suppress(UnicodeDecodeError):
            return content.decode("utf-8")
    for codec in evidence(content, header, markup):
        if (text := fitting(content, codec)) is not None:
            return text
    return content.decode("cp1252", "replace")  # as browsers in most countries


def evidence(content: bytes, header: str, markup: bool) -> Iterator[str | None]:
    """Python's names of the encodings that the page may have, the likeliest first."""
    if named := HEADER.search(header):
        yield codec_of(named[1])
    if markup and (named := META.search(COMMENT.sub(b"", content[:META_BYTES]))):
        codec = codec_of((named[1] or named[2]).decode("latin-1"))
        # Tags that were found in bytes are not UTF-16.
        yield "utf-8" if codec and codec.startswith("utf-16") else codec
    yield from ("utf-16-le", "utf-16-be")
    if not content.isascii():
        yield "utf-8"
    from resiliparse.parse.encoding import detect_encoding

    guess = detect_encoding(content, html5_compatible=False)
    yield guess and (codec_of(guess) or guess)


def codec_of(label: str) -> str | None:
    """Python's codec for a label of the standard; None for any other."""
    label = label.strip().lower()
    found = webencodings.lookup(label)
    if found is None or found.name == "replacement":
        return OLD_CODECS.get(label)
    return CODECS.get(found.name) or webencodings.PYTHON_NAMES.get(found.name, found.name)


def fitting(content: bytes, codec: str | None) -> str | None:
    """The text; None where the bytes are not of that encoding."""
    if not codec:
        return None
    if codec.startswith("utf-16"):
        # ASCII, such as tags and spaces, has its zero in every other byte.
        head, low = content[:2048], codec == "utf-16-le"
        zeros, others = head[low::2].count(0), head[1 - low :: 2].count(0)
        if zeros <= max(len(head) // 64, others):
            return None
    try:
        text = content.decode(codec, "replace")
    except LookupError:  # a guess that Python has no codec for
        return None
    beyond = len(content.translate(None, ASCII)) or len(content)
    most = MOST_BAD_UTF8 if codec == "utf-8" else MOST_BAD
    return text if text.count("\ufffd") <= most * beyond else None


def is_text(text: str) -> bool:
    head = text[:2048]
    return len(ODD.findall(head)) <= MOST_ODD * len(head)
