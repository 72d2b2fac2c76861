"""Supervised fine-tuning: the same loss on conversations, on the assistant's tokens only."""

from llm_jax import loader, train
from llm_jax.stages.supervised import supervised_job


def run(context: train.Context, params):
    data = context.workdir / "data"
    job = supervised_job(
        context, "sft", loader.mixture(data / "sft"), data / "sft_validation", context.config.sft.epochs
    )
    return train.run(context, job, params)
