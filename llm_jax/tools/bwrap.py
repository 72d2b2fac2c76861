"""All of CPython in a sandbox: bubblewrap, an unprivileged user, limits, and a filter of system calls (Linux).

A program gets an interpreter of its own, in namespaces of its own: no network, no processes but its own, no files but
the interpreter's, read-only, and a /tmp of a megabyte. What limits a process is set inside (inside.py); time and output
are limited from here, and at the end of a call the first process of its namespace is killed, and with it all.

Started by root, bubblewrap makes no user namespace, since the kernel counts no processes of root's: what runs inside
leaves root for NOBODY before the program begins. Started by anyone else, it makes one, and no process is ever root.
"""

import contextlib
import functools
import json
import math
import os
import platform
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from llm_jax.config import UserError
from llm_jax.tools import inside, seccomp
from llm_jax.tools.sandbox import OUTPUT_BYTES, Result, of_limit

MEMORY_BYTES = 256 * 2**20  # of a process's address space; CPython's own takes 20 MiB
DISK_BYTES = 2**20
LIMITS = {
    "RLIMIT_AS": MEMORY_BYTES,
    "RLIMIT_FSIZE": DISK_BYTES,
    "RLIMIT_NOFILE": 32,
    "RLIMIT_NPROC": 8,  # with threads
    "RLIMIT_CORE": 0,
    "RLIMIT_MSGQUEUE": 0,
}
NOBODY = 65534
START_SECONDS = 30.0  # until the interpreter is ready, on a busy machine; the program's time counts from there
END_SECONDS = 1.0  # for the kernel, to end all processes
TOLD_BYTES = 8 * OUTPUT_BYTES  # what is read of an answer: a value's text, or those of several calls, as JSON
RUNNER = Path(inside.__file__).read_text(encoding="utf-8")
# It must not work: a file of the host's, one outside of /tmp, the network, another namespace, more processes.
PROBE = """
import os, signal, socket
def fails(what, *args):
    try: what(*args)
    except OSError: return True
def forks():
    for _ in range(64):
        if os.fork() == 0: signal.pause()
held = {
    "the user is root": os.getuid() != 0,
    "files of the host are there": fails(os.listdir, "/etc"),
    "files can be written outside of /tmp": fails(os.mkdir, "/x") and fails(os.mkdir, "/dev/x"),
    "there is a network": fails(socket.socket),
    "processes are not limited": fails(forks),
    "the filter of system calls is not set": "Seccomp:\\t2" in open("/proc/self/status").read(),
}
", ".join(what for what, holds in held.items() if not holds) or "closed"
"""


