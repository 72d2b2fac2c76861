"""Supervised fine-tuning: the same loss on conversations, on the assistant's tokens only."""

from llm_jax.runs import Run
from llm_jax.stages import adapter, supervised
from llm_jax.training import loader
from llm_jax.training.optimizer import schedule


def check(run: Run, stages: list[str]) -> None:
    """Raises UserError when stage `data` is done and left no conversation to learn from."""
    if (run.workdir / "data" / "prepared.json").exists():
        supervised.check(loader.mixture(run.workdir / "data" / "sft"))


def train(run: Run, params):
    data, passes = run.workdir / "data", run.config.sft.epochs
    job = supervised.supervised_job(run, "sft", loader.mixture(data / "sft"), data / "sft_validation", passes)
    return adapter.train(run, job, params, schedule(run.config.lora.learning_rate, job.steps, run.config.optimizer))
