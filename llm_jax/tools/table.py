"""The table of tools: which span calls it, what answers, its limits, and where it can be had."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from llm_jax.tables import Row, Table, function
from llm_jax.tokenizer import FORCED, SPANS
from llm_jax.tools import bwrap, search
from llm_jax.tools.passages import PASSAGE

MOST_TOKENS = 128  # of an answer; each slot of an engine keeps room for them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tool(Row):
    """A tool whose call is the text inside a span of its name, which must be one of `tokenizer.SPANS`."""

    # "module:function": (the run's workdir, what the command was given for this tool) -> an object with
    # answer(text) -> text, and close()
    open: str = None
    description: str = None  # what a client is told that it does
    argument: str = None  # what a client calls the text of a call
    limits: str = None  # what a call may take, for people
    absent: Callable[[Path, Any], str] = lambda workdir, given: ""  # why a run has it not; empty where it does
    returns: str = "output"  # the span that its answer stands in
    room: int = 48  # tokens that its answer may have, with the span's markers

    def wrong(self, names: Iterable[str]) -> str:
        if self.name not in SPANS:
            return f"it is no span of the tokenizer; choose its name from {', '.join(SPANS)}"
        if self.returns not in FORCED:
            return f"returns is {self.returns!r}; choose from {', '.join(FORCED)}"
        if not 8 <= self.room <= MOST_TOKENS:
            return f"room is {self.room}; it must be 8 to {MOST_TOKENS} tokens"
        return "" if ":" in self.open else f"open is {self.open!r}; it must be 'module:function'"


TOOLS: Table[Tool] = Table(
    "tool",
    (
        Tool(
            name="python",
            open="llm_jax.tools.python:open_tool",
            description="Runs a Python program in a sandbox.",
            argument="code",
            limits="a second, 64 MiB of memory (in bubblewrap 256), 64 KiB of output; no files, no network",
            absent=bwrap.absent,
        ),
        Tool(
            name="search",
            open="llm_jax.tools.search:open_tool",
            description="Searches documents, and gives the passages that fit best.",
            argument="query",
            limits=f"{search.PASSAGES} passages of {PASSAGE} characters",
            absent=search.absent,
            returns="document",
            room=MOST_TOKENS,
        ),
    ),
)


def absent(workdir: Path, **given: Any) -> dict[str, str]:
    """The tools that a run has not, and why; `given` is what the command was given for some, by name."""
    reasons = {name: tool.absent(workdir, given.get(name)) for name, tool in TOOLS.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def present(workdir: Path, **given: Any) -> list[str]:
    """The tools that a run has; `given` as for `absent`."""
    lacking = absent(workdir, **given)
    return [name for name in TOOLS if name not in lacking]


class Toolbox:
    """The tools that a run has, opened; `given` as for `absent`."""

    def __init__(self, workdir: Path, **given: Any):
        self.absent = absent(workdir, **given)
        names = [name for name in TOOLS if name not in self.absent]
        self._opened = {name: function(TOOLS[name].open)(workdir, given.get(name)) for name in names}

    @property
    def answers(self) -> dict[str, Callable[[str], str]]:
        """Tool -> what answers the text of a call: what an engine is given."""
        return {name: opened.answer for name, opened in self._opened.items()}

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            for opened in self._opened.values():
                stack.callback(opened.close)
