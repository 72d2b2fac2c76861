"""What pre-training and SFT share: packed rows in, cross-entropy on the masked targets."""

import math
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from llm_jax import loader, losses, rows, sharding, train
from llm_jax.config import UserError
from llm_jax.model import transformer
from llm_jax.optimizer import make_optimizer
from llm_jax.roofline import train_flops


class RowBatches(train.Batches):
    """Rows as a function of (seed, step): nothing to save but the step."""

    def __init__(self, mixture: loader.Mixture, batch: int, seed: int):
        self.mixture, self.batch, self.seed = mixture, batch, seed
        self._stream, self._at = None, -1

    def next(self, step: int, params):
        if self._stream is None or step != self._at:
            self._stream = loader.batches(
                self.mixture, self.batch, self.seed, step, jax.process_index(), jax.process_count()
            )
        self._at = step + 1
        return loader.targets(next(self._stream)), {}


def nats_and_auxiliary(context: train.Context):
    """(params, batch) -> (sum of nats over targets, auxiliary loss of the experts)."""
    model, vocab_size, chunk = context.model, context.vocab_size, context.config.train.loss_chunk

    def forward(params, batch):
        hidden_BTD, _, auxiliary = transformer.apply(
            model, vocab_size, params, batch["tokens"], batch["positions"], batch["segments"]
        )
        head_DV = transformer.head_DV(model, params)
        targets, weights = batch["targets"], batch["weights"]
        return losses.cross_entropy(hidden_BTD, head_DV, targets, weights, vocab_size, chunk), auxiliary

    return forward


def cross_entropy_loss(context: train.Context):
    """(params, batch) -> (sum of nats over targets, with the auxiliary loss for each; number of targets; metrics)."""
    forward = nats_and_auxiliary(context)

    def loss(params, batch):
        nats, auxiliary = forward(params, batch)
        weight = batch["weights"].sum()
        if not context.model.experts:
            return nats, weight, {}
        return nats + auxiliary * weight, weight, {"aux": auxiliary * weight}

    return loss


def jitted_nats(context: train.Context):
    """(params, batch of one microbatch) -> (nats, targets); compiled once for all row sets that share it."""
    forward = nats_and_auxiliary(context)

    def nats(params, batch):
        first = jax.tree.map(lambda x: x[0], batch)
        return forward(params, first)[0], first["weights"].sum()

    return jax.jit(nats)


def total_nats(context: train.Context, nats: Callable, folder: Path, batch: int):
    """A function params -> (nats, targets) over all rows of a row set, each once; `nats` is from `jitted_nats`."""
    source = loader.read_all(folder)
    pad = {name: np.zeros_like(value) for name, value in source[0].items()}
    source += [pad] * (-len(source) % batch)  # whole batches: padding rows have no targets
    batches = []
    for start in range(0, len(source), batch):
        stacked = {name: np.stack([row[name] for row in source[start : start + batch]]) for name in rows.FIELDS}
        batches.append(sharding.put_batch(context.mesh, host_part(loader.targets(stacked))))

    def measure(params) -> tuple[float, float]:
        sums, targets = zip(*jax.device_get([nats(params, b) for b in batches]), strict=True)
        return float(np.sum(sums)), float(np.sum(targets))

    return measure


def host_part(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """This host's block of a whole batch."""
    hosts, host = jax.process_count(), jax.process_index()
    return {k: np.array_split(v, hosts)[host] for k, v in batch.items()}


def supervised_job(
    context: train.Context, stage: str, mixture: loader.Mixture, validation: Path, passes: int = 1
) -> train.Job:
    """The Job of a stage that trains on rows; `steps` of its section, or so many passes over the mixture.

    `validation` is a folder of row sets, or of nothing.
    """
    config, section = context.config, context.config[stage]
    if not rows.facts(*mixture.folders)["targets"]:
        raise UserError(f"{mixture.folders[0].parent} has no rows with targets; give stage `data` more text")
    steps = section.steps or math.ceil(mixture.rows * passes / section.batch)
    if jax.process_index() == 0:
        for line in mixture.lines(steps * section.batch):
            print(f"{stage:9} {line}", flush=True)
    nats = jitted_nats(context)
    held_out = [folder for folder in rows.row_sets(validation) if rows.shards(folder)]
    measures = [total_nats(context, nats, folder, section.batch) for folder in held_out]

    def validate(params) -> dict[str, float]:
        sums = np.sum([measure(params) for measure in measures], axis=0)
        return {"val_loss": float(sums[0] / max(1.0, sums[1]))}

    axes = transformer.param_axes(context.model, context.vocab_size)
    return train.Job(
        stage=stage,
        steps=steps,
        optimizer=make_optimizer(config.optimizer, steps, section.learning_rate_scale, axes),
        loss=cross_entropy_loss(context),
        batches=RowBatches(mixture, section.batch, config.seed),
        validate=validate if measures else None,
        tokens_per_step=section.batch * config.data.sequence_length,
        flops_per_step=train_flops(context.model, context.vocab_size, section.batch, config.data.sequence_length),
    )
