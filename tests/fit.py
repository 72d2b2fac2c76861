"""A stage that trains a matrix in no time, on any mesh over any processes; and its config. For tests of processes."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llm_jax import sharding
from llm_jax.config import UserError, default, stage_section
from llm_jax.stage_table import STAGES, Stage
from llm_jax.training import loop

BATCH, WIDTH = 8, 8
FAILURES = ("kill", "mistake", "error")


class Rows(loop.Batches):
    """A batch that is a function of the step; in the process and at the step of $FAIL, "WHAT PROCESS STEP", none."""

    def __init__(self, run):
        self.numbers = sharding.own_rows(run.mesh, BATCH, run.config.train.microbatch)

    def next(self, step, params):
        what, process, at = os.environ.get("FAIL", "nothing 0 0").split()
        if what in FAILURES and step == int(at) and process in ("all", str(jax.process_index())):
            fail(what)
        x = np.random.default_rng(step).normal(size=(BATCH, WIDTH)).astype(np.float32)
        x *= np.nan if what == "nan" and step == int(at) else 1
        return {"x": x[self.numbers], "weights": np.ones(len(self.numbers), np.float32)}, {}


def fail(what: str) -> None:
    if what == "kill":
        os.kill(os.getpid(), 9)
    if what == "mistake":
        raise UserError("the moon is full; wait for another one")
    raise RuntimeError("the moon has gone")


def loss(params, batch):
    error = batch["x"] @ params["w"] - jnp.flip(batch["x"], 1)
    return (error**2).sum(), jnp.float32(len(error)), {}


def train(run) -> None:
    run.planned_vocab_size = 128  # there is no tokenizer
    place = sharding.named(run.mesh, "embed", "ff")
    params = {"w": jax.jit(lambda: jnp.full((WIDTH, WIDTH), 0.1), out_shardings=place)()}
    loop.train(run, loop.Job("fit", run.config.fit.steps, optax.adam(1e-3), loss, Rows(run)), params)


def get_config():
    c = default()
    c.extensions = ("tests.fit",)
    c.fit = stage_section(steps=10**6, batch=BATCH)
    c.checkpoint.every = 10**6
    c.model.dim, c.model.heads, c.model.kv_heads, c.model.ff_dim = 48, 4, 4, 48
    return c


if "fit" not in STAGES:
    STAGES.add(
        Stage(name="fit", run="tests.fit:train", label="a fit", section="fit", identity=("seed",)), before="data"
    )
    STAGES.add(Stage(name="alone", run="tests.fit:train", label="a fit by one process", one_process=True))
