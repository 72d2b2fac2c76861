"""PPO's value head: one update beside a plain derivation, rows that change nothing, and a head that learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.model import scalar_head
from llm_jax.rl.algorithms import resolve
from llm_jax.rl.critic import Critic, foreseen
from llm_jax.rl.rollouts import token_rewards
from llm_jax.rl.scoring import Scorer
from llm_jax.stages import rl
from llm_jax.training import loop
from tests.rl.test_rollouts import Parrot, make_rollouts  # noqa: F401

PARTS = {"kl": "k1", "kl_in": "reward", "kl_weight": 0.1, "discount": 0.97, "decay": 0.9}
PARTS |= {"value_weight": 0.7, "value_clip": 0.1}


class Rambler(Parrot):
    """Says something of any length before its answer, of which it has not sampled all."""

    def completion(self, request):
        done, more = super().completion(request), self.tokenizer.encode("the cat sat on the mat")[: request.seed % 6]
        return dataclasses.replace(
            done,
            ids=more + done.ids,
            sampled_mask=[i % 3 % 2 for i in range(len(more))] + done.sampled_mask,
            sampling_logprob=[-0.5 - 0.1 * i for i in range(len(more))] + done.sampling_logprob,
        )


class Scores(Scorer):
    """The trainer's own scores; the reference's are a little off the sampler's."""

    def __call__(self, params, requests, completions):
        return [np.sin(done.ids) / 9 + done.sampling_logprob for done in completions]


