"""What clients may ask: the bodies of OpenAI's interface and of our extensions, checked, and as requests to an engine.

Unknown fields are ignored, but for those that would change an answer (`sampling/settings.py`); null is as good as
absent.
Everything else that is wrong raises `ApiError` with the name of the field.
"""

import dataclasses
import hashlib
import re
import secrets
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from llm_jax.config import UserError
from llm_jax.sampling import grammar
from llm_jax.sampling.decode import TOP
from llm_jax.sampling.requests import Request
from llm_jax.sampling.settings import not_here, some, whole
from llm_jax.sampling.turns import SAID, TooLong, continued, fitted
from llm_jax.serve.bodies import ApiError, Body, Whole
from llm_jax.serve.functions import CHOICES, Function, Tool, chosen, has_span, told, turn
from llm_jax.serve.messages import Messages, records
from llm_jax.tokenizer import Tokenizer

COMPLETION_TOKENS = 16  # of /v1/completions, as OpenAI has it; a chat's answer takes what fits
LEAST_TOP_P = 1e-6  # 0 means the likeliest id alone
MOST_STOPS = 256  # more take the server's time, and are nobody's
Most = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(some)]  # so many, or all that fit
MostOrNone = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(some)]
Bias = Annotated[float, Field(ge=-100, le=100)]


def not_too_many(biases: Any) -> Any:
    if isinstance(biases, dict) and len(biases) > 4096:
        raise ValueError(f"has {len(biases)} ids; at most 4096")
    return biases


class StreamOptions(Body):
    include_usage: bool = False


HINTS = {"reasoning_effort": "it is not to be had here; `thinking` takes 'auto', 'on' or 'off'"}


class Sampling(Body):
    """What the two ways to ask for tokens have in common."""

    elsewhere: ClassVar[dict[str, tuple]] = {}  # what only the other way has, as in NOT_HERE
    seen: ClassVar[tuple[str, ...]] = ()  # the kinds of parts that a client reads as the answer; none: all

    model: str = ""
    n: Whole = Field(1, ge=1)
    max_tokens: Most = None
    max_completion_tokens: Most = None
    max_new_tokens: Most = None
    temperature: float = Field(1.0, ge=0, le=5)
    top_p: float = Field(1.0, ge=0, le=1)
    top_k: Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(some)] = None
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.1, le=100)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: Annotated[dict[str, Bias], BeforeValidator(not_too_many)] = Field({})
    seed: Whole | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(max_length=MOST_STOPS, fail_fast=True),
        BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop),
    ] = Field([])
    response_format: dict[str, Any] | None = None
    guided_json: dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        if isinstance(data, dict) and (name := not_here(data, cls.elsewhere)):
            raise ValueError(f"{name}: {HINTS.get(name, 'it is not to be had here; leave it out')}")
        return data

    @property
    def choices(self) -> int:
        """How many answers are asked for."""
        return self.n

    @property
    def inside(self) -> str:
        """The kind of the part that the answer goes on with; empty where it begins one."""
        return ""

    def most(self, room: int, otherwise: int) -> int:
        """Tokens that an answer may have; `room`: as many as fit, `otherwise`: where nothing is said."""
        names = ("max_completion_tokens", "max_new_tokens", "max_tokens")
        given = [getattr(self, name) for name in names if name in self.model_fields_set]
        return (room if given[0] is None else given[0]) if given else otherwise

    @property
    def rule(self) -> str:
        """What the answer must be, as the right side of a grammar's rule; empty: anything. Raises ApiError."""
        try:
            return grammar.asked(self.model_dump(include=grammar.SETTINGS.keys()))
        except UserError as error:
            raise ApiError(400, str(error), str(error).partition(":")[0]) from error

    @property
    def guided_by(self) -> str:
        """The setting that the answer obeys."""
        return next(name for name in grammar.SETTINGS if getattr(self, name) is not None)

    def guide(self, tokenizer: Tokenizer, source: str, param: str) -> grammar.Grammar:
        """Raises ApiError for a grammar that cannot be had."""
        try:
            return grammar.compiled(tokenizer, source)
        except UserError as error:
            raise ApiError(400, f"{param}: {error}", param) from error

    def requests(self, prompt: list[int], tokenizer: Tokenizer, length: int, **more) -> list[Request]:
        """One for each of the n choices, with seeds that follow from the first one."""
        seed = secrets.randbits(32) if self.seed is None else self.seed
        request = Request(
            prompt,
            temperature=self.temperature,
            top_k=min(self.top_k or 0, tokenizer.vocab_size),
            top_p=max(self.top_p, LEAST_TOP_P),
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            bias=self._bias(tokenizer.vocab_size),
            stop=tuple(self.stop),
            stop_in=self.seen,
            top=self.top,
            **more,
        )
        try:
            request.check(tokenizer.vocab_size, length)
        except UserError as error:
            raise ApiError(400, str(error)) from error
        return [dataclasses.replace(request, seed=derived(seed, i)) for i in range(self.n)]

    def _bias(self, vocab_size: int) -> dict[int, float]:
        for key in self.logit_bias:
            if not re.fullmatch("[0-9]{1,9}", key) or int(key) >= vocab_size:
                raise ApiError(
                    400, f"logit_bias: {key[:40]!r} is no id of this vocabulary of {vocab_size}", "logit_bias"
                )
        return {int(key): bias for key, bias in self.logit_bias.items()}


