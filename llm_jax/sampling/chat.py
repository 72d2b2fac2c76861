"""The chat core: a conversation with one checkpoint. Turns, tools, streaming of whole characters."""

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

from llm_jax.config import UserError
from llm_jax.sampling.loaded import Loaded
from llm_jax.sampling.requests import Request
from llm_jax.sampling.turns import SAID, Conversation, Pieces, cited, said, tool_calls

MOST_BYTES = 2**20  # of a file that is put into a message


@dataclasses.dataclass
class Answer:
    """One finished turn: what `chat --json` prints."""

    text: str
    thinking: str
    tool_calls: list[dict]
    tokens: int
    seconds: float


class Chat:
    """A base model continues documents; any other stage answers turns. The settings may change between turns."""

    def __init__(self, model: Loaded, temperature: float = 0.0, seed: int = 0):
        self.model, self.temperature, self.seed = model, temperature, seed
        self.thinks = "auto"  # "on" puts the opening of a thought into its mouth, "off" forbids it
        self.tools = True
        self.reset()

    def reset(self, system: str = "") -> None:
        """Begins anew, with this system prompt."""
        self._file = ""  # what stands in front of the next message
        self.conversation = Conversation(self.model.tokenizer, self.model.engine.length, system)
        self.ids: list[int] = []

    def read(self, file: str) -> int:
        """Puts a text file, under its name, in front of the next message; gives its tokens. Raises UserError for one
        that is none, or has no room.
        """
        path, room = Path(os.path.expanduser(file)), self.conversation.room
        if not path.is_file():
            raise UserError(f"{file} is no file; give the path of a text")
        try:
            with path.open("rb") as opened:
                data = opened.read(MOST_BYTES + 1)
            whole = f"{path.name}:\n{data.decode('utf-8-sig').strip()}\n\n"
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8 (byte {error.start}); convert it") from error
        tokens = len(self.model.tokenizer.encode(whole)) if len(data) <= MOST_BYTES else 0
        if not 0 < tokens < room:
            size = f"{tokens} tokens" if tokens else f"more than {MOST_BYTES} bytes"
            raise UserError(f"{file} is {size} long; a message has room for {room}, question included")
        self._file = whole
        return tokens

    def say(self, text: str) -> Iterator[tuple[str, str]]:
        """Streams (kind of part, or 'notice', and new characters), a ('step', '') after each step of the engine, which
        may have written none, and at the end a ('source', name) for each passage that the answer cites.

        Closing the iterator ends the answer; what was said of it stays in the conversation. The next prompt begins with
        the ids of this turn, so the engine reads only what is new. Raises UserError when the text is too long.
        """
        pieces, self.ids = Pieces(self.model.tokenizer), []
        prompt, dropped = self._prompt(self._file + text)
        self._file = ""
        stream = self.model.engine.stream(self.model.params, self._request(prompt))
        try:
            if dropped:
                turns = "turn no longer fits and was" if dropped == 1 else f"{dropped} turns no longer fit and were"
                yield "notice", f"[the first {turns} dropped]\n"
            for new in stream:
                self.ids += new
                for _, kind, piece in pieces.take(new):
                    yield kind, piece
                yield "step", ""
            for _, kind, piece in pieces.rest():
                yield kind, piece
            for passage in cited(pieces.parts):
                yield "source", f"{passage['source']}\n"
        finally:
            stream.close()
            self.seed += 1
            if not self.model.is_base:
                self.conversation.answered(self.ids)

    @property
    def told_of_tools(self) -> str:
        """Whether it may call tools, and which; of those that it has not, why."""
        tools = self.model.tools
        lacking = [f"no {name}, for {why}" for name, why in tools.absent.items()]
        return "; ".join([f"on ({', '.join(tools.answers)})", *lacking]) if self.tools else "off"

    def _prompt(self, text: str) -> tuple[list[int], int]:
        if not self.model.is_base:
            return self.conversation.ask(text)
        return [*self.model.tokenizer.begin, *self.model.tokenizer.encode(text)], 0

    def _request(self, prompt: list[int]) -> Request:
        opening = self.model.tokenizer.open
        forbidden = [opening["think"][0]] if self.thinks == "off" else []
        forbidden += [] if self.tools else [opening[name][0] for name in self.model.engine.tools]
        return Request(
            prompt,
            self.seed,
            self.temperature,
            max_new_tokens=self.model.engine.length,
            forced=opening["think"] if self.thinks == "on" and not self.model.is_base else (),
            suppress=tuple(forbidden),
        )

    def answer(self, text: str) -> Answer:
        """One whole turn."""
        started = time.monotonic()
        for _ in self.say(text):
            pass
        parts, _ = self.model.tokenizer.parse(self.ids)
        seconds = time.monotonic() - started
        return Answer(said(parts, *SAID), said(parts, "think"), tool_calls(parts), len(self.ids), seconds)
