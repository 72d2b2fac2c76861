"""Files of questions in the shapes that the field's sets have: one table, shape -> how a line becomes questions, or a
problem to practise on.

A file is JSON lines. Its first line tells the shape: the one of whose fields it has the most.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_jax.config import UserError
from llm_jax.files import numbered_lines
from llm_jax.tables import Row, Table
from llm_jax.tasks import latex
from llm_jax.tasks.base import NUMBER, same


@dataclasses.dataclass(frozen=True)
class Question:
    """One with choices, or one whose answer is written. `graded` is one of evaluation's GRADES."""

    prompt: str
    graded: str
    choices: tuple[str, ...] = ()
    right: tuple[int, ...] = ()  # the numbers of the right ones
    answers: tuple[str, ...] = ()  # that are accepted
    task: str = ""  # as which RL practises on it
    tests: str = ""  # of a program: Python that raises where it is wrong
    names: tuple[str, ...] = ()  # of a program's functions that these tests may call
    entry: str = ""  # the one that is to be written, where the prompt has begun it
    stop: tuple[str, ...] = ("\n\n", "\nQuestion:")  # what follows an answer in a document


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape(Row):
    """`read` makes a line's questions, of which evaluation asks; `problem` (what is asked, the answer) of one whose
    answers a strict grader can tell: RL asks that, and `grade` is as a family's."""

    fields: tuple[str, ...] = None
    read: Callable[["Line"], tuple[Question, ...]] = None
    problem: Callable[["Line"], tuple[str, str]] | str = ""
    grade: Callable[[dict, str], float] = same


class Line:
    """A record of which each part must be there and of its kind. Raises UserError where one is not."""

    def __init__(self, record: Any, name: str = ""):
        self.record, self.name = record, name

    def get(self, name: str, kind: type, said: str) -> Any:
        value = self.record.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"`{self.name}{name}` is {shown(value)}; it must be {said}")
        return value

    def text(self, name: str) -> str:
        return self.get(name, str, "a text")

    def texts(self, name: str, least: int = 1) -> list[str]:
        found = self.get(name, list, "a list of texts")
        if len(found) < least or not all(isinstance(text, str) and text for text in found):
            raise UserError(f"`{self.name}{name}` is {shown(found)}; it must be {least} texts or more, none empty")
        return found

    def inside(self, name: str) -> "Line":
        return Line(self.get(name, dict, "an object"), f"{self.name}{name}.")

    def place(self, name: str, names: list[str]) -> int:
        """The number of a choice, which is given as that, or as one of the names."""
        value = self.record.get(name)
        value = names.index(value) if value in names else value
        value = int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,3}", value) else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(names):
            raise UserError(f"`{self.name}{name}` is {shown(value)}; it must name one of the {len(names)} choices")
        return value

    def marked(self, name: str, of: list[str]) -> tuple[int, ...]:
        """The numbers of those choices that have a 1 in a list of 0 and 1."""
        marks = self.get(name, list, "a list of 0 and 1")
        if len(marks) != len(of) or not set(marks) <= {0, 1} or 1 not in marks:
            raise UserError(f"`{self.name}{name}` is {shown(marks)}; it must have 0 or 1 for each of {len(of)} choices")
        return tuple(number for number, mark in enumerate(marks) if mark)


