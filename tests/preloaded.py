"""What the process imports from which the tests' commands are forked: libraries, and no command of ours."""

import os

from llm_jax.frame.cli import quiet_logs
from tests.commands import FEWER_PASSES

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.pop(FEWER_PASSES, None)
quiet_logs()  # as each command does, before JAX is there

import llm_jax.evals.run  # noqa: E402
import llm_jax.training.loop  # noqa: E402, F401
