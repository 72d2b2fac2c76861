"""Small Python functions, written by the model and graded by hidden calls in the sandbox.

A function is a chain of steps over a number, a word, a list of numbers or a list of words. Its key is its syntax tree
without names and constants, so that what is held out differs from all that is trained on by more than these.
"""

import ast
import atexit
import dataclasses
import functools
import random
import re

from llm_jax.tasks.base import Item, split_of
from llm_jax.tasks.words import any_word
from llm_jax.tools.sandbox import Calls

STEPS = (2, 3, 4, 5)
LEVELS = tuple(f"{n} steps" for n in STEPS)
INPUTS = 12  # hidden ones of each function
DISTINCT = 4  # results of these that differ, at least: no constant comes near
SECONDS = 0.5  # for all inputs
MOST_SHOWN = 80  # characters of the example
DEFINES = re.compile(r"\bdef\s+f\b")
MOST_CHARACTERS = 2000  # of a program; one of its references has about a hundred
WORDINGS = (
    "Write a Python function {f}: {d}. Example: {e}",
    "Define {f} in Python: {d}. So {e}",
    "I need a Python function {f} that works like this: {d}. It gives {e}",
    "Code a function {f}: {d}. For example {e}",
    "In Python, write {f}: {d}. Test: {e}",
)


@dataclasses.dataclass(frozen=True)
class Step:
    takes: str  # the kind of its argument
    gives: str
    words: str  # with {c} for a constant
    code: str  # with {x} for what it is done to


NUMBER, NUMBERS, WORD, WORDS = "x", "xs", "s", "ws"  # kinds, named as a function's argument of that kind
OPENINGS = {
    NUMBER: "take the number x",
    NUMBERS: "take the list xs",
    WORD: "take the word s",
    WORDS: "take the words ws",
}
TABLE = tuple(
    Step(*(part.strip() for part in line.split("|")))
    for line in """
    x  | x  | add {c}                         | {x} + {c}
    x  | x  | subtract {c}                    | {x} - {c}
    x  | x  | multiply by {c}                 | {x} * {c}
    x  | x  | divide by {c} and round down    | {x} // {c}
    x  | x  | take the remainder by {c}       | {x} % {c}
    x  | x  | square it                       | {x} ** 2
    x  | x  | negate it                       | -{x}
    x  | x  | take the absolute value         | abs({x})
    x  | s  | write it as a text              | str({x})
    x  | xs | count up to it from 0           | list(range({x} % 9))
    xs | xs | add {c} to each                 | [n + {c} for n in {x}]
    xs | xs | subtract {c} from each          | [n - {c} for n in {x}]
    xs | xs | multiply each by {c}            | [n * {c} for n in {x}]
    xs | xs | square each                     | [n ** 2 for n in {x}]
    xs | xs | negate each                     | [-n for n in {x}]
    xs | xs | keep those above {c}            | [n for n in {x} if n > {c}]
    xs | xs | keep those below {c}            | [n for n in {x} if n < {c}]
    xs | xs | keep the multiples of {c}       | [n for n in {x} if n % {c} == 0]
    xs | xs | reverse it                      | {x}[::-1]
    xs | xs | drop the first {c}              | {x}[{c}:]
    xs | xs | keep the first {c}              | {x}[:{c}]
    xs | xs | append {c}                      | {x} + [{c}]
    xs | xs | sort it                         | sorted({x})
    xs | x  | sum it                          | sum({x})
    xs | x  | count its members               | len({x})
    xs | x  | count how often {c} is there    | {x}.count({c})
    xs | x  | take the largest or 0           | max({x}, default=0)
    s  | s  | reverse it                      | {x}[::-1]
    s  | s  | make it upper case              | {x}.upper()
    s  | s  | drop the first {c} letters      | {x}[{c}:]
    s  | s  | keep the first {c} letters      | {x}[:{c}]
    s  | s  | repeat it {c} times             | {x} * {c}
    s  | s  | replace "{a}" by "{b}"          | {x}.replace('{a}', '{b}')
    s  | s  | append "{a}"                    | {x} + '{a}'
    s  | s  | put "{a}" in front              | '{a}' + {x}
    s  | x  | take its length                 | len({x})
    s  | x  | count how often "{a}" is there  | {x}.count('{a}')
    s  | ws | take its letters                | list({x})
    ws | ws | reverse the list                | {x}[::-1]
    ws | ws | sort them                       | sorted({x})
    ws | ws | reverse each                    | [w[::-1] for w in {x}]
    ws | ws | make each upper case            | [w.upper() for w in {x}]
    ws | ws | add "{a}" to each               | [w + '{a}' for w in {x}]
    ws | ws | keep those with "{a}"           | [w for w in {x} if '{a}' in w]
    ws | ws | keep those without "{a}"        | [w for w in {x} if '{a}' not in w]
    ws | ws | drop the first {c}              | {x}[{c}:]
    ws | xs | take the length of each         | [len(w) for w in {x}]
    ws | x  | count them                      | len({x})
    ws | s  | join them with "{a}"            | '{a}'.join({x})
    """.strip().splitlines()
)
FROM = {kind: [step for step in TABLE if step.takes == kind] for kind in OPENINGS}
LETTERS = "aeioulnrst"  # that many words have


