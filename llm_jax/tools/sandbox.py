"""What the sandboxes of the python tool have in common: limits, result, and what the model reads of it."""

import dataclasses
from typing import Protocol

OUTPUT_BYTES = 64 * 2**10


@dataclasses.dataclass
class Result:
    status: str  # ok, error, timeout, memory, output or crash
    stdout: str
    value: str | None  # repr of the last expression, or None
    error: str | None
    seconds: float

    def told(self) -> str:
        """What the model reads back: what was printed and the last value, or the kind of failure."""
        if self.status != "ok":
            return f"error: {self.status}" if self.error is None else (self.error.splitlines() or ["error"])[-1][:100]
        return "\n".join(part for part in (self.stdout.rstrip("\n"), self.value) if part)


class Calls(Protocol):
    """What a grader asks of a sandbox."""

    def calls(self, program: str, name: str, inputs: list[tuple]) -> list[str]:
        """The values of a function that a program defines, as texts of `inside.plain`, of each input one; none at all
        where it fails on one of them, has no time left, or gives what is no plain value. Never raises."""


def of_limit(status: str, seconds: float, memory: int) -> str:
    """The error of a program that ran into a limit, or took the interpreter with it: the same words each time."""
    return {
        "timeout": f"TimeoutError: the time limit of {seconds:g} s was exceeded",
        "memory": f"MemoryError: the memory limit of {memory // 2**20} MiB was exceeded",
        "crash": "the interpreter crashed",
    }[status]
