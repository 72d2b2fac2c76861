"""The python tool: programs run in a sandbox, never in this process.

    python -m llm_jax.tools.python [--backend=monty|bwrap] [--timeout=S] < program.py
    python -m llm_jax.tools.python --self_test

prints one JSON line: status (ok error timeout memory output crash), stdout, value, error, seconds; or which sandboxes
work here, and why not. The sandbox is pydantic-monty: an interpreter without files, network or processes, in a worker
process, with limits. Sleeps count: a program that would sleep past its limit is ended at once. Where a program needs
all of Python, it is bubblewrap (bwrap.py).
"""

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydantic_monty
from pydantic_monty._binary import find_monty_binary

from llm_jax.config import UserError
from llm_jax.tools.bwrap import BwrapTool, unavailable
from llm_jax.tools.inside import plain
from llm_jax.tools.sandbox import OUTPUT_BYTES, Result, of_limit

MEMORY_BYTES = 64 * 2**20
GRACE_SECONDS = 1.0  # after the interpreter's own limit, the worker is killed
SLEEPS = ("time.sleep", "asyncio.sleep")


class PythonTool:
    """Runs programs, each in a fresh session of a pool of worker processes."""

    def __init__(self, timeout: float = 1.0):
        self.timeout = timeout
        self._folder = tempfile.TemporaryDirectory(prefix="llm_jax_sandbox_")
        worker = quiet_worker(Path(self._folder.name))
        self._pool = pydantic_monty.Monty(binary_path=worker, request_timeout=timeout + GRACE_SECONDS)
        self._pool.__enter__()

    def close(self) -> None:
        self._pool.__exit__(None, None, None)
        self._folder.cleanup()

    def run(self, program: str) -> Result:
        """Never raises: whatever the program does ends as a Result."""
        started, printed = time.monotonic(), Printed()
        status, value, error = self._fed(program, printed, written)
        if printed.full or len((value or "").encode()) > OUTPUT_BYTES:
            status, value, error = "output", None, None
        return Result(status, printed.text(), value, error, time.monotonic() - started)

    def calls(self, program: str, name: str, inputs: list[tuple]) -> list[str]:
        """As `sandbox.Calls` has it."""
        called = ", ".join(f"{name}{plain(arguments)}" for arguments in inputs)
        asked = f"{program}\n[{called}]"
        status, values, _ = self._fed(asked, Printed(), lambda found: [plain(value) for value in found])
        return values if status == "ok" and values else []

    def _fed(self, program: str, printed: "Printed", read: Callable[[Any], Any]) -> tuple[str, Any, str | None]:
        """(status, what `read` makes of the last expression's value, error)."""
        waits, limits = Waits(self.timeout), {"max_feed_duration_secs": self.timeout, "max_memory": MEMORY_BYTES}
        try:
            checkout = self._pool.checkout(limits=limits, os_policy={"sleep": "call_host"})
            with checkout as session, waits.watched(session.worker_pid):
                result = session.feed_run(program, print_callback=printed.add, os=waits.answer)
            return "ok", None if result is None else read(result), None
        except OutputFull:
            return "output", None, None
        except Exception as problem:
            status = "timeout" if waits.over else classify(problem)
            return status, None, self._told(status, problem)[:500]

    def _told(self, status: str, problem: Exception) -> str:
        """An error in Python's own words, not those of the interpreter, and the same each time."""
        if status != "error":
            return of_limit(status, self.timeout, MEMORY_BYTES)
        if isinstance(problem, pydantic_monty.MontyRuntimeError):
            return str(problem)
        return f"{type(problem).__name__.removeprefix('Monty')}: {problem}"

    def answer(self, program: str) -> str:
        """What the model reads back: what was printed and the last value, or the kind of failure."""
        return self.run(program).told()


def open_tool(workdir: Path, given: str | None) -> PythonTool | BwrapTool:
    """For the table of tools: the sandbox that `tools.python` names. Raises UserError where it is not here."""
    return BACKENDS[given or "monty"]()


def quiet_worker(folder: Path) -> Path | None:
    """A script that runs a worker without what it says for itself on stderr when a program takes too much memory; None
    where nothing in `folder` can be run. (Workers get no environment, so the script names its program.)"""
    script = folder / "monty"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(find_monty_binary())} "$@" 2>/dev/null\n', encoding="utf-8")
    script.chmod(0o700)
    return script if os.access(script, os.X_OK) else None


