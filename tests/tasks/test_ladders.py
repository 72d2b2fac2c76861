"""Every family and rung: answers that follow from the prompt, solutions that end in them, items enough and held out."""

import itertools
import random
import re
from fractions import Fraction

import pytest

from llm_jax.tasks import dates, lists, ordering
from llm_jax.tasks.base import SPLITS, Problem, split_of
from llm_jax.tasks.grading import grade
from llm_jax.tasks.records import record
from llm_jax.tasks.table import FAMILIES
from llm_jax.tasks.words import LISTS
from llm_jax.tools.python import PythonTool

LEAST = 64
DRAWS = {"train": 40, "dev": 8, "test": 75}
MOST = 400
CASES = [(name, level) for name, family in FAMILIES.items() for level in range(len(family.levels))]


def draw(family: str, level: int, split: str) -> list[Problem]:
    """As many as DRAWS says; of the test split more, up to MOST, until LEAST of them are different items."""
    rng = random.Random(f"{family}{level}{split}")
    more = lambda count: [FAMILIES[family].problem(rng, level, split, LISTS) for _ in range(count)]  # noqa: E731
    problems = more(DRAWS[split])
    while split == "test" and len({p.key for p in problems}) < LEAST and len(problems) < MOST:
        problems += more(10)
    return problems


@pytest.fixture(scope="module")
def drawn() -> dict:
    """(family, level, split) -> problems; many of the test split."""
    return {(family, level, split): draw(family, level, split) for family, level in CASES for split in SPLITS}


def asked(problem: Problem) -> dict[str, str]:
    """What fills the wording that a prompt is, read from its text alone."""
    for wording in FAMILIES[problem.task].wordings:
        pattern = re.sub(r"\\{(\w)\\}", r"(?P<\1>.+?)", re.escape(wording), flags=re.DOTALL)
        pattern = re.sub(r"\(\?P<(\w)>(.*?)\)(.*)\(\?P<\1>\2\)", r"(?P<\1>\2)\3.+?", pattern)
        if found := re.fullmatch(pattern, problem.prompt, re.DOTALL):
            return found.groupdict()
    raise AssertionError(f"no wording of {problem.task} is {problem.prompt!r}")


def ints(text: str) -> list[int]:
    return [int(number) for number in text.split()]


def stepped(w: dict, names: list[str]) -> str:
    return names[(names.index(w["f"]) + sum(map(int, re.findall(r"\d+", w["s"])))) % len(names)]


def matched(text: str) -> str:
    """By taking out pairs that stand side by side."""
    text = text.replace(" ", "")
    while (shorter := re.sub(r"\(\)|\[\]|\{\}", "", text)) != text:
        text = shorter
    return "no" if text else "yes"


def friend_of(w: dict) -> str:
    friend = re.search(rf"{w['n']}'s friend is (\w+)", w["t"])[1]
    return re.search(rf"{friend} lives in (\w+)", w["t"])[1]


def truthful(said: str) -> list[str]:
    """The only people of whom all that they say can be true while nothing that the others say is."""
    told = re.findall(r"(\w+) says that (\w+) (?:is a (knight|knave)|and (\w+) are (alike|not alike))", said)
    names = [speaker for speaker, *_ in told]
    found = []
    for count in range(len(names) + 1):
        for knights in map(set, itertools.combinations(names, count)):
            alike = lambda a, b, knights=knights: (a in knights) == (b in knights)  # noqa: E731
            if all(
                (speaker in knights)
                == ((a in knights) == (kind == "knight") if kind else alike(a, b) == (how == "alike"))
                for speaker, a, kind, b, how in told
            ):
                found.append([name for name in names if name in knights])
    (only,) = found
    return only


