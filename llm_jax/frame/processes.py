"""Several processes of one run: how they find each other, wait for the first, and end together when one fails.

All of it goes through the notes that JAX's coordinator keeps for them, not over the devices: one that waits in a
collective hears nothing, and waits for ever when another is gone. So a thread of each process looks every few seconds
whether a failure is noted. Of failures, the first one to be noted counts, and only its process says why.

A process that is killed notes nothing. Those that wait for it in a collective over TCP fail at once; the others are
ended by JAX, when the killed one has not been heard of for a while.
"""

import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn

from llm_jax.config import UserError

FAILED, LEFT = "llm_jax/failed", "llm_jax/left"  # notes
ARRIVAL = 300.0  # seconds in which all processes must have come; machines are not equally quick to start one
SILENCE = 40  # seconds after which JAX takes a process for dead
LOOK = 2.0  # seconds between two looks at the notes
GRACE = 10.0  # seconds for a process to end by itself when another has failed: an error of its own, a save to finish

_notes: Any = None  # JAX's client of the coordinator; None in a process that is alone
_mine = False  # this process was the first to fail


def connect(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins the others; what is not given is asked of the cluster. Call before anything uses a device.

    Raises UserError where no cluster is found; ends the process with a line when the others do not come.
    """
    global _notes
    import jax
    from jax._src import distributed  # the notes have no public name

    jax.config.update("jax_enable_preemption_service", False)  # its handler of SIGTERM would be in the way of ours
    patience = threading.Timer(ARRIVAL, _give_up)  # JAX's own would abort
    patience.daemon = True
    patience.start()
    timeouts = {"initialization_timeout": 2 * int(ARRIVAL), "heartbeat_timeout_seconds": SILENCE}
    try:
        jax.distributed.initialize(coordinator, processes, process, **timeouts)
    except ValueError as error:
        mend = "give --coordinator, --processes and --process"
        raise UserError(f"--distributed finds no cluster here ({error}); {mend}") from error
    finally:
        patience.cancel()
    _notes = distributed.global_state.client
    threading.Thread(target=_watch, name="watch", daemon=True).start()


def _give_up() -> NoReturn:
    what = f"not all processes came within {ARRIVAL:.0f} s; look why in the output of those that are missing"
    print(f"error: {what}, and start all again", file=sys.stderr, flush=True)
    os._exit(1)


def several() -> bool:
    return _notes is not None


def say(line: str) -> None:
    """Prints a line, of several processes in the first one."""
    if not several() or _me() == 0:
        print(line, flush=True)


def after_first(name: str) -> None:
    """Waits until the first process has come here, under a name that is used once."""
    if not several():
        return
    if _me() == 0:
        _notes.key_value_set(f"llm_jax/first/{name}", "here")
    _wait_for(f"llm_jax/first/{name}")


def gathered(name: str, value: str) -> list[str]:
    """What every process gives under a name that is used once: to the first one; the others get nothing, at once."""
    if not several():
        return [value]
    from jax._src import distributed

    _notes.key_value_set(f"llm_jax/{name}/{_me()}", value)
    count = distributed.global_state.num_processes if _me() == 0 else 0
    return [_wait_for(f"llm_jax/{name}/{process}") for process in range(count)]


def _wait_for(note: str) -> str:
    """A note, once it is there. It is waited for in steps, so that signals and failures are seen."""
    while not (value := _read(note)):
        _end_if_failed()
        time.sleep(0.2)
    return value


def first_to_fail(code: int) -> bool:
    """Whether this failure is the first of all processes, and so the one to be told. Notes it for the others."""
    global _mine
    if several() and not _mine:
        try:
            _notes.key_value_set(FAILED, f"{_me()} {code}")
            _mine = True
        except RuntimeError:  # there is one
            return False
    return True


def leave() -> None:
    """At the end of a command: when a process has failed, ends this one without waiting for those that cannot come."""
    if several():
        for number in (signal.SIGTERM, signal.SIGINT):  # to be late with a signal is no failure
            signal.signal(number, signal.SIG_IGN)
        _end_if_failed()


def _me() -> int:
    from jax._src import distributed

    return distributed.global_state.process_id


def _read(note: str) -> str:
    """A note, or nothing."""
    try:
        return _notes.key_value_try_get(note)
    except RuntimeError:
        return ""


def _watch() -> None:
    while not _read(FAILED):
        time.sleep(LOOK)
    time.sleep(GRACE)
    _end_if_failed()


def _end_if_failed() -> None:
    """When a failure is noted, ends now; JAX would wait for all others first. The keeper of the notes is the last."""
    from jax._src import distributed

    if not (noted := _read(FAILED)):
        return
    process, code = map(int, noted.split())
    if _me() == 0 and process != 0:
        print(f"error: process {process} failed, and says why; this one ends", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    if _me() == 0:
        deadline = time.monotonic() + 2 * GRACE
        others = distributed.global_state.num_processes - 1
        while len(_notes.key_value_dir_get(LEFT)) < others and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)  # after its note, each of them takes a moment
    else:
        _notes.key_value_set(f"{LEFT}/{_me()}", "", allow_overwrite=True)
    os._exit(code)
