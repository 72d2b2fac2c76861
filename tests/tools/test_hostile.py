"""No program outlasts its limits, breaks a sandbox for the next one, gets out or leaves anything; nor do many calls."""

import os
from pathlib import Path

import pytest

from llm_jax.tools import bwrap
from llm_jax.tools.python import BACKENDS
from tests.tools.sandboxed import ALL, apart, descendants, opened, why_not

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]
EACH = [
    pytest.param("bwrap", marks=pytest.mark.skipif(bool(bwrap.unavailable()), reason=bwrap.unavailable())),
    "monty",
]
TIMEOUT, SLACK = 0.5, 60.0  # a busy machine takes its time; what has no limit takes for ever
CALLS = 10_000


@pytest.mark.parametrize("backend", EACH)
def test_they_end_get_nothing_and_leave_nothing(backend):
    lines = {line["name"]: line for line in apart(backend, str(TIMEOUT))}
    assert lines.keys() == ALL.keys()
    late = {name: line["seconds"] for name, line in lines.items() if line["seconds"] > TIMEOUT + 1.5}
    print(f"{backend}: {len(lines)} programs, slowest {max(line['seconds'] for line in lines.values()):.2f} s, {late=}")
    for name, line in lines.items():
        assert line["next"] == "42" and not line["left"] and line["seconds"] < TIMEOUT + SLACK, line
        assert line["status"] in ("ok", "error", "timeout", "memory", "output", "crash"), line
        assert line["printed"] + len(line["value"] or "") <= 2 * 2**16 and len(line["error"] or "") <= 500, name
        assert "root:" not in (line["value"] or "") and not (line["value"] or "").startswith("'out"), line


@pytest.mark.parametrize("backend", EACH)
def test_ten_thousand_calls_leak_nothing(backend):
    """Memory and handles of this process, and processes under it."""
    tool = BACKENDS[backend](60.0)
    programs = ["6 * 7", "print('x' * 1000)", "1/0", "def f(n): return n and f(n - 1)\nf(50)"]
    pages = lambda: int(Path("/proc/self/statm").read_text().split()[1])  # noqa: E731
    noted = []
    for number in range(CALLS):
        tool.run(programs[number % len(programs)])
        if number in (CALLS // 10, CALLS - 1):
            noted.append((pages() * os.sysconf("SC_PAGE_SIZE") / 2**20, opened(), len(descendants())))
    tool.close()
    (memory, handles, processes), last = noted
    print(f"{backend}: {CALLS} calls; MiB, handles, processes after a tenth {noted[0]}, at the end {last}")
    assert last[0] - memory < 8 and last[1:] == (handles, processes)
