"""Stage rl: the policy loss and its gradient on really sampled rollouts, what it refuses, and that it learns."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from llm_jax import checkpoint
from llm_jax.config import UserError
from llm_jax.lineage import newest
from llm_jax.model import scalar_head
from llm_jax.rl.canaries import CANARIES, Fired
from llm_jax.rl.held_out import HeldOut
from llm_jax.rl.packing import pack_rollouts
from llm_jax.rl.rewards import REWARDS
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.requests import Request
from llm_jax.stages import rl
from llm_jax.training import loop

PROMPTS = [
    {"task": task, "level": level, "messages": [{"role": "user", "content": f"{task} {level} {n}?"}], "answer": str(n)}
    for task in ("arithmetic", "calculator")
    for level in ("easy", "hard")
    for n in range(5)
]


@pytest.fixture(scope="module")
def rollouts(tiny_model, tokenizer, mesh, params):
    """(requests, completions) really sampled, one of them with forced tokens."""
    engine = Engine(tiny_model, tokenizer, mesh, 4, 64)
    forced = tuple(tokenizer.encode("12"))
    requests = [
        Request([tokenizer.bos, *tokenizer.encode(text)], seed, 1.0, 10, forced if seed == 1 else ())
        for seed, text in enumerate(("The cat", "7 + 5 = ", "dog", "sat on the"))
    ]
    return requests, engine.generate(params, requests)


def test_the_trainers_logprobs_are_the_samplers(context, tokenizer, params, rollouts):
    advantage = np.array([1.0, -1.0, 0.5, -0.5], np.float32)
    batch = pack_rollouts(*rollouts, advantage, 40, tokenizer.pad)
    _, weight, metrics = jax.jit(rl.policy_loss(context))(params, batch)
    assert metrics["logp_gap_max"] < 1e-4
    assert weight == sum(sum(done.sampled_mask) for done in rollouts[1])


def test_the_policy_gradient_is_reinforce_on_the_sampled_tokens(context, tokenizer, params, forward, rollouts):
    requests, done = rollouts
    advantage = np.array([1.0, -2.0, 0.5, 0.0], np.float32)
    batch = pack_rollouts(requests, done, advantage, 40, tokenizer.pad)
    parts = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), batch)
    ours, _, _ = jax.jit(lambda p: loop.gradients(rl.policy_loss(context), p, {}, parts))(params)
    sampled = sum(sum(completion.sampled_mask) for completion in done)  # of all rollouts, also the one left out
    tokens, segments, weights = (np.zeros((4, 40), np.float32) for _ in range(3))
    for row, (request, completion) in enumerate(zip(requests, done, strict=True)):
        n, ids = len(request.prompt), request.prompt + completion.ids
        tokens[row, : len(ids)], segments[row, : len(ids)] = ids, 1
        weights[row, n : len(ids)] = advantage[row] * np.array(completion.sampled_mask)
    tokens, segments = tokens.astype(np.int32), segments.astype(np.int32)

    def reinforce(params):
        log_p = jax.nn.log_softmax(forward(context.model, tokenizer.vocab_size, params, tokens, None, segments)[1])
        picked = jnp.take_along_axis(log_p[:, :-1], tokens[:, 1:, None], -1)[..., 0]
        return -(picked * weights[:, 1:]).sum() / sampled

    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(jax.grad(reinforce)(params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_the_gap_is_over_all_rollouts_and_only_those_with_an_advantage_move(context, tokenizer, params, rollouts):
    """Half of them are of groups without a difference: in microbatches of their own, and one of these has the gap."""
    requests, done = rollouts
    off = dataclasses.replace(done[3], sampling_logprob=[p - 0.5 for p in done[3].sampling_logprob])
    loss, advantage = rl.policy_loss(context), np.array([1.0, -2.0, 0.0, 0.0], np.float32)
    batch = pack_rollouts(requests, [*done[:3], off], advantage, 40, tokenizer.pad, microbatch=2)
    parts = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), batch)
    whole = jax.tree.map(lambda x: x[None], batch)
    grads, mean, metrics = jax.jit(lambda p: loop.gradients(loss, p, {}, parts))(params)
    together = jax.jit(lambda p: loop.gradients(loss, p, {}, whole))(params)
    assert 0.499 < metrics["logp_gap_max"] < 0.501
    tokens = [sum(completion.sampled_mask) for completion in done]
    assert float(metrics["logp_gap"]) == pytest.approx(0.5 * tokens[3] / sum(tokens), rel=1e-3)
    assert float(mean) == pytest.approx(float(together[1]), rel=1e-4)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(together[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_what_rl_would_refuse_late_is_refused_before(context):
    """With and without prompts there."""
    rl_config = context.config.rl
    rl_config.tasks, rl_config.no_tools = {"arithmetic": 1.0}, ("arithmetic", "spelling")
    rl.check(context, ["rl"])
    rl_config.no_tools = ("arithmetics",)
    with pytest.raises(UserError, match="did you mean"):
        rl.check(context, ["rl"])
    rl_config.no_tools = ()
    rl_config.tasks = {"own": 1.0}  # of no family, so that nothing is drawn
    (context.workdir / "data/prompts_train.jsonl").write_text(json.dumps({**PROMPTS[0], "task": "own"}) + "\n")
    dev = context.workdir / "data/prompts_dev.jsonl"
    dev.write_text(json.dumps({**PROMPTS[0], "task": "lists"}) + "\n")
    with pytest.raises(UserError, match=r"dev prompts.*set rl\.eval_every to 0"):
        rl.check(context, ["rl"])
    dev.write_text(json.dumps({**PROMPTS[0], "task": "own"}) + "\n")
    rl.check(context, ["rl"])
    for tasks, said in (
        ({"others": 1.0}, "unknown task of rl.tasks .others."),
        ({}, "rl.tasks is empty"),
        ({"arithmetic": 0}, "is empty"),
    ):
        rl_config.tasks = tasks
        with pytest.raises(UserError, match=said):
            rl.check(context, ["rl"])


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"algorithm": "ppo", "exact": True}, r"rl\.exact computes log-probabilities alone, and rl\.algorithm 'ppo'"),
        ({"algorithm": "ppo", "parts": {"trust": "none"}, "updates": 2}, "'ppo' bounds no update"),
        ({"updates": 2}, "'reinforce' bounds no update"),
        ({"algorithm": "grop"}, "did you mean 'grpo'"),
    ],
)
def test_updates_that_the_algorithm_cannot_bear_are_refused(context, settings, said):
    context.config.rl.update({"tasks": {"arithmetic": 1.0}, **settings})
    with pytest.raises(UserError, match=said):
        rl.check(context, ["rl"])


@pytest.fixture
def practise(context, draw_params, monkeypatch):
    """Trains a model of random parameters, rewarded by what it happens to write; `scores` are its held-out ones."""
    monkeypatch.setitem(REWARDS, "right", lambda outcomes, *_: [float(len(str(o.parts)) % 2) for o in outcomes])
    answer, scripted = HeldOut.__call__, []
    score = lambda self, params: answer(self, params) | ({"held_out": scripted.pop(0)} if scripted else {})  # noqa: E731
    monkeypatch.setattr(HeldOut, "__call__", score)
    monkeypatch.setattr(loop.lineage, "parent_of", lambda run, stage: None)
    context.config.data.sequence_length, context.config.checkpoint.every = 64, 1
    base = {"batch": 8, "group": 4, "slots": 4, "max_new_tokens": 6, "tasks": {"arithmetic": 1.0}, "eval_problems": 4}

    def run(folder, steps: int, scores=(), **settings) -> list[dict]:
        scripted[:] = scores
        context.config.rl.update({**base, "steps": steps, **settings})
        (folder / "data").mkdir(parents=True, exist_ok=True)
        for split in ("train", "dev"):
            (folder / f"data/prompts_{split}.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS))
        context.workdir = folder
        rl.train(context, draw_params(context.model, context.vocab_size))
        lines = [json.loads(line) for line in (folder / "rl/metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k not in ("tokens_per_second", "input_wait")} for line in lines]

    return run


@pytest.mark.slow  # tests/rl/test_rollouts.py stops what is sampled after every step
def test_a_run_with_everything_resumes_bit_for_bit(practise, tmp_path):
    """Stopped within a batch, with another in flight, with a reference, resampled; the best held-out step is kept."""
    settings = {"algorithm": "grpo", "updates": 2, "minibatches": 2, "lag": 1, "eval_every": 2, "learning_rate": 0.01}
    settings["parts"] = {"dynamic": True}
    whole = practise(tmp_path / "whole", 6, (0.25, 0.75, 0.5, 0.5), **settings)
    practise(tmp_path / "broken", 3, **settings)
    broken = practise(tmp_path / "broken", 6, **settings)
    assert [line for line in broken if "loss" in line] == [line for line in whole if "loss" in line]
    assert len({line["grad_norm"] for line in whole if "loss" in line}) == 6
    assert all(line["kl_reference"] > 1e-6 for line in whole if "kl_reference" in line and line["step"] > 3)
    assert [(line["step"], line["best_step"]) for line in whole if "held_out" in line] == [
        (0, 0),
        (2, 2),
        (4, 2),
        (6, 2),
    ]
    with checkpoint.existing(tmp_path / "whole", "rl") as store:
        assert store.meta(6)["best"] == {"step": 2, "score": 0.75}
    assert {path.name for path in (tmp_path / "whole/rl/checkpoints").iterdir()} == {"2", "5", "6"}


@pytest.mark.slow  # tests/rl/test_rollouts.py stops what is sampled after every step
@pytest.mark.parametrize("trained", ["all", "adapter"])
def test_a_value_head_is_trained_goes_on_bit_for_bit_and_stays_here(context, practise, tmp_path, trained):
    """Stopped within a batch, whose values and returns are saved. Who reads the stage gets the policy alone."""
    settings = {"algorithm": "ppo", "group": 1, "updates": 2, "minibatches": 2, "eval_every": 0, "learning_rate": 0.01}
    context.config.lora.update({"rank": 2 * (trained == "adapter"), "learning_rate": 0.01})
    whole = practise(tmp_path / "whole", 3, **settings)
    practise(tmp_path / "broken", 1, **settings)
    assert practise(tmp_path / "broken", 3, **settings) == whole
    assert all(line["value_loss"] > 0 for line in whole) and whole[0]["value_mean"] == 0 != whole[2]["value_mean"]
    assert whole[0]["explained_variance"] == pytest.approx(0, abs=1e-6)  # a head of zeros foresees nothing
    sums = [newest(tmp_path / name, "rl")["checksums"] for name in ("whole", "broken")]
    assert sums[0] == sums[1] and scalar_head.is_in(sums[0])


def test_who_reads_a_stage_gets_it_without_its_value_head(context, params):
    """Parameters, or an adapter."""
    values = {**context.config.lora.to_dict(), "rank": 2}
    adapter = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), context.abstract_adapter(ConfigDict(values)))
    with checkpoint.Checkpoints(context.workdir, "rl") as store:
        for step, (policy, of_adapter) in enumerate(((params, None), (adapter, values)), 1):
            told = {"tokenizer": context.tokenizer_sha256, "lora": of_adapter}
            store.save(step, policy | context.init_head(), {}, told)
            store.wait()
            assert scalar_head.is_in(store.meta(step)["shapes"])
            read = context.load_adapter("rl")[1] if of_adapter else context.load_params("rl")
            assert jax.tree.structure(read) == jax.tree.structure(policy)


@pytest.mark.parametrize("trained", ["all", pytest.param("adapter", marks=pytest.mark.slow)])
def test_a_canary_stops_a_run_whose_weights_stand_still(context, practise, monkeypatch, tmp_path, trained):
    """With an adapter, the reference is what lies under it: nothing is learned, so both stay the same model."""
    monkeypatch.delitem(CANARIES, "rollouts cut")  # random parameters find no end
    rate, settings = {"learning_rate": 0.0}, {"eval_every": 0, "canaries": "stop"}
    if trained == "adapter":
        context.config.lora.update({"rank": 2, **rate})
        settings["algorithm"] = "grpo"
    with pytest.raises(Fired, match="step 4: weights unmoved"):
        practise(tmp_path / "run", 6, **rate, **settings)
    lines = [json.loads(line) for line in (tmp_path / "run/rl/metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and all(line["grad_norm"] > 0 for line in lines)
    assert all(abs(line.get("kl_reference", 0)) < 1e-6 for line in lines)
