"""Pre-training: next-token prediction on packed documents, from fresh parameters to a base model."""

from llm_jax.runs import Run
from llm_jax.stages import supervised
from llm_jax.training import loader, loop


def check(run: Run, stages: list[str]) -> None:
    """Raises UserError when stage `data` is done, and the mixture names sources that are not there, or is empty."""
    if (run.workdir / "data" / "prepared.json").exists():
        supervised.check(mixture(run))


def mixture(run: Run) -> loader.Mixture:
    data = run.config.data
    return loader.mixture(run.workdir / "data" / "pretrain", data.epochs, data.weights, data.first)


def train(run: Run, params):
    job = supervised.supervised_job(run, "pretrain", mixture(run), run.workdir / "data" / "validation")
    return loop.train(run, job, params)
