"""Pre-training: next-token prediction on packed documents, from fresh parameters to a base model."""

from llm_jax import rows
from llm_jax.runs import Run
from llm_jax.stages.supervised import supervised_job
from llm_jax.training import loader, loop


def check(run: Run, stages: list[str]) -> None:
    """Raises UserError, where there are rows, when the mixture names others."""
    if rows.row_sets(run.workdir / "data" / "pretrain"):
        mixture(run)


def mixture(run: Run) -> loader.Mixture:
    data = run.config.data
    return loader.mixture(run.workdir / "data" / "pretrain", data.epochs, data.weights)


def train(run: Run, params):
    job = supervised_job(run, "pretrain", mixture(run), run.workdir / "data" / "validation")
    return loop.train(run, job, params)
