"""From logits to a token: what each row asks for is data, so that no mixture of requests compiles anything anew."""

import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p

SAMPLE_DOMAIN = 7  # keeps the engine's random numbers apart from others of the same seed
NEVER = -1e30


def adjusted(logits_BV, rows: dict[str, jax.Array]) -> jax.Array:
    """Logits with what a row's request adds to them or takes from them.

    `repetition` (Keskar et al. 2019): logits of ids that stand in the prompt (`read`) or were `written` are divided by
    it where positive, multiplied where negative. `presence` and `frequency` (OpenAI's): taken from those of ids that
    were written, once, and as often as they were. `bias`: added.
    """
    written_BV, repetition_B1 = rows["written"], rows["repetition"][:, None]
    penalised_BV = jnp.where(logits_BV > 0, logits_BV / repetition_B1, logits_BV * repetition_B1)
    logits_BV = jnp.where(rows["read"] | (written_BV > 0), penalised_BV, logits_BV)
    logits_BV -= rows["presence"][:, None] * (written_BV > 0) + rows["frequency"][:, None] * written_BV
    return logits_BV + rows["bias"]


def masked(logits_BV, guided_B, allowed_BW) -> jax.Array:
    """Logits of guided rows without the ids that their grammars do not allow here, which get -inf.

    `allowed_BW` has a bit for each id, 32 to a uint32, that of the lowest id first.
    """
    bits_BWI = (allowed_BW[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    allowed_BV = bits_BWI.reshape(len(guided_B), -1)[:, : logits_BV.shape[-1]] == 1
    return jnp.where(allowed_BV | ~guided_B[:, None], logits_BV, -jnp.inf)


def cut(logits_BV, top_k_B, top_p_B, min_p_B) -> jax.Array:
    """Logits of the ids that stay; the others' are -inf. An id as likely as the last one that stays, stays too.

    top-k: the k likeliest (0: all). top-p: the fewest likeliest of those whose shares reach p (Holtzman et al. 2020).
    min-p: those at least p times as likely as the likeliest (Nguyen et al. 2024).
    """
    V = logits_BV.shape[-1]
    sorted_BV = -jnp.sort(-logits_BV, axis=-1)
    first_k = jnp.arange(V) < jnp.where(top_k_B > 0, top_k_B, V)[:, None]
    p_BV = jax.nn.softmax(jnp.where(first_k, sorted_BV, NEVER), axis=-1)
    before_BV = jnp.cumsum(p_BV, axis=-1) - p_BV
    # Where p is 1 all stay, also those beyond which the sum has been rounded to 1.
    kept = first_k & ((before_BV < top_p_B[:, None]) | (top_p_B[:, None] >= 1) | (jnp.arange(V) == 0))
    last_B1 = jnp.min(jnp.where(kept, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    floor_B1 = sorted_BV[:, :1] + jnp.log(min_p_B)[:, None]  # log 0 is -inf: no floor
    return jnp.where(logits_BV >= jnp.maximum(last_B1, floor_B1), logits_BV, -jnp.inf)


def sample(logits_BV, rows: dict[str, jax.Array], count_B) -> tuple[jax.Array, jax.Array]:
    """(token, its log-probability under the distribution it was drawn from); greedy rows have log-probability 0.

    `rows` has each row's `seed`, `temperature`, `top_k`, `top_p` and `min_p`. A token is drawn by inverting the
    cumulative distribution at one uniform number, which depends on the row's seed and the token's place alone, not on
    the batch around it. (One number for each id, as Gumbel noise needs, took half of the step's time on a CPU.)
    """
    temperature_B = rows["temperature"]
    is_hot = temperature_B > 0
    cuts = is_hot & ((rows["top_k"] > 0) | (rows["top_p"] < 1) | (rows["min_p"] > 0))

    def drawn(logits_BV):
        logits_BV = logits_BV / jnp.maximum(temperature_B, 1e-6)[:, None]
        logits_BV = jax.lax.cond(
            jnp.any(cuts), lambda x: cut(x, rows["top_k"], rows["top_p"], rows["min_p"]), lambda x: x, logits_BV
        )
        log_p_BV = jax.nn.log_softmax(logits_BV)
        hot_B = inverted(jnp.exp(log_p_BV), uniform(rows["seed"], count_B))
        return hot_B, jnp.take_along_axis(log_p_BV, hot_B[:, None], axis=1)[:, 0]

    greedy_B = jnp.argmax(logits_BV, axis=-1)
    zeros_B = jnp.zeros(greedy_B.shape, jnp.float32)
    hot_B, log_p_B = jax.lax.cond(jnp.any(is_hot), drawn, lambda _: (greedy_B, zeros_B), logits_BV)
    return jnp.where(is_hot, hot_B, greedy_B).astype(jnp.int32), jnp.where(is_hot, log_p_B, 0.0)


def uniform(seed_B, count_B) -> jax.Array:
    """The number in [0, 1) that belongs to a row's seed and the place of a token in its answer.

    One Threefry hash of the two (Salmon et al. 2011), where keys folded one into the other would take three.
    """
    domain_B = jnp.full_like(seed_B, SAMPLE_DOMAIN)
    bits_B, _ = threefry2x32_p.bind(seed_B, domain_B, count_B.astype(jnp.uint32), jnp.zeros_like(seed_B))
    return (bits_B >> 9).astype(jnp.float32) * 2**-23


def inverted(p_BV, uniform_B) -> jax.Array:
    """The first id of some mass at which the cumulative probability exceeds the uniform number."""
    # Sums of a scan in parallel are rounded each in its own way, and may fall where no mass is.
    cumulative_BV = jnp.where(p_BV > 0, jnp.cumsum(p_BV, axis=-1), 0.0)
    # uniform < 1 has 23 bits, so that its product with the total stays below the total: there is such an id.
    return jnp.argmax(cumulative_BV > (uniform_B * cumulative_BV.max(axis=-1))[:, None], axis=-1)
