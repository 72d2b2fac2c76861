"""No program outlasts its limits, breaks the sandbox for the next one, or has it say anything."""

import time

import pytest

from llm_jax.tools.python import PythonTool
from tests.tools.hostile import PROGRAMS
from tests.tools.test_python import SLACK, TIMEOUT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tool():
    made = PythonTool(TIMEOUT)
    yield made
    made.close()


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_ends_and_the_next_one_runs(tool, name, capfd):
    started = time.monotonic()
    result = tool.run(PROGRAMS[name])
    assert time.monotonic() - started < TIMEOUT + SLACK
    assert result.status in ("ok", "error", "timeout", "memory", "output")
    assert len(result.stdout) + len(result.value or "") <= 2 * 2**16 and len(result.error or "") <= 500
    assert tool.run("6 * 7").value == "42"
    assert capfd.readouterr() == ("", "")
