"""Pre-training: next-token prediction on packed documents, from fresh parameters to a base model.

How often each source is read, and what first, the data may say itself (WORKDIR/data/mixture.json: {epochs, first}); the
config has the last word.
"""

from llm_jax.runs import Run
from llm_jax.stages import supervised
from llm_jax.training import loader, loop


def check(run: Run, stages: list[str]) -> None:
    """Raises UserError when stage `data` is done, and the mixture names sources that are not there, or is empty."""
    if (run.workdir / "data" / "prepared.json").exists():
        supervised.check(mixture(run))


def mixture(run: Run) -> loader.Mixture:
    return loader.wanted(run.workdir / "data", run.config.data)


def train(run: Run, params):
    job = supervised.supervised_job(run, "pretrain", mixture(run), run.workdir / "data" / "validation")
    return loop.train(run, job, params)
