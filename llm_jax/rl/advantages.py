"""How much better than expected a rollout was: by the others of its group, or by a value head (PPO)."""

import jax
import jax.numpy as jnp
import numpy as np

EPSILON = 1e-4  # added to a deviation before dividing by it


def advantages(rewards_PG: np.ndarray, kind: str) -> np.ndarray:
    """[P, G] in the rewards' dtype, of P prompts with G rollouts each; 0 in a group whose rewards are all equal.

    - "mean": reward - the group's mean (Dr. GRPO, Liu et al. 2025, arXiv 2503.20783)
    - "rloo": reward - the mean of the others of its group (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740)
    - "std": "mean" / the group's deviation (GRPO, Shao et al. 2024, arXiv 2402.03300)
    - "batch": "mean" / the deviation of all rewards of the batch (REINFORCE++, Hu et al. 2025, arXiv 2501.03262)
    - "maxrl": "mean" / the group's mean, 0 where that is 0 (MaxRL, Tajwar et al. 2026, arXiv 2602.02710)

    Deviations are those of a sample (n - 1). Raises ValueError for another kind.
    """
    mean_P1 = rewards_PG.mean(axis=1, keepdims=True)
    out_PG = rewards_PG - mean_P1
    if kind == "rloo":
        others_PG = (rewards_PG.sum(axis=1, keepdims=True) - rewards_PG) / (rewards_PG.shape[1] - 1)
        out_PG = rewards_PG - others_PG
    elif kind == "std":
        out_PG = out_PG / (rewards_PG.std(axis=1, ddof=1, keepdims=True) + EPSILON)
    elif kind == "batch":
        out_PG = out_PG / (rewards_PG.std(ddof=1) + EPSILON)
    elif kind == "maxrl":
        out_PG = np.divide(out_PG, mean_P1, out=np.zeros_like(out_PG), where=mean_P1 > 0)
    elif kind != "mean":
        raise ValueError(f"no advantage of rewards alone is called {kind!r}")
    # A mean is rounded, so that equal rewards would differ from theirs, and a tiny deviation would make much of it.
    return np.where(np.ptp(rewards_PG, axis=1, keepdims=True) == 0, np.zeros_like(out_PG), out_PG)


def gae(rewards_BT, values_BT, weights_BT, segments_BT, discount: float, decay: float):
    """(advantages_BT, returns_BT) of packed rows: generalised advantage estimation (Schulman et al. 2016, eq. 16).

    delta_t = r_t + discount V_{t+1} - V_t, and A_t = delta_t + discount decay A_{t+1}, where t + 1 is the next sampled
    token of the same segment (`weights_BT` is 1 on sampled tokens): what a tool wrote lies between two steps and is
    none. After the last one the value is 0. `values_BT` are those before each token is chosen; the return, which a
    value learns, is A_t + V_t. Both are 0 on tokens that were not sampled, and rewards there do not count.
    """

    def back(later, now):
        value_after_B, advantage_after_B, segment_after_B = later
        reward_B, value_B, weight_B, segment_B = now
        inside_B = segment_B == segment_after_B
        value_after_B = jnp.where(inside_B, value_after_B, 0)
        advantage_after_B = jnp.where(inside_B, advantage_after_B, 0)
        delta_B = reward_B + discount * value_after_B - value_B
        advantage_B = delta_B + discount * decay * advantage_after_B
        sampled_B = weight_B > 0
        kept = jnp.where(sampled_B, value_B, value_after_B), jnp.where(sampled_B, advantage_B, advantage_after_B)
        return (*kept, segment_B), jnp.where(sampled_B, advantage_B, 0)

    zeros_B = jnp.zeros_like(values_BT[:, 0])
    inputs = tuple(jnp.swapaxes(x, 0, 1) for x in (rewards_BT, values_BT, weights_BT, segments_BT))
    _, out_TB = jax.lax.scan(back, (zeros_B, zeros_B, jnp.zeros_like(segments_BT[:, 0])), inputs, reverse=True)
    out_BT = jnp.swapaxes(out_TB, 0, 1)
    return out_BT, jnp.where(weights_BT > 0, out_BT + values_BT, 0)


def whiten(advantages_BT, weights_BT):
    """Advantages of the sampled tokens of the whole batch, moved to mean 0 and scaled to deviation 1 (PPO)."""
    count = weights_BT.sum()
    centred_BT = advantages_BT - (advantages_BT * weights_BT).sum() / jnp.maximum(count, 1)
    variance = (centred_BT**2 * weights_BT).sum() / jnp.maximum(count - 1, 1)
    return centred_BT * jax.lax.rsqrt(variance + 1e-8) * weights_BT


def overlong(lengths_N: np.ndarray, longest: int, buffer: int) -> np.ndarray:
    """What is added to a reward for length in tokens (DAPO's soft punishment, arXiv 2503.14476, eq. 13).

    0 up to `longest - buffer`, then falling to -1 at `longest`; `buffer` is at least 1.
    """
    return np.clip((longest - buffer - np.asarray(lengths_N)) / buffer, -1.0, 0.0)
