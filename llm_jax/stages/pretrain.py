"""Pre-training: next-token prediction on packed documents, from fresh parameters to a base model.

How often each source is read, and what first, the data may say itself (WORKDIR/data/mixture.json: {epochs, first}); the
config has the last word.
"""

from pathlib import Path

from ml_collections import ConfigDict

from llm_jax import rows
from llm_jax.files import read_json
from llm_jax.runs import Run
from llm_jax.stages import supervised
from llm_jax.training import loader, loop


def check(run: Run, stages: list[str]) -> None:
    """Raises UserError when stage `data` is done, and the mixture names sources that are not there, or is empty."""
    if (run.workdir / "data" / "prepared.json").exists():
        supervised.check(mixture(run))


def mixture(run: Run) -> loader.Mixture:
    return mixture_of(run.workdir / "data", run.config.data)


def mixture_of(folder: Path, data: ConfigDict) -> loader.Mixture:
    """Of the rows in `folder`/pretrain, by the config's section `data`. Raises UserError as `loader.mixture`."""
    noted = folder / "mixture.json"
    asked = read_json(noted) if noted.exists() else {"epochs": {}, "first": []}
    there = {path.name for path in rows.row_sets(folder / "pretrain")}  # a small world may lack some
    epochs = {name: times for name, times in asked["epochs"].items() if name in there} | dict(data.epochs)
    first = data.first or [name for name in asked["first"] if name in there]
    return loader.mixture(folder / "pretrain", epochs, data.weights, first)


def train(run: Run, params):
    job = supervised.supervised_job(run, "pretrain", mixture(run), run.workdir / "data" / "validation")
    return loop.train(run, job, params)
