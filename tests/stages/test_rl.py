"""RL: the policy loss on a model and its gradient, packing of rollouts, the stream of prompts."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_jax import sharding
from llm_jax.config import UserError
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.requests import Completion, Request
from llm_jax.stages import rl
from llm_jax.training import loop

PROMPTS = [
    {"task": task, "level": level, "messages": [{"role": "user", "content": f"{task} {level} {n}?"}], "answer": str(n)}
    for task in ("arithmetic", "calculator")
    for level in ("easy", "hard")
    for n in range(5)
]


def made_up(rng, vocab: int, prompt: int, new: int) -> tuple[Request, Completion]:
    """A rollout whose numbers are all different, with an unsampled stretch in the middle."""
    mask = [int(i % 5 != 3) for i in range(new)]
    ids = rng.integers(5, vocab, prompt + new).tolist()
    logp = (-rng.uniform(0.1, 5, new)).tolist()
    return Request(ids[:prompt]), Completion(ids[prompt:], mask, logp, logp)


@given(sizes=st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=20))
def test_packed_rollouts_keep_every_token_where_it_belongs(sizes):
    rng, length, pad = np.random.default_rng(0), 16, 0
    pairs = [made_up(rng, 300, *size) for size in sizes]
    requests, done = map(list, zip(*pairs, strict=True))
    advantage = rng.normal(size=len(pairs)).astype(np.float32)
    advantage[::3] = 0  # groups without a difference
    batch = rl.pack_rollouts(requests, done, advantage, length, pad, microbatch=8)
    B = len(batch["tokens"])
    assert B % rl.ROW_BUCKET == 0 and all(value.shape == (B, length) for value in batch.values())
    found = []
    for r in range(B):
        for number in range(1, batch["segments"][r].max() + 1):
            at = np.flatnonzero(batch["segments"][r] == number)
            assert batch["positions"][r, at].tolist() == list(range(len(at)))
            steps = [t for t in at if batch["weights"][r, t]]
            found.append(
                (
                    tuple(batch["tokens"][r, at]),
                    tuple(batch["targets"][r, steps]),
                    tuple(np.round(batch["old_logp"][r, steps], 4)),
                    tuple(np.round(batch["advantages"][r, steps], 4)),
                )
            )
    wanted = [expected(q, c, a, length) for q, c, a in zip(requests, done, advantage, strict=True)]
    assert sorted(row[1:] for row in found) == sorted(wanted)
    whole = sorted(tuple(q.prompt + c.ids) for q, c in pairs)
    assert all(any(w[: len(row[0])] == row[0] for w in whole) for row in found)
    assert not batch["weights"][batch["segments"] == 0].any()
    moves = (batch["advantages"] != 0).reshape(-1, 8 * length).any(axis=1)
    assert sorted(moves, reverse=True) == moves.tolist()  # those without an advantage are the last microbatches


def expected(request: Request, done: Completion, advantage: float, length: int) -> tuple:
    """(sampled ids, their log-probabilities, their advantages), from the rollout itself."""
    kept = [i for i, m in enumerate(done.sampled_mask) if m]
    logp = np.round(np.array([done.sampling_logprob[i] for i in kept], np.float32), 4)
    return tuple(done.ids[i] for i in kept), tuple(logp), tuple(np.round(np.full(len(kept), advantage, np.float32), 4))


@pytest.mark.parametrize("microbatch", [0, 24, 48, 120, 240])
@pytest.mark.parametrize("rows", [1, 64, 65, 129, 257])
def test_a_batch_of_rollouts_splits_into_microbatches_on_any_mesh(rows, microbatch, mesh):
    requests, done = zip(*[made_up(np.random.default_rng(0), 300, 8, 8)] * rows, strict=True)
    batch = rl.pack_rollouts(list(requests), list(done), np.ones(rows), 16, 0, microbatch, shards=3)
    parts = sharding.put_batch(mesh, batch, microbatch)["weights"]
    assert parts.shape[1] % 3 == 0 and (not microbatch or parts.shape[1] <= microbatch)
    assert np.count_nonzero(parts.any(axis=2)) == rows
    assert parts.shape[0] * parts.shape[1] < rows + 3 * rl.ROW_BUCKET + microbatch


def test_a_rollout_that_fits_no_row_is_a_users_mistake():
    with pytest.raises(UserError, match=r"rl\.max_new_tokens"):
        rl.pack_rollouts([Request([1] * 9)], [Completion([2] * 9, [1] * 9, [0.0] * 9, [0.0] * 9)], [1.0], 16, 0)


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
    batch = rl.pack_rollouts(*rollouts, advantage, 40, tokenizer.pad)
    _, weight, metrics = jax.jit(rl.policy_loss(context))(params, batch)
    assert metrics["logp_gap_max"] < 1e-4
    assert weight == sum(sum(done.sampled_mask) for done in rollouts[1])


def test_the_policy_gradient_is_reinforce_on_the_sampled_tokens(context, tokenizer, params, forward, rollouts):
    requests, done = rollouts
    advantage = np.array([1.0, -2.0, 0.5, 0.0], np.float32)
    batch = rl.pack_rollouts(requests, done, advantage, 40, tokenizer.pad)
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


def test_the_nth_prompt_depends_on_seed_and_n_alone():
    shares = {"arithmetic": 0.5, "calculator/hard": 0.5}
    straight = rl.PromptStream(PROMPTS, shares, 3)
    drawn = [straight.next() for _ in range(50)]
    resumed = rl.PromptStream(PROMPTS, shares, 3)
    resumed.cursor = 20
    assert [resumed.next() for _ in range(30)] == drawn[20:]
    assert [number for number, _ in drawn] == list(range(50))
    other = rl.PromptStream(PROMPTS, shares, 4)
    assert [other.next() for _ in range(50)] != drawn


def test_prompts_come_in_their_shares():
    stream = rl.PromptStream(PROMPTS, {"arithmetic": 0.75, "calculator/hard": 0.25}, 0)
    drawn = [stream.next()[1] for _ in range(1000)]
    share = np.mean([p["task"] == "arithmetic" for p in drawn])
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / 1000) ** 0.5
    assert {p["level"] for p in drawn if p["task"] == "calculator"} == {"hard"}
    assert {p["level"] for p in drawn if p["task"] == "arithmetic"} == {"easy", "hard"}


def test_figures_count_what_was_written(make_rollouts, tokenizer):
    batches = make_rollouts()
    _, figures = batches.next(0, None)
    assert figures["tokens"] == sum(len(batches.engine.completion(request).ids) for request in batches.engine.asked)
    assert figures["tokens"] == figures["completion_length"] * len(batches.engine.asked)


def test_the_gap_is_over_all_rollouts_and_only_those_with_an_advantage_move(context, tokenizer, params, rollouts):
    """Half of them are of groups without a difference: in microbatches of their own, and one of these has the gap."""
    requests, done = rollouts
    off = dataclasses.replace(done[3], sampling_logprob=[p - 0.5 for p in done[3].sampling_logprob])
    loss, advantage = rl.policy_loss(context), np.array([1.0, -2.0, 0.0, 0.0], np.float32)
    batch = rl.pack_rollouts(requests, [*done[:3], off], advantage, 40, tokenizer.pad, microbatch=2)
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
    (context.workdir / "data/prompts_train.jsonl").write_text(json.dumps(PROMPTS[0]) + "\n")
    rl.check(context, ["rl"])
    for tasks, said in (
        ({"calculator": 1.0}, "calculator"),
        ({}, "rl.tasks is empty"),
        ({"arithmetic": 0}, "is empty"),
    ):
        rl_config.tasks = tasks
        with pytest.raises(UserError, match=said):
            rl.check(context, ["rl"])


@pytest.mark.parametrize(
    "shares, message",
    [
        ({"arithmetics": 1.0}, "'arithmetics'; did you mean 'arithmetic'"),
        ({"calculator/odd": 1.0}, "did you mean 'calculator'"),
        ({}, "rl.tasks is empty"),
    ],
)
def test_unknown_tasks_are_a_users_mistake(shares, message):
    with pytest.raises(UserError, match=message):
        rl.PromptStream(PROMPTS, shares, 0)


class Parrot:
    """An engine that answers at once, right or wrong by the request's seed."""

    def __init__(self, tokenizer):
        self.tokenizer, self.asked = tokenizer, []

    def generate(self, params, requests):
        self.asked += requests
        return [self.completion(request) for request in requests]

    def completion(self, request) -> Completion:
        t = self.tokenizer
        ids = [t.open["answer"][0], *t.encode(str(request.seed % 5)), t.close["answer"][0], t.end]
        return Completion(ids, [1] * len(ids), [-1.0] * len(ids), [-1.0] * len(ids))


