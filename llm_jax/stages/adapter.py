"""What SFT and RL train: all parameters or, with `lora.rank`, an adapter alone, on parameters that stay as they are."""

import dataclasses
import functools
from collections.abc import Callable

import optax

from llm_jax.model import lora
from llm_jax.runs import Run
from llm_jax.training import loop


def train(run: Run, job: loop.Job, params, rate: Callable):
    """`loop.train`. An adapter has AdamW at `rate`, without decay, whatever optimizer all parameters would have."""
    values = run.config.lora
    if not values.rank:
        return loop.train(run, job, params)
    optimizer = optax.adamw(rate, b1=0.9, b2=0.95, eps=1e-10, weight_decay=0.0)
    clip = run.config.optimizer.clip
    job = dataclasses.replace(
        job,
        optimizer=optax.chain(optax.clip_by_global_norm(clip), optimizer) if clip else optimizer,
        flops_per_step=job.flops_per_step * 2 / 3,  # frozen matrices need no gradient of their own
        join=functools.partial(lora.attached, scale=lora.scale_of(values)),
    )
    return loop.train(run, job, run.init_adapter(job.stage), lora.frozen(params, run.axes(), values.frozen))
