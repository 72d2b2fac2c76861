"""What clients may ask: the bodies of OpenAI's interface and of our extensions, checked, and as requests to an engine.

Unknown fields are ignored, but for those that would change an answer (`sampling/settings.py`); null is as good as
absent.
Everything else that is wrong raises `ApiError` with the name of the field.
"""

import dataclasses
import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from llm_jax.config import UserError
from llm_jax.sampling.decode import TOP
from llm_jax.sampling.requests import Request
from llm_jax.sampling.settings import not_here, some, whole
from llm_jax.sampling.turns import SAID, TooLong, continued, fitted
from llm_jax.tokenizer import SPANS, Tokenizer
from llm_jax.tools.table import TOOLS

COMPLETION_TOKENS = 16  # of /v1/completions, as OpenAI has it; a chat's answer takes what fits
LEAST_TOP_P = 1e-6  # 0 means the likeliest id alone
MOST_STOPS = 256  # more take the server's time, and are nobody's
Whole = Annotated[int, BeforeValidator(whole)]
Most = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(some)]  # so many, or all that fit


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

    def texts(self) -> dict[str, str]:
        """The arguments that are texts. Raises ValueError for a call that the model cannot have written."""
        tool = TOOLS.get(self.function.name)
        if tool is None:
            raise ValueError(f"tool_calls: {self.function.name[:40]!r} is {no_tool()}")
        try:
            given = from_json(self.function.arguments)
        except ValueError:
            given = None
        texts = {k: v for k, v in given.items() if isinstance(v, str)} if isinstance(given, dict) else {}
        if not texts:
            raise ValueError(f"tool_calls: the arguments of {tool.name!r} are the JSON of {{{tool.argument!r}: text}}")
        return texts

    def part(self, argument: str) -> Part:
        """The span that the model wrote: the text of this argument, else of the tool's own, else the first."""
        name, texts = self.function.name, self.texts()
        wanted = next((key for key in (argument, TOOLS[name].argument) if key in texts), next(iter(texts)))
        return Part(type=name, text=texts[wanted])


def no_tool() -> str:
    return f"no tool that this model knows; it knows {', '.join(map(repr, TOOLS))}"


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    reasoning_content: str = ""
    tool_calls: Annotated[list[ToolCall], Field(max_length=128, fail_fast=True)] = []

    @model_validator(mode="after")
    def _check(self) -> "Message":
        if self.role == "assistant":
            if self.content is None and not self.reasoning_content and not self.tool_calls:
                raise ValueError("content: an assistant's message has content or tool_calls")
            for call in self.tool_calls:
                call.texts()
        elif self.content is None:
            raise ValueError("content: field required")
        elif any(part.type != "text" for part in self.content):
            raise ValueError(f"content: of a message of the {self.role} must be text")
        return self

    def record(self, arguments: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
        """{role, content} as in the records that training reads; `arguments`: those of a client's tools, by name."""
        if self.role == "assistant":
            thought = [Part(type="think", text=self.reasoning_content)] if self.reasoning_content else []
            calls = [call.part(arguments.get(call.function.name, "")) for call in self.tool_calls]
            return {"role": self.role, "content": plain([*thought, *(self.content or []), *calls])}
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
    logit_bias: Annotated[dict[str, Bias], BeforeValidator(not_too_many)] = {}
    seed: Whole | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(max_length=MOST_STOPS, fail_fast=True),
        BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop),
    ] = []
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
        given = [getattr(self, name) or room for name in names if name in self.model_fields_set]
        return given[0] if given else otherwise

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

    elsewhere = {
        "builtin_tools": (True,),
        "thinking": ("auto",),
        "tool_choice": ("auto",),
        "tools": ([],),
        "top_logprobs": (0,),
    }

    prompt: Annotated[list[Any], BeforeValidator(as_prompts)]
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
        if self.echo and self.logprobs is not None:
            raise ApiError(400, "echo: is not there together with logprobs", "echo")
        most, requests = self.most(length, COMPLETION_TOKENS), []
        for prompt in self.prompt:
            ids = [*tokenizer.begin, *tokenizer.encode(prompt)] if isinstance(prompt, str) else prompt
            if wrong := [i for i in ids if not 0 <= i < tokenizer.vocab_size]:
                what = f"{str(wrong[0])[:40]} is no id of this vocabulary of {tokenizer.vocab_size}"
                raise ApiError(400, f"prompt: {what}", "prompt")
            if len(ids) >= length:
                raise too_long("prompt", len(ids), length)
            requests += self.requests(ids, tokenizer, length, max_new_tokens=most)
        return requests, ""