def make(rng: random.Random, level: int, split: str) -> Item:
    """For the table of families: the answer is the reference, a program in one line."""
    while True:
        kind = now = rng.choice(list(OPENINGS))
        code, said = kind, [OPENINGS[kind]]
        for _ in range(STEPS[level]):
            step = rng.choice(FROM[now])
            first, second = rng.sample(LETTERS, 2)
            constants = {"c": rng.randint(2, 5), "a": first, "b": second}
            code, now = step.code.format(x=f"({code})", **constants), step.gives
            said.append(step.words.format(**constants))
        program = f"def f({kind}): return {ast.unparse(ast.parse(code))}"
        if split_of(key := f"function:{shape(program)}") != split:
            continue
        results = {repr(calculated(program, arguments)) for arguments in hidden(program)}
        shown = of_kind(kind, rng)
        example = f"f({shown!r}) is {calculated(program, (shown,))!r}"
        if len(results) >= DISTINCT and len(example) <= MOST_SHOWN:
            return Item(key, program, {"f": f"f({kind})", "d": ", then ".join(said), "e": example})


def calculated(program: str, arguments: tuple):
    """What a function that `make` has put together gives; no other text comes here."""
    names: dict = {}
    exec(program, names)
    return names["f"](*arguments)


def shape(program: str) -> str:
    """A program's syntax tree without names and constants: equal for two that differ by these alone."""
    tree = ast.parse(program)
    for node in ast.walk(tree):
        for field in ("id", "name", "arg", "attr"):
            if isinstance(getattr(node, field, None), str):
                setattr(node, field, "_")
        if isinstance(node, ast.Constant):
            node.value = 0
    return ast.dump(tree, annotate_fields=False)


def of_kind(kind: str, rng: random.Random):
    """A value for an argument of that name."""
    if kind == NUMBER:
        return rng.randint(-30, 60)
    if kind == WORD:
        return any_word(rng)
    if kind == WORDS:
        return [any_word(rng) for _ in range(rng.randint(2, 6))]
    return [rng.randint(-9, 20) for _ in range(rng.randint(2, 8))]


EDGES = {NUMBER: (0, 1), NUMBERS: ([], [7]), WORD: ("", "a"), WORDS: ([], ["tree"])}


def hidden(program: str) -> list[tuple]:
    """The inputs that a function is graded on, each a tuple of arguments; they follow from the reference's text."""
    kind, rng = program.partition("(")[2].partition(")")[0], random.Random(f"hidden/{program}")
    return [(value,) for value in EDGES[kind]] + [(of_kind(kind, rng),) for _ in range(INPUTS - len(EDGES[kind]))]


def correct(sandbox: Calls, reference: str, program: str) -> bool:
    """Whether a program's `f` gives what the reference's gives on all hidden inputs. Both run in the sandbox, in calls
    of their own, and what comes out is compared here, as text: the program sees no expected value, and its objects,
    their __eq__ and what it prints or exits with say nothing."""
    given = sandbox.calls(program, "f", hidden(reference))
    return bool(given) and given == sandbox.calls(reference, "f", hidden(reference))


@functools.cache
def sandbox() -> Calls:
    from llm_jax.tools.python import PythonTool  # here, for every command reads the table of families

    made = PythonTool(SECONDS)
    atexit.register(made.close)
    return made


@functools.lru_cache(4096)  # of a group of rollouts many are the same
def verdict(reference: str, program: str) -> bool:
    return correct(sandbox(), reference, program)


def grade(prompt: dict, given: str) -> bool:
    """For the table of families: whether the text of an answer is a program that does the same as the reference. It has
    one `f`: of several the last would count, and the others be guesses for nothing."""
    one = len(DEFINES.findall(given)) == 1
    return one and len(given) <= MOST_CHARACTERS and verdict(prompt["answer"], given)
