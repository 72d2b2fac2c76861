"""Documents of files, and the passages that a search gives of them: a few whole sentences that know their source."""

import dataclasses
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from llm_jax.config import UserError
from llm_jax.files import matching

PASSAGE = 170  # characters at most, some 50 tokens: an answer of the tool has two, whole, and a model may read few
SOURCE = 60  # ... of the name of a source
TITLE = 80  # a longer first line is no title
WRAPPED = range(50, 101)  # how long the longest line of a paragraph is that was broken into lines
RAGGED = 12  # characters by which the others may be shorter than they could be
KINDS = {".txt": "text", ".md": "text", ".markdown": "text", ".html": "html", ".htm": "html", ".jsonl": "lines"}
KNOWN = ".txt, .md, .html or .jsonl files, also with .gz"
BRACKETS = str.maketrans("[]", "()")
LINE = re.compile(r"(.+) \[([^\[\]]+)\]")  # of a passage: its text, its source
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff]")  # all but white space
# The end of a sentence and the space after it; not of an initial, nor of a title before a name.
END = re.compile(r"((?:(?<!\bMr)(?<!\bMs)(?<!\bMrs)(?<!\bDr)(?<!\bSt)(?<!\b[A-Z])\.|[!?…])[\"'”’)\]]*)\s+|([。！？])")


@dataclasses.dataclass(frozen=True)
class Passage:
    source: str  # a title, or what else names the document in a few words
    text: str
    url: str = ""  # or the file

    @property
    def line(self) -> str:
        """What a model reads: the source comes last, where what quotes the text comes upon it."""
        return f"{self.text} [{self.source}]"


def passages_in(output: str) -> list[Passage]:
    """The passages in what a search gave; lines without a source, as an error, are none."""
    found = map(LINE.fullmatch, output.split("\n"))
    return [Passage(source, text) for text, source in (one.groups() for one in found if one)]


def files_of(pattern: str, index: Path) -> list[Path]:
    """The files of a glob, without those of the index itself. Raises UserError where there is none, or one is of a kind
    that cannot be read."""
    paths = outside(index, matching(pattern))
    if not paths:
        raise UserError(f"no file matches {pattern!r}; give a glob of {KNOWN}, as 'notes/**/*.md'")
    if unknown := [path for path in paths if not kind_of(path)]:
        raise UserError(f"{unknown[0]} is of no known kind; give {KNOWN}")
    return paths


def outside(folder: Path, paths: list[Path]) -> list[Path]:
    return [path for path in paths if folder.absolute() not in path.absolute().parents]


def kind_of(path: Path) -> str:
    return KINDS.get(Path(path.name.lower().removesuffix(".gz")).suffix, "")


def read(path: Path, data: bytes) -> Iterator[dict]:
    """Documents {id, text, url, title?} of a file that holds this: of .jsonl one a line, else the whole file.

    Raises UserError, with the place, for what is no text, or no record of a document.
    """
    if path.suffix.lower() == ".gz":
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path} is no whole gzip file ({error}); leave it out") from error
    kind, whole = kind_of(path), {"id": path.name, "url": str(path)}
    if kind == "html":
        yield whole | of_html(data)
    elif kind == "text":
        yield whole | {"text": decoded(data, str(path))}
    else:
        for number, line in enumerate(data.split(b"\n"), 1):
            if line.strip():
                yield record(line, f"{path} line {number}")


def decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 (byte {error.start}); convert it, or leave it out") from error


def of_html(data: bytes) -> dict[str, str]:
    """{title, text} of a page, whatever its encoding."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import detect_encoding
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse_from_bytes(data, detect_encoding(data))
    return {"title": tree.title or "", "text": extract_plain_text(tree, main_content=True)}


def record(line: bytes, where: str) -> dict:
    """A line's document. Raises UserError."""
    try:
        found = json.loads(decoded(line, where))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no JSON ({error})") from error
    if not isinstance(found, dict) or not isinstance(found.get("text"), str):
        raise UserError(f"{where} has no `text`; a line is a document {{id, text, source, url?}}")
    return found


def cut(document: dict) -> Iterator[Passage]:
    """The passages of a document {text, title?, url?, id?}: lines and sentences as many as fit. What is longer than a
    passage alone is cut between words."""
    lines = [" ".join(line.split()) for line in cleaned(document["text"]).splitlines()]
    source, lines = named(document, lines)
    url, held = str(document.get("url") or ""), ""
    for line in unwrapped(lines):
        for piece in pieces(line):
            if held and len(held) + 1 + len(piece) > PASSAGE:
                yield Passage(source, held, url)
                held = ""
            held = f"{held} {piece}" if held else piece
        if len(line) > PASSAGE and held:  # a paragraph ends here, and the next one is about something else
            yield Passage(source, held, url)
            held = ""
    if held:
        yield Passage(source, held, url)


def cleaned(text: str) -> str:
    """Without control characters, and lone surrogates, which are no text."""
    return CONTROL.sub(" ", text.encode("utf-8", "replace").decode("utf-8"))


def named(document: dict, lines: list[str]) -> tuple[str, list[str]]:
    """(the source, the lines without it): the document's title, else a first line that is one, else its url or id."""
    title = document.get("title")
    if isinstance(title, str) and cleaned(title).strip():
        return short(title), lines
    at = next((at for at, line in enumerate(lines) if line), 0)
    first, rest = "".join(lines[at : at + 1]).lstrip("# "), lines[at + 1 :]
    if 0 < len(first) <= TITLE and not first.endswith((".", "!", "?", "。", ":", ",")) and any(rest):
        return short(first), rest
    name = str(document.get("url") or document.get("id") or "unnamed").rstrip("/")
    return short(name.rpartition("/")[2]), lines


def short(name: str) -> str:
    """A source's name in one line; it stands in brackets, so that there are none in it."""
    name = " ".join(cleaned(name).translate(BRACKETS).split())
    return name if len(name) <= SOURCE else name[: SOURCE - 1].rstrip() + "…"


def unwrapped(lines: list[str]) -> Iterator[str]:
    """Lines, and paragraphs that were broken into lines of one width as one."""
    for is_text, group in itertools.groupby(lines, key=bool):
        paragraph = list(group)
        if is_text and wrapped(paragraph):
            yield " ".join(paragraph)
        elif is_text:
            yield from paragraph


def wrapped(lines: list[str]) -> bool:
    """Whether each line ends about where the first word of the next one no longer fitted."""
    width = max(map(len, lines))
    full = (len(line) + len(after.partition(" ")[0]) >= width - RAGGED for line, after in itertools.pairwise(lines))
    return len(lines) > 1 and width in WRAPPED and all(full)


def pieces(line: str) -> Iterator[str]:
    """The line, or, where it is longer than a passage, its sentences, the long ones cut after a clause or a word."""
    for sentence in [line] if len(line) <= PASSAGE else END.sub("\\1\\2\n", line).split("\n"):
        at = 0
        while len(sentence) - at > PASSAGE:
            clause = max(sentence.rfind(mark, at + PASSAGE // 2, at + PASSAGE) for mark in (", ", "; ", ": ")) + 1
            end = clause or sentence.rfind(" ", at + 1, at + PASSAGE + 1)
            end = end if end > 0 else at + PASSAGE
            yield sentence[at:end].strip()
            at = end
        if rest := sentence[at:].strip():
            yield rest


def clipped(text: str) -> str:
    """What fits of a text into one passage."""
    text = " ".join(cleaned(text).split())
    return next(pieces(text), "") if len(text) > PASSAGE else text
