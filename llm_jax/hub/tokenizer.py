"""The tokenizer of an imported model: `tokenizer.json` and the model's own chat template, behind our interface.

In a run's `data/`: tokenizer.json as the `tokenizers` library reads it, and beside it template.json: the chat template
and the special tokens. Spans that the model has tokens for, as <think>, have those; others are plain text:
<python>...</python>, <output>...</output> and so on, several ids each. Where the template calls tools by JSON
(`hub.calls`), calls and what tools answer are in its own words.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from llm_jax.config import UserError
from llm_jax.files import read_json
from llm_jax.hub import calls
from llm_jax.hub.template import MARK, Template, mark, marked
from llm_jax.tokenizer import FORCED, SPANS, TURNS, Marker, Rendered, Tokenizer

BESIDE = "template.json"
SPELLINGS = ("<{}>", "<|{}|>")  # of the markers of spans; the plain one first


class HubTokenizer(Tokenizer):
    joins = False

    def __init__(self, model_json: str, beside: dict[str, Any]):
        self.model_json, self.beside = model_json, beside
        self.sha256 = hashlib.sha256((model_json + json.dumps(beside, sort_keys=True)).encode()).hexdigest()
        self.vocab_size = beside["vocab_size"]
        model = json.loads(model_json)
        added = {token["id"]: token for token in model.get("added_tokens") or ()}
        of_spans = {text for name in SPANS for spelling in SPELLINGS for text in spelled(spelling, name)}
        of_spans.update(calls.MARKERS)
        self.special_names = {
            i: token["content"] for i, token in added.items() if token.get("special") or token["content"] in of_spans
        }
        self._ids = {name: i for i, name in self.special_names.items()}
        self.begin, self.ends = tuple(beside["begin"]), tuple(beside["ends"])
        self.pad = beside["pad"]
        self.template = Template(beside["template"], beside["special"]) if beside["template"] else None
        self.talks = self.template is not None
        self._spelled = {name: self._spelling(name) for name in SPANS}
        self._frames: dict[str, tuple[str, str]] = {}  # of what tools say: what stands around it between its markers
        self.calls = self._framed(calls.of(self.template)) if self.template else None
        self.is_byte_level = "ByteLevel" in json.dumps(model.get("decoder"))
        self._byte_of = byte_level() if self.is_byte_level else None

    @functools.cached_property
    def _all(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self.model_json)

    @functools.cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        return without_specials(self.model_json, self.special_names)

    @functools.cached_property
    def open(self) -> dict[str, Marker]:
        return {name: self._marker(text) for name, (text, _) in self._spelled.items()}

    @functools.cached_property
    def close(self) -> dict[str, Marker]:
        return {name: self._marker(text) for name, (_, text) in self._spelled.items()}

    @functools.cached_property
    def call(self) -> tuple[Marker, Marker] | None:
        return (self.open[calls.CALLS[0]], self.close[calls.CALLS[0]]) if self.calls else None

    def _spelling(self, name: str) -> tuple[str, str]:
        """How the markers of a span are written: as the model has them, or the plain way."""
        ways = [spelled(spelling, name) for spelling in SPELLINGS]
        return next((way for way in ways if set(way) <= self._ids.keys()), ways[0])

    def _framed(self, ways: calls.Calls | None) -> calls.Calls | None:
        """Calls and answers of tools get the template's words. A marker goes to, or from, a special token where there
        is one: what lies beyond it may melt with the words around."""
        if ways is None:
            return None
        first, *others = ways.frame
        opening = calls.OPENING
        if opening not in self._ids:  # it may melt with the line break that follows, but not with a brace
            opening, first = opening + first[: len(first) - len(first.lstrip())], first.lstrip()
        begins = max((m.end() for m in self._cut.finditer(ways.answered)), default=len(ways.answered))
        ends = min((m.start() for m in self._cut.finditer(ways.goes_on)), default=0)
        self._spelled |= dict.fromkeys(calls.CALLS, (opening, calls.CLOSING))
        self._spelled |= dict.fromkeys(FORCED, (ways.answered[:begins], ways.goes_on[ends:]))
        self._frames = dict.fromkeys(FORCED, (ways.answered[begins:], ways.goes_on[:ends]))
        self.framed = frozenset((*calls.CALLS, *FORCED))
        return dataclasses.replace(ways, frame=(first, *others))

    def _marker(self, text: str) -> tuple[int, ...]:
        pieces = ([self._ids[piece]] if piece in self._ids else self.encode(piece) for piece in self._cut.split(text))
        return tuple(itertools.chain(*pieces))

    def written(self, kind: str, text: str) -> tuple[str, str, str]:
        if self.calls and kind in calls.CALLS:
            return self.calls.written(kind, text)
        before, after = self._frames.get(kind, ("", ""))
        return before, text, after

    def part_of(self, kind: str, body: str, is_closed: bool) -> dict:
        """A call that is none of ours is the text that it is written as."""
        if self.calls and kind in calls.CALLS:
            try:
                return dict(zip(("type", "text"), calls.read(body), strict=True))
            except UserError:
                return {"type": "text", "text": self._spelled[kind][0] + body + calls.CLOSING * is_closed}
        before, after = self._frames.get(kind, ("", ""))
        return {"type": kind, "text": body.removeprefix(before).removesuffix(after)}

    def wrong_call(self, last: dict, names: Iterable[str]) -> str:
        if self.calls and last["type"] in calls.CALLS:
            return f"there is no tool {last['type']!r}"
        try:
            if self.calls and last["text"].startswith(calls.OPENING):
                calls.read(last["text"].removeprefix(calls.OPENING).removesuffix(calls.CLOSING))
        except UserError as error:
            return str(error)
        return super().wrong_call(last, names)

    @classmethod
    def read(cls, path: Path) -> HubTokenizer:
        """Raises UserError when one of the files is missing or damaged."""
        beside = path.with_name(BESIDE)
        if not beside.is_file():
            raise UserError(f"{path} lacks {BESIDE} beside it; import the model again")
        try:
            found = cls(path.read_text(encoding="utf-8"), read_json(beside))
            found.decode([])  # made when it is first used: here, where it can be told what is wrong
            return found
        except UserError:
            raise
        except Exception as error:  # the library raises nothing more special
            raise UserError(f"{path} is no tokenizer ({error}); import the model again") from None

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.model_json, encoding="utf-8")
        Path(path).with_name(BESIDE).write_text(json.dumps(self.beside, indent=1), encoding="utf-8")

    @property
    def adds_space(self) -> bool:
        """In front of a text, as SentencePiece does where it is not told otherwise."""
        return self._plain.encode("a", add_special_tokens=False).tokens[0].startswith("\u2581")

    def described(self) -> dict[str, Any]:
        return {**self.beside["special"], "chat_template": self.beside["template"]}

    def encode(self, text: str) -> list[int]:
        text = text.encode("utf-8", errors="surrogatepass").decode("utf-8", errors="replace")
        return self._plain.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str], threads: int) -> list[np.ndarray]:
        return [np.array(self.encode(text), np.int32) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        return self._all.decode([i for i in map(int, ids) if i not in self.special_names], skip_special_tokens=False)

    def bytes_of(self, id_: int) -> bytes:
        token = "" if id_ in self.special_names else self._all.id_to_token(id_) or ""
        if self._byte_of:
            return bytes(self._byte_of[character] for character in token if character in self._byte_of)
        if len(token) == 6 and token.startswith("<0x"):
            return bytes([int(token[3:5], 16)])
        return token.replace("\u2581", " ").encode()

    def piece(self, id_: int) -> str:
        data = self.bytes_of(id_)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in data)

    def render(self, conversation: list[dict], for_generation: bool = False) -> Rendered:
        """By the chat template. Whose words are whose follows from how the text is put together: the template is given
        marks in place of what was said, and what stands around the marks is its own.

        What the assistant writes begins where a generation prompt ends, and ends with the token that ends its turn.
        Raises UserError where the template refuses the conversation, or the model has none.
        """
        if self.template is None:
            raise UserError("this model has no chat template: it continues documents")
        ids, mask = [], []
        for stretch in stretches(self._words(conversation, for_generation), self._cut):
            text = "".join(word.text for word in stretch)
            if text in self._markers_of_text and not any(word.is_said for word in stretch):
                new, starts = self._markers_of_text[text], [0] * len(self._markers_of_text[text])
            else:
                encoded = self._plain.encode(text, add_special_tokens=False)
                new, starts = encoded.ids, [start for start, _ in encoded.offsets]
            learned = [int(word.learned) for word in stretch for _ in word.text]
            ids += new
            mask += [learned[start] for start in starts]
        return Rendered(ids, mask)

    def _words(self, conversation: list[dict], for_generation: bool) -> list[Word]:
        """A rendered conversation in its order: what the template says, and what was said."""
        said: list[tuple[int, Word]] = []  # the number of its message, and the word that its mark stands for
        messages = turns(conversation)
        messages = [*with_tools(messages)] if self.calls else messages
        shown = [{"role": m["role"], "content": self._hidden(m, number, said)} for number, m in enumerate(messages)]
        rendered = self.template.text(shown, for_generation)
        own, *rest = MARK.split(rendered)
        marks = [(int(n), after) for n, after in zip(rest[::2], rest[1::2], strict=True)]
        out, before = [Word(own)], -1
        for (n, after), following in itertools.zip_longest(marks, marks[1:]):
            number, word = said[n]
            out[-1:] = self._gone(out[-1], messages[before + 1 : number])
            if shown[number]["role"] == "assistant":
                if number != before:
                    out[-1:] = self._begun(out[-1].text, word.learned)
                out.append(word)
                same = following is not None and said[following[0]][0] == number
                out += [Word(after, word.learned)] if same else self._ended(after, word.learned)
            else:
                out += [word, Word(after)]
            before = number
        return [*out[:-1], *self._gone(out[-1], messages[before + 1 :])]

    def _hidden(self, message: dict, number: int, said: list[tuple[int, Word]]) -> str:
        """What the template is given of a message: marks of what is said, which is noted; what it looks at, as it is:
        the markers of thoughts, and what it asks for in questions and the system prompt."""
        text, asked = "", message["role"] != "assistant"
        for word in self._said(message):
            if not word.is_said and (not word.is_marker or word.text in self._spelled["think"]):
                text += word.text
                continue
            pieces = self._looked_for.split(word.text) if asked else [word.text]
            for n, piece in enumerate(pieces):
                if n % 2:
                    text += piece
                elif word.is_marker:
                    text += mark(len(said))
                    said.append((number, word))
                elif piece or len(pieces) == 1:
                    text += marked(piece, len(said))
                    said.append((number, dataclasses.replace(word, text=piece.strip())))
        return text

    def _gone(self, word: Word, messages: list[dict]) -> list[Word]:
        """The template's words around messages of which it left nothing that is marked: white space, or nothing."""
        out, text = [], word.text
        for message in messages:
            if message["role"] == "assistant" and self._prompt and self._prompt in text:
                head, prompt, text = text.partition(self._prompt)
                ended, after = self._ended(text, any(part["learned"] for part in message["content"]))
                out, text = [*out, Word(head + prompt), ended], after.text
        return [*out, dataclasses.replace(word, text=text)]

    def _begun(self, text: str, learned: bool) -> list[Word]:
        at = text.rfind(self._prompt)
        at = len(text) if at < 0 else at + len(self._prompt)
        return [Word(text[:at]), Word(text[at:], learned)]

    def _ended(self, text: str, learned: bool) -> list[Word]:
        ends = [self.special_names.get(i, "") for i in self.ends]
        found = [text.index(end) + len(end) for end in ends if end and end in text]
        at = min(found, default=0)
        return [Word(text[:at], learned), Word(text[at:])]

    @functools.cached_property
    def _prompt(self) -> str:
        """What a generation prompt adds: the header of an answer."""
        asked = [{"role": "user", "content": marked("a", 0)}]
        without, with_ = self.template.text(asked), self.template.text(asked, for_generation=True)
        return with_.removeprefix(without) if with_.startswith(without) else ""

    def _said(self, message: dict) -> Iterator[Word]:
        """The words of a message. Those that are neither said nor markers go to the template as they are: white space
        that it may drop, and what comes before a call where something stands there."""
        parts = [part for part in message["content"] if part["text"] or part["type"] != "text"] or message["content"]
        if self.calls and message["role"] == "assistant":
            parts = [*map(as_call, parts)]
        is_blank = not any(part["text"].strip() or self._is_call(part) for part in parts)
        for part, following in itertools.zip_longest(parts, parts[1:]):
            kind, learned = part["type"], bool(part.get("learned"))
            joint = self.calls.between if self._is_call(following) and kind != "think" else ""
            if kind == "text":
                text = part["text"].removesuffix(joint)
                yield Word(text, learned, is_said=bool(text.strip()) or is_blank)
            else:
                opening, closing = self._spelled[kind]
                text = part.get("body") or "".join(self.written(kind, part["text"]))
                yield Word(opening, learned, is_marker=True)
                yield Word(text, learned, is_said=bool(text.strip()) or is_blank)
                yield Word(closing, learned, is_marker=True)
            yield Word(joint)

    def _is_call(self, part: dict | None) -> bool:
        return self.calls is not None and part is not None and part["type"] in calls.CALLS

    @functools.cached_property
    def _markers_of_text(self) -> dict[str, tuple[int, ...]]:
        """Texts that are ids of their own wherever the template or a span has them."""
        found = {name: (i,) for i, name in self.special_names.items()}
        for name, (opening, closing) in self._spelled.items():
            found |= {opening: self.open[name], closing: self.close[name]}
        return found

    @functools.cached_property
    def _cut(self) -> re.Pattern:
        """Cuts the template's words at special tokens and at the markers of thoughts."""
        names = sorted({*self.special_names.values(), *self._spelled["think"]}, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, names)) + ")")

    @functools.cached_property
    def _looked_for(self) -> re.Pattern:
        """Cuts what is said at the texts that the template looks for; what could be a special token stays hidden."""
        hidden = {*self.special_names.values(), *itertools.chain(*self._spelled.values())}
        texts = (text for text in self.template.looked_for - hidden if len(text) > 1 and text == text.strip())
        return re.compile("(" + ("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)") + ")")


