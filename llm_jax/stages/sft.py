"""Supervised fine-tuning: the same loss on conversations, on the assistant's tokens only."""

from llm_jax import train
from llm_jax.stages.supervised import supervised_job


def run(context: train.Context, params):
    data = context.workdir / "data"
    validation = [p for p in [data / "sft_validation/rows.array_record"] if p.is_file()]
    job = supervised_job(context, "sft", data / "sft/rows.array_record", validation, epochs=context.config.sft.epochs)
    return train.run(context, job, params)
