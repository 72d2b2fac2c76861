"""The one train loop: jitted step, metrics, validation, checkpoints, preemption, profiler.

A stage brings a `Job`: its loss, its batches and its optimizer. The step takes (trainable, frozen) parameters.
"""

import contextlib
import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from llm_jax import checkpoint, sharding
from llm_jax.config import UserError, identity
from llm_jax.model import transformer
from llm_jax.progress import StageLog


class Stopped(Exception):
    """SIGTERM or Ctrl-C arrived; the state is saved."""


class Batches:
    """What a stage trains on. `next` may use the current parameters (RL samples from them)."""

    def next(self, step: int, params) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """This host's part of the batch of `step`, and figures to log with it."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold beyond the step; JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a state that `state` gave."""


@dataclasses.dataclass
class Job:
    stage: str
    steps: int
    optimizer: optax.GradientTransformation
    # (params, batch) -> (sum of weighted losses, sum of weights, metrics: sums too, or maxima >= 0 if named *_max)
    loss: Callable
    batches: Batches
    validate: Callable | None = None  # (params) -> metrics
    tokens_per_step: int = 0


@dataclasses.dataclass
class Context:
    """What every stage of a run shares."""

    config: ConfigDict
    workdir: Path
    mesh: Mesh
    vocab_size: int
    tokenizer_sha256: str

    @property
    def model(self) -> ConfigDict:
        return self.config.model

    def shardings(self):
        """A NamedSharding for every parameter, from the rules table."""
        axes = transformer.param_axes(self.model, self.vocab_size)
        return jax.tree.map(lambda a: sharding.named(self.mesh, *a), axes, is_leaf=lambda x: isinstance(x, tuple))

    def abstract_params(self):
        init = lambda: transformer.init_params(self.model, self.vocab_size, jax.random.key(0))  # noqa: E731
        return checkpoint.abstract_like(jax.eval_shape(init), self.shardings())

    def init_params(self):
        """Fresh parameters, created on their shards."""
        init = lambda key: transformer.init_params(self.model, self.vocab_size, key)  # noqa: E731
        return jax.jit(init, out_shardings=self.shardings())(jax.random.key(self.config.seed))

    def load_params(self, stage: str, workdir: Path | None = None):
        """The newest parameters of `stage`. Raises UserError when there are none, or they know another tokenizer."""
        store = checkpoint.existing(workdir or self.workdir, stage)
        if store.meta(store.latest())["tokenizer"] != self.tokenizer_sha256:
            raise UserError(f"{store.path} was trained with another tokenizer than {self.workdir}/data/tokenizer.model")
        params = store.restore_params(store.latest(), self.abstract_params())
        store.close()
        return params


class Interrupt:
    """Turns SIGTERM and SIGINT into a flag that the loop reads between steps; a second Ctrl-C ends at once."""

    def __enter__(self):
        self.wanted = False
        self._old = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number, frame):
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.wanted = True

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)


def join(trainable: dict, frozen: dict) -> dict:
    """One parameter tree from two that share no leaf."""
    out = dict(frozen)
    for key, value in trainable.items():
        out[key] = join(value, out[key]) if isinstance(value, dict) and key in out else value
    return out


def state_shardings(optimizer_state, shardings, mesh: Mesh):
    """A sharding for each leaf of the optimizer's state: that of the parameter whose path its own path ends with."""
    by_path = dict(jax.tree_util.tree_flatten_with_path(shardings)[0])

    def pick(path, leaf):
        ends = (by_path[path[i:]] for i in range(len(path)) if path[i:] in by_path)
        return next(ends, sharding.named(mesh))

    return jax.tree_util.tree_map_with_path(pick, optimizer_state)


def gradients(loss: Callable, trainable, frozen, batch):
    """(gradient of the mean loss, mean loss, metrics) over a batch whose arrays are (microbatches, rows, ...).

    Sums are added up over the microbatches and divided once, by the number of targets of the whole batch: the same
    loss as in one piece. A microbatch without targets costs nothing.
    """

    def total(trainable, part):
        nats, weight, metrics = loss(join(trainable, frozen), part)
        return nats, (weight, metrics)

    def one(part):
        (nats, (weight, metrics)), grads = jax.value_and_grad(total, has_aux=True)(trainable, part)
        return grads, nats, weight, metrics

    def joined(sums, part):
        *new, metrics = one(part)
        metrics = {k: (jnp.maximum if k.endswith("_max") else jnp.add)(sums[3][k], v) for k, v in metrics.items()}
        return (*jax.tree.map(jnp.add, sums[:3], tuple(new)), metrics)

    def add(sums, part):
        return jax.lax.cond(jnp.any(part["weights"] > 0), joined, lambda sums, _: sums, sums, part), None

    first = jax.tree.map(lambda x: x[0], batch)
    if len(batch["weights"]) == 1:
        grads, nats, weight, metrics = one(first)
    else:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, first))
        (grads, nats, weight, metrics), _ = jax.lax.scan(add, zeros, batch)
    weight = jnp.maximum(weight, 1.0)  # a batch without targets is no division by zero
    metrics = {k: v if k.endswith("_max") else v / weight for k, v in metrics.items()}
    return jax.tree.map(lambda g: g / weight, grads), nats / weight, metrics


