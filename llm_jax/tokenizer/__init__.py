"""What a tokenizer is: text and conversations to ids and back. And what the ids of an answer say by their markers.

Two stand behind it: our own, `tokenizer.sentencepiece`, and that of an imported model, `hub.tokenizer`. A marker (the
beginning or end of a span, the end of a turn) is one id in ours, and may be several in an imported one. What stands
between the markers of a span is its text in ours; an imported model may have words of its own there, as JSON.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.config import UserError
from llm_jax.tables import function

TURNS = ("system", "user", "assistant")
SPANS = ("think", "answer", "python", "search", "output", "document")
FORCED = ("output", "document")  # what tools write, never the model
KINDS = {".model": "llm_jax.tokenizer.sentencepiece:SentencePiece", ".json": "llm_jax.hub.tokenizer:HubTokenizer"}

Marker = tuple[int, ...]


def path_in(folder: Path) -> Path:
    """The tokenizer of a run, in its folder data/: an imported one where it has one, else ours."""
    imported = folder / "tokenizer.json"
    return imported if imported.is_file() else folder / "tokenizer.model"


@dataclasses.dataclass(frozen=True)
class Rendered:
    ids: list[int]
    loss_mask: list[int]  # 1 where the model writes: what SFT and RL train on


class Tokenizer:
    """The interface, and what all share."""

    sha256: str  # of what it was made of
    vocab_size: int
    pad: int
    begin: Marker  # what a document begins with; of some imported models nothing
    ends: Marker  # ids of which each ends a turn; the first one is what `render` writes
    open: dict[str, Marker]  # span -> what opens it
    close: dict[str, Marker]
    special_names: dict[int, str]  # ids that no text is made of
    talks = True  # it can render a conversation
    joins = True  # rendered turns are put together one by one; else a template has the whole conversation
    call: tuple[Marker, Marker] | None = None  # of a call of any tool, which is JSON; None: each tool has its span
    framed: frozenset[str] = frozenset()  # spans whose text is known when they are closed: not it alone stands there

    @staticmethod
    def load(path: str | Path) -> "Tokenizer":
        """From `tokenizer.model`, ours, or `tokenizer.json`, an imported one. Raises UserError when it is missing or
        none."""
        path = Path(path)
        if not path.is_file():
            raise UserError(f"no tokenizer at {path}; run stage `data` first")
        return function(KINDS.get(path.suffix, KINDS[".model"])).read(path)

    def save(self, path: str | Path) -> None:
        raise NotImplementedError

    def described(self) -> dict[str, Any]:
        """Its special tokens and chat template, under the names that a `tokenizer_config.json` has for them."""
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; never a special token. Lone surrogates become U+FFFD."""
        raise NotImplementedError

    def encode_batch(self, texts: list[str], threads: int) -> list[np.ndarray]:
        """`encode` of many texts as int32 arrays, on `threads` threads."""
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; special tokens are left out. Broken byte sequences become U+FFFD."""
        raise NotImplementedError

    def bytes_of(self, id_: int) -> bytes:
        """What one token adds to a text, which may be a part of a character; nothing where it is special."""
        raise NotImplementedError

    def piece(self, id_: int) -> str:
        """One token for people to read: its text, or <0xHH>... where it is a part of a character."""
        raise NotImplementedError

    def render(self, conversation: list[dict], for_generation: bool = False) -> Rendered:
        """Messages [{role, content}] -> ids and loss mask, which is 1 on what the assistant writes and the end of its
        turn. Of a message with `weight` 0 nothing is learned. With `for_generation` the ids end with an open assistant
        turn. Raises UserError for what is no conversation.
        """
        raise NotImplementedError

    def parts_to_ids(self, content: str | list[dict]) -> Rendered:
        """One message's content; the mask is 0 on what tools write (FORCED spans)."""
        ids, mask = [], []
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            kind = part["type"]
            piece = self.encode(part["text"]) if kind == "text" else self.span(kind, part["text"])
            ids += piece
            mask += [0 if kind in FORCED else 1] * len(piece)
        return Rendered(ids, mask)

    def span(self, kind: str, text: str, room: int | None = None) -> list[int]:
        """A span as ids; no more than `room`, to which its text is cut."""
        before, said, after = self.written(kind, text)
        ids = self.encode(before + said + after)
        left = room and room - len(self.open[kind]) - len(self.close[kind])
        if room and len(ids) > left:
            last = self.encode(after)
            ids = [*self.encode(before + said)[: left - len(last)], *last]
        return [*self.open[kind], *ids, *self.close[kind]]

    def written(self, kind: str, text: str) -> tuple[str, str, str]:
        """What stands between the markers of a span: (what comes before its text, its text, what comes after)."""
        return "", text, ""

    def part_of(self, kind: str, body: str, is_closed: bool) -> dict:
        """The part {type, text} that a span is, by what stands between its markers: `written`, the other way."""
        return {"type": kind, "text": body}

    def closed_by(self, ids: list[int], names: Iterable[str]) -> list[str]:
        """Those of the spans that the last of the ids close; several where they have one marker."""
        return [name for name in names if tuple(ids[-len(self.close[name]) :]) == self.close[name]]

    def wrong_call(self, last: dict, names: Iterable[str]) -> str:
        """What is wrong with the last part of an answer, which was to call one of these tools."""
        return "no call was opened"

    @property
    def end(self) -> int:
        return self.ends[0]

    def show(self, ids: Iterable[int]) -> str:
        """Text of ids with special tokens spelled out, for people to read."""
        return "".join(self.special_names.get(run[0]) or self.decode(run) for run in self._runs(list(ids)))

    def encode_shown(self, text: str) -> list[int]:
        """The inverse of `show`: what spells a special token is this token."""
        names = {name: i for i, name in self.special_names.items()}
        pieces = re.split("(" + "|".join(map(re.escape, sorted(names, key=len, reverse=True))) + ")", text)
        return [i for n, piece in enumerate(pieces) for i in ([names[piece]] if n % 2 else self.encode(piece))]

    def _runs(self, ids: list[int]) -> Iterator[list[int]]:
        """Cuts ids into single special tokens and runs of plain ones."""
        run: list[int] = []
        for i in map(int, ids):
            if i in self.special_names:
                if run:
                    yield run
                yield [i]
                run = []
            else:
                run.append(i)
        if run:
            yield run

    @functools.cached_property
    def markers(self) -> dict[Marker, tuple[str, str]]:
        """Ids -> ("open" or "close", span), or ("end", ""). Of spans with one marker the first is named."""
        found = {(i,): ("end", "") for i in self.ends}
        found |= {ids: ("close", name) for name, ids in reversed(self.close.items())}
        return found | {ids: ("open", name) for name, ids in reversed(self.open.items())}

    def parse(self, ids: Iterable[int]) -> tuple[list[dict], bool]:
        """A completion's ids -> (parts [{type, text}], whether it ended its turn). Raises on no ids of the vocabulary.

        A span left open runs to the end; a closing marker without its opening one ends the current part.
        """
        parts: list[dict] = []
        kind, run = "text", []

        def flush(is_closed: bool = False):
            if kind != "text":
                parts.append(self.part_of(kind, self.decode(run), is_closed))
            elif run:
                parts.append({"type": kind, "text": self.decode(run)})

        for what, value in Scanner(self).all(ids):
            if what == "end":
                flush()
                return parts, kind == "text"
            if what == "id":
                run.append(value)
            elif what != "stray":
                flush(what == "close")
                kind, run = (value if what == "open" else "text"), []
        flush()
        return parts, False

    def is_whole(self, ids: Iterable[int]) -> bool:
        """Whether the markers of a completion are spans, each closed by its own marker, and its end, as `render` writes
        them, and no other special token is there. `parse` makes parts of any others too."""
        ids = list(map(int, ids))
        events = [event for event in Scanner(self).all(ids) if event[0] != "id"]
        spans, last = events[:-1], events[-1:]
        pairs = zip(spans[::2], spans[1::2], strict=False)
        paired = len(spans) % 2 == 0 and all(a == ("open", b[1]) and b[0] == "close" for a, b in pairs)
        return bool(ids) and ids[-1] in self.ends and last == [("end", "")] and paired


