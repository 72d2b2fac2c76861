"""Odd machines: the tiny run passes, from the first stage to the report."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import CACHE, DEADLINE, ENVIRONMENT, ROOT, TINY

NOBODY = 65534
# May read everything, so that it finds this Python, and write only what is its own.
ANOTHER_USER = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
ANOTHER_USER += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
FEW_FILES = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh"]  # of those that a process may have open
AS_TERMINALS_AND_HOME = ("HOME", "TERM", "LANG", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


def passes(workdir: Path | str, before: list[str], config=TINY, cwd=ROOT, **changes: str) -> str:
    """Runs all stages without a terminal -> what it printed."""
    environment = {key: value for key, value in ENVIRONMENT.items() if key not in AS_TERMINALS_AND_HOME} | changes
    command = [*before, sys.executable, "-m", "llm_jax.main", f"--config={config}", f"--workdir={workdir}"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    done = subprocess.run(
        command, cwd=cwd, env=environment, start_new_session=True, timeout=2 * DEADLINE, check=False, **pipes
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    assert b"Traceback" not in done.stderr
    assert (Path(cwd) / workdir / "report/index.html").stat().st_size > 10_000
    return done.stdout.decode(errors="replace")


@pytest.mark.slow
def test_a_bare_machine(tmp_path):
    """No home, no terminal, the POSIX locale, 64 open files, and a place that is more than letters."""
    printed = passes(tmp_path / "a [1] rün", FEW_FILES, LC_ALL="POSIX")
    assert f"--workdir='{tmp_path}/a [1] rün'" in printed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can run as another user")
def test_another_user_in_an_ascii_locale_with_optimized_python(tmp_path):
    """Whose home is not his own to write to; and Python is kept from taking UTF-8 nevertheless."""
    if subprocess.run([*ANOTHER_USER, sys.executable, "-c", ""], capture_output=True).returncode:
        pytest.skip("another user cannot run this Python")
    place = tmp_path / "his"
    place.mkdir()
    os.chown(place, NOBODY, NOBODY)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    passes(place / "run", ANOTHER_USER, HOME="/root", PYTHONOPTIMIZE="1", **ascii_only, **{CACHE: str(place / "cache")})


@pytest.mark.slow
def test_a_plain_install_away_from_the_checkout(tmp_path):
    """From another folder, with a config of one's own and a workdir that is relative to it."""
    source, installed, elsewhere = tmp_path / "source", tmp_path / "installed", tmp_path / "elsewhere"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv*", "runs", "build"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, f"--target={installed}", str(source)], check=True, timeout=DEADLINE)
    shutil.rmtree(source)
    elsewhere.mkdir()
    shutil.copy(TINY, elsewhere / "mine.py")
    passes("../runs/a", [], "mine.py", elsewhere, PYTHONPATH=str(installed))
