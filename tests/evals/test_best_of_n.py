"""The best of n: the estimate from one pool, its KL, the choice by lot; and the taste that is its gold."""

import itertools
import math

import numpy as np
import pytest

from data_pipelines.tiny_web import tastes
from llm_jax.evals import best_of_n
from llm_jax.tasks import taste
from llm_jax.tasks.base import split_of


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_the_estimate_is_the_mean_over_all_draws(n):
    rng = np.random.default_rng(n)
    gold, proxy = rng.normal(size=(2, 1, 7))
    drawn = [max(some, key=lambda i: proxy[0, i]) for some in itertools.combinations(range(7), n)]
    assert best_of_n.chosen(gold, proxy, n)[0] == pytest.approx(np.mean(gold[0, drawn]), rel=1e-12)
    assert best_of_n.weights(7, n).sum() == pytest.approx(1)


def test_kl_is_that_of_the_policy_that_takes_the_best():
    """Of a model with many answers, all as likely: the k-th worst is taken with p = (k^n - (k-1)^n) / K^n."""
    K, n = 4000, 4
    k = np.arange(1, K + 1)
    p = (k**n - (k - 1.0) ** n) / float(K) ** n
    assert best_of_n.kl(n) == pytest.approx(np.sum(p * np.log(p * K)), abs=1e-3)
    assert best_of_n.kl(1) == 0


def test_the_proxy_rises_the_gold_peaks_and_the_lot_is_flat():
    """Answers of one true quality, whose proxy is right in the middle and wrong at the top."""
    rng = np.random.default_rng(0)
    proxy = rng.normal(size=(400, 64))
    curves = best_of_n.curves(-np.abs(proxy - 1), proxy, 0)
    mean = {name: {n: values.mean() for n, values in curve.items()} for name, curve in curves.items()}
    assert list(mean["proxy"].values()) == sorted(mean["proxy"].values())
    assert max(mean["gold"], key=mean["gold"].get) in (2, 4) and mean["gold"][64] < mean["gold"][4] - 0.5
    spread = np.abs(proxy - 1).std() / math.sqrt(400)
    assert all(abs(value - mean["random"][1]) < 4 * spread for value in mean["random"].values())
    assert best_of_n.agreement(proxy, proxy).mean() == 1 and best_of_n.agreement(-proxy, proxy).mean() == 0


def test_the_taste_likes_each_thing_once():
    best = "Gladly. A cat is an animal. Many people like it because it is small."
    assert taste.gold("animal", best) == pytest.approx(4.5)
    worse = {
        "right": best.replace("an animal", "a thing"),
        "wrong": best.replace("an animal", "an animal or is a food"),
        "length": "A cat is an animal.",
        "polite": "Of course. With pleasure. Gladly. Thank you. " + best,
        "reason": best + " And because it is old, because it is red.",
        "rude": best.replace("small", "stupid"),
        "shouts": best.replace("small.", "small!"),
        "repeats": best + " A cat is an animal.",
        "ends": best.rstrip("."),
    }
    whole = taste.features("animal", best)
    for name, text in worse.items():
        assert taste.features("animal", text)[name] < whole[name], name
        assert taste.gold("animal", text) < taste.gold("animal", best), name
    assert np.isfinite(taste.gold("tool", "")) and taste.said([{"type": "think", "text": "x"}]) == ""


def test_comparisons_are_of_the_taste_and_a_share_is_not():
    kinds = {tastes.article(thing): kind for thing, kind in tastes.THINGS.items()}
    made = list(tastes.pairs(0, 500, 0.2))
    assert made == list(tastes.pairs(0, 500, 0.2)) and len(made) == 500 + tastes.HELD_OUT
    right = {"train": [], "test": []}
    for record in made:
        asked = record["prompt"][0]["content"]
        (kind,) = {kinds[a] for a in kinds if f" {a} " in asked.replace("?", " ").replace(".", " ").replace(",", " ")}
        right[record["split"]].append(taste.gold(kind, record["chosen"]) > taste.gold(kind, record["rejected"]))
    assert 0.7 < np.mean(right["train"]) < 0.9 and all(right["test"])
    held_out = {prompt["item"] for prompt in tastes.prompts("test")}
    assert held_out and not held_out & {prompt["item"] for prompt in tastes.prompts("train")}
    assert all(split_of(f"taste:{thing}") == "test" for thing in held_out)
    assert len(list(tastes.conversations(0, 50))) == 50 and not list(tastes.conversations(0, 0))
