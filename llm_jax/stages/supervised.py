"""The job of the stages that train on packed rows: pre-training and SFT."""

import math
from pathlib import Path

import jax
import numpy as np

from llm_jax import rows, sharding
from llm_jax.config import UserError
from llm_jax.model import transformer
from llm_jax.planning.roofline import train_flops
from llm_jax.runs import Run
from llm_jax.training import loader, loop
from llm_jax.training.nats import cross_entropy_loss, jitted_nats, total_nats
from llm_jax.training.optimizer import make_optimizer


class RowBatches(loop.Batches):
    """Rows as a function of (seed, step): nothing to save but the step. Of a batch, the rows `own`, or all."""

    def __init__(self, mixture: loader.Mixture, batch: int, seed: int, own: np.ndarray | None = None):
        self.mixture, self.batch, self.seed, self.own = mixture, batch, seed, own
        self._stream, self._at = None, -1

    def next(self, step: int, params):
        if self._stream is None or step != self._at:
            self._stream = loader.batches(self.mixture, self.batch, self.seed, step, self.own)
        self._at = step + 1
        return loader.targets(next(self._stream)), {}


def check(mixture: loader.Mixture) -> None:
    """Raises UserError when there is nothing in it to be learned."""
    if not rows.facts(*mixture.folders)["targets"]:
        raise UserError(f"{mixture.folders[0].parent} has no rows with targets; give stage `data` more text")


def supervised_job(
    run: Run, stage: str, mixture: loader.Mixture, validation: Path, passes: int = 1, section: str = ""
) -> loop.Job:
    """The Job of a stage that trains on rows; `steps` of its section, or so many passes over the mixture.

    `validation` is a folder of row sets, or of nothing. `section` is the stage's own where it is not given.
    """
    config, section = run.config, run.config[section or stage]
    check(mixture)
    steps = section.steps or math.ceil(mixture.rows * passes / section.batch)
    if jax.process_index() == 0:
        for line in mixture.lines(steps * section.batch):
            print(f"{stage:9} {line}", flush=True)
    nats = jitted_nats(run)
    held_out = [folder for folder in rows.row_sets(validation) if rows.shards(folder)]
    measures = [total_nats(run, nats, folder, section.batch) for folder in held_out]

    def validate(params) -> dict[str, float]:
        sums = np.sum([measure(params) for measure in measures], axis=0)
        return {"val_loss": float(sums[0] / max(1.0, sums[1]))}

    axes = transformer.param_axes(run.model, run.vocab_size)
    own = sharding.own_rows(run.mesh, section.batch, config.train.microbatch)
    return loop.Job(
        stage=stage,
        steps=steps,
        optimizer=make_optimizer(
            config.optimizer, steps, section.learning_rate_scale, axes, section.get("tables_scale", 1.0)
        ),
        loss=cross_entropy_loss(run),
        batches=RowBatches(mixture, section.batch, config.seed, own),
        validate=validate if measures else None,
        tokens_per_step=section.batch * config.data.sequence_length,
        flops_per_step=train_flops(run.model, run.vocab_size, section.batch, config.data.sequence_length),
    )
