"""Runs the project's commands as a user does: real processes."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TINY = str(ROOT / "tests" / "tiny.py")
# What several tests and their processes compile is compiled once. Workers of pytest find the first process's folder.
CACHE = "JAX_COMPILATION_CACHE_DIR"
_cache = None if CACHE in os.environ else tempfile.TemporaryDirectory(prefix="llm_jax_tests_")
COMPILED = {CACHE: _cache.name if _cache else os.environ[CACHE], "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
# Most of what tests do in their own process is to compile: there, programs are translated with fewer passes, as JAX
# tests itself. The commands that they start run as a user's do, and some of these decode for long.
FEWER_PASSES = "JAX_DISABLE_MOST_OPTIMIZATIONS"
DEADLINE = 900.0  # seconds that a test waits for another process, so that a busy machine changes no result
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **COMPILED}
ENVIRONMENT.pop(FEWER_PASSES, None)


def until(true: Callable[[], Any], pause: float = 0.01) -> Any:
    """Waits for a state, and gives what `true` gave. Fails when it has not come in time."""
    deadline = time.monotonic() + DEADLINE
    while not (found := true()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(pause)
    return found


def start(*args: str, **kwargs) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", *args],
        cwd=ROOT,
        env=ENVIRONMENT,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kwargs,
    )


def run(*args: str, stdin: str | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *args],
        cwd=ROOT,
        env=ENVIRONMENT,
        text=True,
        input=stdin or "",
        capture_output=True,
        timeout=DEADLINE,
    )


def tiny(workdir, *args: str) -> subprocess.CompletedProcess:
    return run("llm_jax.main", f"--config={TINY}", f"--workdir={workdir}", *args)


def refused(result: subprocess.CompletedProcess, *words: str) -> None:
    """A user's mistake: exit code 2, one clear line that holds the words, no traceback."""
    assert result.returncode == 2, (result.returncode, result.stderr[-2000:])
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in lines[0], (word, lines[0])