def derived(seed: int, choice: int) -> int:
    """The seed of a choice; the first one's is the seed itself."""
    if not choice:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/{choice}".encode(), digest_size=4).digest())


def too_long(param: str, tokens: int, length: int) -> ApiError:
    """In the words that clients look for, to shorten what they send."""
    message = f"This model's maximum context length is {length} tokens. However, your {param} resulted in {tokens} "
    message += f"tokens, which leave no room for an answer. Please reduce the length of the {param}."
    return ApiError(400, message, param, "context_length_exceeded")


def as_ids(prompt: Any) -> list[int] | None:
    """Ids of tokens; None for what is none."""
    ids = [whole(i) for i in prompt] if isinstance(prompt, list) else []
    return ids if ids and all(type(i) is int for i in ids) else None


def as_prompts(prompt: Any) -> Any:
    """A text or ids of tokens, or several of them, as several."""
    several = prompt if isinstance(prompt, list) and not as_ids(prompt) else [prompt]
    read = [one if isinstance(one, str) else as_ids(one) for one in several]
    if not read or None in read:
        raise ValueError("must be a text, ids of tokens, or a list of such")
    return read


class CompletionBody(Sampling):
    """Each of the prompts has `n` choices, one after another."""

    elsewhere: ClassVar = {
        "builtin_tools": (True,),
        "thinking": ("auto",),
        "tool_choice": ("auto",),
        "tools": ([],),
        "top_logprobs": (0,),
    }

    prompt: Annotated[list[Any], BeforeValidator(as_prompts)]
    max_tokens: MostOrNone = None
    logprobs: Whole | None = Field(None, ge=0, le=TOP)
    echo: bool = False

    @property
    def top(self) -> int:
        return self.logprobs or 0

    @property
    def choices(self) -> int:
        return self.n * len(self.prompt)

    def asked(self, tokenizer: Tokenizer, length: int, present: Sequence[str]) -> tuple[list[Request], str]:
        """(requests, nothing to notice). A text begins a document; ids are read as they are."""
        most, requests, more = self.most(length, COMPLETION_TOKENS), [], {}
        if rule := self.rule:
            more["grammar"] = self.guide(tokenizer, f"start: {rule}", self.guided_by)
        if self.echo and self.logprobs is not None:
            more["prompt_logprobs"] = 0
        for prompt in self.prompt:
            ids = ids_of(tokenizer, prompt)
            check_ids(ids, tokenizer, "prompt")
            if len(ids) >= length:
                raise too_long("prompt", len(ids), length)
            requests += self.requests(ids, tokenizer, length, max_new_tokens=most, **more)
        return requests, ""


def check_ids(ids: list[int], tokenizer: Tokenizer, param: str) -> None:
    """Raises ApiError for what is no id of the vocabulary."""
    if wrong := [i for i in ids if not 0 <= i < tokenizer.vocab_size]:
        what = f"{str(wrong[0])[:40]} is no id of this vocabulary of {tokenizer.vocab_size}"
        raise ApiError(400, f"{param}: {what}", param)