@functools.cache
def unavailable() -> str:
    """Why this sandbox is not to be had, in a few words; empty where a program was run in it and could not get out."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return "bubblewrap needs Linux 5.3 or newer"
    if not seccomp.known():
        return f"there is no filter of system calls for {platform.machine()}"
    if not shutil.which("bwrap"):
        return "bubblewrap is not installed (apt-get install bubblewrap, or your system's package of that name)"
    found = Sandbox(START_SECONDS).run(PROBE)
    if found.status == "ok" and found.value == "'closed'":
        return ""
    return f"bubblewrap does not hold here ({found.value or found.stdout.strip() or found.error})"


def absent(workdir: Path, backend: str | None) -> str:
    """For the table of tools. Nothing lacks, for monty is always here. Raises UserError where the sandbox that a run
    asks for is not: no other one steps in."""
    if backend == "bwrap" and (reason := unavailable()):
        raise UserError(f"tools.python is 'bwrap', and {reason}; mend that, or take 'monty'")
    return ""


class Sandbox:
    """Runs programs, each in an interpreter of its own, by any thread. Use BwrapTool, which knows that it is one."""

    def __init__(self, timeout: float = 1.0):
        self.timeout = timeout

    def close(self) -> None:
        """There is nothing between calls."""

    def run(self, program: str) -> Result:
        """Never raises: whatever the program does ends as a Result."""
        with opened({"kind": "run", "program": program}, self.timeout) as process:
            return process.result(self.timeout)

    def answer(self, program: str) -> str:
        """What the model reads back: what was printed and the last value, or the kind of failure."""
        return self.run(program).told()

    def calls(self, program: str, name: str, inputs: list[tuple]) -> list[str]:
        """As `sandbox.Calls` has it."""
        calls = ({"name": name, "args": [inside.plain(arg) for arg in args], "named": {}} for args in inputs)
        asked = in_memory("".join(f"{json.dumps(call)}\n" for call in calls).encode())
        with opened({"kind": "serve", "program": program, "asked": asked}, self.timeout, asked) as process:
            os.close(asked)
            process.result(self.timeout)
        values = [said.get("value") for said in process.said[:-1] if isinstance(said, dict)]
        whole = len(values) == len(inputs) and all(isinstance(value, str) for value in values)
        return values if whole else []

    def passes(self, program: str, tests: str, names: tuple[str, ...]) -> Result:
        """What comes of tests that call a program's functions of these names: "ok" where none failed. The program runs
        in one sandbox and the tests in another, which has only plain values of it: so it cannot see what is compared,
        nor say that it is equal. Tests that look for a change of what they have given, or for objects of the program's
        own, fail."""
        ask, asked = os.pipe(), os.pipe()  # read end, write end
        serving = {"kind": "serve", "program": program, "asked": ask[0], "tell": asked[1]}
        testing = {"kind": "test", "program": tests, "names": names, "heard": asked[0], "ask": ask[1]}
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(opened(serving, self.timeout, ask[0], asked[1]))
                tester = stack.enter_context(opened(testing, self.timeout, asked[0], ask[1]))
            finally:
                for end in (*ask, *asked):
                    os.close(end)
            return tester.result(self.timeout)


class BwrapTool(Sandbox):
    """The sandbox where it works. Raises UserError, with the reason, where it does not."""

    def __init__(self, timeout: float = 1.0):
        if reason := unavailable():
            raise UserError(f"{reason}; mend that, or use --backend=monty")
        super().__init__(timeout)


@contextlib.contextmanager
def opened(job: dict, timeout: float, *handles: int) -> Iterator["Process"]:
    """An interpreter that has begun on a job of inside.py, with these handles; when it is left, all of it is gone."""
    process = Process(job, timeout, handles)
    try:
        yield process
    finally:
        process.end()


class Process:
    """bubblewrap, and what it tells: `info` of itself, `told` by the job, and standard output."""

    def __init__(self, job: dict, timeout: float, handles: tuple[int, ...]):
        limits = LIMITS | {"RLIMIT_CPU": math.ceil(timeout) + 1}  # the time of all together is watched from here
        self.said: list = []
        self.printed = b""
        self._info, info = os.pipe()
        self._told, told = os.pipe()
        job = {"tell": told, "user": None if os.getuid() else NOBODY, "limits": limits, **job}
        given, rules = in_memory(json.dumps(job).encode()), in_memory(seccomp.program())
        try:
            self._bwrap = subprocess.Popen(
                [*command(info, rules), "-c", RUNNER],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(info, rules, told, *handles),
                env={},
            )
        except BaseException:
            os.close(self._info)
            os.close(self._told)
            raise
        finally:
            for handle in (info, told, given, rules):
                os.close(handle)

    def result(self, timeout: float) -> Result:
        """Waits for the end of the job, at most so long after it was ready."""
        began = time.monotonic()
        status, told = self._watch(timeout)
        started, seconds = bool(told), time.monotonic() - (self._ready or began)
        self.end()
        self.said = lines_of(told)
        stdout = self.printed.decode("utf-8", "ignore")
        ended = self.said[-1] if self.said else None
        if not status and isinstance(ended, dict) and ended.get("status") in ("ok", "error", "memory", "output"):
            status, value, error = ended["status"], ended.get("value"), ended.get("error")
        else:
            status, value, error = status or ("crash" if started else "error"), None, None
        if not started:
            error = f"the sandbox did not begin: {stdout.strip()[-300:]}"
        elif status in ("timeout", "memory", "crash"):
            error = of_limit(status, timeout, MEMORY_BYTES)
        return Result(status, stdout, texted(value), texted(error), seconds)

    def _watch(self, timeout: float) -> tuple[str, bytes]:
        """("timeout", "output", or empty where it ended by itself; what the job told). Reads `printed`."""
        told, self._ready, deadline = b"", 0.0, time.monotonic() + START_SECONDS
        output = self._bwrap.stdout.fileno()
        ended = os.pidfd_open(self._bwrap.pid)
        try:
            with selectors.DefaultSelector() as selector:
                for handle in (output, self._told, ended):
                    selector.register(handle, selectors.EVENT_READ)
                while (left := deadline - time.monotonic()) > 0:
                    events = {key.fd for key, _ in selector.select(left)}
                    if output in events and not self._read_output(output):
                        selector.unregister(output)
                    if self._told in events:
                        told += (piece := os.read(self._told, 2**16))
                        if not piece:
                            selector.unregister(self._told)
                    if told and not self._ready:
                        self._ready = time.monotonic()
                        deadline = self._ready + timeout
                    if len(self.printed) > OUTPUT_BYTES or len(told) > TOLD_BYTES:
                        self.printed = self.printed[:OUTPUT_BYTES]
                        return "output", told
                    if events == {ended}:  # and nothing is left to be read
                        return "", told
        finally:
            os.close(ended)
        return "timeout", told

    def _read_output(self, output: int) -> bool:
        self.printed += (piece := os.read(output, 2**16))
        return bool(piece)

    def end(self) -> None:
        """Kills all processes of the sandbox, if they are not gone, and waits until they are."""
        if self._bwrap.stdout.closed:
            return
        os.set_blocking(self._info, False)
        with contextlib.suppress(OSError, ValueError, KeyError):  # it has not begun, or is gone
            first = os.pidfd_open(json.loads(os.read(self._info, 2**12))["child-pid"])
            try:
                signal.pidfd_send_signal(first, signal.SIGKILL)
                with selectors.DefaultSelector() as selector:
                    selector.register(first, selectors.EVENT_READ)
                    selector.select(END_SECONDS)
            finally:
                os.close(first)
        self._bwrap.kill()
        self._bwrap.wait()
        self._bwrap.stdout.close()
        os.close(self._info)
        os.close(self._told)


def command(info: int, rules: int) -> list[str]:
    """bubblewrap and this Python; what is not named here is not there."""
    as_nobody = ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    as_root = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]  # until it is nobody, too
    user = as_nobody if os.getuid() else as_root
    prefix, version = Path(sys.base_prefix), sysconfig.get_python_version()
    python = prefix / "bin" / f"python{version}"
    files = [Path("/lib"), Path("/lib64"), Path("/usr/lib"), Path("/usr/lib64")]
    files.append(python.resolve() if prefix == Path("/usr") else prefix)
    above = dict.fromkeys(folder for path in files for folder in [*path.parents][-2::-1])  # else for root alone
    return [
        shutil.which("bwrap"),
        *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try", *user),
        *("--die-with-parent", "--new-session", "--clearenv", "--setenv", "PYTHONHASHSEED", "0"),
        *(part for folder in above for part in ("--perms", "0755", "--dir", str(folder))),
        *(part for path in files for part in ("--ro-bind-try", str(path), str(path))),
        *("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"),
        *("--perms", "1777", "--size", str(DISK_BYTES), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"),
        *("--info-fd", str(info), "--seccomp", str(rules)),
        *(str(python.resolve()), "-s", "-S", "-P", "-B", "-Wignore", "-Xutf8"),
    ]


def in_memory(data: bytes) -> int:
    """A file that holds this, and has no name."""
    handle = os.memfd_create("given")
    with open(os.dup(handle), "wb") as file:
        file.write(data)
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def lines_of(told: bytes) -> list:
    """What the job told after that it was ready; a program may have written there, too, and in any way."""
    said = []
    for line in told.splitlines()[1:]:
        try:
            said.append(json.loads(line))
        except (ValueError, RecursionError):
            said.append(None)
    return said


def texted(said) -> str | None:
    return said if isinstance(said, str) else None
