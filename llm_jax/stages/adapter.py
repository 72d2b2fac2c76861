"""What SFT and RL train: all parameters or, with `lora.rank`, an adapter alone, on parameters that stay as they are."""

import dataclasses
import functools
from collections.abc import Callable

import optax

from llm_jax.model import lora
from llm_jax.runs import Run
from llm_jax.training import loop

FLOPS = 2 / 3  # of those of training all parameters: frozen matrices need no gradient of their own


def train(run: Run, job: loop.Job, params, rate: Callable):
    """`loop.train`. An adapter has AdamW at `rate`, without decay, whatever optimizer all parameters would have."""
    values = run.config.lora
    if not values.rank:
        return loop.train(run, job, params)
    adapter, frozen = run.init_adapter(job.stage), lora.frozen(params, run.axes(), values.frozen)
    return loop.train(run, adapted(run, job, rate), adapter, frozen)


def adapted(run: Run, job: loop.Job, rate: Callable) -> loop.Job:
    """The job of all parameters, as one of an adapter."""
    values, clip = run.config.lora, run.config.optimizer.clip
    optimizer = optax.adamw(rate, b1=0.9, b2=0.95, eps=1e-10, weight_decay=0.0)
    return dataclasses.replace(
        job,
        optimizer=optax.chain(optax.clip_by_global_norm(clip), optimizer) if clip else optimizer,
        flops_per_step=job.flops_per_step * FLOPS,
        join=functools.partial(lora.attached, scale=lora.scale_of(values)),
    )


def abstract(run: Run) -> tuple[dict, dict]:
    """(adapter, frozen parameters): shapes and shardings of what `train` trains and leaves."""
    frozen = lora.abstract_frozen(run.abstract_params(), run.axes(), run.config.lora.frozen, run.mesh)
    return run.abstract_adapter(run.config.lora), frozen
