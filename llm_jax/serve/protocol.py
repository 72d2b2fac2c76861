"""What clients may ask: the bodies of OpenAI's interface and of our extensions, checked, and as requests to an engine.

Unknown fields are ignored, but for those of OpenAI's that would change the answer; null is as good as absent.
Everything else that is wrong raises `ApiError` with the name of the field.
"""

import dataclasses
import hashlib
import re
import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from llm_jax.config import UserError
from llm_jax.sampling.decode import TOP
from llm_jax.sampling.requests import Request
from llm_jax.sampling.turns import fitted
from llm_jax.tokenizer import SPANS, Tokenizer
from llm_jax.tools.table import TOOLS

COMPLETION_TOKENS = 16  # of /v1/completions, as OpenAI has it; a chat's answer takes what fits
LEAST_TOP_P = 1e-6  # 0 means the likeliest id alone


class ApiError(Exception):
    """Becomes an error object in OpenAI's shape."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None, **headers: str):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def body(self) -> dict[str, Any]:
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, "invalid_request_error")
        kind = kind if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data


AnyBody = TypeVar("AnyBody", bound=Body)


def parsed(data: bytes, kind: type[AnyBody]) -> AnyBody:
    """The body of a request. Raises ApiError for what is no JSON (nor are NaN and lone surrogates) or no such body."""
    try:
        return kind.model_validate(from_json(data, allow_inf_nan=False))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in first["loc"])[:100].removeprefix(".")
        reason = first["msg"].removeprefix("Value error, ").replace("Input should", "must").replace("Field", "field")
        if not field and ":" in reason:  # of the whole body: the reason begins with the field
            field, _, reason = reason.partition(": ")
        raise ApiError(400, f"{field or 'the body'}: {reason}", field or None) from error
    except ValueError as error:
        raise ApiError(400, f"the body is no valid JSON: {error}") from error


# Messages


def as_parts(content: Any) -> Any:
    """Text as a list of one part."""
    if not isinstance(content, str | list):
        raise ValueError("must be text or a list of parts")
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Part(Body):
    type: Literal[("text", *SPANS)]
    text: str


Content = Annotated[list[Part], Field(max_length=1024, fail_fast=True), BeforeValidator(as_parts)]


class FunctionCall(Body):
    name: str
    arguments: str


class ToolCall(Body):
    function: FunctionCall

    def part(self) -> Part:
        """The span that the model wrote. Raises ValueError for a call that it cannot have written."""
        tool = TOOLS.get(self.function.name)
        if tool is None:
            raise ValueError(f"tool_calls: {self.function.name[:40]!r} is {no_tool()}")
        try:
            text = from_json(self.function.arguments)[tool.argument]
        except (ValueError, TypeError, KeyError):
            text = None
        if not isinstance(text, str):
            raise ValueError(f"tool_calls: the arguments of {tool.name!r} are the JSON of {{{tool.argument!r}: text}}")
        return Part(type=tool.name, text=text)


def no_tool() -> str:
    return f"no tool that this model knows; it knows {', '.join(map(repr, TOOLS))}"


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    reasoning_content: str = ""
    tool_calls: Annotated[list[ToolCall], Field(max_length=128, fail_fast=True)] = []
    parts: Content = []  # an answer of ours, whole: then it stands for the three above

    @model_validator(mode="after")
    def _check(self) -> "Message":
        if self.role == "assistant":
            self.parts = self.parts or [
                *([Part(type="think", text=self.reasoning_content)] if self.reasoning_content else []),
                *(self.content or []),
                *(call.part() for call in self.tool_calls),
            ]
            if self.content is None and not self.parts:
                raise ValueError("content: an assistant's message has content or tool_calls")
        elif self.content is None:
            raise ValueError("content: field required")
        elif any(part.type != "text" for part in self.content):
            raise ValueError(f"content: of a message of the {self.role} must be text")
        return self

    def record(self) -> dict[str, Any]:
        """{role, content} as in the records that training reads."""
        if self.role == "assistant":
            return {"role": self.role, "content": plain(self.parts)}
        text = "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


def plain(parts: list[Part]) -> str | list[dict[str, str]]:
    """One text as text, else the parts that say something."""
    said = [part for part in parts if part.text or part.type != "text"]
    if all(part.type == "text" for part in said):
        return "".join(part.text for part in said)
    return [part.model_dump() for part in said]


# A body of many wrong items is refused at the first one; to list them all takes seconds, which are everybody's.
Messages = Annotated[list[Message], Field(min_length=1, max_length=4096, fail_fast=True)]


# Sampling


Bias = Annotated[float, Field(ge=-100, le=100)]


def not_too_many(biases: Any) -> Any:
    if isinstance(biases, dict) and len(biases) > 4096:
        raise ValueError(f"has {len(biases)} ids; at most 4096")
    return biases


class StreamOptions(Body):
    include_usage: bool = False


# What OpenAI's interface has and this server has not, with the values that ask for nothing.
REFUSED = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "suffix": ("",),
    "response_format": ({"type": "text"},),
}


class Sampling(Body):
    """What the two ways to ask for tokens have in common."""

    model: str = ""
    n: int = Field(1, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=5)
    top_p: float = Field(1.0, ge=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.1, le=100)
    logit_bias: Annotated[dict[str, Bias], BeforeValidator(not_too_many)] = {}
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(max_length=4),
        BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop),
    ] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        for name, neutral in REFUSED.items() if isinstance(data, dict) else ():
            if data.get(name) is not None and data[name] not in neutral:
                raise ValueError(f"{name}: this server does not have it; leave it out")
        return data

    @property
    def choices(self) -> int:
        """How many answers are asked for."""
        return self.n

    def requests(self, prompt: list[int], tokenizer: Tokenizer, length: int, **more) -> list[Request]:
        """One for each of the n choices, with seeds that follow from the first one."""
        seed = secrets.randbits(32) if self.seed is None else self.seed
        request = Request(
            prompt,
            temperature=self.temperature,
            top_k=min(self.top_k, tokenizer.vocab_size),
            top_p=max(self.top_p, LEAST_TOP_P),
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            bias=self._bias(tokenizer.vocab_size),
            stop=tuple(self.stop),
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


def too_long(message: str, param: str) -> ApiError:
    return ApiError(400, message, param, "context_length_exceeded")


def is_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and bool(prompt) and all(type(i) is int for i in prompt)


def as_prompts(prompt: Any) -> Any:
    """A text or ids of tokens, or several of them, as several."""
    several = prompt if isinstance(prompt, list) and not is_ids(prompt) else [prompt]
    if not several or not all(isinstance(one, str) or is_ids(one) for one in several):
        raise ValueError("must be a text, ids of tokens, or a list of such")
    return several


class CompletionBody(Sampling):
    """Each of the prompts has `n` choices, one after another."""

    prompt: Annotated[list[Any], BeforeValidator(as_prompts)]
    logprobs: int | None = Field(None, ge=0, le=TOP)
    echo: bool = False

    @property
    def top(self) -> int:
        return self.logprobs or 0

    @property
    def choices(self) -> int:
        return self.n * len(self.prompt)

    def asked(self, tokenizer: Tokenizer, length: int, present: Sequence[str]) -> tuple[list[Request], str]:
        """(requests, nothing to notice). A text begins a document; ids are read as they are."""
        if self.echo and self.logprobs is not None:
            raise ApiError(400, "echo: is not there together with logprobs", "echo")
        most, requests = self.max_tokens or COMPLETION_TOKENS, []
        for prompt in self.prompt:
            ids = [tokenizer.bos, *tokenizer.encode(prompt)] if isinstance(prompt, str) else prompt
            if wrong := [i for i in ids if not 0 <= i < tokenizer.vocab_size]:
                what = f"{str(wrong[0])[:40]} is no id of this vocabulary of {tokenizer.vocab_size}"
                raise ApiError(400, f"prompt: {what}", "prompt")
            if len(ids) >= length:
                raise too_long(
                    f"prompt: is {len(ids)} tokens long; this model reads {length}, answer included", "prompt"
                )
            requests += self.requests(ids, tokenizer, length, max_new_tokens=most)
        return requests, ""


class Function(Body):
    name: str


class Tool(Body):
    type: Literal["function"] = "function"
    function: Function


CHOICES = ("none", "auto", "required")


def chosen(choice: Any) -> Any:
    """One of CHOICES, or the name of the function that OpenAI's object names."""
    if not isinstance(choice, dict):
        if choice not in CHOICES:
            raise ValueError(f"must be {', '.join(map(repr, CHOICES))}, or name a function")
        return choice
    name = choice["function"].get("name") if isinstance(choice.get("function"), dict) else None
    if name not in TOOLS:
        raise ValueError(f"must name a function of {', '.join(map(repr, TOOLS))}")
    return name


