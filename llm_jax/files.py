"""Paths that users give, a folder's one writer, and files that others, or a later run, find whole or not at all.

Text is UTF-8 in any locale, and a line of JSON ends where JSON lines do: text may hold other ends, such as U+2028.
"""

import contextlib
import fcntl
import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_jax.config import UserError


def user_path(text: str, name: str) -> Path:
    """A path that a user gave, its `~` expanded; `name` is of what. Raises UserError for none of this machine."""
    if not text.strip():
        raise UserError(f"{name} is empty; give it a path")
    if "://" in text:
        raise UserError(f"{name} is {text!r}, no path of this machine; mount it, and give the path that it has here")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name} is {text!r}, and nobody's home folder is known here; write the path out") from error


def matching(pattern: str) -> list[Path]:
    """The files that a glob names, in order. What is a folder as it is written is no pattern, brackets or not."""
    whole = Path(pattern).expanduser() if pattern.startswith("~") else Path(pattern)
    parts = [whole, *whole.parents]
    there = next((path for path in parts if path.exists()), Path())
    rest = whole.relative_to(there)
    if not rest.parts:
        return [there] if there.is_file() else []
    found = glob.glob(str(Path(glob.escape(str(there))) / rest), recursive=True)
    return sorted(path for path in map(Path, found) if path.is_file())


def named_or_own(pattern: str, key: str, own: Path) -> list[Path]:
    """The files of a glob that the config's `key` names; of none, a run's own file, if it is there.

    Raises UserError for a glob that matches nothing.
    """
    if not pattern:
        return [own] if own.exists() else []
    if not (found := matching(pattern)):
        raise UserError(f"no file matches {key}={pattern!r}; give a glob of .jsonl files")
    return found


def permitted(path: Path, mode: int) -> bool:
    """What this process may do, not the user who started it."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def writable(folder: Path) -> None:
    """Raises UserError when what is at the path, or will be made there, is no folder that may be written to."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise UserError(f"{there} is no folder; move it away, or give another path")
    if not permitted(there, os.R_OK | os.W_OK | os.X_OK):
        raise UserError(f"{there} may not be written to by this user, or is read-only; give another path")


@contextlib.contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Holds a folder. Raises UserError while another process does. The system lets go of it when its owner ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock(handle, folder)
    except OSError:  # NFS locks only what is open for writing
        os.close(handle)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        lock(handle, folder)
    try:
        yield
    finally:
        os.close(handle)


def lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UserError(f"another command is at work in {folder}; let it end, or use another --workdir") from error


def replace(path: Path, data: bytes | str) -> None:
    """Writes the file under another name beside it, which then takes its place. Raises OSError."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(data.encode() if isinstance(data, str) else data)
    new.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. Raises UserError when there is no such file, it may not be read, or it is not whole."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); move it away to have it made again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged (it holds no object); move it away to have it made again")
    return found


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file. Raises UserError for the first line that is none."""
    return [found for _, found in numbered_lines(path)]


def numbered_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """As `json_lines`, each with the number of its line."""
    objects = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            found = parsed(line)
            if found is None:
                raise UserError(f"{path} line {number} is damaged: it is no JSON object; make the file again")
            objects.append((number, found))
    return objects


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """As `json_lines`, of a log: without the lines that a killed writer left half, and none where there is no file."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    return [found for found in map(parsed, lines) if found is not None]


def parsed(line: bytes) -> dict[str, Any] | None:
    """A line's object; None when it holds none."""
    try:
        found = json.loads(line)
    except ValueError:  # no UTF-8 either
        return None
    return found if isinstance(found, dict) else None
