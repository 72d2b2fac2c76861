"""Every grader, of families and of files: what is near the answer, hedges it or plays with the form earns nothing."""

import contextlib
import itertools
import json
import random

import pytest

from llm_jax.config import UserError
from llm_jax.prompts import judge
from llm_jax.sampling.requests import Completion
from llm_jax.tasks import countdown, grading, latex, second_try
from llm_jax.tasks.grading import grade, score
from llm_jax.tasks.records import drawn, of_files, record
from llm_jax.tasks.shapes import SHAPES
from llm_jax.tasks.table import FAMILIES, Family
from llm_jax.tasks.words import LISTS

ITEMS = 4  # of the first and of the last level
LINES = {
    "gsm8k": [{"question": f"{n} and {n} cats?", "answer": f"So many.\n#### 1,{n:03}"} for n in range(40)],
    "math": [
        {"problem": f"Half of {n}?", "solution": f"It is $\\boxed{{\\frac{{{n}}}{{2}}}}$.", "level": "Level 1"}
        for n in range(3, 80, 2)
    ],
}
PRACTISED = [shape.name for shape in SHAPES.values() if shape.problem]
INDIC, WIDE = (str.maketrans("0123456789", digits) for digits in ("٠١٢٣٤٥٦٧٨٩", "０１２３４５６７８９"))


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> dict[str, list[dict]]:
    """Name of a task -> some of its prompt records, of every family and every shape that is practised on."""
    found = {}
    for name, family in FAMILIES.items():
        rng = random.Random(name)
        levels = sorted({0, len(family.levels) - 1}) * ITEMS
        problems = [(family.problem(rng, level, "test", LISTS), family.levels[level]) for level in levels]
        found[name] = [record(problem, level, "test", "") for problem, level in problems]
    folder = tmp_path_factory.mktemp("files")
    for name in PRACTISED:
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, LINES[name])))
        found[name] = of_files(f"{folder}/{name}.jsonl", "train")[: 2 * ITEMS]
    return found


def controls(prompt: dict, others: list[str]) -> list[str]:
    """Answers that are not the right one, though all but the constants hold it or say it in another way."""
    right, content = prompt["answer"], prompt["messages"][-1]["content"]
    hedged = [form.format(right, other) for other in others for form in HEDGES] + [
        form.format(other, right) for other in others for form in HEDGES
    ]
    near = [
        f"{right}x",
        f"the {right}",
        f"{right} {right}",
        f"{right}..",
        f"answer: {right}",
        f"{right}\u200b",
        f"'{right}'",
    ]
    listed = [" ".join([*others, right]), ", ".join([right, *others]), "\n".join([right, *others])]
    turned = [text for text in (" ".join(right.split()[::-1]), right.swapcase()) if text != right]
    digits = [right.translate(table) for table in (INDIC, WIDE) if right.translate(table) != right]
    constants = ["", " ", "0", "yes", "true", "I do not know.", "nan", "inf", "None", "True", *others]
    special = [f"<|answer|>{right}<|/answer|>", f"{right}<|end|>", f"<|answer|>{right}"]
    return [content, f"{content} {right}", *hedged, *near, *listed, *turned, *digits, *special] + [
        constant for constant in constants if constant.strip() != right
    ]


HEDGES = ("{} or {}", "{}, {}", "{} [{}]", "{} ({})", "{}; {}", "{}\n{}", "{} not {}", "{}|{}")
NAMES = [*FAMILIES, *PRACTISED]


@pytest.mark.parametrize("task", NAMES)
def test_only_the_answer_is_right(asked, task):
    everything = {prompt["answer"] for prompt in asked[task]}
    for prompt in asked[task]:
        right = prompt["answer"]
        assert score(prompt, right) == 1
        others = [other for other in sorted(everything) if score(prompt, other) < 1][:5]
        assert others, "a constant answer would be right always"
        wrong = controls(prompt, others)
        assert len(wrong) > 35 and not [text for text in wrong if score(prompt, text.strip())]


@pytest.mark.parametrize("task", NAMES)
def test_only_an_answer_in_its_place_is_right(asked, task, tokenizer):
    """As ids, with the real special tokens."""
    prompt, t = asked[task][0], tokenizer
    right = {"type": "answer", "text": f" {prompt['answer']}"}
    nothing, thought = {"type": "answer", "text": ""}, {"type": "think", "text": prompt["answer"]}

    def judged(*parts: dict, after: tuple[int, ...] = (t.end,)) -> bool:
        ids = [*t.parts_to_ids(list(parts)).ids, *after]
        return judge(t, prompt, Completion(ids, [1] * len(ids))).score == 1

    if t.decode(t.encode(right["text"])) == right["text"]:
        assert judged(right) and judged(thought, right)
    wrong = [(), (thought,), (thought, nothing), (nothing,), (right, nothing), (nothing, right), (right, thought)]
    wrong += [(right, right), ({"type": "text", "text": prompt["answer"]},), ({**right, "type": "output"},)]
    assert not [parts for parts in wrong if judged(*parts)]
    assert not judged(right, after=()) and not judged(right, after=(t.end, t.end))
    assert not judged(right, after=(t.open["answer"][0], t.end))