class ChatBody(Sampling):
    messages: Messages
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=TOP)
    tools: Annotated[list[Tool], Field(max_length=128, fail_fast=True)] = []
    tool_choice: Annotated[str, BeforeValidator(chosen)] = "auto"
    thinking: Literal["auto", "on", "off"] = "auto"
    builtin_tools: bool = True

    @model_validator(mode="after")
    def _check(self) -> "ChatBody":
        for i, message in enumerate(self.messages):
            if message.role == "tool" and (i == 0 or self.messages[i - 1].role not in ("assistant", "tool")):
                raise ValueError(f"messages[{i}]: what a tool says comes after the call, a message of the assistant")
        for i, tool in enumerate(self.tools):
            if tool.function.name not in TOOLS and self.tool_choice != "none":
                raise ValueError(f"tools[{i}].function.name: {tool.function.name[:40]!r} is {no_tool()}")
        if self.tool_choice == "required" and not self.tools:
            raise ValueError("tool_choice: wants a tool, and tools has none")
        if self.tool_choice not in (*CHOICES, *self.offered):
            raise ValueError(f"tool_choice: wants {self.tool_choice!r}, and tools has it not")
        return self

    @property
    def top(self) -> int:
        return self.top_logprobs if self.logprobs else 0

    @property
    def offered(self) -> list[str]:
        """The client's tools, by name: it runs them, and an answer ends with the call."""
        return [tool.function.name for tool in self.tools] if self.tool_choice != "none" else []

    def callable(self, present: Sequence[str]) -> list[str]:
        """The tools that the model may call: the client's, or else those of the run."""
        if self.tool_choice == "none":
            return []
        return self.offered or (list(present) if self.builtin_tools else [])

    def asked(self, tokenizer: Tokenizer, length: int, present: Sequence[str]) -> tuple[list[Request], str]:
        """(requests, what the client should be told); `present` are the tools of the run."""
        try:
            prompt, dropped = fitted(tokenizer, [message.record() for message in self.messages], length)
        except UserError as error:
            raise too_long(f"messages: {error}", "messages") from error
        calls = self.callable(present)
        forbidden = [*(["think"] if self.thinking == "off" else []), *(name for name in TOOLS if name not in calls)]
        wanted = {"required": self.offered[:1], "auto": [], "none": []}.get(self.tool_choice, [self.tool_choice])
        opening = wanted[0] if wanted else "think" if self.thinking == "on" else ""
        requests = self.requests(
            prompt,
            tokenizer,
            length,
            max_new_tokens=self.max_completion_tokens or self.max_tokens or length,
            forced=(tokenizer.open[opening],) if opening else (),
            suppress=tuple(tokenizer.open[name] for name in forbidden),
            stop_ids=tuple(tokenizer.close[name] for name in self.offered),
        )
        turns = "turn" if dropped == 1 else f"{dropped} turns"
        return requests, f"the first {turns} no longer fit and were dropped" if dropped else ""


class TokenizeBody(Body):
    model: str = ""
    text: Annotated[str, Field(max_length=2**16)]
