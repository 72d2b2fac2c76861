"""What the engine writes, as OpenAI's objects: parts of the text, tokens, choices, usage."""

import collections
import itertools
import json
import secrets
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from llm_jax.sampling.turns import SAID, Pieces, Saying, begun
from llm_jax.serve.messages import CALL, CALLED, opened
from llm_jax.serve.protocol import ChatBody, CompletionBody, ids_of
from llm_jax.serve.worker import News
from llm_jax.tokenizer import Tokenizer

Piece = tuple[int, str, str]  # the part's number, its type, new characters of it


Scored = tuple[float | None, list[tuple[int, float]]]  # the log-probability of a token, and the likeliest


class Token(NamedTuple):
    id: int
    sampled: int
    logprob: float | None  # None: the very first one of a prompt
    top: list[tuple[int, float]]
    start: int  # the place of its characters in the text
    end: int

    @property
    def likeliest(self) -> list[tuple[int, float]]:
        """The top, and the token itself where it is not among them."""
        own = [] if not self.top or any(i == self.id for i, _ in self.top) else [(self.id, self.logprob)]
        return [*self.top, *own]


class Shown(NamedTuple):
    pieces: list[Piece]
    tokens: list[Token]  # those whose text has been shown to its end

    def text(self, *kinds: str) -> str:
        return "".join(text for _, kind, text in self.pieces if not kinds or kind in kinds)


class Writer:
    """One choice as it grows: tokens in, what a client may be shown out. The same in all, in whatever bits it comes.

    What could become a stop string waits; the string and what follows it are never shown. `finish` says how it ended.
    `seen`: the kinds of parts that a client reads as the answer, which a stop string is looked for in; none: all.
    `inside`: the kind of the part that it goes on with; empty where it begins one.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Iterable[str], seen: tuple[str, ...] = (), inside: str = ""):
        self.tokenizer, self.stop, self.inside = tokenizer, tuple(stop), inside
        self.parts: list[dict[str, str]] = []  # what was shown
        self.finish: str | None = None
        self.ids: list[int] = []
        self.reused = 0  # tokens of the prompt
        self.prompt: list[Scored] = []  # its tokens, where their log-probabilities were asked for
        self._pieces = Pieces(tokenizer, inside or "text")
        self._waiting: collections.deque[Piece] = collections.deque()
        self._tokens: collections.deque[Token] = collections.deque()
        self._told = self._written = 0  # characters shown, and with those that wait
        self._saying, self._said = Saying(*seen, begun=bool(inside)), ""  # what is read of those that wait,
        self._places: list[int] = []  # ... and where each character of it stands

    def take(self, news: News) -> Shown:
        self.reused, self.prompt = news.reused, news.prompt or self.prompt
        tops = news.top or itertools.repeat([])
        for id_, sampled, logprob, top in zip(news.ids, news.sampled, news.logprobs, tops, strict=False):
            if self.finish:
                break
            self.ids.append(id_)
            start = self._written
            said = self._add(self._pieces.take([id_]))
            begins = self._written == start and begun(self.tokenizer.bytes_of(id_)) > 0  # a character, not whole yet
            self._tokens.append(Token(id_, sampled, logprob, top, start, self._written + begins))
            self._look_for_stop(said)
        return self.end(news.finish) if news.finish else self._shown()

    def end(self, finish: str) -> Shown:
        """Nothing more comes."""
        if not self.finish:
            self._look_for_stop(self._add(self._pieces.rest()))
            self.finish = self.finish or finish
        return self._shown()

    def _add(self, pieces: Iterable[Piece]) -> int:
        """How much was said before, of what waits."""
        before = len(self._said)
        for piece in pieces:
            for character, place in self._saying.take(*piece, at=self._written) if self.stop else ():
                self._said += character
                self._places.append(place)
            self._waiting.append(piece)
            self._written += len(piece[2])
        return before

    def _look_for_stop(self, before: int) -> None:
        """In what was said after so many characters, and such as may have begun before."""
        ends = ((stop, max(0, before + 1 - len(stop))) for stop in self.stop)
        if found := [at for stop, start in ends if (at := self._said.find(stop, start)) >= 0]:
            self.finish, self._written = "stop", self._places[min(found)]

    def _shown(self) -> Shown:
        end = self._written
        if self.stop and not self.finish:
            may = range(max(0, len(self._said) - max(map(len, self.stop))), len(self._said))
            begins = (at for at in may if any(stop.startswith(self._said[at:]) for stop in self.stop))
            waits = [*(self._places[at] for at in itertools.islice(begins, 1)), *(at for _, at in self._saying.spaces)]
            end = min(waits, default=end)
            left = sum(place < end for place in self._places)
            self._said, self._places = self._said[left:], self._places[left:]
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
            data = b"" if name else t.bytes_of(id_)
            self._known[id_] = {"token": name or piece, "id": id_, "bytes": list(data)}
        return self._known[id_]

    def content(self, tokens: list[Token]) -> list[dict[str, Any]]:
        """What `logprobs.content` holds of these."""
        return [
            {
                **self.of(token.id),
                "logprob": token.logprob,
                "sampled": bool(token.sampled),
                "top_logprobs": [{**self.of(i), "logprob": logprob} for i, logprob in token.likeliest],
            }
            for token in tokens
        ]


class Told:
    """What a choice of a chat says; `begun`: it goes on with a text of the client's."""

    def __init__(self, begun: bool):
        self.answer, self.thought = Saying(*SAID, begun=begun), Saying("think")
        self.unsent = ""  # of its thoughts
        self.held = ""  # of its answer, which may be a call


