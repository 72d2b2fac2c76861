"""Files in the shapes of HumanEval and MBPP: read, completed, and tested in bubblewrap."""

import pytest

from llm_jax.config import UserError
from llm_jax.evals import questions
from llm_jax.tasks import shapes
from llm_jax.tools import bwrap
from tests.evals.test_questions import lines

needs_bwrap = pytest.mark.skipif(bool(bwrap.unavailable()), reason=bwrap.unavailable())
HUMANEVAL = {
    "task_id": "Own/0",
    "prompt": "import math\n\n\ndef half(n):\n    return n // 2\n\n\n"
    'def area(r: float) -> float:\n    """Area of a circle."""\n',
    "entry_point": "area",
    "canonical_solution": "    return math.pi * r * r\n",
    "test": "def check(candidate):\n    assert abs(candidate(1) - 3.14159265) < 1e-6\n    assert candidate(r=0) == 0\n"
    "    assert half(7) == 3\n    for n in range(20): assert candidate(n) >= n\n",
}
MBPP = {
    "text": "Write a function to sort a list of pairs by the second.",
    "code": "def by_second(pairs):\n    pairs.sort(key=lambda pair: pair[1])\n    return pairs",
    "test_setup_code": "LONG = [(n, -n) for n in range(50)]",
    "test_list": ["assert by_second([(1, 2), (3, 1)]) == [(3, 1), (1, 2)]", "assert by_second(LONG) == LONG[::-1]"],
}
PROGRAMS = [
    (HUMANEVAL, "    return math.pi * r * r\n", 1),
    (HUMANEVAL, "Here it is:\n```python\ndef area(r):\n    return math.pi * r ** 2\n```\nDone.", 1),
    (HUMANEVAL, "    return 3 * r * r\n", 0),
    (HUMANEVAL, "    class E(float):\n        def __eq__(s, o): return True\n    return E(0)\n", 0),
    (HUMANEVAL, "    import os\n    os._exit(0)\n", 0),
    (HUMANEVAL, "    return math.pi * r * r\ndef check(candidate): pass\nassert False", 0),
    (HUMANEVAL, "    return 0\n\nimport builtins\nbuiltins.abs = lambda x: 0\nbuiltins.range = lambda n: []\n", 0),
    (HUMANEVAL, "    return 0\n\ndef abs(x): return 0\ndef range(n): return []\ndef half(n): return 3\n", 0),
    (HUMANEVAL, "", 0),
    (MBPP, "def by_second(pairs):\n    return sorted(pairs, key=lambda pair: pair[1])", 1),
    (
        MBPP,
        "def by_second(pairs):\n    return [tuple(p) for p in sorted(map(list, pairs), key=lambda pair: pair[1])]",
        1,
    ),
    (MBPP, "def by_second(pairs):\n    return pairs", 0),
    (MBPP, "print('passed')\nraise SystemExit(0)", 0),
    (MBPP, "class E(list):\n    def __eq__(self, other): return True\ndef by_second(pairs): return E()", 0),
]


@needs_bwrap
def test_a_program_passes_its_tests_or_does_not(tmp_path):
    for record, answer, passes in PROGRAMS:
        ((question,),) = shapes.read(lines(tmp_path / "q.jsonl", record))
        assert questions.of_program(question, answer) == {"pass1": passes}, answer
    assert questions.files_of(f"{tmp_path}/*.jsonl")


def test_a_document_goes_on_until_the_program_ends():
    ((human,), (mbpp,)) = shapes.humaneval(shapes.Line(HUMANEVAL)), shapes.mbpp(shapes.Line(MBPP))
    assert human.prompt == HUMANEVAL["prompt"] and "\ndef " in human.stop and "\n\n" not in human.stop
    assert (human.names, mbpp.names) == (("area",), ("by_second",)) and human.tests.startswith("import math\n")
    assert mbpp.prompt.startswith('"""\nWrite a function') and MBPP["test_list"][0] in mbpp.prompt
    assert MBPP["test_list"][1] not in mbpp.prompt and mbpp.tests.startswith("LONG = ")


def test_without_bubblewrap_a_file_of_programs_is_refused(tmp_path, monkeypatch):
    lines(tmp_path / "he.jsonl", HUMANEVAL)
    monkeypatch.setattr(questions, "unavailable", lambda: "bubblewrap is not installed")
    with pytest.raises(
        UserError, match=r"he\.jsonl asks for programs, which are tested in bubblewrap, and bubblewrap is"
    ):
        questions.files_of(f"{tmp_path}/*.jsonl")
    with pytest.raises(UserError, match="`entry_point` is 'a b'; it must be the name of a function"):
        shapes.read(lines(tmp_path / "he.jsonl", HUMANEVAL | {"entry_point": "a b"}))