class Scanner:
    """Takes ids as they come and tells the markers among them from the ids of text. Of markers that begin alike the
    longest one counts."""

    def __init__(self, tokenizer: Tokenizer):
        self._markers, self._special = tokenizer.markers, tokenizer.special_names
        self._begun = {marker[:n] for marker in self._markers for n in range(1, len(marker))}
        self._held: Marker = ()  # the beginning of a marker, or of a text

    def take(self, id_: int) -> Iterator[tuple[str, str | int]]:
        """("open" | "close" | "end", span), ("id", id), or ("stray", id) of another special token, of each that is
        known now."""
        self._held = (*self._held, int(id_))
        yield from self._told(False)

    def rest(self) -> Iterator[tuple[str, str | int]]:
        """What was held for a marker that did not come."""
        yield from self._told(True)

    def _told(self, is_over: bool) -> Iterator[tuple[str, str | int]]:
        while self._held and (is_over or self._held not in self._begun):
            lengths = range(len(self._held), 0, -1)
            n = next((n for n in lengths if self._held[:n] in self._markers), 0)
            first, self._held = self._held[: n or 1], self._held[n or 1 :]
            yield self._markers[first] if n else ("stray" if first[0] in self._special else "id", first[0])

    def all(self, ids: Iterable[int]) -> Iterator[tuple[str, str | int]]:
        for i in ids:
            yield from self.take(i)
        yield from self.rest()


def misplaced(messages: list[dict]) -> tuple[int, str] | None:
    """(number, reason) of the first of {role, content} that makes no conversation; None where all is well."""
    before = None
    for i, message in enumerate(messages):
        role, content = message["role"], message["content"]
        spans = {part["type"] for part in content} if isinstance(content, list) else {"text"}
        if role != "tool" and not content:
            return i, "it is empty"
        if role == "system" and i:
            return i, "a system message that is not the first"
        if role == "tool" and before not in ("assistant", "tool"):
            return i, "what a tool says with no call before it"
        if role == "assistant" and before not in ("user", "tool"):
            return i, "an answer that nobody asked for"
        if role in ("system", "user") and spans != {"text"}:
            return i, f"a message of the {role} that is not all text"
        before = role
    return None