class OutputFull(Exception):
    """More was written than OUTPUT_BYTES."""


class Waits:
    """The sleeps of one program. The interpreter's own clock stands still in them, so here they count: the worker of a
    program that sleeps and is not over `seconds` after it began is killed."""

    def __init__(self, seconds: float):
        self.over = False
        self._seconds, self._lock = seconds, threading.Lock()
        self._timer: threading.Timer | None = None

    @contextlib.contextmanager
    def watched(self, worker: int) -> Iterator[None]:
        """While the process `worker` runs the program."""
        self._worker, self._end = worker, time.monotonic() + self._seconds
        try:
            yield
        finally:
            with self._lock:  # another program's may it be from now on
                self._worker = None
            if self._timer:
                self._timer.cancel()

    def answer(self, *, name: str, args: tuple, **_) -> Any:
        """The interpreter asks this for what the program wants of the operating system."""
        if name not in SLEEPS:
            return pydantic_monty.NOT_HANDLED
        left = self._end - time.monotonic()
        if args[0] > left:
            return self._kill()
        if not self._timer:  # a program that does not sleep needs none, and a thread takes longer than most programs
            self._timer = threading.Timer(left, self._kill)
            self._timer.daemon = True
            self._timer.start()
        return time.sleep(args[0])

    def _kill(self) -> None:
        with self._lock:
            if self._worker:
                self.over = True
                os.kill(self._worker, signal.SIGKILL)


def written(value: Any) -> str:
    """repr(value). Raises OutputFull for one that is too long, before it is made: a list that holds another one twice,
    which holds another one twice, is short in memory, and its repr has no end."""
    left, parts = OUTPUT_BYTES, [value]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            parts += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple | set | frozenset):
            parts += part
        elif isinstance(part, pydantic_monty.MontyClassProxy | pydantic_monty.MontyClassTypeProxy):
            parts.append(part.attributes)
        else:
            left -= len(repr(part))
        left -= 1
        if left < 0:
            raise OutputFull
    return repr(value)


class Printed:
    """What a program prints, up to the limit; past it, the program is stopped."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._room = OUTPUT_BYTES
        self.full = False

    def add(self, stream: str, text: str) -> None:
        data = text.encode("utf-8", "replace")
        self._pieces.append(data[: self._room])
        self.full = len(data) > self._room
        self._room -= min(len(data), self._room)
        if self.full:
            raise RuntimeError("output limit")

    def text(self) -> str:
        return b"".join(self._pieces).decode("utf-8", "ignore")


def classify(problem: Exception) -> str:
    """The status of an error, from its kind: what the program itself says in its messages does not count."""
    if isinstance(problem, pydantic_monty.MontyCrashedError):
        return "timeout" if problem.timed_out else "crash"
    if not isinstance(problem, pydantic_monty.MontyRuntimeError):
        return "error"
    if isinstance(problem.exception(), MemoryError):
        return "memory"
    return "timeout" if str(problem).startswith("TimeoutError: feed time limit exceeded") else "error"


BACKENDS = {"monty": PythonTool, "bwrap": BwrapTool}


def main() -> None:
    from absl import flags

    if flags.FLAGS.self_test:
        return self_test()
    try:
        program = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"the program is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    with contextlib.closing(BACKENDS[flags.FLAGS.backend](flags.FLAGS.timeout)) as tool:
        print(json.dumps(dataclasses.asdict(tool.run(program))))


def self_test() -> None:
    """Prints a line for each sandbox: whether it works here, or why not."""
    with contextlib.closing(PythonTool(60.0)) as monty:
        works = monty.run("6 * 7").value == "42"
    print(f"monty: {'works' if works else 'does not work'}")
    print(f"bwrap: {unavailable() or 'works'}")


def define_flags() -> None:
    from absl import flags

    flags.DEFINE_enum("backend", "monty", list(BACKENDS), "Which sandbox.")
    flags.DEFINE_float("timeout", 1.0, "Seconds a program may run.", lower_bound=0.01, upper_bound=86400.0)
    flags.DEFINE_bool("self_test", False, "Say which sandboxes work here, and why not; run nothing.")


if __name__ == "__main__":
    from llm_jax.frame.cli import run_cli

    run_cli(main, define_flags)
