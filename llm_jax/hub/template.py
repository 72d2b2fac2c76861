"""A model's own chat template, in Jinja: run in a sandbox, its words told from what people and the model say.

A template is a program from elsewhere. It sees the messages and nothing else, its loops have an end, and `check` runs
it once in a process of its own, with little time and memory, before anybody trusts it.
"""

import contextlib
import datetime
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llm_jax.config import UserError

MOST_TURNS = 100_000  # of all loops over ranges in one rendering
MOST_TEXT = 2**22  # characters of one text that a template makes
CHECK_SECONDS, CHECK_BYTES = 10, 2**30
MARK = re.compile("\ue000(\\d+)\ue001")  # in place of the message of this number; private use, so no template's word


class Fails(UserError):
    """The template cannot render a conversation."""


class Refused(Fails):
    """It raised an error of its own about it."""


class Sandbox(ImmutableSandboxedEnvironment):
    """Without loops that do not end and texts that grow without end."""

    intercepted_binops = frozenset(["*", "+", "**", "%"])

    def call_binop(self, context, operator, left, right):
        sizes = [len(x) for x in (left, right) if isinstance(x, str | list | tuple)]
        factor = max([x for x in (left, right) if isinstance(x, int)], default=1) if operator == "*" else 1
        if operator == "**" or sum(sizes) * max(1, factor) > MOST_TEXT:
            raise OverflowError(f"it makes a text of more than {MOST_TEXT} characters, or a power")
        return super().call_binop(context, operator, left, right)


class Generation(Extension):
    """{% generation %}: what some templates say that the assistant writes. We know it by construction."""

    tags = frozenset({"generation"})

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Template:
    """Raises UserError for one that is no Jinja."""

    def __init__(self, source: str, special: dict[str, str]):
        """`special` are the names and texts of special tokens that it may use, as in bos_token."""
        self.source, self._special = source, special
        environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation])
        environment.filters["tojson"] = as_json
        environment.globals |= {"raise_exception": refuse, "strftime_now": today}
        try:
            self._compiled = environment.from_string(source)
            self.looked_for = looked_for(environment.parse(source))
        except (jinja2.TemplateError, RecursionError, OverflowError) as error:
            raise UserError(f"the chat template is no Jinja: {error}") from None

    def text(self, messages: list[dict[str, Any]], for_generation: bool = False) -> str:
        """What it makes of {role, content}. Raises Refused in the template's own words, Fails where it fails, UserError
        where it takes too much."""
        turns = 0

        def limited(*args):
            nonlocal turns
            out = range(*args)
            turns += len(out)
            if turns > MOST_TURNS:
                raise OverflowError(f"its loops take more than {MOST_TURNS} turns")
            return out

        try:
            return self._compiled.render(
                messages=messages, add_generation_prompt=for_generation, range=limited, tools=None, **self._special
            )
        except Refused:
            raise
        except Exception as error:  # a program from elsewhere may fail in any way
            kind = UserError if isinstance(error, OverflowError | MemoryError) else Fails
            raise kind(f"the chat template fails: {type(error).__name__}: {error}"[:300]) from None


def looked_for(template: jinja2.nodes.Template) -> set[str]:
    """Texts that it asks for in others, as '/no_think' in messages[0].content."""
    asked = (node.expr for node in template.find_all(jinja2.nodes.Compare) if node.ops[0].op in ("in", "notin"))
    return {one.value for one in asked if isinstance(one, jinja2.nodes.Const) and isinstance(one.value, str)}


def refuse(message: str):
    raise Refused(f"the model's chat template says: {message}")


def as_json(value: Any, ensure_ascii: bool = False, indent=None, separators=None, sort_keys: bool = False) -> str:
    """As templates expect it: nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def today(form: str) -> str:
    return datetime.date.today().strftime(form)


def mark(number: int) -> str:
    return f"\ue000{number}\ue001"


def marked(text: str, number: int) -> str:
    """What stands for a text in the template: its mark, between the spaces that the text begins and ends with, so that
    a template may trim them."""
    core = text.strip()
    before = text[: len(text) - len(text.lstrip())] if core else text
    return f"{before}{mark(number)}{text[len(before) + len(core) :]}"


# A call of a tool and its answer, with marks for what is said: the tool, its argument, the argument's text, the answer.
NAME, ARGUMENT, TEXT, SAID, ANSWER = range(5)
CALLED = [
    {"role": "user", "content": "a"},
    {
        "role": "assistant",
        "content": mark(SAID),
        "tool_calls": [
            {"type": "function", "function": {"name": mark(NAME), "arguments": {mark(ARGUMENT): mark(TEXT)}}}
        ],
    },
    {"role": "tool", "content": mark(ANSWER)},
]


def check(source: str, special: dict[str, str]) -> None:
    """Runs it once in a process of its own. Raises UserError for one that takes too much time or memory, or fails."""
    asked = json.dumps({"source": source, "special": special})
    command = [sys.executable, "-X", "utf8", "-m", "llm_jax.hub.template"]
    root = Path(__file__).parents[2]
    try:
        done = subprocess.run(
            command, input=asked, capture_output=True, text=True, timeout=6 * CHECK_SECONDS, check=False, cwd=root
        )
    except subprocess.TimeoutExpired:
        raise UserError("the chat template does not come to an end; it is not to be trusted") from None
    if done.returncode:
        said = done.stdout.strip().splitlines()
        raise UserError(
            said[-1] if said else "the chat template takes too much time or memory; it is not to be trusted"
        )


def main() -> int:
    """The process of `check`."""
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (CHECK_SECONDS, CHECK_SECONDS))
    asked = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (CHECK_BYTES, CHECK_BYTES))
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    try:
        template = Template(asked["source"], asked["special"])
        with contextlib.suppress(Refused):
            template.text(turns, for_generation=True)
        with contextlib.suppress(Fails):  # it may know no tools
            template.text(CALLED, for_generation=True)
    except (UserError, MemoryError) as error:
        print(f"{error or 'the chat template takes too much memory'}; it is not to be trusted")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
