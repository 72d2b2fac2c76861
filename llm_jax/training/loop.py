"""The one train loop: jitted step, metrics, validation, checkpoints, preemption, profiler.

A stage brings a `Job`: its loss, its batches and its optimizer. The step takes (trainable, frozen) parameters.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from llm_jax import checkpoint, lineage, sharding
from llm_jax.config import UserError
from llm_jax.frame.interrupt import Interrupt, Stopped
from llm_jax.planning.roofline import peak_flops
from llm_jax.runs import Run
from llm_jax.stage_table import identity
from llm_jax.training.progress import StageLog


class Batches:
    """What a stage trains on. `next` may use the current parameters (RL samples from them)."""

    def next(self, step: int, params) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """This process's rows of the batch of `step` (`sharding.own_rows`), and figures to log with it."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold beyond the step; JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a state that `state` gave."""


def join(trainable: dict, frozen: dict) -> dict:
    """One parameter tree from two that share no leaf."""
    out = dict(frozen)
    for key, value in trainable.items():
        out[key] = join(value, out[key]) if isinstance(value, dict) and key in out else value
    return out


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
    flops_per_step: float = 0.0  # of the model, for MFU; 0 when it varies
    join: Callable = join  # (trainable, frozen) -> the parameters that loss, batches and validation get
    validate_every: int = 0  # steps; 0: log.eval_every
    score: str = ""  # metric of `validate` whose best step is named; it is taken before the first step, too
    keep_best: bool = False  # the checkpoint of that step is kept
    watch: Callable | None = None  # (step, what was logged) -> None; it may raise to stop the run


def state_shardings(optimizer_state, shardings, mesh: Mesh):
    """A sharding for each leaf of the optimizer's state: that of the parameter whose path its own path ends with."""
    by_path = dict(jax.tree_util.tree_flatten_with_path(shardings)[0])

    def pick(path, leaf):
        ends = (by_path[path[i:]] for i in range(len(path)) if path[i:] in by_path)
        return next(ends, sharding.named(mesh))

    return jax.tree_util.tree_map_with_path(pick, optimizer_state)


def gradients(loss: Callable, trainable, frozen, batch, join: Callable = join):
    """(gradient of the mean loss, mean loss, metrics) over a batch whose arrays are (microbatches, rows, ...).

    Sums are added up over the microbatches and divided once, by the number of targets of the whole batch: the same
    loss as in one piece, but for the experts' balance, which each microbatch has of its own tokens. A microbatch
    without targets costs nothing; one whose `advantages` are all 0 has no gradient, and costs a forward pass, unless
    there is a reference (`ref_logp`), from which it is drawn to, or a value head has something to learn (`returns`).
    """

    def total(trainable, part):
        nats, weight, metrics = loss(join(trainable, frozen), part)
        return nats, (weight, metrics)

    def one(part):
        (nats, (weight, metrics)), grads = jax.value_and_grad(total, has_aux=True)(trainable, part)
        return grads, nats, weight, metrics

    def joined(sums, new):
        metrics = {k: (jnp.maximum if k.endswith("_max") else jnp.add)(sums[3][k], v) for k, v in new[3].items()}
        return (*jax.tree.map(jnp.add, sums[:3], new[:3]), metrics)

    def learned(sums, part):
        return joined(sums, one(part))

    def measured(sums, part):
        nats, (weight, metrics) = total(trainable, part)
        return sums[0], *joined((0.0, *sums[1:]), (0.0, nats, weight, metrics))[1:]

    def add(sums, part):
        still = "advantages" in part and not {"ref_logp", "returns"} & part.keys()  # some may be
        branches = [lambda sums, _: sums, learned, measured][: 2 + still]
        counts = jnp.any(part["weights"] > 0).astype(jnp.int32)
        moves = jnp.any(part["advantages"] != 0) if still else True
        return jax.lax.switch(jnp.where(moves, counts, 2 * counts), branches, sums, part), None

    first = jax.tree.map(lambda x: x[0], batch)
    if len(batch["weights"]) == 1:
        grads, nats, weight, metrics = one(first)
    else:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, first))
        (grads, nats, weight, metrics), _ = jax.lax.scan(add, zeros, batch)
    weight = jnp.maximum(weight, 1.0)  # a batch without targets is no division by zero
    metrics = {k: v if k.endswith("_max") else v / weight for k, v in metrics.items()}
    return jax.tree.map(lambda g: g / weight, grads), nats / weight, metrics


def abstract_state(job: Job, params, mesh: Mesh):
    """Shapes and shardings of the optimizer state of `params`, which may be abstract themselves."""
    state = jax.eval_shape(job.optimizer.init, params)
    places = state_shardings(state, jax.tree.map(lambda x: x.sharding, params), mesh)
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state, places)


def step_function(job: Job, params, mesh: Mesh):
    """The jitted step; its state is donated. `params` may be abstract.

    (trainable, frozen, optimizer state, batch) -> (trainable, optimizer state, metrics)
    """

    def step(trainable, frozen, optimizer_state, batch):
        grads, loss, metrics = gradients(job.loss, trainable, frozen, batch, job.join)
        updates, optimizer_state = job.optimizer.update(grads, optimizer_state, trainable)
        squares = jnp.stack([jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)])
        metrics = {"loss": loss, "grad_norm": jnp.sqrt(squares.sum()), "grad_squares": squares, **metrics}
        return optax.apply_updates(trainable, updates), optimizer_state, metrics

    places = jax.tree.map(lambda x: x.sharding, (params, abstract_state(job, params, mesh)))
    options = sharding.compiler_options(mesh)
    return jax.jit(step, donate_argnums=(0, 2), out_shardings=(*places, None), compiler_options=options)


