"""Runs the project's commands as a user does: real processes."""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
import traceback
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


# To import JAX takes longer than most commands do: `run` forks them from a process that has imported it.
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.preloaded"])


def run(*args: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess:
    """`python -m ARGS`, in a process of its own, with what is given added to the environment."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdin", "stdout", "stderr")]
        files[0].write_text(stdin or "")
        process = _forks.Process(target=_command, args=(args, files, ENVIRONMENT | environment))
        process.start()
        process.join(DEADLINE)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(args, DEADLINE)
        out, err = (path.read_text() for path in files[1:])
        return subprocess.CompletedProcess(args, process.exitcode, out, err)


def _command(args: tuple[str, ...], files: list[Path], environment: dict[str, str]) -> None:
    """In the forked process: what `python -m` does from its first line to its exit."""
    for number, (path, mode) in enumerate(zip(files, "rww", strict=True)):
        with path.open(mode) as file:
            os.dup2(file.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww"))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = list(args)
    try:
        runpy.run_module(args[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


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
