"""The tokenizer of an imported model: `tokenizer.json` and the model's own chat template, behind our interface.

In a run's `data/`: tokenizer.json as the `tokenizers` library reads it, and beside it template.json: the chat template
and the special tokens. Spans that the model has tokens for, as <think>, have those; others are plain text:
<python>...</python>, <output>...</output> and so on, several ids each.
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
from llm_jax.hub.template import MARK, Template, marked
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
        self.special_names = {
            i: token["content"] for i, token in added.items() if token.get("special") or token["content"] in of_spans
        }
        self._ids = {name: i for i, name in self.special_names.items()}
        self.begin, self.ends = tuple(beside["begin"]), tuple(beside["ends"])
        self.pad = beside["pad"]
        self._spelled = {name: self._spelling(name) for name in SPANS}
        self.template = Template(beside["template"], beside["special"]) if beside["template"] else None
        self.talks = self.template is not None
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

    def _spelling(self, name: str) -> tuple[str, str]:
        """How the markers of a span are written: as the model has them, or the plain way."""
        ways = [spelled(spelling, name) for spelling in SPELLINGS]
        return next((way for way in ways if set(way) <= self._ids.keys()), ways[0])

    def _marker(self, text: str) -> tuple[int, ...]:
        return (self._ids[text],) if text in self._ids else tuple(self.encode(text))

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
            if text in self._markers_of_text:
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
        shown = []
        for number, message in enumerate(turns(conversation)):
            text = ""
            for word in self._said(message):
                if word.text in self._spelled["think"] and word.is_marker:  # templates look at these
                    text += word.text
                else:
                    text += marked(word.text, len(said))
                    said.append((number, dataclasses.replace(word, text=word.text.strip())))
            shown.append({"role": message["role"], "content": text})
        rendered = self.template.text(shown, for_generation)
        own, *rest = MARK.split(rendered)
        marks = [(int(mark), after) for mark, after in zip(rest[::2], rest[1::2], strict=True)]
        out, before = [Word(own)], -1
        for (mark, after), following in itertools.zip_longest(marks, marks[1:]):
            number, word = said[mark]
            if shown[number]["role"] == "assistant":
                if number != before:
                    out[-1:] = self._begun(out[-1].text, word.learned)
                out.append(word)
                same = following is not None and said[following[0]][0] == number
                out += [Word(after, word.learned)] if same else self._ended(after, word.learned)
            else:
                out += [word, Word(after)]
            before = number
        return out

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
        for part in message["content"]:
            kind, learned = part["type"], bool(part.get("learned"))
            if kind == "text":
                yield Word(part["text"], learned, is_said=True)
                continue
            opening, closing = self._spelled[kind]
            yield Word(opening, learned, is_marker=True)
            yield Word(part["text"], learned, is_said=True)
            yield Word(closing, learned, is_marker=True)

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
