"""Cross-entropy on rows: the loss that pre-training and SFT share, and its sum over a whole row set, to measure."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from llm_jax import rows, sharding
from llm_jax.model import transformer
from llm_jax.runs import Run
from llm_jax.training import loader, losses


def nats_and_auxiliary(run: Run):
    """(params, batch) -> (sum of nats over targets, auxiliary loss of the experts)."""
    model, vocab_size, chunk = run.model, run.vocab_size, run.config.train.loss_chunk

    def forward(params, batch):
        hidden_BTD, _, auxiliary = transformer.apply(
            model, vocab_size, params, batch["tokens"], batch["positions"], batch["segments"]
        )
        head_DV = transformer.head_DV(model, params)
        targets, weights = batch["targets"], batch["weights"]
        of_chunks = vocab_size, chunk, model.logit_cap
        return losses.cross_entropy(hidden_BTD, head_DV, targets, weights, *of_chunks), auxiliary

    return forward


def cross_entropy_loss(run: Run):
    """(params, batch) -> (sum of nats over targets, with the auxiliary loss for each; number of targets; metrics)."""
    forward = nats_and_auxiliary(run)

    def loss(params, batch):
        nats, auxiliary = forward(params, batch)
        weight = batch["weights"].sum()
        if not run.model.experts:
            return nats, weight, {}
        return nats + auxiliary * weight, weight, {"aux": auxiliary * weight}

    return loss


def jitted_nats(run: Run):
    """(params, batch of one microbatch) -> (nats, targets); compiled once for all row sets that share it."""
    forward = nats_and_auxiliary(run)

    def nats(params, batch):
        first = jax.tree.map(lambda x: x[0], batch)
        return forward(params, first)[0], first["weights"].sum()

    return jax.jit(nats)


def total_nats(run: Run, nats: Callable, folder: Path, batch: int):
    """A function params -> (nats, targets) over all rows of a row set, each once; `nats` is from `jitted_nats`."""
    source = loader.read_all(folder)
    pad = {name: np.zeros_like(value) for name, value in source[0].items()}
    source += [pad] * (-len(source) % batch)  # whole batches: padding rows have no targets
    batches, numbers = [], sharding.own_rows(run.mesh, batch)
    for start in range(0, len(source), batch):
        stacked = {name: np.stack([row[name] for row in source[start : start + batch]]) for name in rows.FIELDS}
        own = {name: value[numbers] for name, value in loader.targets(stacked).items()}
        batches.append(sharding.put_batch(run.mesh, own))

    def measure(params) -> tuple[float, float]:
        sums, targets = zip(*jax.device_get([nats(params, b) for b in batches]), strict=True)
        return float(np.sum(sums)), float(np.sum(targets))

    return measure