def ids_of(tokenizer: Tokenizer, prompt: str | list[int]) -> list[int]:
    """A prompt as it is read."""
    return [*tokenizer.begin, *tokenizer.encode(prompt)] if isinstance(prompt, str) else prompt


class ChatBody(Sampling):
    elsewhere: ClassVar = {"echo": (False,)}
    seen: ClassVar = SAID

    messages: Messages
    logprobs: bool = False
    top_logprobs: Whole = Field(0, ge=0, le=TOP)
    tools: Annotated[list[Tool], Field(max_length=128, fail_fast=True)] = Field([])
    tool_choice: Annotated[str, BeforeValidator(chosen)] = "auto"
    thinking: Literal["auto", "on", "off"] = "auto"
    builtin_tools: bool = True
    parts: bool = False  # whether answers come with all their parts, in order
    add_generation_prompt: bool | None = None  # both as the last message has it: whose it is says what is wanted
    continue_final_message: bool | None = None

    @model_validator(mode="after")
    def _check(self) -> "ChatBody":
        for i, message in enumerate(self.messages):
            if message.role == "tool" and (i == 0 or self.messages[i - 1].role not in ("assistant", "tool")):
                raise ValueError(f"messages[{i}]: what a tool says comes after the call, a message of the assistant")
        names = [tool.function.name for tool in self.tools]
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise ValueError(f"tools: two are called {twice[0]!r}")
        if self.tool_choice == "required" and not self.tools:
            raise ValueError("tool_choice: wants a tool, and tools has none")
        if self.tool_choice not in (*CHOICES, *names):
            raise ValueError(f"tool_choice: wants {self.tool_choice!r}, and tools has it not")
        if self.thinking == "on" and self.wanted:
            raise ValueError("thinking: 'on' wants a thought first, and tool_choice a call")
        if self.messages[-1].tool_calls:
            last = len(self.messages) - 1
            raise ValueError(f"messages[{last}]: a call that nothing answers; a message of the tool must follow")
        goes_on = self.messages[-1].role == "assistant"
        for name, fits in (("continue_final_message", goes_on), ("add_generation_prompt", not goes_on)):
            if getattr(self, name) not in (None, fits):
                raise ValueError(f"{name}: an answer goes on with the last message if that is the assistant's")
        return self

    @property
    def top(self) -> int:
        return self.top_logprobs if self.logprobs else 0

    @property
    def functions(self) -> list[Function]:
        """The client's tools, one of which the answer may call: the client runs it, and the answer ends there."""
        functions = [tool.function for tool in self.tools] if self.tool_choice != "none" else []
        return [f for f in functions if self.tool_choice in (*CHOICES, f.name)]

    @property
    def arguments(self) -> dict[str, str]:
        """What takes the text of a call, by name of those of the client's tools that have a span."""
        return {function.name: function.argument for function in self.functions if function.argument}

    def by_spans(self, tokenizer: Tokenizer) -> bool:
        """Whether all its tools have spans, which the model calls without a grammar."""
        return all(has_span(function, tokenizer) for function in self.functions)

    @property
    def wanted(self) -> bool:
        """Whether a tool must be called."""
        return bool(self.functions) and self.tool_choice not in ("auto", "none")

    @property
    def inside(self) -> str:
        return continued(self.messages[-1].record())

    def callable(self, present: Sequence[str]) -> list[str]:
        """The tools that the model may call: the client's, or else those of the run."""
        if self.tool_choice == "none":
            return []
        return list(self.arguments) or (list(present) if self.builtin_tools and not self.functions else [])

    def asked(self, tokenizer: Tokenizer, length: int, present: Sequence[str]) -> tuple[list[Request], str]:
        """(requests, what the client should be told); `present` are the tools of the run."""
        rule = self.rule
        is_guided = bool(rule) or not self.by_spans(tokenizer)
        prompt, notices = self._prompt(tokenizer, records(self.messages, self.arguments), length)
        form = self._guided(tokenizer, rule) if is_guided else self._free(tokenizer, present)
        closings = [tokenizer.close[name] for name in self.arguments]
        form["stop_ids"] = tuple(ids[0] for ids in closings if len(ids) == 1)
        requests = self.requests(prompt, tokenizer, length, max_new_tokens=self.most(length, length), **form)
        return requests, "; ".join(notices)

    def _prompt(self, tokenizer: Tokenizer, said: list[dict[str, Any]], length: int) -> tuple[list[int], list[str]]:
        """(the prompt, what of it had to go). Where the model has a choice of tools without spans, it reads of them."""
        has_choice = not self.by_spans(tokenizer) and len(self.functions) + (not self.wanted) > 1
        kept: list[str] = []
        try:
            try:
                more = instructed(said, told(self.functions)) if has_choice else said
                prompt, dropped = fitted(tokenizer, more, length)
            except TooLong:
                if not has_choice:
                    raise
                prompt, dropped = fitted(tokenizer, said, length)
                kept = ["the description of the tools does not fit and was left out"]
        except TooLong as error:
            raise too_long("messages", error.tokens, length) from error
        turns = "turn no longer fits and was" if dropped == 1 else f"{dropped} turns no longer fit and were"
        return prompt, [*([f"the first {turns} dropped"] if dropped else []), *kept]

    def _guided(self, tokenizer: Tokenizer, rule: str) -> dict[str, Any]:
        """An answer that obeys a rule, or may call tools that have no span."""
        source = turn(tokenizer, rule, self.functions, self.wanted, self.thinking)
        return {"grammar": self.guide(tokenizer, source, self.guided_by if rule else "tools")}

    def _free(self, tokenizer: Tokenizer, present: Sequence[str]) -> dict[str, Any]:
        calls = self.callable(present)
        opening = calls[0] if self.wanted else "think" if self.thinking == "on" else ""
        names = [*(["think"] if self.thinking == "off" else []), *(name for name in present if name not in calls)]
        forbidden = {tokenizer.open[name][0] for name in names} - {tokenizer.open[name][0] for name in calls}
        if self.wanted:  # nothing but the end of the call ends it
            forbidden = [i for i in tokenizer.special_names if i not in tokenizer.close[opening]]
        return {"forced": tokenizer.open[opening] if opening else (), "suppress": tuple(forbidden)}


