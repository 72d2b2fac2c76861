"""Best of n: of n answers the one that a reward model likes best, and how much the true taste likes that one.

The choice is a policy that no training has made: its KL from the model is log n - (n - 1) / n at most (Stiennon et al.
2020; Beirami et al. 2024, 2401.01879). Beside it stands a choice by lot from the same answers, which is flat unless
something is wrong with the measuring. Gao et al. 2022 (2210.10760) draw both against sqrt(KL): the reward model's own
score, the proxy, goes on rising where the gold, what it stands for, falls.
"""

import math

import numpy as np

from llm_jax.evals.measure import Examiner
from llm_jax.evals.statistics import bootstrap
from llm_jax.rl.reward_model import RewardModel
from llm_jax.sampling.requests import Request
from llm_jax.stage_table import STAGES
from llm_jax.tasks import taste

PROMPTS = 128  # at most


def kl(n: int) -> float:
    """Of the best of n from the model, in nats: log n - (n - 1) / n."""
    return math.log(n) - (n - 1) / n


def weights(count: int, n: int) -> np.ndarray:
    """How likely each of `count` answers, the best one first, is the best of n drawn without replacement [count].

    C(count - 1 - rank, n - 1) / C(count, n): so one pool of answers gives an estimate without bias for every n.
    """
    out = np.zeros(count)
    out[0] = n / count
    for rank in range(1, count - n + 1):
        out[rank] = out[rank - 1] * (count - n - rank + 1) / (count - rank)
    return out


def chosen(scores_PN: np.ndarray, by_PN: np.ndarray, n: int) -> np.ndarray:
    """The expected score of the one of n that is best in `by` [P]."""
    order_PN = np.argsort(-by_PN, axis=1, kind="stable")
    return np.take_along_axis(scores_PN, order_PN, axis=1) @ weights(scores_PN.shape[1], n)


def curves(gold_PN: np.ndarray, proxy_PN: np.ndarray, seed: int) -> dict[str, dict[int, np.ndarray]]:
    """{gold, proxy: of the best by the proxy; random: gold of the best by lot} -> {n: [P]}, n = 1, 2, 4, ..."""
    lots_PN = np.random.default_rng(seed).random(gold_PN.shape)
    arms = {"gold": (gold_PN, proxy_PN), "proxy": (proxy_PN, proxy_PN), "random": (gold_PN, lots_PN)}
    sizes = [2**power for power in range(gold_PN.shape[1].bit_length())]
    return {name: {n: chosen(*both, n) for n in sizes} for name, both in arms.items()}


def agreement(gold_PN: np.ndarray, proxy_PN: np.ndarray) -> np.ndarray:
    """Of each prompt's pairs of answers that the gold tells apart, the share that the proxy orders alike [P]; nan where
    there is none."""
    gold_PNN, proxy_PNN = (np.sign(x[:, :, None] - x[:, None, :]) for x in (gold_PN, proxy_PN))
    told_P = (gold_PNN != 0).sum(axis=(1, 2))
    alike_P = ((gold_PNN == proxy_PNN) & (gold_PNN != 0)).sum(axis=(1, 2))
    return np.divide(alike_P, told_P, out=np.full(len(told_P), np.nan), where=told_P > 0)


def sampled(engine, params, prompts: list[dict], samples: int, max_new_tokens: int, seed: int):
    """(ids of prompt and answer, its text) of each prompt's samples at temperature 1, those of a prompt in a row."""
    t, requests = engine.tokenizer, []
    for number, prompt in enumerate(prompts):
        ids = t.render(prompt["messages"], for_generation=True).ids
        seeds = ((seed * 7919 + number) * samples + sample for sample in range(samples))
        requests += [Request(ids, own, 1.0, max_new_tokens) for own in seeds]
    done = engine.generate(params, requests)
    return [(r.prompt + c.ids, taste.said(t.parse(c.ids)[0])) for r, c in zip(requests, done, strict=True)]


def scores(model: RewardModel, prompts: list[dict], answers: list[tuple[list[int], str]]) -> tuple[np.ndarray, ...]:
    """(gold, proxy) [P, N] of what `sampled` gave."""
    shape = len(prompts), -1
    kinds = [prompt["answer"] for prompt in prompts for _ in range(len(answers) // len(prompts))]
    gold = [taste.gold(kind, text) for kind, (_, text) in zip(kinds, answers, strict=True)]
    return np.reshape(gold, shape), model.score([ids for ids, _ in answers]).astype(float).reshape(shape)


def lacks(e: Examiner) -> str:
    is_there = e.run.config.rl.reward_model or any(STAGES[stage].kind == "reward" for stage in e.run.trained())
    return "" if is_there else "a reward model"


def measure_best_of_n(e: Examiner, params) -> dict:
    """Gold and proxy of the best of n, and the gold of one by lot; how often the reward model orders two answers as the
    taste does."""
    prompts = e.choose(taste.TASK, e.levels(taste.TASK), min(PROMPTS, e.config.problems))
    samples = e.config.best_of
    answers = sampled(e.engine, params, prompts, samples, e.config.max_new_tokens, e.seed)
    gold_PN, proxy_PN = scores(RewardModel(e.run, e.run.config.rl.reward_model), prompts, answers)
    items = [prompt["item"] for prompt in prompts]
    found = {
        name: {str(n): mean(values, items) for n, values in curve.items()}
        for name, curve in curves(gold_PN, proxy_PN, e.seed).items()
    }
    ordered = agreement(gold_PN, proxy_PN)
    told = ~np.isnan(ordered)
    found["kl"] = {n: {"value": round(kl(int(n)), 4)} for n in found["gold"]}
    found["ordered_alike"] = mean(ordered[told], [item for item, is_told in zip(items, told, strict=True) if is_told])
    return found


def mean(values: np.ndarray, items: list) -> dict:
    """{"value", "n", "ci95"} of numbers that are no shares, bootstrapped over items."""
    if not len(values):
        return {"value": None, "n": 0, "ci95": [None, None]}
    low, high = bootstrap(values, items)
    return {"value": round(float(values.mean()), 4), "n": len(values), "ci95": [round(low, 4), round(high, 4)]}
