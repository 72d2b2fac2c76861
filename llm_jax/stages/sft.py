"""Supervised fine-tuning: the same loss on conversations, on the assistant's tokens only."""

from llm_jax.runs import Run
from llm_jax.stages.supervised import supervised_job
from llm_jax.training import loader, loop


def train(run: Run, params):
    data, passes = run.workdir / "data", run.config.sft.epochs
    job = supervised_job(run, "sft", loader.mixture(data / "sft"), data / "sft_validation", passes)
    return loop.train(run, job, params)
