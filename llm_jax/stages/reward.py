"""A reward model: the assistant with a scalar head, read at the last token of an answer.

Bradley-Terry (1952) on comparisons: p(chosen is preferred) = sigmoid(r(chosen) - r(rejected)), as in Christiano et al.
2017 (1706.03741) and Ouyang et al. 2022 (2203.02155). It starts from the parameters of SFT and a head of zeros.

Two options for what such models are misled by. `sum_to_zero`: comparisons say nothing of where 0 is, and rewards far
from it are the ones that generalise worst (Hong et al. 2025, 2505.07271). `length_control`: longer answers are often
preferred, so a model learns length in place of what is better; the reward is kept from correlating with it (the length
loss of ODIN, Chen et al. 2024, 2402.07319, squared, and without its second head).
"""

import math

import jax
import jax.numpy as jnp

from llm_jax.model import scalar_head, transformer
from llm_jax.runs import Run
from llm_jax.stages import adapter, pairs
from llm_jax.training import loop
from llm_jax.training.optimizer import schedule


def check(run: Run, stages: list[str]) -> None:
    """Raises UserError as `pairs.check` does."""
    pairs.check(run, "reward")


def bradley_terry(margin: jax.Array) -> jax.Array:
    """-log p(the better one is preferred), in nats, of r(better) - r(worse); any shape."""
    return jax.nn.softplus(-margin)


def of_zero(rewards: jax.Array, there: jax.Array) -> jax.Array:
    """The square of the mean of the rewards that are there (Hong et al. 2025; their code, of one device's rows)."""
    return jnp.square(jnp.sum(rewards * there) / jnp.maximum(there.sum(), 1))


def correlation(x: jax.Array, y: jax.Array, there: jax.Array) -> jax.Array:
    """Pearson's, of those that are there; 0 where one of them is the same everywhere."""
    count = jnp.maximum(there.sum(), 1)
    centred = lambda v: (v - jnp.sum(v * there) / count) * there  # noqa: E731
    x, y = centred(x), centred(y)
    square = jnp.sum(x * x) * jnp.sum(y * y)
    return jnp.where(square > 0, jnp.sum(x * y) * jax.lax.rsqrt(jnp.where(square > 0, square, 1)), 0)


def reward_loss(run: Run):
    """(params with a head, batch of pairs' rows) -> (nats, pairs, metrics).

    What the options add is of a microbatch as a whole: with them its size is a part of what is computed.
    """
    model, vocab_size, values = run.model, run.vocab_size, run.config.reward

    def loss(params, batch):
        of_model, head = scalar_head.parted(params)
        head, segments_BT = head[scalar_head.NAME], batch["segments"]
        inputs = batch["tokens"], batch["positions"], segments_BT
        hidden_BTD, _, auxiliary = transformer.apply(model, vocab_size, of_model, *inputs)
        scalars_BT = scalar_head.scalars_BT(head, hidden_BTD)
        rewards_BP2 = pairs.of_segments(scalars_BT * pairs.last_BT(segments_BT), segments_BT)
        lengths_BP2 = pairs.of_segments(batch["weights"], segments_BT)
        there_BP2 = (lengths_BP2 > 0).astype(jnp.float32)
        there_BP, margin_BP = there_BP2[..., 0], rewards_BP2[..., 0] - rewards_BP2[..., 1]
        count = there_BP.sum()
        nats = jnp.sum(bradley_terry(margin_BP) * there_BP)
        metrics = {
            "accuracy": jnp.sum((margin_BP > 0) * there_BP),
            "margin": jnp.sum(margin_BP * there_BP),
            "reward_chosen": jnp.sum(rewards_BP2[..., 0] * there_BP),
            "reward_rejected": jnp.sum(rewards_BP2[..., 1] * there_BP),
        }
        if values.sum_to_zero:
            nats += count * values.sum_to_zero * of_zero(rewards_BP2, there_BP2)
        if values.length_control:
            found = correlation(rewards_BP2, lengths_BP2, there_BP2)
            nats += count * values.length_control * jnp.square(found)
            metrics["length_correlation"] = count * found
        return nats + auxiliary * count, count, metrics

    return loss


def train(run: Run, params):
    """Trains a reward model from `params`, which it does not keep -> its parameters, the head among them."""
    config, section = run.config, run.config.reward
    rows, held_out = pairs.rows_of(run, "reward")
    steps = section.steps or math.ceil(len(rows["tokens"]) * section.epochs / section.batch)
    axes = {**run.axes(), scalar_head.NAME: scalar_head.AXES}
    loss = reward_loss(run)
    job = loop.Job(
        stage="reward",
        steps=steps,
        optimizer=pairs.optimizer(config, section.learning_rate, steps, axes),
        loss=loss,
        batches=pairs.PairBatches(rows, section.batch, config.seed),
        validate=pairs.measure(run, loss, held_out, section.batch),
        tokens_per_step=section.batch * config.data.sequence_length,
    )
    rate = schedule(config.lora.learning_rate, steps, config.optimizer)
    return adapter.train(run, job, params, rate, run.init_head())