@pytest.fixture
def make_rollouts(context, tokenizer):
    context.config.rl.update({"batch": 8, "group": 4, "no_tools": ("arithmetic",)})
    context.config.rl.tasks = {"arithmetic": 0.5, "calculator": 0.5}
    context.config.data.sequence_length = 64
    folder = context.workdir / "data"
    (folder / "prompts_train.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS))

    def make(**settings):
        context.config.rl.update(settings)
        return rl.Rollouts(context, Parrot(tokenizer))

    return make


def same(a: dict, b: dict) -> bool:
    return all(np.array_equal(a[key], b[key]) for key in a)


def test_a_step_samples_whole_groups_with_seeds_of_their_own(make_rollouts, tokenizer):
    batches = make_rollouts()
    for step in range(10):
        batches.next(step, None)
    asked = batches.engine.asked
    assert len(asked) == 80 and len({request.seed for request in asked}) == 80
    for start in range(0, 80, 4):
        assert len({tuple(request.prompt) for request in asked[start : start + 4]}) == 1
    assert all(request.temperature == 1.0 for request in asked)
    assert {prompt.split(" ")[0] for prompt in (tokenizer.decode(r.prompt) for r in asked)} == {
        "arithmetic",
        "calculator",
    }


def test_a_call_earns_nothing_where_tools_are_not_allowed(make_rollouts, tokenizer):
    batches, t = make_rollouts(), tokenizer
    call = [
        t.open["python"][0],
        *t.encode("1+1"),
        t.close["python"][0],
        t.open["output"][0],
        *t.encode("2"),
        t.close["output"][0],
    ]
    answer = [t.open["answer"][0], *t.encode("2"), t.close["answer"][0], t.end]
    rewards = {}
    for prompt in PROMPTS:
        for ids in (call + answer, answer):
            done = Completion(ids, [1] * len(ids), [-1.0] * len(ids), [-1.0] * len(ids))
            reward = batches.reward(rl.judge(t, prompt, done))
            rewards.setdefault((prompt["task"], len(ids) == len(answer), prompt["answer"] == "2"), set()).add(reward)
    assert rewards == {
        (task, direct, right): {float(right and (direct or task == "calculator"))}
        for task in ("arithmetic", "calculator")
        for direct in (True, False)
        for right in (True, False)
    }


def test_rewards_and_figures_follow_the_grader(make_rollouts):
    batches = make_rollouts()
    batch, figures = batches.next(0, None)
    transcripts = [json.loads(line) for line in batches.path.read_text().splitlines()]
    assert transcripts and all(t["step"] == 1 for t in transcripts)
    for shown in transcripts:
        assert shown["reward"] == int(shown["parts"][-1]["text"] == shown["answer"])
    assert figures["well_formed"] == 1 and figures["calls"] == 0 and figures["entropy"] == 1.0
    assert (batch["advantages"] != 0).any() == (0 < figures["reward"] < 1)


def test_a_resumed_stream_of_rollouts_continues(make_rollouts):
    straight = make_rollouts()
    batches = [straight.next(step, None)[0] for step in range(4)]
    states = make_rollouts()
    for step in range(2):
        states.next(step, None)
    resumed = make_rollouts()
    resumed.restore(json.loads(json.dumps(states.state())))
    assert all(same(resumed.next(step, None)[0], batches[step]) for step in (2, 3))
    lines = [json.loads(line)["step"] for line in resumed.path.read_text().splitlines()]
    assert lines == sorted(lines) and set(lines) == {1, 2, 3, 4}


def test_half_a_transcript_line_does_not_stop_a_resumed_run(make_rollouts):
    batches = make_rollouts()
    batches.next(0, None)
    batches.path.write_text(batches.path.read_text()[:-9])
    batches.next(1, None)
    assert [json.loads(line)["step"] for line in batches.path.read_text().splitlines()][-1] == 2
