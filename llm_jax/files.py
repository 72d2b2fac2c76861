"""Files that others, or a later run, find whole or not at all."""

from pathlib import Path


def replace(path: Path, data: bytes | str) -> None:
    """Writes the file under another name beside it, which then takes its place. Raises OSError."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(data.encode() if isinstance(data, str) else data)
    new.replace(path)
