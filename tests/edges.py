"""Every number of the config at one end of its range, `high` where a key has a greatest value: a config for tests.

What the text asks for, a larger vocabulary and longer rows, comes from the command line.
"""

from llm_jax.config import OPEN, default
from llm_jax.ranges import RANGES, Number


def get_config(end: str = "low"):
    c = default()
    for key, allowed in RANGES.items():
        if isinstance(allowed, Number) and f"{key}." not in OPEN:
            section, _, name = key.rpartition(".")
            value = allowed.high if end == "high" and allowed.high < float("inf") else allowed.low
            (c[section] if section else c)[name] = value
    c.rl.tasks = {"arithmetic": 1.0, "calculator": 0.0}
    c.rl.group = 2  # of one rollout, no advantage
    return c