# --- countdown ---

COUNTDOWN = {"task": "countdown", "answer": "3*8-5", "check": {"numbers": [3, 5, 8], "target": 19}}


@pytest.mark.parametrize("given", ["3*8-5", "8*3-5", "(8*3)-5", "3 * 8 - 5", "((3)*(8))-5"])
def test_any_right_expression_counts(given):
    assert score(COUNTDOWN, given) == 1


@pytest.mark.parametrize("given", [
    "19", "3*8-5=19", "3*8", "3*8-4-1", "8+8+3", "3*8-5+0", "3+5+8", "-5+3*8", "3*8+-5", "+3*8-5", "3*8-5.0", "3*8-05",
    "3*8-(5", "3(8)-5", "3*8-5;", "3*8-5#", "3*8-5 or 19", "3**8-5", "3*8//5", "3x8-5", "3×8-5", "３*8-5", "3*8-5\n1",
    "3_0-8-5", "35-8-8", "38-5", "3*8-5/(5-5)", "8/(3-3)-5", "3,8,5", "", "()", "3*8-5,", "print(19)",
    "(" * 90 + "3*8-5" + ")" * 90, "(" * 500, "9" * 150, "*".join(["9" * 9] * 18), "3 8-5", "3*8- 5)", "3*8-5 5",
])  # fmt: skip
def test_what_is_no_right_expression_does_not(given):
    assert score(COUNTDOWN, given) == (given == "(" * 90 + "3*8-5" + ")" * 90)


def test_a_target_is_made_from_its_own_numbers_by_steps_that_are_right():
    for level in range(len(countdown.LEVELS)):
        rng = random.Random(level)
        for problem in (FAMILIES["countdown"].problem(rng, level, "train", {}) for _ in range(40)):
            *steps, last = problem.think.splitlines()
            assert all(eval(left) == int(right) for left, right in (step.split("=") for step in steps))
            assert len(steps) == len(problem.check["numbers"]) - 1 and last == problem.answer
            assert eval(last) == problem.check["target"] and str(problem.check["target"]) in problem.prompt
            assert problem.check["target"] not in problem.check["numbers"]


# --- files ---


@pytest.mark.parametrize("text, inside", [
    (r"so $\boxed{12}$.", "12"),
    (r"\boxed{1} and \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\text{a \{b\} c}}", r"\text{a \{b\} c}"),
    (r"\boxed{12", ""),
    ("12", ""),
])  # fmt: skip
def test_what_stands_in_a_box(text, inside):
    assert latex.boxed(text) == inside


@pytest.mark.parametrize("right, same, other", [
    (r"\frac{1}{2}", [r"\dfrac12", r"\frac12", "1/2", "0.5", ".5", "2/4", r"\boxed{\frac{1}{2}}", r"$\frac{1}{2}$"],
     [r"\frac{2}{1}", "12", r"-\frac12", r"\frac{1}{2} or 1", r"\boxed{3}\boxed{\frac12}", r"\boxed{1}/2", ""]),
    ("1200", ["1,200", "1200.", "1200.0", r"\$1200", r"1,\!200"], ["120", "1 200", "12,00", "1200 1200"]),
    (r"-\frac{3}{4}", [r"\frac{-3}{4}", "-3/4", "-0.75"], ["3/4"]),
    (r"(3,\frac{\pi}{2})", [r"\left( 3, \frac{\pi}{2} \right)"], [r"(3,\pi)", r"(\frac{\pi}{2},3)"]),
    (r"\text{Monday}", ["Monday", r"\mathrm{Monday}"], ["monday", "Monday, Tuesday"]),
    (r"90^\circ", ["90", r"90^{\circ}"], ["9", "90 91"]),
    ("12", ["12.0"], ["1 2", r"1\,2", "1$2", r"1 \! 2", "2", "-12"]),
    ("x^2+1", ["x^2 + 1"], ["1+x^2", "x^2-1"]),
])  # fmt: skip
def test_an_answer_of_math_is_compared_by_what_it_says(right, same, other):
    prompt = {"task": "math", "answer": right}
    assert [text for text in same if score(prompt, text) != 1] == []
    assert [text for text in other if score(prompt, text)] == []