class Function(Body):
    name: str
    parameters: dict[str, Any] = {}

    @property
    def argument(self) -> str:
        """The argument that takes the text of a call: what the schema requires, or names as we do, or has alone.

        Raises ValueError where that is not one text.
        """
        own, schema = TOOLS[self.name].argument, self.parameters
        properties, required = schema.get("properties") or {}, schema.get("required") or []
        if not properties and not required:
            return own
        texts = [name for name, of in properties.items() if takes_text(of)] if isinstance(properties, dict) else []
        wanted = required or ([own] if own in texts else texts)
        if isinstance(wanted, list) and len(wanted) == 1 and wanted[0] in texts:
            return wanted[0]
        raise ValueError(f"a call of {self.name!r} is one text: the schema must require one argument, a string")


def takes_text(schema: Any) -> bool:
    """Whether a JSON schema takes any text."""
    if not isinstance(schema, dict):
        return schema is True
    if {"enum", "const", "pattern"} & schema.keys():
        return False
    either = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(either, list):
        return any(takes_text(one) for one in either)
    kinds = schema.get("type", "string")
    return kinds == "string" or (isinstance(kinds, list) and "string" in kinds)


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
    elsewhere = {"echo": (False,)}
    seen = SAID

    messages: Messages
    logprobs: bool = False
    top_logprobs: Whole = Field(0, ge=0, le=TOP)
    tools: Annotated[list[Tool], Field(max_length=128, fail_fast=True)] = []
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
        for i, tool in enumerate(self.tools):
            if self.tool_choice == "none":
                break
            if tool.function.name not in TOOLS:
                raise ValueError(f"tools[{i}].function.name: {tool.function.name[:40]!r} is {no_tool()}")
            try:
                tool.function.argument  # noqa: B018
            except ValueError as error:
                raise ValueError(f"tools[{i}].function.parameters: {error}") from error
        if self.tool_choice == "required" and not self.tools:
            raise ValueError("tool_choice: wants a tool, and tools has none")
        if self.tool_choice not in (*CHOICES, *self.offered):
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
    def offered(self) -> list[str]:
        """The client's tools, by name: it runs them, and an answer ends with the call."""
        return list(self.arguments)

    @property
    def arguments(self) -> dict[str, str]:
        """What takes the text of a call, by name of the client's tools."""
        functions = [tool.function for tool in self.tools] if self.tool_choice != "none" else []
        return {function.name: function.argument for function in functions}

    @property
    def wanted(self) -> str:
        """The tool that must be called, if one must."""
        first = next(iter(self.offered), "")
        return {"required": first, "auto": "", "none": ""}.get(self.tool_choice, self.tool_choice)

    @property
    def inside(self) -> str:
        return continued(self.messages[-1].record())

    def callable(self, present: Sequence[str]) -> list[str]:
        """The tools that the model may call: the client's, or else those of the run."""
        if self.tool_choice == "none":
            return []
        return self.offered or (list(present) if self.builtin_tools else [])

    def asked(self, tokenizer: Tokenizer, length: int, present: Sequence[str]) -> tuple[list[Request], str]:
        """(requests, what the client should be told); `present` are the tools of the run."""
        try:
            prompt, dropped = fitted(tokenizer, [message.record(self.arguments) for message in self.messages], length)
        except TooLong as error:
            raise too_long("messages", error.tokens, length) from error
        calls, opening = self.callable(present), self.wanted or ("think" if self.thinking == "on" else "")
        names = [*(["think"] if self.thinking == "off" else []), *(name for name in TOOLS if name not in calls)]
        forbidden = [tokenizer.open[name][0] for name in names]
        if self.wanted:  # nothing but the end of the call ends it
            forbidden = [i for i in tokenizer.special_names if i not in tokenizer.close[self.wanted]]
        requests = self.requests(
            prompt,
            tokenizer,
            length,
            max_new_tokens=self.most(length, length),
            forced=tokenizer.open[opening] if opening else (),
            suppress=tuple(forbidden),
            stop_ids=tuple(tokenizer.close[name][-1] for name in self.offered),
        )
        turns = "turn no longer fits and was" if dropped == 1 else f"{dropped} turns no longer fit and were"
        return requests, f"the first {turns} dropped" if dropped else ""


class TokenizeBody(Body):
    model: str = ""
    text: Annotated[str, Field(max_length=2**16)]
