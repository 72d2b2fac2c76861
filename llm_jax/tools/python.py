"""The python tool: programs run in a sandbox, never in this process.

    python -m llm_jax.tools.python [--timeout=S] < program.py

prints one JSON line: status (ok error timeout memory output crash), stdout, value, error, seconds. The sandbox is
pydantic-monty: an interpreter without files, network or processes, in a worker process, with limits.
"""

import dataclasses
import json
import sys
import time

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
        printed: list[str] = []
        limits = {"max_feed_duration_secs": self.timeout, "max_memory": MEMORY_BYTES}
        value, error, status = None, None, "ok"
        try:
            with self._pool.checkout(limits=limits) as session:
                result = session.feed_run(program, print_callback=lambda stream, text: printed.append(text))
            value = None if result is None else repr(result)
        except Exception as problem:
            status, error = classify(problem), f"{type(problem).__name__}: {problem}"[:500]
        stdout = "".join(printed)
        if len(stdout) > OUTPUT_BYTES or len(value or "") > OUTPUT_BYTES:
            status, stdout, value = "output", stdout[:OUTPUT_BYTES], None
        return Result(status, stdout, value, error, time.monotonic() - started)

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


def classify(problem: Exception) -> str:
    text = f"{type(problem).__name__} {problem}"
    for status, names in (
        ("timeout", ("TimeoutError", "time limit")),
        ("memory", ("MemoryError",)),
        ("crash", ("Crashed",)),
    ):
        if any(name in text for name in names):
            return status
    return "error"


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
