"""What each question of the report is, as a measurement of one checkpoint on held-out prompts."""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from llm_jax.evals.statistics import of_ratio, pass_at_k, rate
from llm_jax.frame.processes import say
from llm_jax.prompts import Outcome
from llm_jax.rl.episodes import play
from llm_jax.runs import Run
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.requests import Request
from llm_jax.sampling.turns import tool_calls
from llm_jax.tasks.refusals import WRONG, verdict
from llm_jax.tools.table import TOOLS

TIERS = (0, 1, 3, 10, 30, 100)  # statements of a fact in the pages
TURNS = 300  # problems of each kind as first and as second turn, at most
CALLS = 256  # problems that need a tool, and as many that do not, at most
PASS_AT = (1, 2, 4, 8, 16)
RL_LEVELS = ("3 numbers", "4 numbers")
TOOL_LEVELS = ("3 digits", "4 digits")
MIXED = 4  # problems of each family and level, to see whether all kinds of answers end


class Examiner:
    """Asks prompts of one set of parameters; the same prompt set for every checkpoint."""

    def __init__(self, run: Run, engine: Engine, prompts: list[dict]):
        self.run, self.engine, self.tokenizer = run, engine, run.tokenizer
        self.config, self.seed = run.config.eval, run.config.seed
        self.talks, self.stage = True, ""  # of the parameters: whether their stage answers turns, and which it is
        self.answers: dict = {}  # of a stage to the questions on what it knows (knowledge.py), which others ask for
        self.writes_spans = True  # whether that stage was trained on spans; a model from elsewhere was not
        self.by_level: dict[tuple[str, str], list[dict]] = defaultdict(list)
        fitting = [prompt for prompt in prompts if self.fits(prompt)]
        if left := len(prompts) - len(fitting):
            say(f"evaluate  {left} of {len(prompts)} prompts leave no room for an answer: left out")
        for prompt in fitting:
            self.by_level[prompt["task"], prompt["level"]].append(prompt)
        for level in self.by_level.values():  # its first ones are a draw from all, in whatever order they came
            level.sort(key=lambda prompt: hashlib.sha256(prompt["id"].encode()).digest())

    def fits(self, prompt: dict) -> bool:
        """Whether the context has room for it and an answer."""
        if sum(len(str(message).encode()) for message in prompt["messages"]) < self.engine.length // 2:
            return True  # a token is a byte or more, and a turn has few of its own
        return len(self.tokenizer.render(prompt["messages"], for_generation=True).ids) < self.engine.length

    def levels(self, task: str) -> tuple[str, ...]:
        return tuple(level for family, level in self.by_level if family == task)

    def choose(self, task: str, levels: tuple[str, ...], count: int) -> list[dict]:
        """`count` prompts of a family, spread evenly over the levels; fewer if there are fewer."""
        share = -(-count // max(1, len(levels)))
        return [prompt for level in levels for prompt in self.by_level[task, level][:share]]

    def facts(self, *kinds: str, tier: int = 0) -> list[dict]:
        """Questions on facts of the people of these kinds that the pages state as often as `tier` says."""
        asked = [p for p in self.by_level.get(("facts", f"tier {tier}"), []) if p["kind"] in kinds]
        return asked[: self.config.problems]

    def ask(
        self,
        params,
        prompts: list[dict],
        opening: str = "",
        suppress: tuple[str, ...] = (),
        temperature: float = 0.0,
        samples: int = 1,
        max_new_tokens: int = 0,
    ) -> list[Outcome]:
        """Outcomes of each prompt, `samples` of each in a row; `opening` forces a span, `suppress` forbids some."""
        t = self.tokenizer
        requests = []
        for number, prompt in enumerate(prompts):
            ids = t.render(prompt["messages"], for_generation=True).ids
            for sample in range(samples):
                requests.append(
                    Request(
                        ids,
                        seed=(self.seed * 7919 + number) * 64 + sample,
                        temperature=temperature,
                        max_new_tokens=max_new_tokens or self.config.max_new_tokens,
                        forced=t.open[opening] if opening else (),
                        suppress=tuple(t.open[name][0] for name in suppress),
                    )
                )
        return play(self.engine, params, [prompt for prompt in prompts for _ in range(samples)], requests)[1]


def share(outcomes: list[Outcome], what: Callable[[Outcome], bool]) -> dict:
    """The rate of outcomes with a property, its interval bootstrapped over items."""
    return rate([float(what(o)) for o in outcomes], [o.prompt["item"] for o in outcomes])


def right(outcome: Outcome) -> bool:
    return outcome.right


def measure_sft(e: Examiner, params) -> dict:
    """Does it end its turn, what does it know of the people in the pages, and how does it do in a second turn?"""
    recall = lambda *kinds, tier=0: e.ask(params, e.facts(*kinds, tier=tier), suppress=tuple(TOOLS))  # noqa: E731
    tiers = {tier: recall("tier", tier=tier) for tier in TIERS}
    unasked, nobody = recall("unasked", tier=100), recall("heldout", "near_miss")
    mixed = e.ask(params, [p for (task, _), level in e.by_level.items() if task != "facts" for p in level[:MIXED]])
    return {
        "ends_turn": share(tiers[30] + tiers[100] + mixed, lambda o: o.ended),
        **{f"recall_tier_{tier}": share(outcomes, right) for tier, outcomes in tiers.items()},
        "recall_people_never_asked": share(unasked, right),
        "invented_heldout": share(nobody, lambda o: o.well_formed and verdict(o.right, o.parts) == WRONG),
        **measure_turns(e, params),
    }


def measure_turns(e: Examiner, params) -> dict:
    """Two-number sums, big sums with the tool and facts that the pages state a hundred times: as the first turn of a
    conversation, and the same problems as the second.

    Before a second turn stands a greeting, or a problem of another kind, with what the model itself answered to it.
    """
    count = min(TURNS, e.config.problems)
    prompts = {
        "sums": e.choose("arithmetic", ("2 numbers",), count),
        "tools": e.choose("calculator", TOOL_LEVELS, count),
        "recall": e.facts("tier", tier=100)[:count],
    }
    first = {kind: e.ask(params, asked) for kind, asked in prompts.items()}
    greeting = e.ask(params, [{"messages": [{"role": "user", "content": "Who are you?"}], "answer": ""}])
    second = {}
    for kind, asked in prompts.items():
        others = [outcomes for other, outcomes in first.items() if other != kind and outcomes]
        each = zip(*others, strict=False) if others else [()]
        before = [outcome for some in each for outcome in (*greeting, *some)]
        pairs = zip(itertools.cycle(before), asked, strict=False)
        second[kind] = e.ask(params, [p for p in itertools.starmap(following, pairs) if e.fits(p)])
    named = (("first_turn", first), ("second_turn", second))
    return {name: {kind: share(outcomes, right) for kind, outcomes in turn.items()} for name, turn in named}


def following(before: Outcome, prompt: dict) -> dict:
    """The prompt as the next turn of a conversation."""
    answered = {"role": "assistant", "content": before.parts}
    return {**prompt, "messages": [*before.prompt["messages"], answered, *prompt["messages"]]}


def measure_think(e: Examiner, params) -> dict:
    """Three numbers: made to answer at once, against made to think first."""
    prompts = e.choose("arithmetic", ("3 numbers",), e.config.problems)
    two = e.choose("arithmetic", ("2 numbers",), e.config.problems)
    return {
        "direct": share(e.ask(params, prompts, opening="answer"), right),
        "with_thinking": share(e.ask(params, prompts, opening="think", suppress=tuple(TOOLS)), right),
        "two_number_direct": share(e.ask(params, two, opening="answer"), right),
    }


def measure_tools(e: Examiner, params) -> dict:
    """Sums beyond the model, with the python tool and without it."""
    prompts = e.choose("calculator", TOOL_LEVELS, e.config.problems)
    with_tool, without = e.ask(params, prompts), e.ask(params, prompts, suppress=tuple(TOOLS))
    return {
        "with": share(with_tool, right),
        "without": share(without, right),
        "call_rate": share(with_tool, lambda o: o.has(*TOOLS)),
        "call_correct": share([o for o in with_tool if o.has(*TOOLS)], called_right),
        "format_without": share(without, lambda o: o.well_formed),
    }


def measure_calls(e: Examiner, params) -> dict:
    """Does it call where it must, for big numbers, and do without where it can, for three small ones?"""
    count = min(CALLS, e.config.problems)
    needed = e.ask(params, e.choose("calculator", TOOL_LEVELS, count))
    unneeded = e.ask(params, e.choose("arithmetic", RL_LEVELS[:1], count))
    return {
        "called_needed": share(needed, called),
        "called_unneeded": share(unneeded, called),
        "per_call": right_per_call(needed + unneeded),
    }


def called(outcome: Outcome) -> bool:
    return outcome.has(*TOOLS)


def right_per_call(outcomes: list[Outcome]) -> dict:
    """Of the answers that called: how many are right, by their `n` calls. The interval is over items."""
    of_item: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for outcome in filter(called, outcomes):
        of_item[outcome.prompt["item"]] += outcome.right, outcome.count(*TOOLS)
    if not of_item:
        return {"value": None, "n": 0, "ci95": [None, None]}
    table = np.array(list(of_item.values()))
    answers, calls = table.sum(axis=0)
    interval = [round(bound, 4) for bound in of_ratio(table)]
    return {"value": round(float(answers / calls), 4), "n": int(calls), "ci95": interval}


def called_right(outcome: Outcome) -> bool:
    """Whether the tool's output is the right answer, whatever the model then wrote."""
    return any(call["output"].strip() == outcome.prompt["answer"] for call in tool_calls(outcome.parts))


def measure_reasoning(e: Examiner, params) -> dict:
    """The problems that RL practises, held out; greedy and at temperature 1, without the tool."""
    prompts = e.choose("arithmetic", RL_LEVELS, e.config.problems)
    greedy = e.ask(params, prompts, suppress=tuple(TOOLS))
    sampled = e.ask(params, prompts, suppress=tuple(TOOLS), temperature=1.0)
    made_to_think = e.ask(params, prompts, opening="think", suppress=tuple(TOOLS))
    return {
        "accuracy": share(greedy, right),
        "accuracy_made_to_think": share(made_to_think, right),
        "sampled": share(sampled, right),
        "format": share(greedy, lambda o: o.well_formed),
        "thinks": share(greedy, lambda o: o.has("think")),
    }


def measure_code(e: Examiner, params) -> dict:
    """The share of held-out functions that the first program gets right on all hidden inputs, without the tool."""
    prompts = e.choose("functions", e.levels("functions"), e.config.problems)
    return share(e.ask(params, prompts, suppress=tuple(TOOLS)), right)


def measure_passk(e: Examiner, params) -> dict:
    """pass@k on the same kind of problems, from samples at temperature 1."""
    prompts = e.choose("arithmetic", RL_LEVELS, e.config.passk_problems)
    n = e.config.passk_samples
    outcomes = e.ask(params, prompts, suppress=tuple(TOOLS), temperature=1.0, samples=n)
    correct = np.array([o.right for o in outcomes]).reshape(len(prompts), n).sum(axis=1)
    items = [p["item"] for p in prompts]
    return {str(k): rate([pass_at_k(n, int(c), k) for c in correct], items) for k in PASS_AT if k <= n}
