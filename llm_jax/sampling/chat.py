"""The chat core: a conversation with one checkpoint. Turns, tools, streaming of whole characters."""

import dataclasses
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

from llm_jax import sharding, train
from llm_jax.config import UserError
from llm_jax.runs import load_config
from llm_jax.sampling.engine import Engine, Request
from llm_jax.tokenizer import Tokenizer
from llm_jax.tools.python import PythonTool


@dataclasses.dataclass
class Answer:
    """One finished turn: what `chat --json` prints."""

    text: str
    thinking: str
    tool_calls: list[dict]
    tokens: int
    seconds: float


class Chat:
    """A base model continues documents; any other stage answers turns.

    Raises UserError when the workdir has no such checkpoint.
    """

    def __init__(self, workdir: Path, stage: str, temperature: float = 0.0, seed: int = 0):
        config = load_config(workdir)
        self.tokenizer = Tokenizer.load(workdir / "data" / "tokenizer.model")
        mesh = sharding.make_mesh(config.mesh)
        context = train.Context(config, workdir, mesh, self.tokenizer.vocab_size, self.tokenizer.sha256)
        self.params = context.load_params(stage)
        self.is_base = stage == "pretrain"
        self.length = config.data.sequence_length
        self.temperature, self.seed = temperature, seed
        self.tool = PythonTool()
        rows = sharding.shards(mesh, "batch")  # one is the conversation's; the others keep the mesh even
        self.engine = Engine(context.model, self.tokenizer, mesh, rows, {"python": self.tool.answer})
        self.messages: list[dict] = []

    def close(self) -> None:
        self.tool.close()

    def say(self, text: str) -> Iterator[tuple[str, str]]:
        """Streams ('text' | 'think' | 'answer' | 'python' | 'output', new characters); keeps the turn afterwards."""
        request, drop = self._request(text)
        if drop:
            yield "notice", f"[the first {drop} turns no longer fit and were dropped]\n"
        self.ids: list[int] = []
        self.seed += 1
        shown: list[dict] = []
        for new in self.engine.stream(self.params, request):
            self.ids += new
            parts, _ = self.tokenizer.parse(self.ids)
            yield from fresh(shown, parts)
            shown = parts
        if not self.is_base:
            self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": shown}]

    def _request(self, text: str) -> tuple[Request, int]:
        """The request for the next turn, and how many of the oldest messages had to go to make room for it."""
        if self.is_base:
            ids = [self.tokenizer.bos, *self.tokenizer.encode(text)]
            room = self.length - len(ids)
            if room < 1:
                raise UserError(f"the text is {len(ids)} tokens long; this model reads {self.length}")
            return Request(ids, self.seed, self.temperature, room), 0
        new = {"role": "user", "content": text}
        for drop in range(0, len(self.messages) + 1, 2):
            ids = self.tokenizer.render([*self.messages[drop:], new], for_generation=True).ids
            if (room := self.length - len(ids)) >= min(64, self.length // 2):
                self.messages = self.messages[drop:]
                return Request(ids, self.seed, self.temperature, room), drop
        raise UserError(f"the message is {len(ids)} tokens long; this model reads {self.length}")

    def answer(self, text: str) -> Answer:
        """One whole turn."""
        started = time.monotonic()
        for _ in self.say(text):
            pass
        parts, _ = self.tokenizer.parse(self.ids)
        said = lambda *kinds: "\n".join(p["text"].strip() for p in parts if p["type"] in kinds)  # noqa: E731
        calls = [
            {"tool": call["type"], "input": call["text"], "output": output["text"]}
            for call, output in itertools.pairwise(parts)
            if output["type"] == "output"
        ]
        return Answer(said("text", "answer"), said("think"), calls, len(self.ids), time.monotonic() - started)


def fresh(shown: list[dict], parts: list[dict]) -> Iterator[tuple[str, str]]:
    """What `parts` has beyond `shown`; the last character waits while it may be half of a longer one (U+FFFD)."""
    for i, part in enumerate(parts):
        old = shown[i]["text"] if i < len(shown) else ""
        new, old = (t[:-1] if t.endswith("�") else t for t in (part["text"], old))
        if i >= len(shown) and not new:
            yield part["type"], ""
        if len(new) > len(old):
            yield part["type"], new[len(old) :]
