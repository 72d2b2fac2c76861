"""The policy loss of every algorithm: one function over its parts (`llm_jax.rl.algorithms`).

Rows are packed: a sequence is a segment of its row, and `weights_BT` is 1 on the tokens that the policy sampled. What
stands on other tokens, in log-probabilities too, counts for nothing. A batch's loss is
sum(losses x weights x scale) / sum(count), where `aggregation` gives scale and count.
"""

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.rl.algorithms import Algorithm


def token_losses(
    algorithm: Algorithm,
    logp_BT,
    old_logp_BT,
    advantages_BT,
    weights_BT,
    segments_BT,
    ref_logp_BT=None,
    sampler_logp_BT=None,
):
    """(losses_BT, metrics): the loss of each token, in the dtype of `logp_BT`, which alone is differentiated.

    `old_logp_BT` is of the policy when the update began, `ref_logp_BT` of the reference (needed by a KL in the loss),
    `sampler_logp_BT` of what really sampled (needed by a correction). Metrics are sums over sampled tokens: of those
    whose gradient the trust region takes away below and above (`clipped_low`, `clipped_high`), of those whose weight
    the correction has cut (`corrected`), and of the estimated KL (`kl`).
    """
    logp_BT, old_logp_BT = of_sampled(weights_BT, logp_BT, old_logp_BT)
    token_log_ratio_BT = log_ratio_BT = logp_BT - old_logp_BT
    if algorithm.ratio == "sequence":  # GSPO (Zheng et al. 2025, arXiv 2507.18071, eq. 7): the mean over its tokens
        lengths_BT = jnp.maximum(over_segments(weights_BT, segments_BT), 1)
        log_ratio_BT = over_segments(log_ratio_BT, segments_BT) / lengths_BT
    ratio_BT = jnp.exp(log_ratio_BT)
    losses_BT, low_BT, high_BT = TRUST[algorithm.trust](algorithm, ratio_BT, advantages_BT, logp_BT, old_logp_BT)
    found = {} if algorithm.trust == "none" else {"clipped_low": low_BT, "clipped_high": high_BT}
    if algorithm.correct != "none":
        (sampler_logp_BT,) = of_sampled(weights_BT, sampler_logp_BT)
        correction_BT, found["corrected"] = corrections(algorithm, old_logp_BT - sampler_logp_BT, segments_BT)
        losses_BT = losses_BT * correction_BT
    if algorithm.kl != "none" and algorithm.kl_in == "loss":
        (ref_logp_BT,) = of_sampled(weights_BT, ref_logp_BT)
        found["kl"] = kl_estimates(algorithm.kl, logp_BT, ref_logp_BT)
        weight_BT = jnp.exp(token_log_ratio_BT)
        if algorithm.kl == "k2":
            weight_BT = jax.lax.stop_gradient(weight_BT)
        losses_BT = losses_BT + algorithm.kl_weight * weight_BT * found["kl"]
    return losses_BT, {name: jnp.sum(jax.lax.stop_gradient(x) * weights_BT) for name, x in found.items()}


def of_sampled(weights_BT, *arrays):
    """Arrays that are 0 where no token was sampled, so that what stands there makes neither inf nor NaN."""
    return tuple(jnp.where(weights_BT > 0, x, 0) for x in arrays)


def over_segments(x_BT, segments_BT):
    """For each token the sum over all tokens of its segment of its row."""
    sums = jax.vmap(lambda x, s: jax.ops.segment_sum(x, s, num_segments=x.size + 1)[s])
    return sums(x_BT, segments_BT)


def unbounded(algorithm, ratio_BT, advantages_BT, logp_BT, old_logp_BT):
    """-r A, whose gradient at r = 1 is REINFORCE's (Williams 1992)."""
    return -ratio_BT * advantages_BT, None, None


def clip(algorithm, ratio_BT, advantages_BT, logp_BT, old_logp_BT):
    """-min(r A, clip(r, 1 - low, 1 + high) A) (PPO, Schulman et al. 2017, eq. 7; a higher high: DAPO).

    "two_sided" bounds r by the cap as well, so that a token that should become rarer and has become likelier pushes no
    harder than that (dual clip, Ye et al. 2020, arXiv 1912.09729).
    """
    low, high = 1 - algorithm.clip_low, 1 + algorithm.clip_high
    bounded_BT = jnp.minimum(ratio_BT, algorithm.clip_cap) if algorithm.trust == "two_sided" else ratio_BT
    losses_BT = -jnp.minimum(bounded_BT * advantages_BT, jnp.clip(ratio_BT, low, high) * advantages_BT)
    high_BT = (ratio_BT > high) & (advantages_BT > 0)
    if algorithm.trust == "two_sided":
        high_BT |= (ratio_BT > algorithm.clip_cap) & (advantages_BT < 0)
    return losses_BT, (ratio_BT < low) & (advantages_BT < 0), high_BT


