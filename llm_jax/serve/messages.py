"""The messages of a conversation, as clients send them and as the records that the tokenizer renders."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import from_json

from llm_jax.serve.bodies import Body
from llm_jax.tokenizer import SPANS
from llm_jax.tools.table import TOOLS

# How a call of any tool is written, which has no span of its own: as the models do that were taught to call by JSON.
CALL, CALLED = "<tool_call>\n", "\n</tool_call>"


def opened(name: str) -> str:
    """What a call begins with, before its arguments; they are followed by a brace."""
    return f'{{"name": "{name}", "arguments": '


def written(name: str, arguments: str) -> str:
    """A call as text."""
    return f"{CALL}{opened(name)}{arguments}}}{CALLED}"


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

    @property
    def is_object(self) -> bool:
        try:
            return isinstance(from_json(self.arguments), dict)
        except ValueError:
            return False


class ToolCall(Body):
    function: FunctionCall

    def check(self) -> None:
        """Raises ValueError for a call that the model cannot have written."""
        if not self.function.is_object:
            raise ValueError(f"tool_calls: the arguments of {self.function.name[:40]!r} are no JSON object")

    def part(self, argument: str) -> Part:
        """What the model wrote. Of our own tools, a span: the text of this argument, else of the tool's own, else of
        the only one. Of all others, and where there is no such text, the call in JSON.
        """
        name, given = self.function.name, from_json(self.function.arguments)
        texts = {key: value for key, value in given.items() if isinstance(value, str)}
        if name in TOOLS:
            wanted = [key for key in (argument, TOOLS[name].argument) if key in texts]
            wanted += texts if len(given) == 1 else []
            if wanted:
                return Part(type=name, text=texts[wanted[0]])
        return Part(type="text", text=written(name, self.function.arguments))


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    reasoning_content: str = ""
    tool_calls: Annotated[list[ToolCall], Field(max_length=128, fail_fast=True)] = Field([])

    @model_validator(mode="after")
    def _check(self) -> "Message":
        if self.role == "assistant":
            if self.content is None and not self.reasoning_content and not self.tool_calls:
                raise ValueError("content: an assistant's message has content or tool_calls")
            for call in self.tool_calls:
                call.check()
        elif self.content is None:
            raise ValueError("content: field required")
        elif any(part.type != "text" for part in self.content):
            raise ValueError(f"content: of a message of the {self.role} must be text")
        return self

    def record(self, arguments: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
        """{role, content} as in the records that training reads; `arguments`: those of a client's tools, by name."""
        if self.role == "assistant":
            thought = [Part(type="think", text=self.reasoning_content)] if self.reasoning_content else []
            calls = self.calls(arguments)
            said = plain([*thought, *(self.content or []), *calls], joins=not calls)
            return {"role": self.role, "content": said}
        text = "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}

    def calls(self, arguments: Mapping[str, str]) -> list[Part]:
        return [call.part(arguments.get(call.function.name, "")) for call in self.tool_calls]


def records(messages: Sequence[Message], arguments: Mapping[str, str] = MappingProxyType({})) -> list[dict[str, Any]]:
    """`Message.record` of each; what a tool of ours says stands in the span that the model knows its answers from."""
    out: list[dict[str, Any]] = []
    called: list[str] = []  # tools whose answers are to come, in order
    for message in messages:
        out.append(message.record(arguments))
        if message.role == "assistant":
            called = [part.type for part in message.calls(arguments)]
        elif message.role == "tool" and called:
            name = called.pop(0)
            if name in TOOLS and TOOLS[name].returns != "output":
                out[-1]["content"] = [{"type": TOOLS[name].returns, "text": out[-1]["content"]}]
    return out


def plain(parts: list[Part], joins: bool = True) -> str | list[dict[str, str]]:
    """The parts that say something; `joins`: as one text where all are."""
    said = [part for part in parts if part.text or part.type != "text"]
    if joins and all(part.type == "text" for part in said):
        return "".join(part.text for part in said)
    return [part.model_dump() for part in said]


# A body of many wrong items is refused at the first one; to list them all takes seconds, which are everybody's.
Messages = Annotated[list[Message], Field(min_length=1, max_length=4096, fail_fast=True)]
