"""Learning from comparisons without a reward model: the assistant itself is made to prefer the better answers.

DPO (Rafailov et al. 2023, 2305.18290, equation 7) and IPO (Azar et al. 2023, 2310.12036, equation 17), against the
frozen parent. Its log-probabilities of all answers are computed once, before the first step: no second copy of the
parameters is at hand in a step, with an adapter or without.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.model import lora, transformer
from llm_jax.runs import Run
from llm_jax.stages import adapter, pairs
from llm_jax.training import loop, losses
from llm_jax.training.optimizer import schedule


def check(run: Run, stages: list[str]) -> None:
    """Raises UserError as `pairs.check` does."""
    pairs.check(run, "preference")


def dpo(margin: jax.Array, beta: float) -> jax.Array:
    """-log p(the better one is preferred), in nats, where beta x log(p / p of the reference) is the reward.

    `margin`: that log-ratio of the better answer, less that of the worse; any shape.
    """
    return jax.nn.softplus(-beta * margin)


def ipo(margin: jax.Array, beta: float) -> jax.Array:
    """The squared distance of the margin from 1 / (2 beta): unlike DPO's it has a least value that is reached.

    The log-ratios are means over an answer's tokens, as the authors have computed them (TRL's note on equation 17):
    summed, the distance would be a matter of length.
    """
    return jnp.square(margin - 1 / (2 * beta))


LOSSES = {"dpo": dpo, "ipo": ipo}


def logprobs(run: Run):
    """(params, batch of pairs' rows) -> (log p of each answer [B, pairs, 2], auxiliary loss of the experts)."""
    model, vocab_size, chunk = run.model, run.vocab_size, run.config.train.loss_chunk

    def of_answers(params, batch):
        inputs = batch["tokens"], batch["positions"], batch["segments"]
        hidden_BTD, _, auxiliary = transformer.apply(model, vocab_size, params, *inputs)
        head_DV = transformer.head_DV(model, params)
        logp_BT = losses.logprobs_BT(hidden_BTD, head_DV, batch["targets"], vocab_size, chunk, model.logit_cap)
        return pairs.of_segments(logp_BT * batch["weights"], batch["segments"]), auxiliary

    return of_answers


def preference_loss(run: Run):
    """(params, batch of pairs' rows with `reference`) -> (loss, pairs, metrics)."""
    values, of_answers = run.config.preference, logprobs(run)

    def loss(params, batch):
        logp_BP2, auxiliary = of_answers(params, batch)
        tokens_BP2 = pairs.of_segments(batch["weights"], batch["segments"])
        there_BP = (tokens_BP2[..., 0] > 0).astype(jnp.float32)
        ratio_BP2 = logp_BP2 - batch["reference"]
        scale_BP2 = jnp.maximum(tokens_BP2, 1) if values.loss == "ipo" else 1.0
        scores_BP2 = ratio_BP2 / scale_BP2
        margin_BP = scores_BP2[..., 0] - scores_BP2[..., 1]
        count, total = there_BP.sum(), lambda x_BP: jnp.sum(x_BP * there_BP)
        metrics = {
            "accuracy": total(margin_BP > 0),
            "margin": total(margin_BP),
            "ratio_chosen": total(ratio_BP2[..., 0]),  # both often fall: what is neither takes the rest
            "ratio_rejected": total(ratio_BP2[..., 1]),
        }
        return total(LOSSES[values.loss](margin_BP, values.beta)) + auxiliary * count, count, metrics

    return loss


def with_reference(run: Run, params, rows: pairs.Rows, batch: int) -> pairs.Rows:
    """The rows, and `reference` [N, pairs, 2]: log p of each answer by these parameters."""
    of_answers = logprobs(run)
    one = jax.jit(lambda params, part: of_answers(params, pairs.first(part))[0])
    found = [jax.device_get(one(params, part)) for part in pairs.in_batches(run, rows, batch)]
    empty = np.zeros((0, pairs.PAIRS_A_ROW, 2), np.float32)
    return rows | {"reference": np.concatenate([empty, *found])[: len(rows["tokens"])]}


def train(run: Run, params):
    config, section, rank = run.config, run.config.preference, run.config.lora.rank
    # The reference is what lies under an adapter, as it lies there: at the first step both are the same.
    parent = lora.frozen(params, run.axes(), config.lora.frozen) if rank else params
    made = pairs.rows_of(run, "preference")
    rows, held_out = (with_reference(run, parent, some, section.batch) for some in made)
    steps = section.steps or math.ceil(len(rows["tokens"]) * section.epochs / section.batch)
    loss = preference_loss(run)
    job = loop.Job(
        stage="preference",
        steps=steps,
        optimizer=pairs.optimizer(config, section.learning_rate, steps, run.axes()),
        loss=loss,
        batches=pairs.PairBatches(rows, section.batch, config.seed),
        validate=pairs.measure(run, loss, held_out, section.batch),
        tokens_per_step=section.batch * config.data.sequence_length,
    )
    if not rank:
        return loop.train(run, job, parent)
    job = adapter.adapted(run, job, schedule(config.lora.learning_rate, steps, config.optimizer))
    return loop.train(run, job, run.init_adapter("preference"), parent)
