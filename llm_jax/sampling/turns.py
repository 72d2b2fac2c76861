"""Turns as token ids: what a conversation asks the model to continue, and the parts of what it writes, as they come."""

import itertools
from collections.abc import Iterable, Iterator

from llm_jax.config import UserError
from llm_jax.tokenizer import Tokenizer
from llm_jax.tools.table import TOOLS

ANSWER_ROOM = 64  # tokens that an answer must have room for, else old turns go
CHARACTER = 4  # the most bytes that one character takes


class Conversation:
    """Whole turns, as the ids that were read and written: the next turn's prompt begins with them, letter for letter.

    `length` is the longest prompt and answer together, in tokens. Raises UserError for too long a system prompt.
    """

    def __init__(self, tokenizer: Tokenizer, length: int, system: str = ""):
        self.tokenizer, self.length = tokenizer, length
        self.messages: list[dict] = [{"role": "system", "content": system}] if system else []
        self._start = tokenizer.render(self.messages).ids
        if (fits := length - 2 * min(ANSWER_ROOM, length // 4)) < len(self._start):
            raise UserError(f"the system prompt is {len(self._start)} tokens long; there is room for {fits}")
        self._turns: list[list[int]] = []  # a question and its answer each

    def ask(self, text: str) -> tuple[list[int], int]:
        """(the prompt for an answer to `text`, how many of the oldest turns had to go to make room).

        Raises UserError when the message is too long even alone.
        """
        question = self.tokenizer.render([{"role": "user", "content": text}], for_generation=True).ids[1:]
        room = self.length - min(ANSWER_ROOM, self.length // 2) - len(self._start) - len(question)
        if room < 0:
            fits = self.length - min(ANSWER_ROOM, self.length // 2) - len(self._start)
            raise UserError(f"the message is {len(question)} tokens long; there is room for {fits}")
        dropped = 0
        while sum(map(len, self._turns[dropped:])) > room:
            dropped += 1
        self._turns = [*self._turns[dropped:], question]
        self.messages.append({"role": "user", "content": text})
        return [*self._start, *(i for turn in self._turns for i in turn)], dropped

    def answered(self, ids: list[int]) -> None:
        """Ends the turn that `ask` began; an answer that was cut short is ended, a turn without any taken back."""
        if not ids:
            self._turns.pop()
            self.messages.pop()
            return
        self._turns[-1] += ids if ids[-1:] == [self.tokenizer.end] else [*ids, self.tokenizer.end]
        parts, _ = self.tokenizer.parse(ids)
        self.messages.append({"role": "assistant", "content": parts})


def fitted(tokenizer: Tokenizer, messages: list[dict], length: int) -> tuple[list[int], int]:
    """(the prompt that asks for an answer to messages, how many of the oldest turns after the system prompt had to go).

    Raises UserError when the last turn does not fit alone, and for what `Tokenizer.render` refuses.
    """
    first = 1 if messages[0]["role"] == "system" else 0
    users = [i for i, message in enumerate(messages) if i >= first and message["role"] == "user"]
    starts = [first, *users[1:]]
    ends = [*starts[1:], len(messages)]
    head, turns = tokenizer.render(messages[:first]).ids, []
    room = length - min(ANSWER_ROOM, length // 2) - len(head)
    # From the newest turn on, each rendered once: long conversations may come with every request.
    for start, end in zip(reversed(starts), reversed(ends), strict=True):
        ids = tokenizer.render(messages[start:end], for_generation=end == len(messages)).ids[1:]
        if len(ids) > room:
            break
        room -= len(ids)
        turns.insert(0, ids)
    if not turns:
        what = f"the last turn is {len(ids)} tokens long"
        what += f" and the system prompt {len(head)}" if first else ""
        raise UserError(f"{what}; this model reads {length}, its answer included")
    return [*head, *(i for turn in turns for i in turn)], len(starts) - len(turns)


def said(parts: list[dict], *kinds: str) -> str:
    """The text of the parts of these kinds."""
    return "\n".join(part["text"].strip() for part in parts if part["type"] in kinds)


def tool_calls(parts: list[dict]) -> list[dict]:
    """{tool, input, output} of each call that was answered."""
    return [
        {"tool": call["type"], "input": call["text"], "output": output["text"]}
        for call, output in itertools.pairwise(parts)
        if call["type"] in TOOLS and output["type"] == TOOLS[call["type"]].returns
    ]


class Pieces:
    """Takes ids as they come and gives the new characters of each part: (number of the part, its type, text).

    Whole characters only: a token that is a part of one waits for the rest. What is given adds up to
    `Tokenizer.parse` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.parts: list[dict] = []
        self._opened = {i: name for name, i in tokenizer.open.items()}
        self._closed = set(tokenizer.close.values())
        self._inside, self._waiting, self._over = "text", [], False
        self._between = False  # the last span was closed, and no text has come since

    def take(self, ids: Iterable[int]) -> Iterator[tuple[int, str, str]]:
        for i in ids:
            if self._over:
                return
            if i in self._opened or i in self._closed or i == self.tokenizer.end:
                yield from self.rest()
                self._inside, self._over = self._opened.get(i, "text"), i == self.tokenizer.end
                if i in self._opened:
                    self.parts.append({"type": self._inside, "text": ""})
                    yield len(self.parts) - 1, self._inside, ""
                else:
                    self._between = True
            elif i not in self.tokenizer.special_names:
                self._waiting.append(i)
        yield from self._whole()

    def _whole(self) -> Iterator[tuple[int, str, str]]:
        """The text of the ids that wait, but for the last bytes where they begin a character."""
        tail = b""
        for i in reversed(self._waiting[1 - CHARACTER :]):
            if (byte := self.tokenizer.byte(i)) is None:
                break
            tail = byte + tail
        at = len(self._waiting) - begun(tail)
        held, self._waiting = self._waiting[at:], self._waiting[:at]
        yield from self.rest()
        self._waiting = held

    def rest(self) -> Iterator[tuple[int, str, str]]:
        """What still waits, whole or not."""
        text = self.tokenizer.decode(self._waiting)
        self._waiting = []
        if not text:
            return
        if not self.parts or (self._inside == "text" and self._between):
            self.parts.append({"type": "text", "text": ""})
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
