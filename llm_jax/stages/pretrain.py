"""Pre-training: next-token prediction on packed documents, from fresh parameters to a base model."""

from llm_jax import loader, train
from llm_jax.stages.supervised import supervised_job


def run(context: train.Context, params):
    data, wanted = context.workdir / "data", context.config.data
    mixture = loader.mixture(data / "pretrain", wanted.epochs, wanted.weights)
    job = supervised_job(context, "pretrain", mixture, data / "validation")
    return train.run(context, job, params)
