"""Second turns, also of runs that have problems of one kind only, as a model from elsewhere has."""

import signal
from types import SimpleNamespace

import pytest

from llm_jax.evals import self_knowledge
from llm_jax.evals.measure import Examiner, measure_turns
from llm_jax.prompts import Outcome


class Asked:
    """Stands for an Examiner whose model is always right, and keeps what it was asked."""

    config = SimpleNamespace(problems=6)
    most = 4  # messages in a context

    def __init__(self, kinds: tuple[str, ...]):
        self.kinds, self.asked = kinds, []

    def levels(self, task):
        return ("one",)

    def choose(self, task, levels, count):
        one = {"messages": [{"role": "user", "content": task}], "answer": "1"}
        return [{**one, "item": str(n)} for n in range(count)] if task in self.kinds else []

    def facts(self, *kinds, tier):
        return []

    def fits(self, prompt):
        return len(prompt["messages"]) < self.most

    def ask(self, params, prompts):
        self.asked += prompts
        return [Outcome(p, [{"type": "answer", "text": " 1"}], True, True, True, 1) for p in prompts]


@pytest.fixture
def deadline():
    def late(*_):
        raise TimeoutError("it goes on without end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kinds", [("arithmetic",), ("arithmetic", "calculator"), ()])
def test_a_second_turn_follows_a_greeting_or_a_problem_of_another_kind(kinds, deadline):
    examiner = Asked(kinds)
    turns = measure_turns(examiner, None)
    assert turns["second_turn"].keys() == {"sums", "tools", "recall"}
    second = [p["messages"] for p in examiner.asked if len(p["messages"]) == 3]
    assert len(second) == 6 * len(kinds)
    own = {(first["content"], last["content"]) for first, _, last in second}
    assert own >= {("Who are you?", kind) for kind in kinds} and not any(first == last for first, last in own)
    assert len(own) == len(kinds) ** 2


def test_a_second_turn_that_has_no_room_is_left_out(deadline):
    examiner = Asked(("arithmetic",))
    examiner.most = 2
    turns = measure_turns(examiner, None)
    assert turns["first_turn"]["sums"]["n"] == 6 and turns["second_turn"]["sums"]["n"] == 0


def test_prompts_that_have_no_room_are_left_out_and_counted(tokenizer, capsys):
    prompt = lambda text: {"id": text, "task": "t", "level": "l", "messages": [{"role": "user", "content": text}]}  # noqa: E731
    texts = ["short", "x y " * 20, "x y " * 200]
    run = SimpleNamespace(tokenizer=tokenizer, config=SimpleNamespace(eval=None, seed=0))
    examiner = Examiner(run, SimpleNamespace(length=128), list(map(prompt, texts)))
    assert {p["id"] for p in examiner.by_level["t", "l"]} == set(texts[:2])
    assert "1 of 3 prompts leave no room for an answer: left out" in capsys.readouterr().out


def test_a_question_after_a_system_prompt_that_has_no_room_is_left_out():
    examiner = Asked(())
    examiner.most = 2
    record = {"id": "1", "question": "Who are you?", "system": "You are one.", "keys": ["1"]}
    alone, told = (
        self_knowledge.share(examiner, None, [record], stated, self_knowledge.right) for stated in (False, True)
    )
    assert (alone["value"], alone["n"], told["n"]) == (1.0, 1, 0)
