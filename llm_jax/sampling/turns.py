"""Turns as token ids: what a conversation asks the model to continue, and the parts of what it writes, as they come."""

import itertools
import re
from collections.abc import Iterable, Iterator

from llm_jax.config import UserError
from llm_jax.tokenizer import FORCED, Scanner, Tokenizer
from llm_jax.tools.passages import passages_in
from llm_jax.tools.table import TOOLS

ANSWER_ROOM = 64  # tokens that an answer must have room for, else old turns go
CHARACTER = 4  # the most bytes that one character takes
SAID = ("text", "answer")  # the parts that are an answer's text


class TooLong(UserError):
    """Messages of so many `tokens` leave no room for an answer."""

    def __init__(self, message: str, tokens: int):
        super().__init__(message)
        self.tokens = tokens


class Conversation:
    """Whole turns, as the ids that were read and written: the next turn's prompt begins with them, letter for letter.

    `length` is the longest prompt and answer together, in tokens. Raises UserError for too long a system prompt.
    """

    def __init__(self, tokenizer: Tokenizer, length: int, system: str = ""):
        self.tokenizer, self.length = tokenizer, length
        self.messages: list[dict] = [{"role": "system", "content": system}] if system else []
        self._start = tokenizer.render(self.messages).ids if tokenizer.joins else tokenizer.encode(system)
        if (fits := length - 2 * min(ANSWER_ROOM, length // 4)) < len(self._start):
            raise UserError(f"the system prompt is {len(self._start)} tokens long; there is room for {fits}")
        self._turns: list[list[int]] = []  # a question and its answer each

    @property
    def room(self) -> int:
        """Tokens that a message may have, even alone."""
        return self.length - min(ANSWER_ROOM, self.length // 2) - len(self._start)

    def ask(self, text: str) -> tuple[list[int], int]:
        """(the prompt for an answer to `text`, how many of the oldest turns had to go to make room).

        Raises UserError when the message is too long even alone.
        """
        if not self.tokenizer.joins:
            return self._ask_anew(text)
        question = self.tokenizer.render([{"role": "user", "content": text}], for_generation=True).ids[1:]
        room = self.room - len(question)
        if room < 0:
            raise UserError(f"the message is {len(question)} tokens long; there is room for {self.room}")
        dropped = 0
        while sum(map(len, self._turns[dropped:])) > room:
            dropped += 1
        self._turns = [*self._turns[dropped:], question]
        self.messages.append({"role": "user", "content": text})
        return [*self._start, *(i for turn in self._turns for i in turn)], dropped

    def _ask_anew(self, text: str) -> tuple[list[int], int]:
        """By a template, which has the whole conversation each time."""
        asked = [*self.messages, {"role": "user", "content": text}]
        try:
            prompt, dropped = fitted(self.tokenizer, asked, self.length)
        except TooLong as error:
            raise UserError(f"the message is too long: {error}") from error
        self.messages = asked
        self._turns.append([])
        return prompt, dropped

    def answered(self, ids: list[int]) -> None:
        """Ends the turn that `ask` began; an answer that was cut short is ended, a turn without any taken back."""
        if not ids:
            self._turns.pop()
            self.messages.pop()
            return
        ended = ids[-1] in self.tokenizer.ends
        self._turns[-1] += ids if ended else [*ids, self.tokenizer.end]
        parts, _ = self.tokenizer.parse(ids)
        self.messages.append({"role": "assistant", "content": parts})


def fitted(tokenizer: Tokenizer, messages: list[dict], length: int) -> tuple[list[int], int]:
    """(the prompt that asks for an answer to messages, how many of the oldest turns after the system prompt had to go).

    A last message of the assistant is left open, for the model to continue. Raises TooLong when the last turn does not
    fit alone, and UserError for what `Tokenizer.render` refuses.
    """
    first = 1 if messages[0]["role"] == "system" else 0
    users = [i for i, message in enumerate(messages) if i >= first and message["role"] == "user"]
    starts = [first, *users[1:]]
    if not tokenizer.joins:
        return fitted_whole(tokenizer, messages, first, starts, length)
    ends = [*starts[1:], len(messages)]
    head, turns = tokenizer.render(messages[:first]).ids, []
    room = length - min(ANSWER_ROOM, length // 2) - len(head)
    # From the newest turn on, each rendered once: long conversations may come with every request.
    for start, end in zip(reversed(starts), reversed(ends), strict=True):
        ids = (opened if end == len(messages) else closed)(tokenizer, messages[start:end])
        if len(ids) > room:
            break
        room -= len(ids)
        turns.insert(0, ids)
    if not turns:
        what = f"the last turn is {len(ids)} tokens long"
        what += f" and the system prompt {len(head)}" if first else ""
        raise TooLong(f"{what}; this model reads {length}, its answer included", len(head) + len(ids))
    return [*head, *(i for turn in turns for i in turn)], len(starts) - len(turns)


def fitted_whole(
    tokenizer: Tokenizer, messages: list[dict], first: int, starts: list[int], length: int
) -> tuple[list[int], int]:
    """`fitted` by a template, which has what is left of the conversation as a whole."""
    for dropped, start in enumerate(starts):
        left, last = [*messages[:first], *messages[start:]], messages[-1]
        if last["role"] == "assistant":
            ids = tokenizer.render(left[:-1], for_generation=True).ids + tokenizer.parts_to_ids(last["content"]).ids
            if continued(last) == "answer":
                ids = ids[: -len(tokenizer.close["answer"])]
        else:
            ids = tokenizer.render(left, for_generation=True).ids
        if len(ids) <= length - min(ANSWER_ROOM, length // 2):
            return ids, dropped
    raise TooLong(f"the last turn is {len(ids)} tokens long; this model reads {length}, answer included", len(ids))


def closed(tokenizer: Tokenizer, messages: list[dict]) -> list[int]:
    return tokenizer.render(messages).ids[1:]


def opened(tokenizer: Tokenizer, messages: list[dict]) -> list[int]:
    """With a turn of the assistant open at the end: a new one, or the last message where it is the assistant's."""
    if messages[-1]["role"] != "assistant":
        return tokenizer.render(messages, for_generation=True).ids[1:]
    ids = closed(tokenizer, messages)[:-1]  # without the end of its turn
    return ids[:-1] if continued(messages[-1]) == "answer" else ids


def continued(message: dict) -> str:
    """The kind of the part that an answer to this last message goes on with; empty where it begins one. A thought of
    the assistant's, or whatever else is no answer, is whole: the answer comes after it.
    """
    if message["role"] != "assistant" or not message["content"]:
        return ""
    if isinstance(message["content"], str):
        return "text"
    last = message["content"][-1]
    return last["type"] if last["type"] in SAID and last["text"] else ""


def said(parts: list[dict], *kinds: str) -> str:
    """The text of the parts of these kinds."""
    return "\n".join(text for part in parts if part["type"] in kinds and (text := part["text"].strip()))


class Saying:
    """What `said` makes of parts that grow; without kinds, all that they hold, as it is.

    `begun`: the first part goes on with a text that stands before it, and may begin with a space.
    """

    def __init__(self, *kinds: str, begun: bool = False):
        self.kinds = kinds
        self.spaces: list[tuple[str, int]] = []  # said if more of their part is
        self._part = 0 if begun else None  # the last one that said something

    def take(self, part: int, kind: str, text: str, at: int = 0) -> Iterator[tuple[str, int]]:
        """(character, its place) of what is said now, when a part grows by a text that begins at place `at`."""
        if self.kinds and kind not in self.kinds:
            return
        for place, character in enumerate(text, at):
            if not self.kinds:
                yield character, place
            elif character.isspace():
                if part == self._part:
                    self.spaces.append((character, place))
            else:
                if part == self._part:
                    yield from self.spaces
                elif self._part is not None:
                    yield "\n", place
                self._part, self.spaces = part, []
                yield character, place

    def text(self, pieces: Iterable[tuple[int, str, str]]) -> str:
        """What `Pieces` gave, as it is said."""
        return "".join(character for piece in pieces for character, _ in self.take(*piece))


def before_stop(parts: list[dict], stop: Iterable[str], kinds: tuple[str, ...]) -> list[dict]:
    """The parts up to the first of the stop texts in what is said of these kinds."""
    saying, at, seen = Saying(*kinds), 0, []
    for number, part in enumerate(parts):
        seen += saying.take(number, part["type"], part["text"], at)
        at += len(part["text"])
    text = "".join(character for character, _ in seen)
    found = [place for one in stop if (place := text.find(one)) >= 0]
    if not found:
        return parts
    left, kept = seen[min(found)][1], []
    for part in parts:
        kept.append({**part, "text": part["text"][:left]})
        left -= len(part["text"])
        if left <= 0:
            break
    return kept


def tool_calls(parts: list[dict]) -> list[dict]:
    """{tool, input, output} of each call that was answered."""
    return [
        {"tool": call["type"], "input": call["text"], "output": output["text"]}
        for call, output in itertools.pairwise(parts)
        if call["type"] in TOOLS and output["type"] in FORCED
    ]


def cited(parts: list[dict]) -> list[dict]:
    """{source, text} of the passages that a search gave, and whose source the answer names."""
    answer, found = said(parts, *SAID), {}
    for call in tool_calls(parts):
        for passage in passages_in(call["output"]) if call["tool"] == "search" else ():
            source, text = passage.source, passage.text
            if re.search(rf"(?<!\w){re.escape(source)}(?!\w)", answer):
                found.setdefault((source, text), {"source": source, "text": text})
    return list(found.values())


class Pieces:
    """Takes ids as they come and gives the new characters of each part: (number of the part, its type, text).

    Whole characters only: a token that is a part of one waits for the rest. What is given adds up to
    `Tokenizer.parse` of all ids. `inside`: the kind of part that is open where they begin.
    """

    def __init__(self, tokenizer: Tokenizer, inside: str = "text"):
        self.tokenizer = tokenizer
        self.parts: list[dict] = []
        self._scanner = Scanner(tokenizer)
        self._inside, self._waiting, self._over = inside, [], False
        self._between = False  # the last span was closed, and no text has come since

    def take(self, ids: Iterable[int]) -> Iterator[tuple[int, str, str]]:
        yield from self._all(event for i in ids for event in self._scanner.take(i))
        if not self._is_framed:
            yield from self._whole()

    def rest(self) -> Iterator[tuple[int, str, str]]:
        """What still waits, whole or not."""
        yield from self._all(self._scanner.rest())
        yield from self._ended(False)

    def _all(self, events: Iterable[tuple[str, str | int]]) -> Iterator[tuple[int, str, str]]:
        for what, value in events:
            if self._over:
                return
            if what == "id":
                self._waiting.append(value)
            elif what != "stray":
                yield from self._ended(what == "close")
                self._inside, self._over = (value if what == "open" else "text"), what == "end"
                if what == "open" and not self._is_framed:
                    yield from self._begun(self._inside)
                self._between |= what == "close"

    @property
    def _is_framed(self) -> bool:
        return self._inside in self.tokenizer.framed

    def _begun(self, kind: str) -> Iterator[tuple[int, str, str]]:
        self.parts.append({"type": kind, "text": ""})
        yield len(self.parts) - 1, kind, ""

    def _ended(self, is_closed: bool) -> Iterator[tuple[int, str, str]]:
        """What waits of a part; of a span whose text is known now, all."""
        if not self._is_framed:
            yield from self._said()
            return
        part = self.tokenizer.part_of(self._inside, self.tokenizer.decode(self._waiting), is_closed)
        self._waiting, self._inside = [], "text"
        self.parts.append(part)
        yield len(self.parts) - 1, part["type"], part["text"]

    def _whole(self) -> Iterator[tuple[int, str, str]]:
        """The text of the ids that wait, but for the last bytes where they begin a character."""
        last = [self.tokenizer.bytes_of(i) for i in self._waiting[1 - CHARACTER :]]
        left, at = begun(b"".join(last)), len(self._waiting)
        while left > 0:
            at -= 1
            left -= len(last.pop())
        held, self._waiting = self._waiting[at:], self._waiting[:at]
        yield from self._said()
        self._waiting = held

    def _said(self) -> Iterator[tuple[int, str, str]]:
        text = self.tokenizer.decode(self._waiting)
        self._waiting = []
        if not text:
            return
        if not self.parts or (self._inside == "text" and self._between):
            self.parts.append({"type": self._inside, "text": ""})
        self._between = False
        self.parts[-1]["text"] += text
        yield len(self.parts) - 1, self.parts[-1]["type"], text


def begun(tail: bytes) -> int:
    """How many of the last bytes are the beginning of one character of UTF-8."""
    for n in range(1, min(len(tail), CHARACTER - 1) + 1):
        lead = tail[-n]
        if lead >= 0xC0:  # the first byte of several says how many they are
            return n if n < 2 + (lead >= 0xE0) + (lead >= 0xF0) else 0
    return 0
