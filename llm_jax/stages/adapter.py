"""What stages after pre-training train: all parameters or, with `lora.rank`, an adapter alone, on parameters that stay
as they are; and beside either a scalar head, where a stage has one."""

import dataclasses
import functools
from collections.abc import Callable

import optax

from llm_jax.model import lora, scalar_head
from llm_jax.runs import Run
from llm_jax.training import loop

FLOPS = 2 / 3  # of those of training all parameters: frozen matrices need no gradient of their own


def train(run: Run, job: loop.Job, params, rate: Callable, head: dict | None = None):
    """`loop.train`. An adapter has AdamW at `rate`, without decay, whatever optimizer all parameters would have.

    `head`: {scalar_head.NAME: a head}, which is trained with them, or nothing.
    """
    values, head = run.config.lora, head or {}
    if not values.rank:
        return loop.train(run, job, params | head)
    adapter, frozen = run.init_adapter(job.stage), lora.frozen(params, run.axes(), values.frozen)
    return loop.train(run, adapted(run, job, rate), adapter | head, frozen)


def adapted(run: Run, job: loop.Job, rate: Callable) -> loop.Job:
    """The job of all parameters, as one of an adapter."""
    values, clip = run.config.lora, run.config.optimizer.clip
    optimizer = optax.adamw(rate, b1=0.9, b2=0.95, eps=1e-10, weight_decay=0.0)
    return dataclasses.replace(
        job,
        optimizer=optax.chain(optax.clip_by_global_norm(clip), optimizer) if clip else optimizer,
        flops_per_step=job.flops_per_step * FLOPS,
        join=functools.partial(join, scale=lora.scale_of(values)),
    )


def join(trainable: dict, frozen: dict, scale: float) -> dict:
    """The parameters of an adapter, maybe with a head beside it, and of what lies under it."""
    adapter, head = scalar_head.parted(trainable)
    return lora.attached(adapter, frozen, scale) | head


def abstract(run: Run) -> tuple[dict, dict]:
    """(adapter, frozen parameters): shapes and shardings of what `train` trains and leaves."""
    frozen = lora.abstract_frozen(run.abstract_params(), run.axes(), run.config.lora.frozen, run.mesh)
    return run.abstract_adapter(run.config.lora), frozen