def cispo(algorithm, ratio_BT, advantages_BT, logp_BT, old_logp_BT):
    """-min(r, cap) A log p, the weight a constant: every token keeps a gradient (MiniMax-M1, arXiv 2506.13585)."""
    weight_BT = jax.lax.stop_gradient(jnp.minimum(ratio_BT, algorithm.clip_cap))
    high_BT = ratio_BT > algorithm.clip_cap
    return -weight_BT * advantages_BT * logp_BT, jnp.zeros_like(high_BT), high_BT


def shift(algorithm, ratio_BT, advantages_BT, logp_BT, old_logp_BT):
    """-r A, but none where the token's own probability has moved further than `low` or `high` in A's direction.

    DPPO's binary total variation (Qi et al. 2026, arXiv 2602.04879): a rare token's ratio may move far, as its
    probability hardly does, and a frequent token's may not.
    """
    moved_BT = jax.lax.stop_gradient(jnp.exp(logp_BT) - jnp.exp(old_logp_BT))
    low_BT = (advantages_BT < 0) & (moved_BT < -algorithm.clip_low)
    high_BT = (advantages_BT > 0) & (moved_BT > algorithm.clip_high)
    return jnp.where(low_BT | high_BT, 0, -ratio_BT * advantages_BT), low_BT, high_BT


TRUST = {"none": unbounded, "clip": clip, "two_sided": clip, "cispo": cispo, "shift": shift}


def corrections(algorithm: Algorithm, log_weight_BT, segments_BT):
    """(weights, where the cap was at work): policy / sampler, of each token or as a product over its sequence.

    Over the cap it is the cap ("truncate": Yao et al. 2025) or 0 ("mask": IcePop's upper bound).
    """
    if algorithm.correct_level == "sequence":
        log_weight_BT = over_segments(log_weight_BT, segments_BT)
    weight_BT = jnp.exp(log_weight_BT)
    over_BT = weight_BT > algorithm.correct_cap
    return jnp.where(over_BT, algorithm.correct_cap if algorithm.correct == "truncate" else 0.0, weight_BT), over_BT


def kl_estimates(kind: str, logp_BT, ref_logp_BT):
    """KL(policy || reference) of each token in nats, from the sampled one alone (Schulman 2020, "Approximating KL").

    As a loss `token_losses` weights them by the policy's ratio p / old, through which k1 and k3 are differentiated and
    k2 is not: each then has the gradient of the KL on average, also off-policy. Without the ratio k1's would be 0 on
    average and k3's that of the other direction (DeepSeek-V3.2, arXiv 2512.02556; Tang & Munos 2025, arXiv 2506.09477).
    """
    d_BT = ref_logp_BT - logp_BT
    if kind == "k1":
        return -d_BT
    return d_BT**2 / 2 if kind == "k2" else jnp.expm1(d_BT) - d_BT


def value_losses(values_BT, old_values_BT, returns_BT, reach: float):
    """Half the squared error of each value, or of the value moved by `reach` at most where that is larger (PPO)."""
    near_BT = old_values_BT + jnp.clip(values_BT - old_values_BT, -reach, reach)
    return jnp.maximum((values_BT - returns_BT) ** 2, (near_BT - returns_BT) ** 2) / 2


def aggregation(algorithm: Algorithm, lengths_N, group_size: int, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(scale_N, count_N), float64, of N rollouts that wrote `lengths_N` tokens; those of a group stand together.

    - "token": mean over all tokens of the batch (DAPO)
    - "sequence": mean over rollouts of each one's mean (GRPO): in long ones a token counts less
    - "constant": sum over tokens / (N x `max_tokens`) (Dr. GRPO), which must not depend on what was sampled
    - "prompt": mean over prompts of the mean over their group's tokens (ScaleRL, arXiv 2510.13786)

    A rollout of 0 tokens, as one that was cut and is masked, counts for nothing, but in "constant", where all do.
    """
    lengths_N = np.asarray(lengths_N, np.float64)
    ones_N = np.ones_like(lengths_N)
    if algorithm.aggregate == "token":
        return ones_N, lengths_N
    if algorithm.aggregate == "constant":
        return ones_N, ones_N * max_tokens
    if algorithm.aggregate == "sequence":
        return 1 / np.maximum(lengths_N, 1), (lengths_N > 0) * ones_N
    tokens_N = np.repeat(lengths_N.reshape(-1, group_size).sum(axis=1), group_size)
    return 1 / np.maximum(tokens_N, 1), (tokens_N > 0) / group_size
