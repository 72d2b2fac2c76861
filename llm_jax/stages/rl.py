"""Reinforcement learning on checkable problems: sample a group for each prompt, grade, push up what did better.

By default REINFORCE with the group's mean reward as the baseline, written as a ratio to the sampler's own
probabilities: each batch is used once, so the ratio is 1 and its gradient is REINFORCE's. Sampled at temperature 1 from
the full distribution; token-mean over the whole batch, as in DAPO. Other losses: llm_jax/rl/algorithms.py; what a step
samples and trains on: llm_jax/rl/rollouts.py.
"""

import contextlib

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from llm_jax.config import UserError
from llm_jax.model import lora, scalar_head
from llm_jax.prompts import prompts_for
from llm_jax.rl import instruments, reward_model
from llm_jax.rl.algorithms import Algorithm, resolve
from llm_jax.rl.canaries import Watch
from llm_jax.rl.held_out import HeldOut
from llm_jax.rl.loss import of_sampled, token_losses, value_losses
from llm_jax.rl.rollouts import PromptStream, Rollouts
from llm_jax.rl.scoring import Scorer, scores_of
from llm_jax.runs import Run
from llm_jax.sampling import replay
from llm_jax.sampling.loaded import engine_for
from llm_jax.stages import adapter
from llm_jax.tables import known
from llm_jax.tasks.knowledge import OF_FACTS
from llm_jax.tasks.records import of_files
from llm_jax.tasks.table import FAMILIES
from llm_jax.tools.table import Toolbox, absent
from llm_jax.training import loop
from llm_jax.training.optimizer import adamw


def policy_loss(run: Run):
    """(params, batch) -> (sum of token losses, sampled tokens, metrics); with a value head beside the parameters, also
    its loss, `value_weight` times."""
    scores, algorithm = scores_of(run), resolve(run.config.rl)

    def loss(params, batch):
        (logp_BT, values_BT), weights_BT = scores(params, batch), batch["weights"]
        others = (batch.get(name) for name in ("ref_logp", "sampler_logp"))
        losses_BT, metrics = token_losses(
            algorithm, logp_BT, batch["old_logp"], batch["advantages"], weights_BT, batch["segments"], *others
        )
        if "sampler_logp" not in batch:  # elsewhere it is measured before the first update, which moves the trainer
            metrics = {**metrics, **instruments.gap(logp_BT, batch["old_logp"], weights_BT)}
        losses_BT = losses_BT * weights_BT
        total = jnp.sum(losses_BT * batch["scale"] if "scale" in batch else losses_BT)
        if "returns" in batch:
            of_values = of_sampled(weights_BT, values_BT, batch["old_values"], batch["returns"])
            metrics["value_loss"] = jnp.sum(value_losses(*of_values, algorithm.value_clip) * weights_BT)
            total += algorithm.value_weight * metrics["value_loss"]
        return total, weights_BT.sum(), metrics

    return loss


def check(run: Run, stages: list[str]) -> None:
    """Raises UserError for parts of the loss that contradict, a sandbox that is not here, families that are none and
    tasks without prompts here."""
    rl = run.config.rl
    absent(run.workdir, python=run.config.tools.python)
    check_updates(rl, resolve(rl))
    others = [name for name in rl.tasks if name.partition("/")[0] not in OF_FACTS]
    if rl.reward == "brier" and others:
        what = f"rl.reward 'brier' scores the confidence that answers on facts state, and rl.tasks has {others[0]!r}"
        raise UserError(f"{what}; leave it out, or take rl.reward 'ternary'")
    if rl.reward == "model" and (rl.reward_model or "reward" not in stages):
        reward_model.located(run, rl.reward_model)
    if rl.reward == "model" and jax.process_count() > 1:
        raise UserError("a reward model scores in one process; start one, or take another rl.reward")
    there = (run.workdir / "data" / "prompts_train.jsonl").exists()
    prompts = prompts_for(run.config, run.workdir, "train") if there else of_files(rl.prompts, "train")
    for name in rl.no_tools:
        known("task family of rl.no_tools", name, sorted({*FAMILIES, *(p["task"] for p in prompts)}))
    if there or not any(rl.tasks.values()):
        PromptStream(prompts, dict(rl.tasks), run.config.seed)
    if there and rl.eval_every:
        HeldOut(run, None)


def check_updates(rl: ConfigDict, algorithm: Algorithm) -> None:
    """What the algorithm and the number of updates ask of each other. Raises UserError."""
    if algorithm.advantage == "gae" and rl.exact:
        what = f"rl.exact computes log-probabilities alone, and rl.algorithm {algorithm.name!r} needs values too"
        raise UserError(f"{what}; take rl.exact False, or an algorithm without a value head, as 'dr_grpo'")
    passes = rl.updates // rl.minibatches
    if passes > 1 and algorithm.trust == "none":
        what = (
            f"rl.updates {rl.updates} trains {passes} times on the same rollouts, and rl.algorithm {algorithm.name!r}"
        )
        raise UserError(f"{what} bounds no update (arXiv 1707.06347); take one with a trust region, as 'dr_grpo'")


def train(run: Run, params):
    config, rl, algorithm = run.config, run.config.rl, resolve(run.config.rl)
    check_updates(rl, algorithm)
    run = replay.exactly(run) if rl.exact else run
    warmup = max(1, rl.steps // 20)
    rate = lambda peak: lambda step: peak * jnp.minimum(1.0, (step + 1) / warmup)  # noqa: E731
    head = run.init_head() if algorithm.advantage == "gae" else {}
    axes = run.axes() | ({scalar_head.NAME: scalar_head.AXES} if head else {})
    of_all = adamw(rate(rl.learning_rate), 0.0, axes)
    optimizer = optax.chain(optax.clip_by_global_norm(config.optimizer.clip or 1e9), of_all)
    reference = reference_of(run, params) if algorithm.kl != "none" else None
    with contextlib.closing(Toolbox(run.workdir, python=config.tools.python)) as tools:
        engine = engine_for(run, rl.slots, tools)
        job = loop.Job(
            stage="rl",
            steps=rl.steps,
            optimizer=optimizer,
            loss=policy_loss(run),
            batches=Rollouts(run, engine, algorithm, Scorer(run), reference),
            validate=HeldOut(run, engine) if rl.eval_every else None,
            validate_every=rl.eval_every,
            score="held_out",
            keep_best=rl.keep_best,
            watch=Watch(run.workdir / "rl", rl.canaries, jax.process_index() == 0),
        )
        return adapter.train(run, job, params, rate(config.lora.learning_rate), head)


def reference_of(run: Run, params):
    """(current parameters) -> those of the stage's parent: a copy, or what lies under the adapter as it is."""
    if run.config.lora.rank:
        return lora.detached
    kept = jax.tree.map(jnp.copy, params)  # the step takes the others
    return lambda _: kept
