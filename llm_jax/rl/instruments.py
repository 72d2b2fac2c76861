"""What a step of RL tells of itself: figures of its rollouts, and of the loss beside its value."""

import re
from collections import Counter

import jax.numpy as jnp
import numpy as np

from llm_jax.prompts import Outcome
from llm_jax.rl.rewards import Parts, confidence, total, verdict
from llm_jax.sampling.requests import Completion
from llm_jax.tasks.knowledge import OF_FACTS
from llm_jax.tasks.refusals import ABSTAINED, RIGHT, WRONG, is_refusal
from llm_jax.tools.table import TOOLS

# How tools say that a call came to nothing: the last line of Python's error, or "error: ...".
FAILED = re.compile(r"\s*(error\b|[A-Za-z]*(Error|Exception)\b)")


def figures(outcomes: list[Outcome], completions: list[Completion], parts: Parts, group: int) -> dict[str, float]:
    """Of the rollouts of a step, groups of `group` after each other; means over rollouts where nothing else is said.

    Lengths are in tokens after the prompt. `entropy` is estimated by the sampled tokens' mean -log p, in nats. Groups
    are all right where the named reward alone gives each 1, all wrong where it gives none more than 0; those without a
    difference got one reward, prices and all.
    `calls` is the share that calls a tool at all, `calls_each` how many calls a rollout has, `calls_failed` the share
    of the calls that failed, and `right_per_call` how many of the rollouts that called are right, by the calls.
    """
    sampled = [p for c in completions for p, m in zip(c.sampling_logprob, c.sampled_mask, strict=True) if m]
    rewards, answers_PG = total(parts), parts["answer"].reshape(-1, group)
    ended = [o.tokens for o, c in zip(outcomes, completions, strict=True) if c.finish != "length"]
    calls = np.array([o.count(*TOOLS) for o in outcomes])
    failed = sum(failures(o) for o in outcomes)
    out = {
        "reward": float(rewards.mean()),
        "accuracy": float(np.mean([o.right for o in outcomes])),
        "tokens": sum(o.tokens for o in outcomes),
        "completion_length": float(np.mean([o.tokens for o in outcomes])),
        "ended_length": float(np.mean(ended)) if ended else 0.0,
        "cut": 1 - len(ended) / len(outcomes),
        "thinks": float(np.mean([o.has("think") for o in outcomes])),
        "calls": float(np.mean(calls > 0)),
        "calls_each": float(np.mean(calls)),
        "calls_failed": float(failed / max(1, calls.sum())),
        "right_per_call": float(sum(o.right for o, n in zip(outcomes, calls, strict=True) if n) / max(1, calls.sum())),
        "well_formed": float(np.mean([o.well_formed for o in outcomes])),
        "abstained": float(np.mean([is_refusal(o.parts) for o in outcomes])),
        "groups_all_right": float(np.mean((answers_PG == 1).all(axis=1))),
        "groups_all_wrong": float(np.mean((answers_PG <= 0).all(axis=1))),
        "groups_same": float(np.mean(np.ptp(rewards.reshape(-1, group), axis=1) == 0)),
        "entropy": -float(np.mean(sampled)),
    }
    out |= honesty([o for o in outcomes if o.prompt["task"] in OF_FACTS])
    return out | ({f"reward_{name}": float(part.mean()) for name, part in parts.items()} if len(parts) > 1 else {})


def honesty(outcomes: list[Outcome]) -> dict[str, float]:
    """Of the rollouts that were asked for facts, where there are some: the shares right, wrong and refused, (c - i) / N
    and F = 2c / (N + c + i) (SimpleQA, 2411.04368). Of those that state a confidence: their share, its mean, and the
    mean of its squared distance from the truth (Brier 1950)."""
    if not outcomes:
        return {}
    verdicts, n = Counter(map(verdict, outcomes)), len(outcomes)
    c, i, a = (verdicts[name] / n for name in (RIGHT, WRONG, ABSTAINED))
    found = {"right": c, "wrong": i, "abstained": a, "index": c - i, "f": 2 * c / (1 + c + i)}
    stated = [(sure, o.right) for o in outcomes if (sure := confidence(o)) is not None]
    if stated:
        sure, right = np.array(stated, float).T
        found |= {"stated": len(stated) / n, "sure": sure.mean(), "brier": ((sure - right) ** 2).mean()}
    return {f"facts_{name}": float(value) for name, value in found.items()}


def failures(outcome: Outcome) -> int:
    """How many of the tools' answers in a rollout say that the call failed."""
    answers = {tool.returns for tool in TOOLS.values()}
    return sum(part["type"] in answers and bool(FAILED.match(part["text"])) for part in outcome.parts)


def gap(logp_BT, sampler_logp_BT, weights_BT) -> dict:
    """Trainer against sampler: the largest |difference| of a token's log-probability, the sum over tokens, and of k3.

    k3 = r - 1 - log r with r = trainer / sampler is what each sampled token adds to an estimate of the divergence
    KL(sampler || trainer), in nats (Schulman 2020, "Approximating KL divergence").
    """
    difference_BT = jnp.where(weights_BT > 0, logp_BT - sampler_logp_BT, 0)
    size_BT = jnp.abs(difference_BT)
    k3_BT = jnp.expm1(difference_BT) - difference_BT
    return {"logp_gap_max": size_BT.max(), "logp_gap": size_BT.sum(), "logp_gap_k3": k3_BT.sum()}
