"""What the engine writes, as OpenAI's objects: parts of the text, tokens, choices, usage."""

import collections
import itertools
import json
import secrets
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from llm_jax.sampling.turns import Pieces
from llm_jax.serve.protocol import ChatBody, CompletionBody
from llm_jax.serve.worker import News
from llm_jax.tokenizer import Tokenizer
from llm_jax.tools.table import TOOLS

SAID = ("text", "answer")  # the parts that are an answer's content

Piece = tuple[int, str, str]  # the part's number, its type, new characters of it


class Token(NamedTuple):
    id: int
    sampled: int
    logprob: float
    top: list[tuple[int, float]]
    start: int  # the place of its characters in the text
    end: int


class Shown(NamedTuple):
    pieces: list[Piece]
    tokens: list[Token]  # those whose text has been shown to its end

    def text(self, *kinds: str) -> str:
        return "".join(text for _, kind, text in self.pieces if not kinds or kind in kinds)


class Writer:
    """One choice as it grows: tokens in, what a client may be shown out. The same in all, in whatever bits it comes.

    What could become a stop string waits; the string and what follows it are never shown. `finish` says how it ended.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Iterable[str]):
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.parts: list[dict[str, str]] = []  # what was shown
        self.finish: str | None = None
        self.ids: list[int] = []
        self.reused = 0  # tokens of the prompt
        self._pieces = Pieces(tokenizer)
        self._waiting: collections.deque[Piece] = collections.deque()
        self._tokens: collections.deque[Token] = collections.deque()
        self._told = self._written = 0  # characters shown, and with those that wait

    def take(self, news: News) -> Shown:
        self.reused = news.reused
        tops = news.top or itertools.repeat([])
        for id_, sampled, logprob, top in zip(news.ids, news.sampled, news.logprobs, tops, strict=False):
            if self.finish:
                break
            self.ids.append(id_)
            start = self._written
            self._add(self._pieces.take([id_]))
            begins = self._written == start and self.tokenizer.byte(id_) is not None  # a character, not whole yet
            self._tokens.append(Token(id_, sampled, logprob, top, start, self._written + begins))
            self._look_for_stop()
        return self.end(news.finish) if news.finish else self._shown()

    def end(self, finish: str) -> Shown:
        """Nothing more comes."""
        if not self.finish:
            self._add(self._pieces.rest())
            self._look_for_stop()
            self.finish = self.finish or finish
        return self._shown()

    def _add(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            self._waiting.append(piece)
            self._written += len(piece[2])

    def _text(self) -> str:
        return "".join(text for *_, text in self._waiting)

    def _look_for_stop(self) -> None:
        if self.stop and (found := [at for stop in self.stop if (at := self._text().find(stop)) >= 0]):
            self.finish, self._written = "stop", self._told + min(found)

    def _shown(self) -> Shown:
        end = self._written
        if self.stop and not self.finish:
            text = self._text()
            begins = (i for i in range(len(text)) if any(stop.startswith(text[i:]) for stop in self.stop))
            end -= len(text) - next(begins, len(text))
        pieces = list(self._until(end))
        return Shown(pieces, [self._tokens.popleft() for _ in self._tokens.copy() if self._tokens[0].end <= end])

    def _until(self, end: int) -> Iterator[Piece]:
        """The pieces that wait, up to this place in the text."""
        while self._waiting and (end > self._told or not self._waiting[0][2]):
            part, kind, text = self._waiting.popleft()
            now, later = text[: end - self._told], text[end - self._told :]
            if later:
                self._waiting.appendleft((part, kind, later))
            if part == len(self.parts):
                self.parts.append({"type": kind, "text": ""})
            self.parts[part]["text"] += now
            self._told += len(now)
            yield part, kind, now


class Names:
    """Tokens as OpenAI's objects name them. One for all requests: it keeps what it has looked up."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._known: dict[int, dict[str, Any]] = {}

    def of(self, id_: int) -> dict[str, Any]:
        """{token, id, bytes}; a special token has no bytes, since it is no text."""
        if id_ not in self._known:
            t = self.tokenizer
            name, piece = t.special_names.get(id_), t.piece(id_)
            data = b"" if name else t.byte(id_) or piece.encode()
            self._known[id_] = {"token": name or piece, "id": id_, "bytes": list(data)}
        return self._known[id_]

    def content(self, tokens: list[Token]) -> list[dict[str, Any]]:
        """What `logprobs.content` holds of these."""
        return [
            {
                **self.of(token.id),
                "logprob": token.logprob,
                "sampled": bool(token.sampled),
                "top_logprobs": [{**self.of(i), "logprob": logprob} for i, logprob in token.top],
            }
            for token in tokens
        ]