class ChatStyle:
    """Choices of /v1/chat/completions."""

    object, chunk_object, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, body: ChatBody, names: Names):
        self.body, self.names, self.arguments = body, names, body.arguments
        self.calls_by_text = not body.by_spans(names.tokenizer)
        self._told: dict[int, Told] = {}  # what each choice has said so far

    def begin(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk(self, index: int, writer: Writer, shown: Shown) -> dict[str, Any]:
        told = self._told.setdefault(index, Told(bool(writer.inside)))
        calls, text = self._calls(writer), told.held + told.answer.text(shown.pieces)
        if self.calls_by_text and text.startswith(CALL[0]):  # a call, unless it was cut short
            told.held, text = text, "" if calls or not writer.finish else text
        delta = {"content": text} if text else {}
        # Whole, before the answer: some clients keep but the last bit of a field that is not OpenAI's, and send that
        # back as what was thought.
        told.unsent += told.thought.text(shown.pieces)
        if told.unsent and (text or writer.finish):
            delta["reasoning_content"], told.unsent = told.unsent, ""
        if self.body.parts and shown.pieces:
            delta["parts"] = [{"index": part, "type": kind, "text": text} for part, kind, text in shown.pieces]
        if calls:
            delta["tool_calls"] = [{"index": i, **called} for i, called in enumerate(calls)]
        return {"index": index, "delta": delta, **self._rest(writer, shown)}

    def whole(self, index: int, writer: Writer, shown: Shown) -> dict[str, Any]:
        told = Told(bool(writer.inside))
        thought = told.thought.text(shown.pieces) or None
        calls, text = self._calls(writer), told.answer.text(shown.pieces)
        text = "" if calls and self.calls_by_text else text
        message = {"role": "assistant", "content": text, "reasoning_content": thought}
        if self.body.parts:
            message["parts"] = writer.parts
        if calls:
            message["tool_calls"] = calls
        return {"index": index, "message": message, **self._rest(writer, shown)}

    def _calls(self, writer: Writer) -> list[dict[str, Any]]:
        """The call that ended the answer, which is the client's to run."""
        if not writer.ids or writer.finish != "stop" or not writer.parts:
            return []
        last, close = writer.parts[-1], self.names.tokenizer.close
        if last["type"] in self.arguments and writer.ids[-1] == close[last["type"]][-1]:
            arguments = {self.arguments[last["type"]]: last["text"]}
            function = {"name": last["type"], "arguments": json.dumps(arguments)}
        elif self.calls_by_text and last["type"] == "text":
            function = called(last["text"], [function.name for function in self.body.functions])
        else:
            function = None
        return [{"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}] if function else []

    def _rest(self, writer: Writer, shown: Shown) -> dict[str, Any]:
        logprobs = {"content": self.names.content(shown.tokens)} if self.body.logprobs else None
        return {"logprobs": logprobs, "finish_reason": "tool_calls" if self._calls(writer) else writer.finish}


def called(text: str, names: list[str]) -> dict[str, str] | None:
    """{name, arguments} of a call of one of these functions that was written as text; None where it is none."""
    if not (text.startswith(CALL) and text.endswith(f"}}{CALLED}")):
        return None
    call = text[len(CALL) : -len(CALLED)]
    of = [(name, call[len(opened(name)) : -1]) for name in names if call.startswith(opened(name))]
    return {"name": of[0][0], "arguments": of[0][1]} if of else None


class TextStyle:
    """Choices of /v1/completions."""

    object, chunk_object, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, body: CompletionBody, names: Names):
        self.body, self.names = body, names

        self._begun: set[int] = set()

    def begin(self, index: int) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": None}

    def chunk(self, index: int, writer: Writer, shown: Shown) -> dict[str, Any]:
        """The first one of a choice also has the prompt, where that is to come with it."""
        prompt = self.body.prompt[index // self.body.n] if self.body.echo else []
        echoed = prompt if isinstance(prompt, str) else self.names.tokenizer.decode(prompt)
        text = shown.text() if index in self._begun else echoed + shown.text()
        logprobs = None
        if self.body.logprobs is not None:
            tokens = [t._replace(start=t.start + len(echoed)) for t in shown.tokens]
            first = self._of_prompt(prompt, writer) if self.body.echo and index not in self._begun else []
            logprobs = self._logprobs([*first, *tokens])
        self._begun.add(index)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": writer.finish}

    whole = chunk

    def _of_prompt(self, prompt: str | list[int], writer: Writer) -> list[Token]:
        """Its tokens; those that begin within a character stand at the next one."""
        t, at, tokens = self.names.tokenizer, 0, []
        ids = ids_of(t, prompt)
        for id_, (logprob, top) in zip(ids, writer.prompt, strict=True):
            begins = sum(byte & 0xC0 != 0x80 for byte in t.bytes_of(id_))  # characters
            tokens.append(Token(id_, 0, logprob, top, at, at + begins))
            at += begins
        return tokens

    def _logprobs(self, tokens: list[Token]) -> dict[str, Any]:
        named = lambda t: {self.names.of(i)["token"]: logprob for i, logprob in [*t.top[::-1], (t.id, t.logprob)]}  # noqa: E731
        return {
            "tokens": [self.names.of(t.id)["token"] for t in tokens],
            "token_logprobs": [t.logprob for t in tokens],
            # Of two that read alike the likelier counts, and the token that stands there before both.
            "top_logprobs": [None if t.logprob is None else named(t) for t in tokens],
            "text_offset": [t.start for t in tokens],
            "content": self.names.content([t for t in tokens if t.logprob is not None]),
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
