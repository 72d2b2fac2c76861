"""Log-probabilities of rollouts by the trainer's own forward, and their values where there is a head for them."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from llm_jax import sharding
from llm_jax.model import scalar_head, transformer
from llm_jax.rl.packing import lay_out, needs, pack_rollouts, unpack
from llm_jax.runs import Run
from llm_jax.sampling import replay
from llm_jax.sampling.requests import Completion, Request
from llm_jax.training import losses


def scores_of(run: Run) -> Callable:
    """(params, batch) -> (log-probabilities of the batch's targets, values of what stands before them or None where
    params have no head beside them), float32 [B, T]. The exact ones have no values."""
    model, vocab_size, config = run.model, run.vocab_size, run.config
    if config.rl.exact:
        exact = functools.partial(replay.logprobs_BT, model, vocab_size, config.train.loss_chunk)
        return lambda params, batch: (exact(params, batch), None)

    def scores(params, batch):
        params, head = scalar_head.parted(params)
        hidden_BTD, *_ = transformer.apply(
            model, vocab_size, params, batch["tokens"], batch["positions"], batch["segments"]
        )
        head_DV = transformer.head_DV(model, params)
        logp_BT = losses.logprobs_BT(
            hidden_BTD, head_DV, batch["targets"], vocab_size, config.train.loss_chunk, model.logit_cap
        )
        return logp_BT, scalar_head.scalars_BT(head[scalar_head.NAME], hidden_BTD) if head else None

    return scores


class Scorer:
    """Scores rollouts with any parameters of the run's model."""

    def __init__(self, run: Run):
        self.run, scores = run, scores_of(run)
        options = sharding.compiler_options(run.mesh)
        over_parts = lambda params, parts: jax.lax.map(lambda part: scores(params, part), parts)  # noqa: E731
        self._score = jax.jit(over_parts, out_shardings=sharding.named(run.mesh), compiler_options=options)

    def __call__(self, params, requests: list[Request], completions: list[Completion]) -> list[np.ndarray]:
        """Of each rollout the log-probability of each token after its prompt, float32."""
        return self._both(params, requests, completions)[0]

    def with_values(self, params, requests: list[Request], completions: list[Completion]) -> list[list[np.ndarray]]:
        """[the same, and of each rollout the value of what stands before each of these tokens], by parameters with a
        head beside them."""
        return self._both(params, requests, completions)

    def _both(self, params, requests, completions):
        run, shards = self.run, sharding.shards(self.run.mesh, "batch")
        length, microbatch = run.config.data.sequence_length, run.config.train.microbatch
        ones, alone = [True] * len(requests), run.config.rl.exact
        layout = lay_out(needs(requests, completions), ones, length, microbatch, shards, alone)
        rows = pack_rollouts(requests, completions, ones, length, run.tokenizer.pad, microbatch, shards, alone)
        read = {name: rows[name] for name in ("tokens", "positions", "segments", "targets")}
        read = sharding.own_part(run.mesh, read, microbatch)
        found = self._score(params, sharding.put_batch(run.mesh, read, microbatch))
        rows = (np.asarray(x_NBT).reshape(layout.count, length) for x_NBT in found if x_NBT is not None)
        return [unpack(x_BT, requests, completions, layout) for x_BT in rows]
