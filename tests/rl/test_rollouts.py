"""The batches of RL: the stream of prompts, groups, rewards, resampling, several updates, lag, and resuming."""

import json

import numpy as np
import pytest

from llm_jax.config import UserError
from llm_jax.rl.algorithms import resolve
from llm_jax.rl.rollouts import PromptStream, Rollouts
from llm_jax.sampling.requests import Completion

PROMPTS = [
    {"task": task, "level": level, "messages": [{"role": "user", "content": f"{task} {level} {n}?"}], "answer": str(n)}
    for task in ("arithmetic", "calculator")
    for level in ("easy", "hard")
    for n in range(5)
]


def test_the_nth_prompt_depends_on_seed_and_n_alone():
    shares = {"arithmetic": 0.5, "calculator/hard": 0.5}
    straight = PromptStream(PROMPTS, shares, 3)
    drawn = [straight.next() for _ in range(50)]
    resumed = PromptStream(PROMPTS, shares, 3)
    resumed.cursor = 20
    assert [resumed.next() for _ in range(30)] == drawn[20:]
    assert [number for number, _ in drawn] == list(range(50))
    other = PromptStream(PROMPTS, shares, 4)
    assert [other.next() for _ in range(50)] != drawn


def test_prompts_come_in_their_shares():
    stream = PromptStream(PROMPTS, {"arithmetic": 0.75, "calculator/hard": 0.25}, 0)
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
        PromptStream(PROMPTS, shares, 0)


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


class AsSampled:
    """Scores every token as the sampler did; of a value head it makes up what to say."""

    def __call__(self, params, requests, completions):
        return [np.array(done.sampling_logprob, np.float32) for done in completions]

    def with_values(self, params, requests, completions):
        values = [np.sin(np.array(done.ids, np.float32)) for done in completions]
        return self(params, requests, completions), values