def prepare(job: Job, params, mesh: Mesh):
    """A fresh optimizer state, created on its shards, and the jitted step:

    (trainable, frozen, optimizer state, batch) -> (trainable, optimizer state, metrics); the state is donated.
    """
    shardings = jax.tree.map(lambda x: x.sharding, params)
    optimizer_shardings = state_shardings(jax.eval_shape(job.optimizer.init, params), shardings, mesh)

    def step(trainable, frozen, optimizer_state, batch):
        grads, loss, metrics = gradients(job.loss, trainable, frozen, batch)
        updates, optimizer_state = job.optimizer.update(grads, optimizer_state, trainable)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), **metrics}
        return optax.apply_updates(trainable, updates), optimizer_state, metrics

    optimizer_state = jax.jit(job.optimizer.init, out_shardings=optimizer_shardings)(params)
    return optimizer_state, jax.jit(step, donate_argnums=(0, 2), out_shardings=(shardings, optimizer_shardings, None))


def run(context: Context, job: Job, params) -> Any:
    """Trains `params` by `job` from its newest checkpoint, or from the start, to the end -> final parameters.

    Raises Stopped after SIGTERM or Ctrl-C, once the state is saved, and FloatingPointError on a loss that is not
    finite; the newest checkpoint then stays as it is.
    """
    config, log = context.config, StageLog(context.workdir, job.stage, job.steps)
    store = checkpoint.Checkpoints(context.workdir, job.stage, config.checkpoint.keep)
    optimizer_state, step_fn = prepare(job, params, context.mesh)
    start = 0
    if store.latest() is None:
        log.begin()
    else:
        start = store.latest()
        meta = store.meta(start)
        checkpoint.check_identity(config, job.stage, meta, store.path)
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (params, optimizer_state)
        )
        del params, optimizer_state
        params, optimizer_state = store.restore(start, *abstract)
        job.batches.restore(meta["batches"])
        log.resume(start, meta["log"])

    def save(step):
        meta = {
            "stage": job.stage,
            "config": json.loads(config.to_json()),
            "identity": identity(config, job.stage),
            "tokenizer": context.tokenizer_sha256,
            "batches": job.batches.state(),
            "log": log.state(),
        }
        store.save(step, params, optimizer_state, meta)

    pending = None  # metrics of the step before: read only when the next one is on its way
    stop = False
    with contextlib.closing(store), log, Interrupt() as interrupt:
        for step in range(start, job.steps):
            host_batch, figures = job.batches.next(step, params)
            batch = sharding.put_batch(context.mesh, host_batch, config.train.microbatch)
            with jax.transfer_guard("disallow"), profiled(config, context.workdir, job.stage, step - start):
                params, optimizer_state, metrics = step_fn(params, {}, optimizer_state, batch)
            if pending:
                log.step(*pending, job.tokens_per_step)
            pending = (step + 1, metrics, figures)
            done = step + 1 == job.steps
            stop = interrupt.wanted  # read once: a signal after this waits for the next step
            if job.validate and (done or (step + 1) % config.log.eval_every == 0):
                log.validation(step + 1, job.validate(params))
            if done or stop or (step + 1) % config.checkpoint.every == 0:
                log.step(*pending, job.tokens_per_step)
                pending = None
                save(step + 1)
            if stop:
                break
    if stop:
        raise Stopped(f"{job.stage}: saved at step {step + 1}; the same command continues")
    log.finish()
    return params


class profiled:
    """Traces `train.profile_steps` steps after the first five into the stage's folder, for XProf."""

    def __init__(self, config: ConfigDict, workdir: Path, stage: str, step: int):
        self.start = config.train.profile_steps and step == 5
        self.stop = config.train.profile_steps and step == 5 + config.train.profile_steps
        self.path = str(Path(workdir) / stage / "profile")

    def __enter__(self):
        if self.start:
            jax.profiler.start_trace(self.path)

    def __exit__(self, *_):
        if self.stop:
            jax.profiler.stop_trace()