class ChatStyle:
    """Choices of /v1/chat/completions."""

    object, chunk_object, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, body: ChatBody, names: Names):
        self.body, self.names = body, names
        self.closings = {names.tokenizer.close[name]: name for name in body.offered}

    def begin(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk(self, index: int, writer: Writer, shown: Shown) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        for name, kinds in (("content", SAID), ("reasoning_content", ("think",))):
            if text := shown.text(*kinds):
                delta[name] = text
        if shown.pieces:
            delta["parts"] = [{"index": part, "type": kind, "text": text} for part, kind, text in shown.pieces]
        if calls := self._calls(writer):
            delta["tool_calls"] = [{"index": i, **called} for i, called in enumerate(calls)]
        return {"index": index, "delta": delta, **self._rest(writer, shown)}

    def whole(self, index: int, writer: Writer, shown: Shown) -> dict[str, Any]:
        message = {
            "role": "assistant",
            "content": shown.text(*SAID),
            "reasoning_content": shown.text("think") or None,
            "parts": writer.parts,
        }
        if calls := self._calls(writer):
            message["tool_calls"] = calls
        return {"index": index, "message": message, **self._rest(writer, shown)}

    def _calls(self, writer: Writer) -> list[dict[str, Any]]:
        """The call that ended the answer, which is the client's to run."""
        name = self.closings.get(writer.ids[-1]) if writer.ids and writer.finish == "stop" else None
        if not name or not writer.parts or writer.parts[-1]["type"] != name:
            return []
        function = {"name": name, "arguments": json.dumps({TOOLS[name].argument: writer.parts[-1]["text"]})}
        return [{"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}]

    def _rest(self, writer: Writer, shown: Shown) -> dict[str, Any]:
        logprobs = {"content": self.names.content(shown.tokens)} if self.body.logprobs else None
        return {"logprobs": logprobs, "finish_reason": "tool_calls" if self._calls(writer) else writer.finish}


class TextStyle:
    """Choices of /v1/completions."""

    object, chunk_object, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, body: CompletionBody, names: Names):
        self.body, self.names = body, names

    def begin(self, index: int) -> dict[str, Any]:
        text = ""
        if self.body.echo:
            prompt = self.body.prompt[index // self.body.n]
            text = prompt if isinstance(prompt, str) else self.names.tokenizer.decode(prompt)
        return {"index": index, "text": text, "logprobs": None, "finish_reason": None}

    def chunk(self, index: int, writer: Writer, shown: Shown) -> dict[str, Any]:
        logprobs = None if self.body.logprobs is None else self._logprobs(shown.tokens)
        return {"index": index, "text": shown.text(), "logprobs": logprobs, "finish_reason": writer.finish}

    def whole(self, index: int, writer: Writer, shown: Shown) -> dict[str, Any]:
        choice = self.chunk(index, writer, shown)
        return choice | {"text": self.begin(index)["text"] + choice["text"]}

    def _logprobs(self, tokens: list[Token]) -> dict[str, Any]:
        return {
            "tokens": [self.names.of(t.id)["token"] for t in tokens],
            "token_logprobs": [t.logprob for t in tokens],
            "top_logprobs": [{self.names.of(i)["token"]: logprob for i, logprob in t.top} for t in tokens],
            "text_offset": [t.start for t in tokens],
            "content": self.names.content(tokens),
        }


def usage(prompt: int, writers: list[Writer], n: int) -> dict[str, Any]:
    """Of prompts with so many tokens together, each of which has `n` writers."""
    written = sum(len(writer.ids) for writer in writers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": sum(writer.reused for writer in writers[::n])},
    }
