"""The table of tools: which span calls it, what answers, its limits, and where it can be had."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

from llm_jax.tables import Row, Table, function
from llm_jax.tokenizer import FORCED, SPANS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tool(Row):
    """A tool whose call is the text inside a span of its name, which must be one of `tokenizer.SPANS`."""

    open: str = None  # "module:function": (the run's workdir) -> an object with answer(text) -> text, and close()
    description: str = None  # what a client is told that it does
    argument: str = None  # what a client calls the text of a call
    limits: str = None  # what a call may take, for people
    absent: Callable[[Path], str] = lambda workdir: ""  # why a run has it not; empty where it does
    returns: str = "output"  # the span that its answer stands in

    def wrong(self, names: Iterable[str]) -> str:
        if self.name not in SPANS:
            return f"it is no span of the tokenizer; choose its name from {', '.join(SPANS)}"
        if self.returns not in FORCED:
            return f"returns is {self.returns!r}; choose from {', '.join(FORCED)}"
        return "" if ":" in self.open else f"open is {self.open!r}; it must be 'module:function'"


TOOLS: Table[Tool] = Table(
    "tool",
    (
        Tool(
            name="python",
            open="llm_jax.tools.python:open_tool",
            description="Runs a Python program in a sandbox.",
            argument="code",
            limits="a second, 64 MiB of memory, 64 KiB of output; no files, no network",
        ),
    ),
)


def present(workdir: Path) -> list[str]:
    """The tools that a run has."""
    return [name for name, tool in TOOLS.items() if not tool.absent(workdir)]


class Toolbox:
    """The tools that a run has, opened."""

    def __init__(self, workdir: Path):
        self._opened = {name: function(TOOLS[name].open)(workdir) for name in present(workdir)}

    @property
    def answers(self) -> dict[str, Callable[[str], str]]:
        """Tool -> what answers the text of a call: what an engine is given."""
        return {name: opened.answer for name, opened in self._opened.items()}

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            for opened in self._opened.values():
                stack.callback(opened.close)