def spelled(spelling: str, name: str) -> tuple[str, str]:
    return spelling.format(name), spelling.format(f"/{name}")


@dataclasses.dataclass(frozen=True)
class Word:
    """A piece of a rendered conversation. Of what was said, no part is a special token, whatever it spells."""

    text: str
    learned: bool = False
    is_marker: bool = False
    is_said: bool = False


def stretches(words: Iterable[Word], cut: re.Pattern) -> Iterator[list[Word]]:
    """Words that are encoded together: up to the next special token or marker, each of which stands alone."""
    stretch: list[Word] = []
    for word in words:
        alone = [word.text] if word.is_marker or word.is_said else cut.split(word.text)
        for number, text in enumerate(alone):
            if word.is_marker or (not word.is_said and number % 2):
                if stretch:
                    yield stretch
                yield [dataclasses.replace(word, text=text)]
                stretch = []
            elif text:
                stretch.append(dataclasses.replace(word, text=text))
    if stretch:
        yield stretch


def turns(conversation: list[dict]) -> list[dict]:
    """{role, content: parts that say whether they are learned}: what a tool says belongs to the assistant's turn."""
    out: list[dict] = []
    for message in conversation:
        role, content = message["role"], message["content"]
        if role not in (*TURNS, "tool"):
            raise UserError(f"unknown role {role!r}; choose from {', '.join(TURNS)} or tool")
        kind = "output" if role == "tool" else "text"
        parts = [{"type": kind, "text": content}] if isinstance(content, str) else content
        learns = role == "assistant" and message.get("weight") != 0
        parts = [{**part, "learned": learns and part["type"] not in FORCED} for part in parts]
        role = "assistant" if role == "tool" else role
        goes_on = out and role == "assistant" and out[-1]["role"] == "assistant"
        if goes_on and (message["role"] == "tool" or out[-1]["content"][-1]["type"] in FORCED):
            out[-1]["content"] += parts
        else:
            out.append({"role": role, "content": parts})
    return out