# How each answer follows from what the prompt says, worked out another way than the family does.
ANSWERS = {
    "arithmetic": lambda w: eval(w["e"]),
    "calculator": lambda w: eval(w["e"]),
    "addition": lambda w: int(w["a"]) + int(w["b"]),
    "subtraction": lambda w: int(w["a"]) - int(w["b"]),
    "multiplication": lambda w: sum([int(w["a"])] * int(w["b"])),
    "remainder": lambda w: int(w["a"]) - int(w["a"]) // int(w["b"]) * int(w["b"]),
    "parity": lambda w: "even" if w["a"][-1] in "02468" else "odd",
    "base": lambda w: sum(int(d) * int(w["b"]) ** place for place, d in enumerate(reversed(w["a"]))),
    "sequence": lambda w: ints(w["l"])[0] + 4 * (ints(w["l"])[1] - ints(w["l"])[0]),
    "comparing": lambda w: max(w["a"], w["b"], key=Fraction),
    "decimals": lambda w: max(w["a"], w["b"], key=Fraction),
    "extreme": lambda w: sorted(ints(w["l"]))[-1 if w["w"] == "largest" else 0],
    "sorting": lambda w: " ".join(sorted(w["l"].split(), key=int)),
    "spelling": lambda w: "-".join(list(w["w"])),
    "counting": lambda w: sum(letter == w["c"] for letter in w["w"]),
    "reversing": lambda w: "".join(reversed(w["w"])),
    "nth_letter": lambda w: list(w["w"])[int(w["n"]) - 1],
    "last_letter": lambda w: list(w["w"])[-1],
    "word_length": lambda w: sum(map(len, w["w"].split())),
    "replacing": lambda w: w["b"].join(w["w"].split(w["a"])),
    "capitals": lambda w: w["w"].upper(),
    "copying": lambda w: w["l"],
    "list_reversing": lambda w: " ".join(reversed(w["l"].split())),
    "nth_word": lambda w: w["l"].split()[int(w["n"]) - 1],
    "word_sorting": lambda w: " ".join(sorted(w["l"].split())),
    "kinds": lambda w: len(set(w["l"].split()) & set(lists.KINDS[w["k"]])),
    "missing": lambda w: next(name for name in w["l"].split() if name not in w["r"].split()),
    "weekday": lambda w: stepped(w, dates.DAYS),
    "month": lambda w: stepped(w, dates.MONTHS),
    "look_up": lambda w: dict(line.split(": ") for line in w["t"].splitlines())[w["k"]],
    "two_hops": friend_of,
    "repeating": lambda w: " ".join([w["w"]] * int(w["n"])),
    "turns": lambda w: " ".join(([w["a"], w["b"]] * int(w["n"]))[: int(w["n"])]),
    "dots": lambda w: w["l"].split().count("."),
    "brackets": lambda w: matched(w["l"]),
    "knights": lambda w: " ".join(truthful(w["s"])),
    "truth": lambda w: str(eval(w["e"].replace("true", "True").replace("false", "False"))).lower(),
    "second_try": lambda w: eval(w["e"]),
}
OTHERS = {"summary", "countdown", "functions"}  # which have tests of their own


def test_there_are_enough_families_wordings_and_rungs():
    assert len(FAMILIES) >= 25 and set(FAMILIES) - OTHERS == set(ANSWERS)
    for name, family in FAMILIES.items():
        assert len(set(family.wordings)) >= 5 and 4 <= len(set(family.levels)) <= 6, name
        assert family.on_demand != any(counts[0] for counts in family.ways.values()), name
        *_, last = zip(*family.ways.values(), strict=True)
        assert not any(last), f"the last rung of {name} is taught"


@pytest.mark.parametrize("family, level", [case for case in CASES if case[0] not in OTHERS])
def test_answers_follow_from_the_prompt(drawn, family, level):
    for problem in drawn[family, level, "test"][:40]:
        assert problem.answer == str(ANSWERS[family](asked(problem))), problem


@pytest.mark.parametrize("level", range(4))
def test_summaries_say_what_the_text_says(drawn, level):
    for problem in drawn["summary", level, "train"]:
        name = problem.key.removeprefix("summary:")
        said = re.fullmatch(rf"{name} is a (.+?) in (\S+?) who likes (.+)\.", problem.answer).groups()
        assert name in problem.prompt and all(part in problem.prompt for part in said)


