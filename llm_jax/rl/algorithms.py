"""The named algorithms: rows of one table over the parts of the policy loss, and what contradicts.

`rl.algorithm` names a row; `rl.parts` changes parts of it. docs/training.md has the formulas.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from llm_jax.config import UserError
from llm_jax.ranges import FROM_0, SHARE, Choice, Flag
from llm_jax.tables import Row, Table, known

PARTS = {
    "advantage": Choice(("mean", "rloo", "std", "batch", "maxrl", "gae")),
    "ratio": Choice(("token", "sequence")),
    "trust": Choice(("none", "clip", "two_sided", "cispo", "shift")),
    "clip_low": SHARE,
    "clip_high": FROM_0,
    "clip_cap": FROM_0,
    "aggregate": Choice(("token", "sequence", "constant", "prompt")),
    "kl": Choice(("none", "k1", "k2", "k3")),
    "kl_weight": FROM_0,
    "kl_in": Choice(("loss", "reward")),
    "correct": Choice(("none", "truncate", "mask")),
    "correct_level": Choice(("token", "sequence")),
    "correct_cap": FROM_0,
    "overlong": Choice(("none", "mask", "shape")),
    "overlong_share": SHARE,
    "dynamic": Flag(),
    "discount": SHARE,
    "decay": SHARE,
    "value_weight": FROM_0,
    "value_clip": FROM_0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm(Row):
    """A policy loss as parts. `own` are those that make it what its name says: another value is another algorithm."""

    source: str = None  # paper
    own: tuple[str, ...] = ()
    advantage: str = "mean"  # of a group's rewards (llm_jax.rl.advantages), or "gae": by a value head
    ratio: str = "token"  # p / old, of each token or of the whole sequence (geometric mean)
    trust: str = "none"  # what bounds an update; "none": nothing, as each batch is used once
    clip_low: float = 0.0  # of "clip", "two_sided": below 1; of "shift": of probability
    clip_high: float = 0.0  # the same, upwards
    clip_cap: float = 0.0  # greatest ratio, of "two_sided" where the advantage is negative, of "cispo"
    aggregate: str = "token"  # what the mean is over
    kl: str = "none"  # estimator of the divergence from the reference
    kl_weight: float = 0.0
    kl_in: str = "loss"
    correct: str = "none"  # weights for what the sampler's probabilities were off
    correct_level: str = "token"
    correct_cap: float = 0.0
    overlong: str = "none"  # rollouts at the limit of tokens: "mask" takes them out, "shape" lowers their reward before
    overlong_share: float = 0.2  # of "shape": of the limit, over which the reward falls by 1
    dynamic: bool = False  # groups of equal rewards are sampled anew
    discount: float = 1.0  # of "gae": of rewards later by a token
    decay: float = 0.95  # of "gae": lambda
    value_weight: float = 0.5  # of "gae": of the value head's loss
    value_clip: float = 0.2  # of "gae": how far a value may move in an update

    def wrong(self, names: Iterable[str]) -> str:
        return next((reason for part, reason in CONTRADICTIONS if part(self)), "")


# (parts that contradict, the reason)
CONTRADICTIONS = (
    (
        lambda a: a.trust in ("clip", "two_sided", "shift") and not (a.clip_low > 0 and a.clip_high > 0),
        "its trust region needs clip_low and clip_high above 0: without room no token that has moved has a gradient",
    ),
    (
        lambda a: a.trust == "two_sided" and a.clip_cap <= 1 + a.clip_high,
        "two_sided needs clip_cap above 1 + clip_high: it bounds what the clip leaves open, where the advantage is "
        "negative, and would else cut what the clip allows (arXiv 1912.09729)",
    ),
    (
        lambda a: a.trust == "cispo" and a.clip_cap < 1,
        "cispo needs clip_cap, of 1 or more: its loss is log p x the capped ratio, so a smaller cap, or none, "
        "would weaken every token's gradient, also on-policy (arXiv 2506.13585)",
    ),
    (
        lambda a: a.trust == "shift" and a.ratio == "sequence",
        "shift bounds how far the probability of one token moves, which a sequence's ratio has none of "
        "(arXiv 2602.04879); take ratio 'token'",
    ),
    (
        lambda a: a.trust == "shift" and a.correct != "none",
        "shift measures from the sampler's own probabilities, so nothing is left to correct (arXiv 2602.04879); "
        "take correct 'none'",
    ),
    (
        lambda a: a.kl != "none" and a.kl_weight == 0,
        "kl has kl_weight 0: the reference would be computed for nothing; give it a weight, or kl 'none'",
    ),
    (
        lambda a: a.kl in ("k2", "k3") and a.kl_in == "reward",
        "in the reward only k1 has the gradient of the KL: the score function is multiplied by the log-ratio itself "
        "(arXiv 2506.09477); take kl 'k1', or kl_in 'loss'",
    ),
    (
        lambda a: a.advantage == "maxrl" and (a.overlong == "shape" or (a.kl != "none" and a.kl_in == "reward")),
        "maxrl divides by the group's mean reward, which stands for its chance of being right (arXiv 2602.02710), and "
        "overlong 'shape' and kl_in 'reward' make it negative",
    ),
    (
        lambda a: a.advantage == "gae" and a.dynamic,
        "dynamic samples groups of equal rewards anew, as they have no advantage (arXiv 2503.14476); with a value "
        "head's baseline (gae) they have one",
    ),
    (
        lambda a: a.correct != "none" and a.correct_cap < 1,
        "correct needs correct_cap, of 1 or more: 1 is the weight of a sampler that agrees",
    ),
    (
        lambda a: a.overlong == "shape" and a.overlong_share == 0,
        "overlong 'shape' needs overlong_share above 0, over which the reward falls",
    ),
)

# (parts, the part that must have one of the values for them to mean anything)
USED = (
    (("clip_low", "clip_high"), "trust", ("clip", "two_sided", "shift")),
    (("clip_cap",), "trust", ("two_sided", "cispo")),
    (("kl_weight", "kl_in"), "kl", ("k1", "k2", "k3")),
    (("correct_level", "correct_cap"), "correct", ("truncate", "mask")),
    (("overlong_share",), "overlong", ("shape",)),
    (("discount", "decay", "value_weight", "value_clip"), "advantage", ("gae",)),
)

LONE = {
    "mean": "its baseline is the group's own mean, so its advantage is 0",
    "rloo": "its baseline is the mean of the others, and there are none (arXiv 2402.14740)",
    "std": "it has no deviation to divide by (arXiv 2402.03300)",
    "batch": "its baseline is the group's own mean, so its advantage is 0",
    "maxrl": "it is the group's mean itself, so its advantage is 0 (arXiv 2602.02710)",
}

CLIPPED = {"trust": "clip", "clip_low": 0.2, "clip_high": 0.2}

ALGORITHMS: Table[Algorithm] = Table(
    "algorithm of rl.algorithm",
    (
        Algorithm(name="reinforce", source="Williams 1992"),
        Algorithm(name="rloo", source="arXiv 2402.14740", own=("advantage",), advantage="rloo", aggregate="constant"),
        Algorithm(
            name="grpo",
            source="arXiv 2402.03300",
            own=("advantage",),
            advantage="std",
            aggregate="sequence",
            kl="k3",
            kl_weight=0.04,
            **CLIPPED,
        ),
        Algorithm(
            name="dr_grpo",
            source="arXiv 2503.20783",
            own=("advantage", "aggregate"),
            aggregate="constant",
            **CLIPPED,
        ),
        Algorithm(
            name="dapo",
            source="arXiv 2503.14476",
            own=("aggregate",),
            advantage="std",
            overlong="shape",
            dynamic=True,
            **CLIPPED | {"clip_high": 0.28},
        ),
        Algorithm(
            name="gspo",
            source="arXiv 2507.18071",
            own=("ratio",),
            advantage="std",
            ratio="sequence",
            aggregate="sequence",
            **CLIPPED | {"clip_low": 3e-4, "clip_high": 4e-4},
        ),
        Algorithm(
            name="cispo", source="arXiv 2506.13585", own=("trust",), advantage="std", trust="cispo", clip_cap=5.0
        ),
        Algorithm(name="ppo", source="arXiv 1707.06347", own=("advantage",), advantage="gae", **CLIPPED),
        Algorithm(name="maxrl", source="arXiv 2602.02710", own=("advantage",), advantage="maxrl"),
    ),
)


def resolve(rl: ConfigDict) -> Algorithm:
    """The row `rl.algorithm` with the parts of `rl.parts` changed.

    Raises UserError for an algorithm, a part or a value that is none, for parts that contradict each other, the name
    or `rl.group`, and for a part that is given and without effect; it says why.
    """
    row, given = ALGORITHMS.find(rl.algorithm), dict(rl.parts)
    for part, value in given.items():
        known("part of rl.parts", part, PARTS)
        if not PARTS[part].holds(value):
            raise UserError(f"rl.parts.{part} is {value!r}; it must be {PARTS[part].said}")
    algorithm = dataclasses.replace(row, **given)
    if wrong := renamed(row, given) or idle(algorithm, given) or algorithm.wrong(()) or alone(algorithm, rl.group):
        raise UserError(f"rl.algorithm {row.name!r}{f' with rl.parts {given}' if given else ''}: {wrong}")
    return algorithm


def renamed(row: Algorithm, given: Mapping[str, Any]) -> str:
    """What was changed that the algorithm's name stands for; empty when nothing."""
    for part in row.own:
        if part in given and given[part] != (value := getattr(row, part)):
            return f"{part} {value!r} is what {row.name} is ({row.source}); start from rl.algorithm 'reinforce'"
    return ""


def idle(algorithm: Algorithm, given: Mapping[str, Any]) -> str:
    """What was given and means nothing beside the other parts; empty when nothing."""
    for parts, other, values in USED:
        value = getattr(algorithm, other)
        if value not in values and (idle := [part for part in parts if part in given]):
            return f"{idle[0]} means nothing with {other} {value!r}; it needs {' or '.join(map(repr, values))}"
    return ""


def alone(algorithm: Algorithm, group: int) -> str:
    """Why a rollout without others of its prompt has no advantage; empty when it has one."""
    if group > 1 or algorithm.advantage == "gae":
        return ""
    return f"rl.group is 1: of one rollout {LONE[algorithm.advantage]}; take 2 or more"