def shown(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def hellaswag(line: Line) -> tuple[Question, ...]:
    endings, about = line.texts("endings", 2), line.record.get("activity_label")
    plain = lambda text: re.sub(r"\s*\[[a-z_]+\]\s*", " ", text).strip()  # noqa: E731  # WikiHow's marks, as [step]
    prompt = plain(line.text("ctx"))
    prompt = f"{about}: {prompt}" if about else prompt
    right = line.place("label", [str(number) for number in range(len(endings))])
    return (Question(prompt, "choice", tuple(f" {plain(ending)}" for ending in endings), (right,)),)


def arc(line: Line) -> tuple[Question, ...]:
    given = line.inside("choices")
    texts = given.texts("text", 2)
    labels = given.texts("label", len(texts))
    right = line.place("answerKey", labels)
    return (Question(asked(line.text("question")), "choice", spaced(texts), (right,)),)


def mmlu(line: Line) -> tuple[Question, ...]:
    choices = line.texts("choices", 2)
    letters = [chr(ord("A") + number) for number in range(len(choices))]
    listed = "".join(f"{letter}. {choice}\n" for letter, choice in zip(letters, choices, strict=True))
    prompt = f"{line.text('question').strip()}\n{listed}Answer:"
    return (Question(prompt, "choice", spaced(letters), (line.place("answer", letters),)),)


def truthfulqa(line: Line) -> tuple[Question, ...]:
    prompt, found = f"Q: {line.text('question')}\nA:", []
    for graded in ("mc1", "mc2"):
        targets = line.inside(f"{graded}_targets")
        choices = targets.texts("choices", 2)
        found.append(Question(prompt, graded, spaced(choices), targets.marked("labels", choices)))
    return tuple(found)


def gsm8k_problem(line: Line) -> tuple[str, str]:
    number = line.text("answer").rpartition("####")[2].strip().replace(",", "")
    if not NUMBER.fullmatch(number):
        raise UserError(f"`answer` ends with {shown(number)}; it must end with #### and a number")
    return line.text("question").strip(), number


def gsm8k(line: Line) -> tuple[Question, ...]:
    question, number = gsm8k_problem(line)
    return (Question(asked(question), "number", answers=(number,), task="gsm8k"),)


def math_problem(line: Line) -> tuple[str, str]:
    answer = latex.boxed(line.text("solution"))
    if not answer:
        raise UserError(r"`solution` has no answer; it must have one in \boxed{...}")
    return line.text("problem").strip(), answer


def math(line: Line) -> tuple[Question, ...]:
    problem, answer = math_problem(line)
    return (Question(asked(problem), "math", answers=(answer,), task="math"),)


def squad(line: Line) -> tuple[Question, ...]:
    answers = tuple(line.inside("answers").texts("text"))
    prompt = f"{line.text('context').strip()}\n\n{asked(line.text('question'))}"
    return (Question(prompt, "words", answers=answers),)


# What follows a program in a document, where it goes on.
AFTER_BODY = ("\nclass ", "\ndef ", "\n#", "\n@", "\nif ", "\nprint", "\nassert", "\n```")
AFTER_PROGRAM = ("\n\n\n", '\n"""', "\n#", "\nif ", "\nprint", "\nassert", "\n```")


def humaneval(line: Line) -> tuple[Question, ...]:
    entry = line.text("entry_point")
    if not entry.isidentifier():
        raise UserError(f"`entry_point` is {shown(entry)}; it must be the name of a function")
    prompt = line.text("prompt")
    helpers = prompt.rpartition(f"def {entry}(")[0]  # and imports, which tests may use: the file's own, not a program's
    tests = f"{helpers}\n{line.text('test')}\ncheck({entry})\n"
    return (Question(prompt, "program", tests=tests, names=(entry,), entry=entry, stop=AFTER_BODY),)


def mbpp(line: Line) -> tuple[Question, ...]:
    tests, before, code = line.texts("test_list"), line.record.get("test_setup_code") or "", line.text("code")
    prompt = f'"""\n{line.text("text").strip()}\n{tests[0]}\n"""\n'
    imports = re.findall(r"^(?:import|from) .+$", code, re.MULTILINE)
    names = tuple(re.findall(r"^def (\w+)", code, re.MULTILINE))
    tests = "\n".join([*imports, before, *tests])
    return (Question(prompt, "program", tests=tests, names=names, stop=AFTER_PROGRAM),)


def asked(question: str) -> str:
    return f"Question: {question.strip()}\nAnswer:"


def spaced(texts: list[str]) -> tuple[str, ...]:
    return tuple(f" {text.strip()}" for text in texts)


SHAPES: Table[Shape] = Table(
    "shape",
    (
        Shape(name="hellaswag", fields=("ctx", "endings", "label"), read=hellaswag),
        Shape(name="arc", fields=("question", "choices", "answerKey"), read=arc),
        Shape(name="mmlu", fields=("question", "choices", "answer"), read=mmlu),
        Shape(name="truthfulqa", fields=("question", "mc1_targets", "mc2_targets"), read=truthfulqa),
        Shape(name="squad", fields=("context", "question", "answers"), read=squad),
        Shape(name="humaneval", fields=("prompt", "entry_point", "test"), read=humaneval),
        Shape(name="mbpp", fields=("text", "code", "test_list"), read=mbpp),
        Shape(name="gsm8k", fields=("question", "answer"), read=gsm8k, problem=gsm8k_problem),
        Shape(name="math", fields=("problem", "solution"), read=math, problem=math_problem, grade=latex.grade),
    ),
)


def shape_of(record: dict[str, Any]) -> Shape:
    """Raises UserError for a record that has not all fields of any."""
    fits = [shape for shape in SHAPES.values() if set(shape.fields) <= record.keys()]
    if not fits:
        known = "; ".join(f"{shape.name}: {', '.join(shape.fields)}" for shape in SHAPES.values())
        raise UserError(f"its fields ({', '.join(record) or 'none'}) are those of no shape of questions ({known})")
    return max(fits, key=lambda shape: len(shape.fields))


def read(path: Path) -> list[tuple[Question, ...]]:
    """The questions of each line. Raises UserError, with file and line, for what is not as its shape has it."""
    return lines_of(path, lambda shape: shape.read)[1]


def problems(path: Path) -> tuple[str, list[tuple[str, str]]]:
    """(name of the shape, the problem and answer of each line). Raises UserError as `read`, and for a shape that has
    no problems to practise on."""
    return lines_of(path, problem_of)


def problem_of(shape: Shape) -> Callable[[Line], tuple[str, str]]:
    if shape.problem:
        return shape.problem
    able = ", ".join(other.name for other in SHAPES.values() if other.problem)
    raise UserError(f"questions in the shape of {shape.name} are not to practise on; give some in that of {able}")


def lines_of(path: Path, reader: Callable[[Shape], Callable[[Line], Any]]) -> tuple[str, list]:
    """(name of the shape, what its reader makes of each line)."""
    lines = numbered_lines(path)
    if not lines:
        raise UserError(f"{path} has no line; give a file of questions")
    shape, found = None, []
    for number, record in lines:
        try:
            shape = shape or shape_of(record)
            found.append(reader(shape)(Line(record)))
        except UserError as error:
            raise UserError(f"{path} line {number}: {error}") from error
    return shape.name, found
