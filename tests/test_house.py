"""The house: imports point down, no circle, no room too large; and what measures or talks knows no train loop."""

import ast
import graphlib
from pathlib import Path

import pytest

from tests.commands import ROOT

# From the bottom up: a module may import those before its own room, and others of its room.
ROOMS = (
    "ranges config files frame tables stage_table rows sharding checkpoint tokenizer model tools "
    "tasks runs lineage planning training sampling prompts rl stages evals report serve hub "
    "chat generate evaluate lm_eval compile_ahead compare main"
).split()
LOOP = "llm_jax.training.loop"
PACKAGES = ("llm_jax", "data_pipelines")
MOST_LINES = 500


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside & FILES.keys() or {node.module}
            found |= {node.module} if inside - FILES.keys() else set()
    return found & FILES.keys()


IMPORTS = {name: imported(path) - {name} for name, path in FILES.items()}


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def reached(name: str) -> set[str]:
    """All that a module imports, and what that imports."""
    seen, left = set(), [name]
    while left:
        for other in IMPORTS[left.pop()] - seen:
            seen.add(other)
            left.append(other)
    return seen


def test_every_room_has_its_place():
    assert {room_of(name) for name in FILES if name.startswith("llm_jax.")} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_down(room):
    above = set(ROOMS[ROOMS.index(room) + 1 :])
    up = [(a, b) for a in IMPORTS if room_of(a) == room and a.startswith("llm_jax.") for b in IMPORTS[a]]
    assert not [pair for pair in up if pair[1].startswith("llm_jax.") and room_of(pair[1]) in above]


def test_the_library_does_not_know_where_its_data_comes_from():
    assert not [
        (a, b) for a in IMPORTS if a.startswith("llm_jax") for b in IMPORTS[a] if b.startswith("data_pipelines")
    ]
    known = {
        room_of(b) for a in IMPORTS if a.startswith("data_pipelines") for b in IMPORTS[a] if b.startswith("llm_jax.")
    }
    assert known <= {"tokenizer", "tasks", "tools", "rows", "tables", "config", "frame", "files"}


def test_text_is_utf_8_in_any_locale():
    """Each file that is read or written as text says so."""
    calls = [(name, node) for name, path in FILES.items() for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    for name, node in calls:
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        called, modes = ast.unparse(node.func), [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        text = called.endswith((".read_text", ".write_text"))
        text |= called.endswith("open") and bool({"r", "w", "a", "x"} & set(modes))
        assert not text, f"line {node.lineno} of {name}: {called} without an encoding"


def test_no_circle():
    list(graphlib.TopologicalSorter(IMPORTS).static_order())


@pytest.mark.parametrize("room", ["sampling", "hub", "evals", "serve"])
def test_what_measures_or_talks_knows_no_train_loop(room):
    assert not [name for name in FILES if name.startswith(f"llm_jax.{room}") and LOOP in reached(name)]


def test_no_file_is_too_large():
    tree = [
        path for folder in (*PACKAGES, "tests", "experiments", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    ]
    assert not [path for path in tree if len(path.read_text().splitlines()) > MOST_LINES]
