"""The python tool: programs run in a sandbox, never in this process.

    python -m llm_jax.tools.python [--timeout=S] < program.py

prints one JSON line: status (ok error timeout memory output crash), stdout, value, error, seconds. The sandbox is
pydantic-monty: an interpreter without files, network or processes, in a worker process, with limits.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import pydantic_monty

MEMORY_BYTES = 64 * 2**20
OUTPUT_BYTES = 64 * 2**10
GRACE_SECONDS = 1.0  # after the interpreter's own limit, the worker is killed


@dataclasses.dataclass
class Result:
    status: str  # ok, error, timeout, memory, output or crash
    stdout: str
    value: str | None  # repr of the last expression, or None
    error: str | None
    seconds: float


class PythonTool:
    """Runs programs, each in a fresh session of a pool of worker processes."""

    def __init__(self, timeout: float = 1.0):
        self.timeout = timeout
        self._pool = pydantic_monty.Monty(request_timeout=timeout + GRACE_SECONDS)
        self._pool.__enter__()

    def close(self) -> None:
        self._pool.__exit__(None, None, None)

    def run(self, program: str) -> Result:
        """Never raises: whatever the program does ends as a Result."""
        started = time.monotonic()
        printed = Printed()
        limits = {"max_feed_duration_secs": self.timeout, "max_memory": MEMORY_BYTES}
        value, error, status = None, None, "ok"
        try:
            with self._pool.checkout(limits=limits) as session:
                result = session.feed_run(program, print_callback=printed.add)
            value = None if result is None else repr(result)
        except Exception as problem:
            kind = "" if isinstance(problem, pydantic_monty.MontyRuntimeError) else f"{type(problem).__name__}: "
            status, error = classify(problem), f"{kind}{problem}"[:500]
        if printed.full or len((value or "").encode()) > OUTPUT_BYTES:
            status, value, error = "output", None, None
        return Result(status, printed.text(), value, error, time.monotonic() - started)

    def answer(self, program: str) -> str:
        """What the model reads back: what was printed and the last value, or the kind of failure."""
        result = self.run(program)
        if result.status != "ok":
            return (
                f"error: {result.status}"
                if result.error is None
                else (result.error.splitlines() or ["error"])[-1][:100]
            )
        return "\n".join(part for part in (result.stdout.rstrip("\n"), result.value) if part)


def open_tool(workdir: Path) -> PythonTool:
    """For the table of tools; the sandbox is the same in every run."""
    return PythonTool()


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
    if getattr(problem, "timed_out", False):
        return "timeout"
    if isinstance(problem, pydantic_monty.MontyCrashedError):
        return "crash"
    text = str(problem)
    if text.startswith("TimeoutError: feed time limit exceeded"):
        return "timeout"
    return "memory" if text.startswith("MemoryError: memory limit exceeded") else "error"


def main() -> None:
    from absl import flags

    tool = PythonTool(flags.FLAGS.timeout)
    print(json.dumps(dataclasses.asdict(tool.run(sys.stdin.read()))))
    tool.close()


def define_flags() -> None:
    from absl import flags

    flags.DEFINE_enum("backend", "monty", ["monty"], "Which sandbox.")
    flags.DEFINE_float("timeout", 1.0, "Seconds a program may run.", lower_bound=0.01)


if __name__ == "__main__":
    from llm_jax.cli import run_cli

    run_cli(main, define_flags)