def prepare(job: Job, params, mesh: Mesh):
    """(a fresh optimizer state, created on its shards; the jitted step)."""
    places = jax.tree.map(lambda x: x.sharding, abstract_state(job, params, mesh))
    init = jax.jit(job.optimizer.init, out_shardings=places, compiler_options=sharding.compiler_options(mesh))
    return init(params), step_function(job, params, mesh)


def train(run: Run, job: Job, params, frozen: dict | None = None) -> Any:
    """Trains `params` by `job` from its newest checkpoint, or from the start, to the end -> final parameters.

    With `frozen` beside them, `job.join` makes the model's parameters of the two; checkpoints hold `params` alone.
    Raises Stopped after SIGTERM or Ctrl-C to any process, in all after the same step, once the state is saved, and
    FloatingPointError on a loss that is not finite; the newest checkpoint then stays as it is.
    """
    with Interrupt() as interrupt:
        return _train(run, job, params, frozen or {}, interrupt)


def _train(run: Run, job: Job, params, frozen: dict, interrupt: Interrupt) -> Any:
    config, own = run.config, identity(run.config, job.stage)
    parent = lineage.parent_of(run, job.stage)
    parts = [".".join(key.key for key in path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    peak = peak_flops(run.mesh.devices.flat[0]) * run.mesh.size if job.flops_per_step else 0.0
    log = StageLog(run.workdir, job.stage, job.steps, job.tokens_per_step, job.flops_per_step, peak, parts)
    store = checkpoint.Checkpoints(run.workdir, job.stage, config.checkpoint.keep)
    optimizer_state, step_fn = prepare(job, params, run.mesh)
    start, best = 0, None  # the best is {"step": ..., "score": ...}
    if store.latest() is None:
        log.begin()
    else:
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (params, optimizer_state)
        )
        del params, optimizer_state

        def read(step):
            meta = store.meta(step)
            checkpoint.check_identity(own, meta, store.path)
            return step, meta, *store.restore(step, *abstract)

        start, meta, params, optimizer_state = store.newest(read)
        if start > job.steps:
            raise UserError(lineage.shorter(run, job.stage, start, job.steps))
        store.put_aside(start)
        job.batches.restore(meta["batches"])
        best = meta.get("best")
        store.best = best["step"] if best and job.keep_best else None
        log.resume(start, meta["log"])

    def save(step):
        meta = {
            "stage": job.stage,
            "steps": job.steps,
            "config": json.loads(config.to_json()),
            "identity": own,
            "parent": parent,
            "lora": config.lora.to_dict() if frozen else None,
            "tokenizer": run.tokenizer_sha256,
            "batches": job.batches.state(),
            "log": log.state(),
            "best": best,
        }
        store.save(step, params, optimizer_state, meta)

    def told(step, values):
        if job.watch:
            job.watch(step, values)

    def validation(step):
        """Logs it -> the best one now."""
        values, now = job.validate(job.join(params, frozen)), best
        if job.score:
            if not now or values[job.score] > now["score"]:
                now = {"step": step, "score": values[job.score]}
            values["best_step"] = now["step"]
        log.validation(step, values)
        told(step, values)
        return now

    pending = None  # metrics of the step before: read only when the next one is on its way
    waited = 0.0  # seconds for batches since a step was last logged
    done_steps = start
    profile = Profile(run, job.stage, job.steps - start)
    with contextlib.closing(store), log, contextlib.closing(profile):
        if job.validate and job.score and not start:
            best = validation(0)
            log.restart_clock()
        for step in range(start, job.steps):
            asked = time.monotonic()
            host_batch, figures = job.batches.next(step, job.join(params, frozen))
            waited += time.monotonic() - asked
            batch = sharding.put_batch(run.mesh, host_batch, config.train.microbatch)
            wanted = sharding.any_process(run.mesh, interrupt.wanted)  # a signal after this waits for the next step
            profile.before(step - start)
            with jax.transfer_guard("disallow"):
                params, optimizer_state, metrics = step_fn(params, frozen, optimizer_state, batch)
            if pending:
                told(pending[0], log.step(*pending, waited))
                waited = 0.0
            pending = (step + 1, metrics, figures)
            done = step + 1 == job.steps
            done_steps, stop = step + 1, bool(wanted)
            validates = job.validate and (done or (step + 1) % (job.validate_every or config.log.eval_every) == 0)
            saves = done or stop or (step + 1) % config.checkpoint.every == 0
            if validates or saves:
                told(pending[0], log.step(*pending, waited))
                pending, waited = None, 0.0
                if validates:
                    best = validation(step + 1)
                    if job.keep_best and best["step"] == step + 1:
                        saves, store.best = True, step + 1
                if saves:
                    save(step + 1)
                log.restart_clock()
            if stop:
                break
    if sharding.any_process(run.mesh, interrupt.wanted):  # the last save took its time
        raise Stopped(f"{job.stage}: saved at step {done_steps}; the same command continues")
    log.finish()
    return job.join(params, frozen)


class Profile:
    """With `--profile`: traces five steps after the first five into the stage's folder, for XProf.

    `left` is how many steps are to come: of few, the last ones are traced. The trace ends where the loop does.
    """

    def __init__(self, run: Run, stage: str, left: int):
        self.first = min(5, left - 1) if run.profile else -1
        self.path, self.running = str(Path(run.workdir) / stage / "profile"), False

    def before(self, step: int) -> None:
        """`step` counts from 0 in this process."""
        if step == self.first:
            jax.profiler.start_trace(self.path)
            self.running = True
        elif step == self.first + 5:
            self.close()

    def close(self) -> None:
        if self.running:
            jax.profiler.stop_trace()
            self.running = False
