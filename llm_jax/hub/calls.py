"""How a model calls tools whose template has calls as JSON: <tool_call>{"name": ..., "arguments": ...}</tool_call>.

What the template itself says of a call and of a tool's answer is found out once, from a conversation with marks in
place of what is said. A call of ours is the text of one argument, which the table of tools names.
"""

from __future__ import annotations

import dataclasses
import json

from llm_jax.config import UserError
from llm_jax.hub.template import ANSWER, ARGUMENT, CALLED, MARK, NAME, SAID, TEXT, Template
from llm_jax.tokenizer import FORCED, SPANS
from llm_jax.tools.table import TOOLS

OPENING, CLOSING = "<tool_call>", "</tool_call>"
MARKERS = (OPENING, CLOSING, "<tool_response>", "</tool_response>")  # ids of their own, where a vocabulary has them
CALLS = tuple(name for name in SPANS if name not in ("think", "answer", *FORCED))
PLAIN = ('\n{"name": "', '", "arguments": {"', '": "', '"}}\n')  # as the models write it that were taught so


@dataclasses.dataclass(frozen=True)
class Calls:
    frame: tuple[str, str, str, str]  # what stands around the tool, its argument and the text, between the markers
    between: str  # ... between what is said, or another call, and a call
    answered: str  # ... between a call and what the tool says
    goes_on: str  # ... between that and what the model writes next

    def written(self, name: str, text: str) -> tuple[str, str, str]:
        """A call: (what comes before the text, the text as JSON has it, what comes after)."""
        first, second, third, last = self.frame
        argument = TOOLS[name].argument if name in TOOLS else "text"
        return first + name + second + argument + third, json.dumps(text, ensure_ascii=False)[1:-1], last


def of(template: Template) -> Calls | None:
    """How the template has calls; None where it has none, or has them in another way."""
    if OPENING not in template.source or CLOSING not in template.source:
        return None
    try:
        rest = MARK.split(template.text(CALLED, for_generation=True))[1:]
    except UserError:  # it knows no tools
        return None
    order, words = [int(number) for number in rest[::2]], rest[1::2]
    if order == [SAID, ANSWER]:  # it passes over calls: they are written where things are said
        return Calls(PLAIN, "\n", *words)
    if order != [SAID, NAME, ARGUMENT, TEXT, ANSWER] or OPENING not in words[0] or CLOSING not in words[3]:
        return None
    between, _, first = words[0].partition(OPENING)
    last, _, answered = words[3].partition(CLOSING)
    found = Calls((first, words[1], words[2], last), between, answered, words[4])
    try:
        return found if read("".join(found.written("python", '"'))) == ("python", '"') else None
    except UserError:
        return None


def parsed(body: str) -> tuple[str, dict]:
    """(tool, arguments) of what stands between the markers. Raises UserError, with few words, for what is no call."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the call is no JSON: {error}") from None
    name, arguments = (call.get("name"), call.get("arguments")) if isinstance(call, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise UserError('a call has a "name" and "arguments"')
    return name, arguments


def read(body: str) -> tuple[str, str]:
    """(tool, text) of a call of ours. Raises UserError as `parsed` does, and for a call of any other."""
    name, arguments = parsed(body)
    if name not in CALLS:
        raise UserError(f"there is no tool {name[:20]!r}")
    argument = TOOLS[name].argument if name in TOOLS else "text"
    if arguments.keys() != {argument} or not isinstance(arguments[argument], str):
        raise UserError(f'{name} takes {{"{argument}": TEXT}}')
    return name, arguments[argument]


def body_of(text: str) -> str | None:
    """What stands between the markers of a text that is a call, of whatever tool; None where it is none."""
    if not (text.startswith(OPENING) and text.endswith(CLOSING)):
        return None
    body = text[len(OPENING) : -len(CLOSING)]
    try:
        parsed(body)
    except UserError:
        return None
    return body
