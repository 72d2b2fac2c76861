"""Our side, built as `llm_jax.main` builds it."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from llm_jax import sharding
from llm_jax.model import transformer
from llm_jax.runs import Run
from llm_jax.training import loop
from llm_jax.training.nats import cross_entropy_loss
from llm_jax.training.optimizer import make_optimizer


def context_of(config: ConfigDict, workdir: Path = Path(".")) -> Run:
    """What a stage of a run gets, without a tokenizer; its mesh is set from here on."""
    mesh = sharding.make_mesh(config.mesh)
    jax.set_mesh(mesh)
    return Run(config, workdir, mesh, config.tokenizer.vocab_size)


def job_of(context: Run, steps: int, batches: loop.Batches | None = None) -> loop.Job:
    """Pre-training on `batches`."""
    config = context.config
    axes = transformer.param_axes(context.model, context.vocab_size)
    return loop.Job(
        stage="pretrain",
        steps=steps,
        optimizer=make_optimizer(config.optimizer, steps, config.pretrain.learning_rate_scale, axes),
        loss=cross_entropy_loss(context),
        batches=batches,
        tokens_per_step=config.pretrain.batch * config.data.sequence_length,
    )