def as_call(part: dict) -> dict:
    """A text of the assistant's that is a call, of whatever tool, from its first to its last character, as one."""
    body = calls.body_of(part["text"]) if part["type"] == "text" else None
    return part if body is None else {**part, "type": calls.CALLS[0], "body": body}


def with_tools(messages: list[dict]) -> Iterator[dict]:
    """The same, where what a tool says is a message of its own."""
    for message in messages:
        if message["role"] != "assistant":
            yield message
            continue
        for is_tools, parts in itertools.groupby(message["content"], key=lambda part: part["type"] in FORCED):
            if is_tools:
                yield from ({"role": "tool", "content": [{**part, "type": "text"}]} for part in parts)
            else:
                yield {"role": "assistant", "content": list(parts)}


def without_specials(model_json: str, special: dict[int, str]) -> tokenizers.Tokenizer:
    """The same, to which what spells a special token is text."""
    model = json.loads(model_json)
    model["added_tokens"] = [token for token in model.get("added_tokens") or () if token["id"] not in special]
    model |= {"truncation": None, "padding": None, "post_processor": None}
    return tokenizers.Tokenizer.from_str(json.dumps(model))


def byte_level() -> dict[str, int]:
    """The character that byte-level BPE writes for a byte -> the byte: itself where it can be printed, else from U+0100
    on (Radford et al. 2019)."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + n): byte for n, byte in enumerate(others)}
