"""The config of a run with a toy of each kind: `extensions` names the module that adds them, and the rest is tiny."""

from llm_jax.config import stage_section
from tests import tiny


def get_config():
    c = tiny.get_config()
    c.extensions = ("tests.toys",)
    c.polish = stage_section(steps=2, batch=8)
    c.polish.learning_rate_scale = 0.1
    c.rl.tasks = {"doubling": 0.5, "guessing/1 to 100": 0.5}
    c.data.scale, c.pretrain.steps, c.sft.steps = 0.02, 2, 2
    return c
