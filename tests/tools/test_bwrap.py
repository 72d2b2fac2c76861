"""Bubblewrap: all of CPython comes back as from monty, nothing gets out, nothing is left, and its absence is said."""

import json
import os
import subprocess
import sys

import pytest

from llm_jax.config import UserError, default
from llm_jax.tools import bwrap, seccomp
from llm_jax.tools.inside import plain
from llm_jax.tools.table import absent
from tests.commands import ROOT
from tests.tools.hostile_system import SYSTEM
from tests.tools.sandboxed import apart, descendants, opened, why_not

needs_bwrap = pytest.mark.skipif(bool(bwrap.unavailable()), reason=bwrap.unavailable())
needs_apart = pytest.mark.skipif(bool(why_not()), reason=why_not())


@needs_bwrap
@pytest.mark.parametrize("program, status, value, printed, error", [
    ("print('hi')\n6 * 7", "ok", "42", "hi\n", None),
    ("x = 5", "ok", None, "", None),
    ("import heapq\nclass A(Exception): pass\ndef f(): yield from heapq.nsmallest(2, [3, 1, 2])\nlist(f())",
     "ok", "[1, 2]", "", None),
    ("import sys\nprint('e', file=sys.stderr)\nsys.exit()", "ok", None, "e\n", None),
    ("1/0", "error", None, "", "ZeroDivisionError: division by zero"),
    ("a =", "error", None, "", "SyntaxError"),
    ("raise SystemExit(3)", "error", None, "", "SystemExit: 3"),
    ("input()", "error", None, "", "EOFError"),
    ("10**5000", "error", None, "", "ValueError"),
    ("raise ValueError('MemoryError')", "error", None, "", "ValueError: MemoryError"),
    ("'x' * 70000", "output", None, "", None),
    ("[0] * 10**9", "memory", None, "", "MemoryError: the memory limit of 256 MiB"),
    ("import os\nos._exit(0)", "crash", None, "", "the interpreter crashed"),
    ("while True: pass", "timeout", None, "", "TimeoutError: the time limit of 0.5 s"),
])  # fmt: skip
def test_a_result_is_as_montys(program, status, value, printed, error):
    tool = bwrap.BwrapTool(0.5 if status == "timeout" else 60.0)
    result = tool.run(program)
    assert (result.status, result.value, result.stdout) == (status, value, printed)
    assert error in result.error if error else result.error is None


def test_what_is_ours_to_close_is_closed_wherever_it_begins():
    """Else the self-test would call the sandbox away, and the tests of it would be skipped."""
    assert not [what for what in ("the user is root", "files of the host") if what in bwrap.unavailable()]


@needs_bwrap
def test_nothing_is_left_of_a_call_that_ends_before_its_children():
    before = opened(), descendants()
    child = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(3600)\n'parent'"
    assert bwrap.BwrapTool(60.0).run(child).value == "'parent'"
    assert (opened(), descendants()) == before


@needs_bwrap
def test_values_of_calls_are_texts_and_no_others():
    tool = bwrap.BwrapTool(60.0)
    values = [1, 1.5, True, None, "a'b", (1,), [[], ()], {"k": {3, 1}}, set(), b"x", float("inf")]
    assert tool.calls("def f(x): return x", "f", [(value,) for value in values]) == [plain(value) for value in values]
    for program in (
        "def f(x): return print",
        "class A(int): pass\ndef f(x): return A(1)",
        "def f(x): raise KeyError",
        "",
    ):
        assert tool.calls(program, "f", [(1,), (2,)]) == []


SOME = "loop_try append print_big open write listdir fork threads socket kill _exit".split()
SOME += "fork_bomb orphan mount userns ptrace vsock fill_disk fill_root etc kill_parent".split()


@needs_apart
@pytest.mark.parametrize("backend", [pytest.param("bwrap", marks=needs_bwrap), "monty"])
def test_hostile_programs_end_and_leave_nothing(backend):
    """The long list is in test_hostile.py."""
    lines = apart(backend, "0.2", *SOME)
    assert [line["name"] for line in lines] == SOME
    for line in lines:
        assert line["next"] == "42" and not line["left"] and "root:" not in (line["value"] or ""), line
        assert line["name"] not in SYSTEM or line["value"] in (None, "'held'"), line


def test_the_filter_jumps_nowhere_but_ahead_and_ends_in_a_verdict():
    for column, arch in seccomp.ARCHES.values():
        made = list(seccomp.instructions(column, arch))
        assert made[-1] == (seccomp.RETURN, 0, 0, seccomp.ALLOW) and len(made) < 4096
        assert all(at + 1 + max(yes, no) < len(made) for at, (_, yes, no, _) in enumerate(made[:-1]))


def test_who_asks_for_bubblewrap_and_has_it_not_is_told_and_gets_nothing_else(tmp_path, monkeypatch):
    command = [sys.executable, "-m", "llm_jax.tools.python", "--backend=bwrap"]
    without = subprocess.run(
        command, input="1", capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PATH": str(tmp_path)}
    )
    assert (without.returncode, without.stdout) == (2, "")
    assert without.stderr.startswith("error: bubblewrap is not installed (apt-get install bubblewrap")
    monkeypatch.setattr(bwrap, "unavailable", lambda: "bubblewrap is not installed")
    assert default().tools.python == "monty" and absent(tmp_path, python="monty")["search"]
    with pytest.raises(UserError, match=r"tools\.python is 'bwrap', and bubblewrap is not installed; mend that"):
        absent(tmp_path, python="bwrap")


def test_the_door_says_what_is_available():
    door = [sys.executable, "-m", "llm_jax.tools.python"]
    said = subprocess.run([*door, "--self_test"], capture_output=True, text=True, cwd=ROOT).stdout.splitlines()
    assert said == ["monty: works", f"bwrap: {bwrap.unavailable() or 'works'}"]
    if not bwrap.unavailable():
        run = subprocess.run(
            [*door, "--backend=bwrap", "--timeout=60"], input="2 ** 5", capture_output=True, text=True, cwd=ROOT
        )
        assert json.loads(run.stdout) | {"seconds": 0} == {
            "status": "ok", "stdout": "", "value": "32", "error": None, "seconds": 0,
        }  # fmt: skip