def with_head(params, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    w_D = jnp.asarray(rng.normal(scale=0.1, size=params["embedding"].shape[1]), jnp.float32)
    return params | {scalar_head.NAME: {"w_D": w_D, "b": jnp.float32(0.2)}}


@pytest.fixture
def update(make_rollouts, context, params):  # noqa: F811
    """(batch source, parameters before its update, its rows, figures): groups of 1, with a KL in the reward."""
    batches = make_rollouts(PARTS, algorithm="ppo", group=1, updates=2)
    batches.engine, batches.score = Rambler(context.tokenizer), Scores(context)
    before = with_head(params, 0)
    return batches, before, *batches.next(0, before)


def plain(forward, context, batches, params):
    """Of each sampled token of each rollout, float64: (log-probability, value, hidden state), in lists."""
    rollouts = batches.batch.rollouts
    tokens = np.zeros((len(rollouts), 64), np.int32)
    for row, r in zip(tokens, rollouts, strict=True):
        ids = r.request.prompt + r.completion.ids
        row[: len(ids)] = ids
    head = params[scalar_head.NAME]
    of_model = scalar_head.parted(params)[0]
    hidden, logits = forward(context.model, context.vocab_size, of_model, tokens)
    hidden, logits = np.asarray(hidden, np.float64), np.asarray(logits, np.float64)
    logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    for n, r in enumerate(rollouts):
        at = len(r.request.prompt) + np.flatnonzero(r.completion.sampled_mask)
        h = hidden[n, at - 1]
        yield logp[n, at - 1, tokens[n, at]], h @ np.asarray(head["w_D"], np.float64) + float(head["b"]), h


def learner(context):
    """(params, rows) -> (gradient, loss, metrics), of the first 8 rows: the others are empty."""
    of_part = jax.jit(lambda params, part: loop.gradients(rl.policy_loss(context), params, {}, part))

    def learn(params, rows):
        assert not rows["segments"][8:].any()
        return of_part(params, {name: x[None, :8] for name, x in rows.items()})

    return learn


def test_an_update_is_its_plain_derivation(update, forward, context, params):
    """What it aims at from rewards and values, then both losses and the head's gradient at other parameters."""
    batches, before, rows, figures = update
    rollouts, clip = batches.batch.rollouts, PARTS["value_clip"]
    old, advantages, returns = [], [], []
    for r, (logp, v, _) in zip(rollouts, plain(forward, context, batches, before), strict=True):
        mask = np.array(r.completion.sampled_mask, bool)
        earned = -0.1 * (np.array(r.completion.sampling_logprob) - r.ref_logp)[mask]
        earned[-1] += r.graded
        delta = earned + 0.97 * np.append(v[1:], 0) - v
        own = [sum((0.97 * 0.9) ** m * d for m, d in enumerate(delta[k:])) for k in range(len(delta))]
        old.append((logp, v))
        advantages.append(np.array(own))
        returns.append(own + v)
        assert not np.array(r.returns)[~mask].any() and not np.array(r.advantage)[~mask].any()
        np.testing.assert_allclose(np.array(r.old_logp)[mask], logp, atol=1e-5)
        np.testing.assert_allclose(np.array(r.values)[mask], v, atol=1e-5)
        np.testing.assert_allclose(np.array(r.returns)[mask], returns[-1], atol=1e-5)
    flat = np.concatenate(advantages)
    for r, a in zip(rollouts, advantages, strict=True):
        found = np.array(r.advantage)[np.array(r.completion.sampled_mask, bool)]
        np.testing.assert_allclose(found, (a - flat.mean()) / flat.std(ddof=1), atol=1e-4)
    of_all, v = np.concatenate(returns), np.concatenate([v for _, v in old])
    assert figures["value_mean"] == pytest.approx(v.mean(), abs=1e-5)
    assert figures["explained_variance"] == pytest.approx(1 - (of_all - v).var() / of_all.var(), abs=1e-4)

    after = with_head(jax.tree.map(lambda x: x + 0.01 * jnp.sign(jnp.sin(x * 1e4)), params), 1)
    policy, value, slope, moved, count = 0.0, 0.0, 0.0, [], len(flat)
    for (old_logp, old_v), a, ret, (logp, v, h) in zip(
        old, advantages, returns, plain(forward, context, batches, after), strict=True
    ):
        a, ratio = (a - flat.mean()) / flat.std(ddof=1), np.exp(logp - old_logp)
        policy -= np.minimum(ratio * a, np.clip(ratio, 0.8, 1.2) * a).sum()
        near = old_v + np.clip(v - old_v, -clip, clip)
        value += np.maximum((v - ret) ** 2, (near - ret) ** 2).sum() / 2
        free = ((v - ret) ** 2 >= (near - ret) ** 2) | (near == v)
        slope += ((v - ret) * free) @ h
        moved += [*(np.abs(ratio - 1) > 0.2), *~free]
    assert 0.1 < np.mean(moved) < 0.9  # both clips are at work, and neither everywhere
    learn = learner(context)
    grads, mean, metrics = learn(after, rows)
    assert float(metrics["value_loss"]) == pytest.approx(value / count, rel=1e-4)
    assert float(mean) == pytest.approx((policy + 0.7 * value) / count, rel=1e-4)
    np.testing.assert_allclose(grads[scalar_head.NAME]["w_D"], 0.7 * slope / count, rtol=1e-3, atol=1e-5)

    # One rollout in a row, or several; after all the others, or before them.
    context.config.rl.exact = True  # which here lays out the rows, and no more
    alone = batches.packed(0)
    context.config.rl.exact = False
    assert alone["segments"].max() == 1 < rows["segments"].max()
    for a, b in zip(jax.tree.leaves(learn(after, alone)), jax.tree.leaves((grads, mean, metrics)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)

    # Of the same batch, the head learns what the rollouts earn.
    optimizer, trained = optax.adam(0.01), before
    state = optimizer.init(trained)

    @jax.jit
    def step(params, grads, state):
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    for _ in range(12):
        trained, state = step(trained, learn(trained, rows)[0], state)
    asked = batches.batch.columns("request"), batches.batch.columns("completion")
    seen = batches.judge(batches.score.with_values(trained, *asked)[1])
    assert seen["explained_variance"] > figures["explained_variance"] + 0.3


def test_a_reward_is_earned_at_the_last_sampled_token(make_rollouts):  # noqa: F811
    """What a tool wrote after it earns nothing; a rollout that has sampled nothing earns nothing."""
    batches = make_rollouts(algorithm="ppo", updates=2)
    batches.next(0, {})
    rollout = batches.batch.rollouts[0]
    rollout.reward, mask = 2.5, [1, 1, 0, 0]
    rollout.completion = dataclasses.replace(rollout.completion, ids=[5] * 4, sampled_mask=mask)
    assert token_rewards(rollout, batches.algorithm).tolist() == [0, 2.5, 0, 0]
    rollout.completion.sampled_mask = [0] * 4
    assert not token_rewards(rollout, batches.algorithm).any()


def test_rollouts_that_do_not_count_leave_the_others_as_they_are(make_rollouts, context):  # noqa: F811
    """Cut ones under a mask; and where none counts, all figures are numbers."""
    rng, algorithm = np.random.default_rng(0), resolve(make_rollouts(algorithm="ppo").rl)
    critic, ones = Critic(context, algorithm), [[1] * 3, [1] * 5, [1] * 2]
    rewards, values = ([rng.normal(size=n) for n in (3, 5, 2)] for _ in range(2))
    some = critic(rewards, values, [*ones[:2], [0, 0]])
    fewer = critic(rewards[:2], values[:2], ones[:2])
    for ours, theirs in zip(some[:2], fewer[:2], strict=True):
        np.testing.assert_allclose(np.concatenate(ours[:2]), np.concatenate(theirs), atol=1e-6)
        assert not ours[2].any()
    assert some[2] == pytest.approx(fewer[2])
    *none, figures = critic(rewards, values, [[0] * len(w) for w in ones])
    assert not np.concatenate([*none[0], *none[1]]).any() and set(figures.values()) == {0.0}
    assert foreseen(np.ones(2), np.full(2, 3.0))["explained_variance"] == 0.0


def test_a_microbatch_whose_advantages_are_zero_still_has_values_to_learn():
    part = {name: jnp.ones((2, 1, 3)) for name in ("weights", "returns")} | {"advantages": jnp.zeros((2, 1, 3))}
    loss = lambda p, b: (jnp.sum((p["w"] - b["returns"]) ** 2), b["weights"].sum(), {})  # noqa: E731
    grads, _, _ = loop.gradients(loss, {"w": jnp.zeros(())}, {}, part)
    assert float(grads["w"]) == -2.0


def test_each_rollout_may_be_a_group_of_its_own(make_rollouts):  # noqa: F811
    """Then all of a batch are compared: nothing says that every group got one reward."""
    batches = make_rollouts(algorithm="ppo", group=1)
    lines = [batches.next(step, {})[1] for step in range(6)]
    assert {line["groups_same"] for line in lines if 0 < line["accuracy"] < 1} == {0.0}
