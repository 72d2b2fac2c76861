"""What each question of the report is, as a measurement of one checkpoint on held-out prompts."""

import random
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from llm_jax.evals.statistics import pass_at_k, rate
from llm_jax.prompts import Outcome, judge
from llm_jax.runs import Run
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.requests import Request
from llm_jax.sampling.turns import tool_calls
from llm_jax.tools.table import TOOLS

GRID_KINDS = ("tier",)  # the facts in the capability grid: people of the exposure tiers
PASS_AT = (1, 2, 4, 8, 16)
RL_LEVELS = ("3 numbers", "4 numbers")


class Examiner:
    """Asks prompts of one set of parameters; the same prompt set for every checkpoint."""

    def __init__(self, run: Run, engine: Engine, prompts: list[dict]):
        self.run, self.engine, self.tokenizer = run, engine, run.tokenizer
        self.config, self.seed = run.config.eval, run.config.seed
        self.by_level: dict[tuple[str, str], list[dict]] = defaultdict(list)
        for prompt in prompts:
            self.by_level[prompt["task"], prompt["level"]].append(prompt)

    def choose(self, task: str, levels: tuple[str, ...], count: int) -> list[dict]:
        """`count` prompts of a family, spread evenly over the levels; fewer if there are fewer."""
        share = -(-count // len(levels))
        return [prompt for level in levels for prompt in self.by_level[task, level][:share]]

    def facts(self, wanted: Callable[[dict], bool]) -> list[dict]:
        """A seeded sample of the questions about people that `wanted` picks, at most 600."""
        pool = [p for (task, _), prompts in self.by_level.items() if task == "facts" for p in prompts if wanted(p)]
        return random.Random(f"{self.seed}/facts").sample(pool, min(len(pool), 600))

    def ask(
        self,
        params,
        prompts: list[dict],
        opening: str = "",
        suppress: tuple[str, ...] = (),
        temperature: float = 0.0,
        samples: int = 1,
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
                        max_new_tokens=self.config.max_new_tokens,
                        forced=(t.open[opening],) if opening else (),
                        suppress=tuple(t.open[name] for name in suppress),
                    )
                )
        completions = self.engine.generate(params, requests)
        repeated = [prompt for prompt in prompts for _ in range(samples)]
        return [judge(t, p, c) for p, c in zip(repeated, completions, strict=True)]


def share(outcomes: list[Outcome], what: Callable[[Outcome], bool]) -> dict:
    """The rate of outcomes with a property, its interval bootstrapped over items."""
    return rate([float(what(o)) for o in outcomes], [o.prompt["item"] for o in outcomes])


def right(outcome: Outcome) -> bool:
    return outcome.right


def measure_sft(e: Examiner, params) -> dict:
    """Does it end its turn, and what does it know of the people in the pages?"""
    often = e.facts(lambda p: p["kind"] == "tier" and p["asked"] and p["tier"] >= 30)
    never_asked = e.facts(lambda p: p["kind"] == "tier" and not p["asked"] and p["tier"] >= 30)
    unasked_people = e.facts(lambda p: p["kind"] == "unasked")
    heldout = e.facts(lambda p: p["kind"] in ("heldout", "near_miss"))
    mixed = [p for (task, level) in list(e.by_level) if task != "facts" for p in e.by_level[task, level][:20]]
    answers = {
        name: e.ask(params, prompts)
        for name, prompts in (
            ("often", often),
            ("never", never_asked),
            ("people", unasked_people),
            ("heldout", heldout),
            ("mixed", mixed),
        )
    }
    group = {
        "ends_turn": share(answers["often"] + answers["mixed"], lambda o: o.ended),
        "recall_seen": share(answers["often"], right),
        "recall_never_asked": share(answers["never"], right),
        "recall_people_never_asked": share(answers["people"], right),
        "invented_heldout": share(answers["heldout"], lambda o: o.well_formed and not o.right),
    }
    for tier in (1, 3, 10):
        prompts = e.facts(lambda p, tier=tier: p["kind"] == "tier" and p["asked"] and p["tier"] == tier)
        group[f"recall_tier_{tier}"] = share(e.ask(params, prompts), right)
    for tier in (30, 100):
        group[f"recall_tier_{tier}"] = share([o for o in answers["often"] if o.prompt["tier"] == tier], right)
    return group


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
    prompts = e.choose(
        "calculator", tuple(level for task, level in e.by_level if task == "calculator"), e.config.problems
    )
    with_tool, without = e.ask(params, prompts), e.ask(params, prompts, suppress=tuple(TOOLS))
    return {
        "with": share(with_tool, right),
        "without": share(without, right),
        "call_rate": share(with_tool, lambda o: o.has(*TOOLS)),
        "call_correct": share([o for o in with_tool if o.has(*TOOLS)], called_right),
        "format_without": share(without, lambda o: o.well_formed),
    }


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


def measure_passk(e: Examiner, params) -> dict:
    """pass@k on the same kind of problems, from samples at temperature 1."""
    prompts = e.choose("arithmetic", RL_LEVELS, e.config.passk_problems)
    n = e.config.passk_samples
    outcomes = e.ask(params, prompts, suppress=tuple(TOOLS), temperature=1.0, samples=n)
    correct = np.array([o.right for o in outcomes]).reshape(len(prompts), n).sum(axis=1)
    items = [p["item"] for p in prompts]
    return {str(k): rate([pass_at_k(n, int(c), k) for c in correct], items) for k in PASS_AT if k <= n}


def measure_grid(e: Examiner, params) -> dict:
    """Accuracy of every family and level: where the holes are."""
    cells: dict[str, dict[str, dict]] = defaultdict(dict)
    keys, prompts = [], []
    for task, level in e.by_level:
        if task == "facts" and level not in ("tier 3", "tier 10", "tier 100"):
            continue
        pool = [p for p in e.by_level[task, level] if task != "facts" or (p["kind"] in GRID_KINDS and p["asked"])]
        pool = random.Random(f"{e.seed}/grid").sample(pool, min(len(pool), e.config.grid_items))
        keys += [(task, level)] * len(pool)
        prompts += pool
    outcomes = e.ask(params, prompts)
    for task, level in dict.fromkeys(keys):
        cells[task][level] = share([o for key, o in zip(keys, outcomes, strict=True) if key == (task, level)], right)
    return dict(cells)