@pytest.fixture
def make_rollouts(context, tokenizer):
    context.config.rl.update({"batch": 8, "group": 4, "no_tools": ("arithmetic",)})
    context.config.rl.tasks = {"arithmetic": 0.5, "calculator": 0.5}
    context.config.data.sequence_length = 64
    folder = context.workdir / "data"
    (folder / "prompts_train.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS))

    def make(parts=None, **settings):
        rl = context.config.rl
        with rl.unlocked():
            rl.update(settings)
            rl.parts = parts or {}
        algorithm = resolve(rl)
        reference = (lambda params: params) if algorithm.kl != "none" else None
        return Rollouts(context, Parrot(tokenizer), algorithm, AsSampled(), reference)

    return make


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_a_step_samples_whole_groups_with_seeds_of_their_own(make_rollouts, tokenizer):
    batches = make_rollouts()
    for step in range(10):
        batches.next(step, None)
    asked = batches.engine.asked
    assert len(asked) == 80 and len({request.seed for request in asked}) == 80
    for start in range(0, 80, 4):
        assert len({tuple(request.prompt) for request in asked[start : start + 4]}) == 1
    assert all(request.temperature == 1.0 for request in asked)
    words = {prompt.split(" ")[0] for prompt in (tokenizer.decode(r.prompt) for r in asked)}
    assert words == {"arithmetic", "calculator"}


def test_rewards_and_figures_follow_the_grader(make_rollouts):
    batches = make_rollouts()
    batch, figures = batches.next(0, None)
    transcripts = [json.loads(line) for line in batches.path.read_text().splitlines()]
    assert len(transcripts) == 4 and all(t["step"] == 1 for t in transcripts)
    assert [t["prompt"] for t in transcripts[:2]] == [t["prompt"] for t in transcripts[2:]]
    for shown in transcripts:
        assert shown["reward"] == int(shown["parts"][-1]["text"] == shown["answer"])
    assert figures["well_formed"] == 1 and figures["calls"] == 0 and figures["entropy"] == 1.0
    assert figures["accuracy"] == figures["reward"] and figures["cut"] == 0
    assert (batch["advantages"] != 0).any() == (0 < figures["reward"] < 1)
    assert figures["groups_same"] == figures["groups_all_right"] + figures["groups_all_wrong"]


VARIANTS = {
    "plain": {},
    "updates": {"updates": 4, "minibatches": 2, "algorithm": "dr_grpo"},
    "lag": {"lag": 2},
    "both": {"updates": 2, "minibatches": 2, "lag": 1, "algorithm": "dapo"},
    "reference": {"lag": 1, "algorithm": "grpo"},
    "values": {"updates": 2, "minibatches": 2, "lag": 1, "algorithm": "ppo", "group": 1},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_that_was_stopped_after_any_step_goes_on_exactly(make_rollouts, name):
    """Its prompts are those of the run that was not: none is skipped, none comes twice."""
    steps, straight = 6, make_rollouts(**VARIANTS[name])
    whole, states = [], []
    for step in range(steps):
        whole.append(straight.next(step, {}))
        states.append(json.dumps(straight.state()))
    for at in range(1, steps):
        resumed = make_rollouts(**VARIANTS[name])
        resumed.restore(json.loads(states[at - 1]))
        for step in range(at, steps):
            rows, figures = resumed.next(step, {})
            assert same(rows, whole[step][0]) and figures == whole[step][1]
        assert json.dumps(resumed.state()) == states[-1]
    lines = [json.loads(line)["step"] for line in straight.path.read_text().splitlines()]
    assert lines == sorted(lines) and set(lines) == set(range(1, steps + 1, VARIANTS[name].get("updates", 1)))


def test_several_updates_share_a_batch(make_rollouts):
    """Four updates over two parts: each part twice, and together they are the batch."""
    batches = make_rollouts(updates=4, minibatches=2, algorithm="dr_grpo")
    rows = [batches.next(step, None) for step in range(4)]
    assert len(batches.engine.asked) == 8
    assert same(rows[0][0], rows[2][0]) and same(rows[1][0], rows[3][0]) and not same(rows[0][0], rows[1][0])
    assert rows[0][1]["logp_gap_max"] == 0 and "reward" in rows[0][1] and "reward" not in rows[1][1]
    written = [int(r["segments"].max(axis=1).sum()) for r, _ in rows]
    assert written == [4] * 4 and len({r.number for r in batches.sample(4, None).rollouts}) == 2


def test_rollouts_lag_by_their_bound(make_rollouts):
    batches, seen = make_rollouts(lag=2), []
    generate = batches.engine.generate
    batches.engine.generate = lambda params, requests: seen.append(params) or generate(params, requests)
    lags = [batches.next(step, {})[1]["lag"] for step in range(6)]
    assert lags == [0, 1, 2, 2, 2, 2] and len(seen) == 8


def test_groups_without_a_difference_are_replaced_up_to_a_bound(make_rollouts):
    """All rewards are right or wrong by the request's seed; the figures are of all that were drawn."""
    batches = make_rollouts(algorithm="dapo", resample=50)
    rows, figures = batches.next(0, None)
    drawn = len(batches.engine.asked) // 4
    assert drawn == figures["groups_drawn"] == batches.stream.cursor > 2
    kept = rows["advantages"][rows["weights"] > 0]
    assert (kept != 0).all() and 0 < figures["groups_same"] < 1
    assert figures["tokens"] == sum(len(batches.engine.completion(r).ids) for r in batches.engine.asked)
    bounded = make_rollouts(algorithm="dapo", resample=0)
    rows, figures = bounded.next(0, None)
    assert figures["groups_drawn"] == 2 and int(rows["segments"].max(axis=1).sum()) == 8


def test_what_was_cut_is_taken_out_or_costs(make_rollouts):
    """Masked: it has no weight, and the mean is over the others. Shaped: at the limit the reward is one less."""

    def cutting(batches):
        generate = batches.engine.generate

        def cut(params, requests):
            done = generate(params, requests)
            for completion in done[::2]:
                completion.finish = "length"
            return done

        batches.engine.generate = cut
        return batches.next(0, None)

    plain, _ = cutting(make_rollouts())
    masked, figures = cutting(make_rollouts(parts={"overlong": "mask", "aggregate": "sequence"}))
    assert figures["cut"] == 0.5 and 0 < masked["weights"].sum() < plain["weights"].sum()
    tokens = masked["weights"].sum()
    assert (masked["weights"] * masked["scale"]).sum() == pytest.approx(tokens)  # 4 rollouts, each weighs a fourth
    _, shaped = cutting(make_rollouts(parts={"overlong": "shape"}, max_new_tokens=4))
    assert shaped["reward"] == pytest.approx(shaped["reward_answer"] + shaped["reward_overlong"])
    assert -1 <= shaped["reward_overlong"] < 0


def test_half_a_transcript_line_does_not_stop_a_resumed_run(make_rollouts):
    batches = make_rollouts()
    batches.next(0, None)
    batches.path.write_text(batches.path.read_text()[:-9])
    batches.next(1, None)
    assert [json.loads(line)["step"] for line in batches.path.read_text().splitlines()][-1] == 2
