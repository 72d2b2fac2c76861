"""Hostile programs, run one after the other in a sandbox, by a process that has nothing to lose.

    python -m tests.tools.sandboxed BACKEND TIMEOUT [PROGRAM ...]

prints a JSON line for each: name, status, error, seconds, whether the next call worked, and what is left of it. `apart`
is how the tests start it: never as root, and in file systems of its own, so that what gets out of a sandbox finds there
only what anyone may read.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.commands import ROOT
from tests.tools.hostile import PROGRAMS
from tests.tools.hostile_system import SYSTEM

NOBODY = 65534
ALL = PROGRAMS | SYSTEM


def closed_to_others(path: Path) -> Path | None:
    """The topmost folder on a path that only its owner may enter."""
    above = [*reversed(path.parents), path]
    return next((folder for folder in above if folder.is_dir() and not folder.stat().st_mode & 0o001), None)


def ways(needed: list[Path]) -> str:
    """Shell commands that put in the place of folders that are closed open ones, in which only `needed` is."""
    script, aside = "", 0
    for folder in {closed for path in needed if (closed := closed_to_others(path))}:
        inside = [path for path in needed if path.is_relative_to(folder)]
        for path in inside:
            aside += 1
            script += f"mkdir $0/{aside}; mount --bind {shlex.quote(str(path))} $0/{aside}\n"
        script += f"mount -t tmpfs -o mode=755 none {shlex.quote(str(folder))}\n"
        for number, path in enumerate(inside, aside - len(inside) + 1):
            script += f"mkdir -p {shlex.quote(str(path))}; mount --bind $0/{number} {shlex.quote(str(path))}\n"
    return script


def why_not() -> str:
    """What lacks to run programs apart; empty where nothing does. Who is not root has nothing to leave."""
    lacking = [name for name in ("unshare", "setpriv") if not shutil.which(name)]
    if os.getuid() or not lacking:
        return ""
    return f"{lacking[0]} is not here, and hostile programs are not run by root"


def apart(*arguments: str, module: str = "tests.tools.sandboxed") -> list[dict]:
    """What this file prints, given these arguments."""
    command = [sys.executable, "-m", module, *arguments]
    with tempfile.TemporaryDirectory() as folder:
        if not os.getuid():
            Path(folder).chmod(0o755)
            needed = [Path(sys.base_prefix), Path(sys.prefix).resolve(), ROOT, Path(shutil.which("bwrap") or "/usr")]
            script = f'set -e\n{ways(needed)}exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups "$@"'
            rights = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
            command = ["unshare", "--mount", "sh", "-c", script, folder, *rights, *command]
        environment = os.environ | {"HOME": "/", "TMPDIR": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0 and done.stderr == "", done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def descendants() -> set[str]:
    """Command lines of the processes that come from this one."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[folder.name] = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            names[folder.name] = (folder / "cmdline").read_text()[:200]
        except OSError:
            continue
    found, own = set(), {str(os.getpid())}
    while new := {pid for pid, parent in parents.items() if parent in own} - found:
        found |= new
        own |= new
    return {f"{pid} {names[pid]}" for pid in found}


def opened() -> int:
    return len(os.listdir("/proc/self/fd"))


def main(backend: str, timeout: str, *names: str) -> None:
    from llm_jax.tools.python import BACKENDS

    assert os.getuid(), "hostile programs are not run by root"
    tool = BACKENDS[backend](float(timeout))
    patient = (
        BACKENDS[backend](60.0) if backend == "bwrap" else tool
    )  # on a busy machine; there is nothing between calls
    assert patient.run("6 * 7").value == "42"
    files = set(os.listdir("/tmp"))
    handles, processes = opened(), descendants() if backend == "bwrap" else set()
    for name in names or ALL:
        started = time.monotonic()
        result = tool.run(ALL[name])
        seconds = time.monotonic() - started
        left = [f"{opened() - handles} handles"] if backend == "bwrap" and opened() > handles else []
        left += sorted(descendants() - processes) if backend == "bwrap" else []
        left += sorted(file for file in set(os.listdir("/tmp")) - files if file.startswith(("zz", "left")))
        said = {"status": result.status, "value": result.value, "error": result.error, "printed": len(result.stdout)}
        line = {"name": name, **said, "seconds": seconds, "next": patient.run("6 * 7").value, "left": left}
        print(json.dumps(line), flush=True)
    tool.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