@pytest.mark.parametrize("family, level", CASES)
def test_items_are_enough_and_held_out(drawn, family, level):
    keys = {split: {problem.key for problem in drawn[family, level, split]} for split in SPLITS}
    assert len(keys["test"]) >= LEAST or family == "functions"  # whose keys are shapes of which each has many items
    assert all(split_of(key) == split for split, found in keys.items() for key in found)
    assert len({problem.prompt for problem in drawn[family, level, "test"]}) > len(keys["test"]) / 2


def near(answer: str) -> list[str]:
    """What is nearly the answer."""
    words = answer.split()
    wrong = [f"{answer}x", f"{answer} {words[-1]}", f"{answer[:-1]}", f"the {answer}", ""]
    if answer.isdigit():
        wrong += [str(int(answer) + 1), f"1{answer}"]
    if answer.lower() != answer:
        wrong.append(answer.lower())
    return wrong + [" ".join(words[::-1])] * (words != words[::-1])


@pytest.mark.parametrize("family, level", CASES)
def test_solutions_end_in_the_answer_and_near_misses_do_not_count(drawn, family, level):
    for problem in drawn[family, level, "train"][:20]:
        for way in FAMILIES[family].ways:
            assert grade(record(problem, "", "train", ""), problem.solution(way), True) == 1
        if "think" in FAMILIES[family].ways:
            last = problem.think.splitlines()[-1]
            assert last.endswith(problem.answer) or last.replace("-", "").endswith(problem.answer), problem
        for wrong in near(problem.answer):
            given = [{"type": "answer", "text": f" {wrong}"}]
            assert not grade(record(problem, "", "train", ""), given, True), (problem.answer, wrong)


def test_programs_give_in_the_sandbox_what_the_solution_says(drawn):
    tool = PythonTool()
    try:
        for family, level in CASES:
            for problem in drawn[family, level, "test"][:2]:
                if "tool" in FAMILIES[family].ways:
                    _, output, answer = problem.solution("tool")
                    assert tool.answer(problem.program) == output["text"], problem
                    assert output["text"].strip() == answer["text"].strip() == problem.answer
    finally:
        tool.close()


def test_families_about_letters_hold_out_the_same_words(drawn):
    words = {split: set() for split in SPLITS}
    for (family, _, split), problems in drawn.items():
        if problems[0].key.startswith("word:"):
            words[split] |= {word for p in problems for word in asked(p)["w"].split()}
            assert family in ANSWERS
    assert len(words["test"]) > 100 and not words["train"] & (words["test"] | words["dev"])
    assert all(split_of(f"word:{word}") == split for split, found in words.items() for word in found)


def test_a_rung_has_one_thing_more(drawn):
    """The ladder of some families, counted in the prompt."""
    sizes = {
        "addition": lambda w: len(w["a"]),
        "base": lambda w: len(w["a"]),
        "sorting": lambda w: len(w["l"].split()),
        "spelling": lambda w: len(w["w"]),
        "kinds": lambda w: len(w["l"].split()),
        "weekday": lambda w: w["s"].count("pass"),
        "look_up": lambda w: w["t"].count(":"),
        "brackets": lambda w: len(w["l"].split()),
    }
    for name, size in sizes.items():
        rungs = [{size(asked(p)) for p in drawn[name, n, "test"]} for n in range(len(FAMILIES[name].levels))]
        steps = {next(iter(b)) - next(iter(a)) for a, b in itertools.pairwise(rungs)}
        assert all(len(rung) == 1 for rung in rungs) and len(steps) == 1 and steps.pop() > 0, name


def test_longer_decimals_are_often_the_smaller_ones(drawn):
    """9.11 against 9.9."""
    pairs = [(asked(p), p.answer) for p in drawn["decimals", 1, "test"]]
    fooling = [answer == min(w["a"], w["b"], key=len) for w, answer in pairs]
    assert 0.3 < sum(fooling) / len(fooling) < 0.7


def test_equal_comparisons_share_their_split():
    assert ordering.comparison_key("9.5", "9.11") == ordering.comparison_key("9.11", "9.50")
