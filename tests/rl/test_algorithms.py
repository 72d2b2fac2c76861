"""The table of algorithms: names, parts that a config changes, and contradictions with their reason."""

import dataclasses

import pytest

from llm_jax import config
from llm_jax.config import UserError
from llm_jax.rl.algorithms import ALGORITHMS, PARTS, Algorithm, resolve


def rl(algorithm: str = "reinforce", group: int = 8, **parts):
    c = config.default().rl
    c.algorithm, c.group, c.parts = algorithm, group, parts
    return c


def test_a_name_is_its_parts():
    assert list(ALGORITHMS) == "reinforce rloo grpo dr_grpo dapo gspo cispo ppo maxrl".split()
    assert all(resolve(rl(name)) == row for name, row in ALGORITHMS.items())
    assert {part.name for part in dataclasses.fields(Algorithm)} - {"name", "source", "own"} == PARTS.keys()
    assert all(PARTS[part].holds(getattr(row, part)) for row in ALGORITHMS.values() for part in PARTS)


def test_parts_change_a_row():
    found = resolve(rl("grpo", clip_high=0.28, kl="none", correct="mask", correct_level="sequence", correct_cap=3))
    assert (found.name, found.advantage, found.clip_low, found.clip_high) == ("grpo", "std", 0.2, 0.28)
    assert (found.kl, found.correct_cap) == ("none", 3)
    assert resolve(rl("ppo", group=1)).advantage == "gae"  # a value head needs no group


@pytest.mark.parametrize("algorithm, group, parts, said", [
    ("grop", 8, {}, "did you mean 'grpo'"),
    ("grpo", 8, {"clip_hihg": 0.3}, "did you mean 'clip_high'"),
    ("grpo", 8, {"advantage": "median"}, r"rl\.parts\.advantage is 'median'"),
    ("dapo", 8, {"dynamic": 1.0}, "True or False"),
    ("gspo", 8, {"ratio": "token"}, "ratio 'sequence' is what gspo is .*2507"),
    ("dr_grpo", 8, {"aggregate": "sequence"}, "aggregate 'constant' is what dr_grpo is .*2503"),
    ("dr_grpo", 8, {"advantage": "std"}, "advantage 'mean' is what dr_grpo is"),
    ("rloo", 1, {}, "others, and there are none"),
    ("grpo", 1, {}, "no deviation"),
    ("reinforce", 1, {}, "advantage is 0"),
    ("maxrl", 1, {}, "group's mean itself"),
    ("cispo", 8, {"ratio": "sequence", "clip_cap": 0}, "cispo needs clip_cap.*2506"),
    ("reinforce", 8, {"trust": "cispo"}, "cispo needs clip_cap"),
    ("reinforce", 8, {"trust": "clip"}, "clip_low and clip_high above 0"),
    ("grpo", 8, {"trust": "two_sided"}, r"above 1 \+ clip_high.*1912"),
    ("reinforce", 8, {"trust": "shift", "clip_low": 0.2, "clip_high": 0.2, "ratio": "sequence"}, "one token"),
    ("grpo", 8, {"trust": "shift", "correct": "mask", "correct_cap": 2}, "nothing is left to correct"),
    ("reinforce", 8, {"kl": "k1", "kl_in": "reward"}, "kl_weight 0"),
    ("grpo", 8, {"kl_in": "reward"}, "only k1 .*2506"),
    ("maxrl", 8, {"overlong": "shape"}, "makes? it negative"),
    ("maxrl", 8, {"kl": "k1", "kl_in": "reward", "kl_weight": 0.1}, "makes? it negative"),
    ("ppo", 8, {"dynamic": True}, "value head's baseline"),
    ("reinforce", 8, {"correct": "truncate"}, "correct_cap, of 1 or more"),
    ("dapo", 8, {"overlong_share": 0}, "overlong_share above 0"),
    ("reinforce", 8, {"clip_high": 0.2}, "clip_high means nothing with trust 'none'"),
    ("reinforce", 8, {"kl_weight": 0.1}, "kl_weight means nothing with kl 'none'"),
    ("grpo", 8, {"decay": 0.9}, "needs 'gae'"),
])  # fmt: skip
def test_a_contradiction_is_refused_with_its_reason(algorithm, group, parts, said):
    with pytest.raises(UserError, match=said) as error:
        resolve(rl(algorithm, group, **parts))
    assert "\n" not in str(error.value)


def test_a_row_that_contradicts_itself_is_not_added():
    with pytest.raises(UserError, match="'odd': cispo needs"):
        ALGORITHMS.add(Algorithm(name="odd", source="nowhere", trust="cispo"))
    assert "odd" not in ALGORITHMS
