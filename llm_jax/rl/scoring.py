"""Log-probabilities of rollouts by the trainer's own forward."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from llm_jax import sharding
from llm_jax.model import transformer
from llm_jax.rl.packing import lay_out, needs, pack_rollouts, unpack
from llm_jax.runs import Run
from llm_jax.sampling import replay
from llm_jax.sampling.requests import Completion, Request
from llm_jax.training import losses


def logprobs_of(run: Run) -> Callable:
    """(params, batch) -> log-probabilities of the batch's targets, float32 [B, T]."""
    model, vocab_size, config = run.model, run.vocab_size, run.config
    if config.rl.exact:
        return functools.partial(replay.logprobs_BT, model, vocab_size, config.train.loss_chunk)

    def logp_BT(params, batch):
        hidden_BTD, *_ = transformer.apply(
            model, vocab_size, params, batch["tokens"], batch["positions"], batch["segments"]
        )
        head_DV = transformer.head_DV(model, params)
        return losses.logprobs_BT(
            hidden_BTD, head_DV, batch["targets"], vocab_size, config.train.loss_chunk, model.logit_cap
        )

    return logp_BT


class Scorer:
    """Scores rollouts with any parameters of the run's model."""

    def __init__(self, run: Run):
        self.run, logp_BT = run, logprobs_of(run)
        options = sharding.compiler_options(run.mesh)
        over_parts = lambda params, parts: jax.lax.map(lambda part: logp_BT(params, part), parts)  # noqa: E731
        self._score = jax.jit(over_parts, out_shardings=sharding.named(run.mesh), compiler_options=options)

    def __call__(self, params, requests: list[Request], completions: list[Completion]) -> list[np.ndarray]:
        """Of each rollout the log-probability of each token after its prompt, float32."""
        run, shards = self.run, sharding.shards(self.run.mesh, "batch")
        length, microbatch = run.config.data.sequence_length, run.config.train.microbatch
        ones, alone = [True] * len(requests), run.config.rl.exact
        layout = lay_out(needs(requests, completions), ones, length, microbatch, shards, alone)
        rows = pack_rollouts(requests, completions, ones, length, run.tokenizer.pad, microbatch, shards, alone)
        read = {name: rows[name] for name in ("tokens", "positions", "segments", "targets")}
        read = sharding.own_part(run.mesh, read, microbatch)
        logp_NBT = self._score(params, sharding.put_batch(run.mesh, read, microbatch))
        return unpack(np.asarray(logp_NBT).reshape(layout.count, length), requests, completions, layout)
