"""The chat core: a conversation with one checkpoint. Turns, tools, streaming of whole characters."""

import dataclasses
import time
from collections.abc import Iterator

from llm_jax.sampling.loaded import Loaded
from llm_jax.sampling.requests import Request
from llm_jax.sampling.turns import SAID, Conversation, Pieces, said, tool_calls


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
        self.conversation = Conversation(self.model.tokenizer, self.model.engine.length, system)
        self.ids: list[int] = []

    def say(self, text: str) -> Iterator[tuple[str, str]]:
        """Streams ('text' | 'think' | 'answer' | 'python' | 'output' | 'notice', new characters), and a ('step', '')
        after each step of the engine, which may have written none.

        Closing the iterator ends the answer; what was said of it stays in the conversation. The next prompt begins with
        the ids of this turn, so the engine reads only what is new. Raises UserError when the text is too long.
        """
        pieces, self.ids = Pieces(self.model.tokenizer), []
        prompt, dropped = self._prompt(text)
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
        finally:
            stream.close()
            self.seed += 1
            if not self.model.is_base:
                self.conversation.answered(self.ids)

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
