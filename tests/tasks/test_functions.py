"""Functions that the model writes: the reference is right, whatever fakes, reads or guesses is not, and what is held
out has a shape that is trained on nowhere."""

import random

import pytest

from llm_jax.tasks import functions
from llm_jax.tasks.base import SPLITS
from llm_jax.tasks.functions import correct, grade, hidden, shape
from llm_jax.tasks.table import FAMILIES
from llm_jax.tools import bwrap
from llm_jax.tools.python import BACKENDS

REFERENCE = "def f(xs): return sum([n + 3 for n in xs if n > 2])"
RIGHT = [
    REFERENCE,
    "def f(xs):\n    total = 0\n    for n in xs:\n        if n > 2:\n            total += n + 3\n    return total",
    "g = lambda xs: sum(n + 3 for n in xs if n > 2)\nf = g\nprint('noise')",
]
WRONG = {
    "empty": "",
    "prose": "The function adds three.",
    "constant": "def f(xs): return 0",
    "none": "def f(xs): pass",
    "another name": "def g(xs): return sum([n + 3 for n in xs if n > 2])",
    "near": "def f(xs): return sum([n + 3 for n in xs if n > 2][1:])",
    "another type": "def f(xs): return float(sum([n + 3 for n in xs if n > 2]))",
    "as a text": "def f(xs): return str(sum([n + 3 for n in xs if n > 2]))",
    "the examples alone": "def f(xs): return {(3, 1): 6, (9,): 12, (): 0}.get(tuple(xs), 0)",
    "a table of hashes": "T = {hash((3, 1)): 6, hash(()): 0}\ndef f(xs): return T.get(hash(tuple(xs)))",
    "prints passed": "print('passed')\nprint('[True] * 12')",
    "prints and exits": "import sys\nprint('ok')\nsys.exit(0)",
    "quits": "import os\nos._exit(0)",
    "quits when called": "def f(xs):\n    import os\n    os._exit(0)",
    "equal to all": "class E:\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\n"
    "def f(xs): return E()",
    "a number equal to all": "class E(int):\n    def __eq__(self, other): return True\ndef f(xs): return E(1)",
    "writes itself as it likes": "class E:\n    def __repr__(self): return '12'\ndef f(xs): return E()",
    "patches builtins": "import builtins\nbuiltins.repr = lambda value: '0'\nbuiltins.sum = lambda xs: 0\n"
    "builtins.len = lambda xs: 12\ndef f(xs): return 0",
    "reads frames": """
import sys
def f(xs):
    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            if isinstance(value, dict) and 'wanted' in value: return value['wanted']
        frame = frame.f_back
""",
    "reads files": "import os, sys\ndef f(xs):\n    for path in (*sys.argv, *os.listdir('.'), '/proc/self/cmdline'):\n"
    "        try: return int(open(path).read())\n        except Exception: pass",
    "writes where answers go": 'import os\nfor n in range(1, 64):\n    try: os.write(n, b\'{"value": "0"}\\n\' * 12)\n'
    "    except OSError: pass\ndef f(xs): return 0",
    "never ends": "def f(xs):\n    while True: pass",
    "takes all memory": "def f(xs): return [0] * 10**10",
    "ends the list": "def f(xs): return 0\n]; [",
    "opens a text": 'def f(xs): return 0\n"""',
}


@pytest.fixture(scope="module", params=list(BACKENDS))
def sandbox(request):
    if request.param == "bwrap" and bwrap.unavailable():
        pytest.skip(bwrap.unavailable())
    made = BACKENDS[request.param](1.0 if request.param == "bwrap" else 0.5)
    yield made
    made.close()


def test_what_does_the_same_is_right_and_nothing_else(sandbox):
    """In both sandboxes. The references' values are not of those that the controls give: these are wrong."""
    assert len(hidden(REFERENCE)) >= 8 and hidden(REFERENCE) == hidden(REFERENCE)
    assert len(set(sandbox.calls(REFERENCE, "f", hidden(REFERENCE)))) >= functions.DISTINCT
    assert [correct(sandbox, REFERENCE, program) for program in RIGHT] == [True] * len(RIGHT)
    assert [name for name, program in WRONG.items() if correct(sandbox, REFERENCE, program)] == []


def drawn(level: int, split: str, count: int) -> list:
    rng = random.Random(f"{level}/{split}")
    return [FAMILIES["functions"].problem(rng, level, split, {}) for _ in range(count)]


def test_each_reference_is_graded_right_and_its_example_holds():
    for level in range(len(functions.LEVELS)):
        for problem in drawn(level, "test", 12):
            assert grade({"answer": problem.answer}, problem.answer), problem
            assert not grade({"answer": problem.answer}, "def f(x): return 0")
            call, _, value = problem.prompt.rpartition("f(")[2].partition(") is ")
            assert functions.sandbox().run(f"{problem.answer}\nf({call})").value == value.rstrip("."), problem


def test_no_held_out_function_has_the_shape_of_one_that_is_trained_on():
    shapes = {split: {shape(p.answer) for level in range(4) for p in drawn(level, split, 60)} for split in SPLITS}
    assert all(len(found) >= 20 for found in shapes.values()), {split: len(found) for split, found in shapes.items()}
    assert not shapes["train"] & (shapes["test"] | shapes["dev"]) and not shapes["test"] & shapes["dev"]


def test_a_shape_knows_no_names_and_no_constants():
    same = ["def f(xs): return sum(xs[2:])", "def g(words): return len(words[3:])"]
    other = ["def f(xs): return sum(xs[:2])", "def f(xs): return xs[2:]", "def f(xs): return sum(sum(xs[2:]))"]
    assert len({shape(program) for program in same}) == 1
    assert len({shape(program) for program in [*same, *other]}) == 4
