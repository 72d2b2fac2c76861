"""The tools that a client offers, and the grammars of answers that may call them."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from llm_jax.sampling.grammar import of_schema
from llm_jax.serve.bodies import Body
from llm_jax.serve.messages import CALL, CALLED, opened
from llm_jax.tokenizer import Tokenizer
from llm_jax.tools.table import TOOLS

NOTHING = {"type": "object", "properties": {}}  # the arguments of a function that has none


class Function(Body):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str = ""
    parameters: dict[str, Any] = Field({})

    @property
    def argument(self) -> str:
        """Of a tool that has a span, the argument that takes the text of a call: what the schema requires, or names as
        we do, or has alone. Empty where the span does not do: then a call is JSON.
        """
        if self.name not in TOOLS:
            return ""
        own, schema = TOOLS[self.name].argument, self.parameters
        properties, required = schema.get("properties") or {}, schema.get("required") or []
        if not properties and not required:
            return own
        texts = [name for name, of in properties.items() if takes_text(of)] if isinstance(properties, dict) else []
        wanted = required or ([own] if own in texts else texts)
        return wanted[0] if isinstance(wanted, list) and len(wanted) == 1 and wanted[0] in texts else ""

    @property
    def rule(self) -> str:
        """A call, as the right side of a rule. Raises UserError for parameters that are no schema."""
        own = {"type": "object", "properties": {self.argument: {"type": "string"}}, "required": [self.argument]}
        schema = self.parameters or (own if self.argument else NOTHING)
        return " ".join((json.dumps(opened(self.name)), of_schema(schema), '"}"'))

    @property
    def signature(self) -> str:
        """For the model to read: name(argument: type, ...), and the first line of the description."""
        given = self.parameters.get("properties")
        properties = given if isinstance(given, dict) else {}
        of = lambda schema: schema.get("type") or "any" if isinstance(schema, dict) else "any"  # noqa: E731
        listed = ", ".join(f"{name}: {of(schema)}" for name, schema in properties.items())
        said = self.description.strip().partition("\n")[0]
        return f"{self.name}({listed})" + (f" {said}" if said else "")


def has_span(function: Function, tokenizer: Tokenizer) -> bool:
    """Whether the model calls it by a span that one id closes, where the answer then ends; else calls are JSON."""
    return bool(function.argument) and not tokenizer.call and len(tokenizer.close[function.name]) == 1


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


def chosen(choice: Any) -> Any:
    """One of CHOICES, or the name of the function that OpenAI's object names."""
    if not isinstance(choice, dict):
        if choice not in CHOICES:
            raise ValueError(f"must be {', '.join(map(repr, CHOICES))}, or name a function")
        return choice
    name = choice["function"].get("name") if isinstance(choice.get("function"), dict) else None
    if not isinstance(name, str) or name in CHOICES:
        raise ValueError("must name a function")
    return name


def told(functions: Sequence[Function]) -> str:
    """What the model reads of functions that it may choose from."""
    listed = "\n".join(f"- {function.signature}" for function in functions)
    return f'Functions:\n{listed}\nTo call one, answer: {CALL}{{"name": NAME, "arguments": {{...}}}}{CALLED}'


def turn(tokenizer: Tokenizer, say: str, functions: Sequence[Function], must: bool, thinking: str) -> str:
    """The grammar of an answer: what is said, which obeys the rule `say` (empty: anything), or a call of one of the
    functions; with `must`, a call. A thought may come first, or must where `thinking` is on; before what obeys a rule
    it comes only then. Raises UserError for what is no schema.
    """
    marked = lambda ids: " ".join(f"<[{i}]>" for i in ids)  # noqa: E731
    span = lambda name: f"{marked(tokenizer.open[name])} TEXT {marked(tokenizer.close[name])}"  # noqa: E731
    free = f"SAY | SAY? {span('answer')}"
    spans = [function.name for function in functions if has_span(function, tokenizer)]
    calls = [function.rule for function in functions if function.name not in spans]
    opening, closing = json.dumps(CALL), json.dumps(CALLED)
    if tokenizer.call and all(len(marker) == 1 for marker in tokenizer.call):  # which text does not spell
        opening, closing = f'{marked(tokenizer.call[0])} "\\n"', f'"\\n" {marked(tokenizer.call[1])}'
    kinds = [
        *([] if must else [say or free]),
        *([f"{opening} ({' | '.join(calls)}) {closing}"] if calls else []),
        *map(span, spans),
    ]
    thought = "thought" if thinking == "on" else "" if thinking == "off" or say or must else "thought?"
    # The first character tells whether it is a call: what is said begins with another one.
    rules = {
        "start": f"{thought} answer",
        "thought": span("think"),
        "answer": " | ".join(f"({kind})" for kind in kinds),
    }
    tokens = {"TEXT": r"/(?s:.*)/", "SAY": r"/\s*[^<\s](?s:.*)/"}
    source = "\n".join(f"{name}: {rule}" for name, rule in (rules | tokens).items())
    return source


CHOICES = ("none", "auto", "required")
