"""Our side, built as `llm_jax.main` builds it."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from llm_jax import sharding, train
from llm_jax.model import transformer
from llm_jax.optimizer import make_optimizer
from llm_jax.stages.supervised import cross_entropy_loss


def context_of(config: ConfigDict, workdir: Path = Path(".")) -> train.Context:
    """What a stage of a run gets, without a tokenizer; its mesh is set from here on."""
    mesh = sharding.make_mesh(config.mesh)
    jax.set_mesh(mesh)
    return train.Context(config, workdir, mesh, config.tokenizer.vocab_size, tokenizer_sha256="none")


def job_of(context: train.Context, steps: int, batches: train.Batches | None = None) -> train.Job:
    """Pre-training on `batches`."""
    config = context.config
    axes = transformer.param_axes(context.model, context.vocab_size)
    return train.Job(
        stage="pretrain",
        steps=steps,
        optimizer=make_optimizer(config.optimizer, steps, config.pretrain.learning_rate_scale, axes),
        loss=cross_entropy_loss(context),
        batches=batches,
        tokens_per_step=config.pretrain.batch * config.data.sequence_length,
    )
