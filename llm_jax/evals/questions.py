"""Questions of the user's own files: which of the choices is likeliest, or what is answered."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from llm_jax.config import UserError
from llm_jax.evals.likelihood import of_continuations, prefix_of, split
from llm_jax.evals.statistics import rate
from llm_jax.files import matching
from llm_jax.prompts import judge
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.requests import Completion, Request
from llm_jax.sampling.turns import said
from llm_jax.tasks import latex, shapes
from llm_jax.tasks.knowledge import plain
from llm_jax.tasks.shapes import Question
from llm_jax.tokenizer import Tokenizer
from llm_jax.tools.bwrap import Sandbox, unavailable

ANSWER_TOKENS = 256
TESTS_SECONDS = 3.0  # for the tests of a program
IN_TEXT = re.compile(r"-?[0-9][0-9,]*(?:\.[0-9]+)?")


def files_of(pattern: str) -> dict[str, Path]:
    """Files of questions by name. Raises UserError where there is none, two have one name, one asks for programs and
    bubblewrap is not to be had, or as `shapes.read`."""
    paths = matching(pattern)
    if not paths:
        raise UserError(f"no file matches {pattern!r}; give a glob of JSON lines with questions")
    named = {path.stem: path for path in paths}
    if len(named) < len(paths):
        raise UserError(f"two files that match {pattern!r} have the same name; rename one")
    for path in paths:
        asks = {question.graded for line in shapes.read(path) for question in line}
        if "program" in asks and (reason := unavailable()):
            raise UserError(f"{path} asks for programs, which are tested in bubblewrap, and {reason}")
    return named


def measure_files(engine: Engine, params, pattern: str, talks: bool) -> dict[str, dict[str, dict]]:
    """{name of the file: `measure_file` of it}. Raises UserError as `files_of`."""
    return {name: measure_file(engine, params, path, talks) for name, path in files_of(pattern).items()}


def measure_file(engine: Engine, params, path: Path, talks: bool = False) -> dict[str, dict]:
    """The rates of a file's shape, bootstrapped over its lines: `accuracy`, of choices also by their likelihood a byte
    (`accuracy_per_byte`); `mc1` and `mc2` of TruthfulQA; `exact` and `f1` of SQuAD; `pass1` of programs. Of problems
    that RL may practise on, where the model talks, also those that it would be rewarded for (`strict`) and the
    `well_formed` answers.

    Choices are compared after the question as a document, whatever the model; a model that `talks` is asked for an
    answer that it has to write in a turn. Raises UserError as `shapes.read`.
    """
    lines = shapes.read(path)
    numbered = [(number, question) for number, line in enumerate(lines) for question in line]
    choosing = [one for one in numbered if one[1].choices]
    writing = [one for one in numbered if not one[1].choices]
    graded: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for kind, ask in ((choosing, likelihoods), (writing, answers)):
        found = ask(engine, params, [question for _, question in kind], talks) if kind else []
        for (number, _), values in zip(kind, found, strict=True):
            for name, value in values.items():
                graded[name].append((float(value), number))
    return {name: rate(*zip(*pairs, strict=True)) for name, pairs in graded.items()}


def likelihoods(engine: Engine, params, questions: list[Question], talks: bool) -> list[dict[str, float]]:
    """The grades of each question, by log p of each choice."""
    pairs = [split(engine.tokenizer, q.prompt, choice) for q in questions for choice in q.choices]
    told = iter(of_continuations(engine, params, pairs))
    return [GRADES[q.graded](q, [next(told)[0] for _ in q.choices]) for q in questions]


def answers(engine: Engine, params, questions: list[Question], talks: bool) -> list[dict[str, float]]:
    """The grades of each question, by what is answered, greedily: an answer's text, or a document's next paragraph."""
    t, requests = engine.tokenizer, []
    room = min(ANSWER_TOKENS, engine.length // 2)
    for q in questions:
        if talks:
            prompt = t.render([{"role": "user", "content": q.prompt}], for_generation=True).ids
        else:
            prompt = [*(t.begin or (prefix_of(t),)), *t.encode(q.prompt)]
        stop = () if talks else q.stop
        requests.append(Request(prompt[room - engine.length :], max_new_tokens=room, stop=stop))
    done = engine.generate(params, requests)
    if talks:
        texts = [said(t.parse(c.ids)[0], "text", "answer") for c in done]
    else:
        ends = ["|".join(map(re.escape, q.stop)) for q in questions]
        texts = [re.split(end, t.decode(c.ids))[0] for end, c in zip(ends, done, strict=True)]
    found = [GRADES[q.graded](q, text) for q, text in zip(questions, texts, strict=True)]
    if talks:
        found = [grades | strictly(t, q, c) for grades, q, c in zip(found, questions, done, strict=True)]
    return found


def strictly(tokenizer: Tokenizer, question: Question, completion: Completion) -> dict[str, float]:
    """As RL grades it."""
    if not question.task:
        return {}
    outcome = judge(tokenizer, {"task": question.task, "answer": question.answers[0]}, completion)
    return {"strict": outcome.right, "well_formed": outcome.well_formed}


def best(values: list[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def of_choice(question: Question, told: list[float]) -> dict[str, float]:
    sizes = [len(choice.strip().encode()) for choice in question.choices]
    per_byte = [value / max(1, size) for value, size in zip(told, sizes, strict=True)]
    return {"accuracy": best(told) in question.right, "accuracy_per_byte": best(per_byte) in question.right}


def of_mc1(question: Question, told: list[float]) -> dict[str, float]:
    return {"mc1": best(told) in question.right}


def of_mc2(question: Question, told: list[float]) -> dict[str, float]:
    """The share of the right ones in the probability of all."""
    top = max(told)
    weights = [math.exp(value - top) for value in told]
    return {"mc2": sum(weights[i] for i in question.right) / sum(weights)}


def of_number(question: Question, answer: str) -> dict[str, float]:
    """The last number of the answer, to the letter of its value."""
    found = IN_TEXT.findall(answer)
    value = found[-1].replace(",", "") if found else ""
    return {"accuracy": bool(value) and Fraction(value) == Fraction(question.answers[0])}


def of_math(question: Question, answer: str) -> dict[str, float]:
    r"""What stands in the last \boxed{...}, or else what the last line says that it is."""
    given = latex.boxed(answer) or answer.strip().rpartition("\n")[2].rpartition(" is ")[2]
    return {"accuracy": latex.grade({"answer": question.answers[0]}, given)}


def of_words(question: Question, answer: str) -> dict[str, float]:
    """Against the nearest of the accepted ones: equal words, and the words in common (Rajpurkar et al. 2016)."""
    given, accepted = plain(answer), [plain(text) for text in question.answers]
    return {"exact": given in accepted, "f1": max(f1(given, other) for other in accepted)}


def of_program(question: Question, answer: str) -> dict[str, float]:
    """Whether the first and only one passes the tests (Chen et al. 2021). Of an answer with a block of code that
    counts; what the prompt has begun is written before it, unless it has the whole function."""
    fenced = re.search(r"```(?:python|py)?\n(.*?)(?:```|$)", answer, re.DOTALL)
    code, head = fenced[1] if fenced else answer, f"def {question.entry}("
    before = question.prompt.rpartition(head)[0] if head in code else question.prompt
    program = before + code if question.entry else code
    return {"pass1": Sandbox(TESTS_SECONDS).passes(program, question.tests, question.names).status == "ok"}


def f1(given: list[str], accepted: list[str]) -> float:
    if not given or not accepted:
        return float(given == accepted)
    common = (Counter(given) & Counter(accepted)).total()
    return 2 * common / (len(given) + len(accepted))


GRADES: dict[str, Callable[[Question, list[float] | str], dict[str, float]]] = {
    "choice": of_choice,
    "mc1": of_mc1,
    "mc2": of_mc2,
    "number": of_number,
    "math": of_math,
    "words": of_words,
    "program": of_program,
}
