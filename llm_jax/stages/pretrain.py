"""Pre-training: next-token prediction on packed documents, from fresh parameters to a base model."""

from llm_jax.runs import Run
from llm_jax.stages.supervised import supervised_job
from llm_jax.training import loader, loop


def train(run: Run, params):
    data, wanted = run.workdir / "data", run.config.data
    mixture = loader.mixture(data / "pretrain", wanted.epochs, wanted.weights)
    return loop.train(run, supervised_job(run, "pretrain", mixture, data / "validation"), params)
