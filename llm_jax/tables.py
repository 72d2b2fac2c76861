"""Tables of what can be added to: stages, task families, tools, measurements. A row is added once and found by name.

A module outside the package adds rows of its own with `TABLE.add`, and a config names it in `extensions`.
"""

import dataclasses
import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from llm_jax.config import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What every row has. A part whose default is None must be given."""

    name: str

    def wrong(self, names: Iterable[str]) -> str:
        """What cannot work about the parts, in a few words; empty when nothing. `names` are of the rows before it."""
        return ""

    def clashes(self, other: Any) -> str:
        """What only one of the two rows can have; empty when nothing."""
        return ""


AnyRow = TypeVar("AnyRow", bound=Row)


class Table(Mapping[str, AnyRow], Generic[AnyRow]):
    """Rows by name, in order. `kind` is what one of them is called."""

    def __init__(self, kind: str, rows: Iterable[AnyRow] = ()):
        self.kind = kind
        self._rows: dict[str, AnyRow] = {}
        for row in rows:
            self.add(row)

    def add(self, row: AnyRow, before: str = "") -> None:
        """Adds a row, at the end or before another. Raises UserError, with its name, for one that cannot stand."""
        said = f"{self.kind} {row.name!r}"
        if lacking := [part.name for part in dataclasses.fields(row) if getattr(row, part.name) is None]:
            raise UserError(f"{said} lacks {lacking[0]!r}")
        if not row.name or row.name in self._rows:
            raise UserError(f"{said} is there already" if row.name else f"a {self.kind} has no name")
        if wrong := row.wrong(self._rows):
            raise UserError(f"{said}: {wrong}")
        for other in self._rows.values():
            if clash := row.clashes(other):
                raise UserError(f"{said} and {other.name!r} have the same {clash}")
        at = list(self._rows).index(self.find(before).name) if before else len(self._rows)
        rows = list(self._rows.items())
        self._rows = dict([*rows[:at], (row.name, row), *rows[at:]])

    def remove(self, name: str) -> None:
        """Takes a row out again, as a test does that has added one."""
        del self._rows[name]

    def find(self, name: str) -> AnyRow:
        """The row of that name. Raises UserError, which names the nearest, when there is none."""
        return self._rows[known(self.kind, name, self._rows)]

    def __getitem__(self, name: str) -> AnyRow:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def known(kind: str, name: str, names: Iterable[str]) -> str:
    """`name`, if it is one of the names. Raises UserError, which names the nearest, when it is not."""
    names = list(names)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    mend = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(names)}"
    raise UserError(f"unknown {kind} {name!r}; {mend}")


def extend(modules: Iterable[str]) -> None:
    """Imports modules, which add their rows. Raises UserError for one that cannot be imported."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"extensions names {name!r}, which cannot be imported ({error})") from error


def function(path: str) -> Any:
    """What "module:name" names. Raises UserError when it is not there."""
    module, _, name = path.partition(":")
    if not (module and name):
        raise UserError(f"{path!r} is no function; it must be 'module:function'")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # it is here, and something that it needs is not
        raise UserError(f"{path!r}: there is no module {error.name!r}") from error
    if not hasattr(found, name):
        raise UserError(f"{path!r}: {module} has no {name!r}")
    if not callable(getattr(found, name)):
        raise UserError(f"{path!r} is no function; it must be 'module:function'")
    return getattr(found, name)
