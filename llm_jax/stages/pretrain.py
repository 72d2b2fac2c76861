"""Pre-training: next-token prediction on packed documents, from fresh parameters to a base model."""

from llm_jax import train
from llm_jax.stages.supervised import supervised_job


def run(context: train.Context, params):
    data = context.workdir / "data"
    validation = sorted((data / "validation").glob("*/rows.array_record"))
    job = supervised_job(context, "pretrain", data / "pretrain/rows.array_record", validation, epochs=1)
    return train.run(context, job, params)