def instructed(records: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """Messages whose first, the system's, also says this."""
    if records[0]["role"] != "system":
        return [{"role": "system", "content": text}, *records]
    return [{"role": "system", "content": f"{records[0]['content']}\n{text}"}, *records[1:]]


LONG = Field(max_length=2**16)


class TokenizeBody(Body):
    model: str = ""
    text: Annotated[str, LONG]


class CutBody(Body):
    """/tokenize as other servers have it: a text (`prompt` or `content`) or messages."""

    model: str = ""
    prompt: Annotated[str, LONG] | None = None
    content: Annotated[str, LONG] | None = None
    messages: Messages | None = None
    add_special_tokens: bool = False
    add_generation_prompt: bool = True
    parse_special: bool = True  # the names of special tokens are these tokens, for clients that write turns themselves

    @model_validator(mode="after")
    def _check(self) -> "CutBody":
        if sum(given is not None for given in (self.prompt, self.content, self.messages)) != 1:
            raise ValueError("prompt: give it, or content, or messages")
        return self

    def ids(self, tokenizer: Tokenizer) -> list[int]:
        if self.messages:
            return tokenizer.render(records(self.messages), for_generation=self.add_generation_prompt).ids
        text = self.content if self.prompt is None else self.prompt
        ids = (tokenizer.encode_shown if self.parse_special else tokenizer.encode)(text)
        return [*tokenizer.begin, *ids] if self.add_special_tokens else ids


class JoinBody(Body):
    """/detokenize."""

    model: str = ""
    tokens: Annotated[list[Whole], LONG]

    def text(self, tokenizer: Tokenizer) -> str:
        """With special tokens spelled out. Raises ApiError for what is no id."""
        check_ids(self.tokens, tokenizer, "tokens")
        return tokenizer.show(self.tokens)