def test_problems_of_files_have_a_split_each(tmp_path):
    for name in PRACTISED:
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, LINES[name])))
    found = {split: of_files(f"{tmp_path}/*.jsonl", split) for split in ("train", "dev", "test")}
    ids = [prompt["id"] for prompts in found.values() for prompt in prompts]
    assert len(ids) == len(set(ids)) == sum(map(len, LINES.values())) and len(found["train"]) > len(found["test"]) > 0
    one = found["train"][0]
    assert (one["task"], one["level"], one["split"]) == ("gsm8k", "gsm8k", "train") and one["answer"].startswith("10")
    assert one["messages"] == [{"role": "user", "content": one["item"]}]
    assert of_files("", "train") == []


@pytest.mark.parametrize("text, words", [
    (None, "no file matches rl.prompts"),
    ("", "has no line"),
    ('{"question": "a", "choices": ["b", "c"], "answer": 0}', "line 1: .*mmlu are not to practise on.*gsm8k, math"),
    ('{"question": "a", "answer": "#### 1"}\n{"question": "a", "answer": "so"}', "line 2: `answer` ends with 'so'"),
    ('{"problem": "a", "solution": "12"}', r"line 1: `solution` has no answer; it must have one in \\boxed"),
])  # fmt: skip
def test_a_file_that_is_none_is_named(tmp_path, text, words):
    if text is not None:
        (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(UserError, match=words):
        of_files(f"{tmp_path}/*.jsonl", "train")


# --- graders of others ---


@pytest.fixture
def graded():
    """Adds a family "odd" with this grader or step."""

    def add(**parts):
        FAMILIES.add(Family(name="odd", levels=("one",), make=second_try.make, wordings=("{e}",), ways={}, **parts))
        return {"task": "odd", "answer": "1", "item": "1+1"}

    yield add
    FAMILIES.remove("odd")


def endless(prompt, given):
    while True:
        with contextlib.suppress(Exception):
            list(range(9))


@pytest.mark.parametrize("grader, words", [
    (lambda prompt, given: 1 / 0, r"grader of task 'odd', item '1\+1', raised ZeroDivisionError.*'7'"),
    (lambda prompt, given: float("nan"), "gave nan for '7'; it must be a number from 0 to 1"),
    (lambda prompt, given: 2, "gave 2 for"),
    (lambda prompt, given: None, "gave None for"),
    (endless, r"took more than 0\.2 s"),
])  # fmt: skip
def test_a_grader_that_fails_is_named(graded, monkeypatch, grader, words):
    monkeypatch.setattr(grading, "SECONDS", 0.2)
    prompt = graded(grade=grader)
    with pytest.raises(UserError, match=words):
        grade(prompt, [{"type": "answer", "text": " 7"}], True)
    assert grade(prompt, [{"type": "text", "text": " 7"}], True) == 0  # what is not well formed is not shown to it


def test_a_grader_may_give_a_part(graded, tokenizer):
    prompt = graded(grade=lambda prompt, given: 0.25)
    ids = [*tokenizer.parts_to_ids([{"type": "answer", "text": " 7"}]).ids, tokenizer.end]
    outcome = judge(tokenizer, prompt, Completion(ids, [1] * len(ids)))
    assert (outcome.score, outcome.right, outcome.well_formed) == (0.25, False, True)


@pytest.mark.parametrize("step, words", [
    (lambda prompt, answers: 1 / 0, "step of task 'odd'.*ZeroDivisionError"),
    (lambda prompt, answers: "", "gave ''; it must be a text"),
    (lambda prompt, answers: True, "gave True"),
])  # fmt: skip
def test_a_step_that_fails_is_named(graded, step, words):
    with pytest.raises(UserError, match=words):
        grading.next_message(graded(step=step), ["7"])


def test_a_second_try_is_for_who_was_wrong_once():
    prompt = {"task": "second_try", "answer": "7"}
    assert grading.next_message(prompt, ["8"]) == "That is wrong, try again."
    assert [grading.next_message(prompt, answers) for answers in (["7"], ["8", "7"], ["8", "8"])] == [None] * 3
    assert grading.discount(prompt, 1) == 1 and 0.5 < grading.discount(prompt, 2) < 1
    assert grading.next_message({"task": "facts", "answer": "7"}, ["8"]) is None


# --- on demand ---


def test_families_on_demand_are_drawn_alike_in_every_run():
    for name in ("countdown", "second_try"):
        first, again = (list(itertools.islice(drawn(FAMILIES[name], "test"), 20)) for _ in range(2))
        assert first == again and len({prompt["id"] for prompt in first}) == 20
    assert json.loads(json.dumps(first)) == first
