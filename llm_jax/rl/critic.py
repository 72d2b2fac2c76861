"""What follows from the values of rollouts before an update: advantages for the policy, returns for the value head.

The head reads the policy's own hidden states (`llm_jax/model/scalar_head.py`). A value stands at the token that is
chosen next: what the rollout is expected to earn from it on (PPO, Schulman et al. 2017, arXiv 1707.06347).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax import sharding
from llm_jax.rl.advantages import gae, whiten
from llm_jax.rl.algorithms import Algorithm
from llm_jax.runs import Run

Columns = Sequence[Sequence[float]]  # of each rollout a number for each token after its prompt


class Critic:
    """For the rollouts of a batch, by the `discount` and the `decay` of an algorithm."""

    def __init__(self, run: Run, algorithm: Algorithm):
        self.mesh, self.length = run.mesh, run.config.data.sequence_length
        discount, decay = algorithm.discount, algorithm.decay

        def estimates(rewards_NT, values_NT, weights_NT):
            ones_NT = jnp.ones_like(weights_NT, jnp.int32)  # a row has one rollout
            advantages_NT, returns_NT = gae(rewards_NT, values_NT, weights_NT, ones_NT, discount, decay)
            return whiten(advantages_NT, weights_NT), returns_NT

        self._estimates = jax.jit(estimates, out_shardings=sharding.named(self.mesh))

    def __call__(self, rewards: Columns, values: Columns, weights: Columns) -> tuple[list, list, dict[str, float]]:
        """(advantages, returns, figures). Weights are 1 on tokens that count; the rest has 0 of both.

        Advantages are whitened over all of the rollouts. `explained_variance` is the share of the returns' variance
        that the values had foreseen: 1 - Var(return - value) / Var(return), 0 where the returns are all one.
        """
        rows = [self.rows(column) for column in (rewards, values, weights)]
        found = self._estimates(*(sharding.put(self.mesh, x_NT) for x_NT in rows))
        advantages_NT, returns_NT = map(np.asarray, found)
        counts_NT = rows[2] > 0
        figures = foreseen(rows[1][counts_NT], returns_NT[counts_NT])
        cut = lambda x_NT: [row[: len(of)] for row, of in zip(x_NT, weights, strict=True)]  # noqa: E731
        return cut(advantages_NT), cut(returns_NT), figures

    def rows(self, columns: Columns) -> np.ndarray:
        """Float32 [N, T], T the length of a training row, whatever the rollouts: one program."""
        out_NT = np.zeros((len(columns), self.length), np.float32)
        for row, column in zip(out_NT, columns, strict=True):
            row[: len(column)] = column
        return out_NT


def foreseen(values: np.ndarray, returns: np.ndarray) -> dict[str, float]:
    """Figures of the values of some tokens, maybe none, and what came of them; sums are float64."""
    if not len(returns):
        return {"explained_variance": 0.0, "value_mean": 0.0}
    values, returns = values.astype(np.float64), returns.astype(np.float64)
    spread = returns.var()
    explained = 1 - (returns - values).var() / spread if spread else 0.0
    return {"explained_variance": float(explained), "value_mean": float(values.mean())}
