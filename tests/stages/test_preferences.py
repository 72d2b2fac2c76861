"""Comparisons as rows; the losses of reward models, DPO and IPO; both stages on a planted taste."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import checkpoint, lineage
from llm_jax.config import UserError
from llm_jax.model import scalar_head
from llm_jax.rl.reward_model import RewardModel
from llm_jax.runs import Run
from llm_jax.stages import pairs, preference, reward
from tests.conftest import drawn_params, run_of, tiny_config

T = 64
ASKED = [{"role": "user", "content": "How many cats?"}]


def pair(chosen: str, rejected: str, **more) -> dict:
    return {"prompt": ASKED, "chosen": chosen, "rejected": rejected, "split": "train", **more}


# Records and rows


def test_a_row_has_the_better_answer_before_the_worse_and_only_answers_count(tokenizer):
    many = [pair("a cat" + " sat" * n, "a dog") for n in range(4)]
    made, counts = pairs.encoded(tokenizer, many, T)
    rows = pairs.packed(made, T, tokenizer.pad)
    assert counts == (4, 0, 0) and {len(value[0]) for value in rows.values()} == {T}
    seen = []
    for r in range(len(rows["tokens"])):
        at = lambda n, r=r: rows["segments"][r] == n  # noqa: E731
        for number in range(1, rows["segments"][r].max() + 1):
            ids, learned = rows["tokens"][r][at(number)], rows["weights"][r][at(number)]
            assert rows["positions"][r][at(number)].tolist() == list(range(len(ids)))
            assert rows["targets"][r][at(number)][:-1].tolist() == ids[1:].tolist()
            parts, ended = tokenizer.parse(rows["targets"][r][at(number)][learned > 0])
            assert ended and learned[-1] == 0  # no target beyond the segment
            seen.append((number % 2, parts[0]["text"]))
    assert sorted(seen) == sorted([(0, "a dog")] * 4 + [(1, record["chosen"]) for record in many])


def test_pairs_that_are_equal_after_the_cut_or_have_no_room_are_counted(tokenizer):
    long = "the cat sat on the mat " * 40
    records = [pair("yes", "no"), pair("yes", "yes"), pair(long + "a", long + "b"), pair("yes", long)]
    records.append({**pair("yes", "no"), "prompt": [{"role": "user", "content": long}]})
    made, counts = pairs.encoded(tokenizer, records, T)
    assert counts == (2, 2, 1)
    assert max(len(ids) for both in made for ids, _ in both) <= T // 2


@pytest.mark.parametrize(
    "record, words",
    [
        ({"prompt": "Hi", "chosen": "a"}, "rejected must be an answer"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "prompt must be"),
        ({"prompt": "Hi", "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"}, "data_pipelines.chats"),
        ({"messages": [{"role": "assistant", "content": "x"}], "chosen": "a", "rejected": "b"}, "nobody asked for"),
    ],
)
def test_what_is_no_pair_is_named_by_file_and_line(record, words, tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text(json.dumps(pair("a", "b")) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(UserError, match=f"some.jsonl line 2: .*{words}"):
        pairs.read([path])


def test_what_the_chat_page_and_other_shapes_are_saved_as_is_read(tmp_path):
    """UltraFeedback's lists and HH-RLHF's transcripts by way of `data_pipelines.chats`; the page's own as they are."""
    from data_pipelines.chats import convert
    from llm_jax.serve.feedback import Feedback, FeedbackBody

    body = {"model": "sft", "messages": ASKED, "kind": "choose", "answer": "Two.", "rejected": "Many."}
    Feedback(tmp_path / "feedback").save(FeedbackBody(**body))
    turns = lambda said: [*ASKED, {"role": "assistant", "content": said}]  # noqa: E731
    shapes = [
        {"prompt": ASKED[0]["content"], "chosen": turns("Two."), "rejected": turns("Many.")},
        {
            "chosen": "\n\nHuman: How many cats?\n\nAssistant: Two.",
            "rejected": "\n\nHuman: How many cats?\n\nAssistant: Many.",
        },
    ]
    (tmp_path / "theirs.jsonl").write_text("".join(json.dumps(shape) + "\n" for shape in shapes))
    (tmp_path / "ours.jsonl").write_text("".join(json.dumps(r) + "\n" for r in convert(f"{tmp_path}/theirs.jsonl")))
    read = pairs.read([tmp_path / "feedback/pairs.jsonl", tmp_path / "ours.jsonl"])
    assert [(r["prompt"][-1]["content"], r["chosen"], r["rejected"]) for r in read] == [
        ("How many cats?", "Two.", "Many.")
    ] * 3


def test_the_order_of_rows_is_a_function_of_seed_and_step():
    rows = {"tokens": np.arange(5)[:, None]}
    read = lambda seed, steps: [pairs.PairBatches(rows, 3, seed).next(s, None)[0]["tokens"][:, 0] for s in steps]  # noqa: E731
    whole = np.concatenate(read(0, range(5)))
    for start in (0, 5, 10):
        assert sorted(whole[start : start + 5]) == list(range(5))  # a pass reads each once
    assert len({tuple(whole[start : start + 5]) for start in (0, 5, 10)}) > 1
    np.testing.assert_array_equal(read(0, [3])[0], whole[9:12])
    assert any((a != b).any() for a, b in zip(read(0, range(5)), read(1, range(5)), strict=True))


# Losses, in float64


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def differences(function, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences of a scalar function."""
    off = step * np.eye(x.size).reshape(-1, *x.shape)
    values = np.asarray(jax.jit(jax.vmap(function))(jnp.asarray(np.concatenate([x + off, x - off]))))
    return ((values[: x.size] - values[x.size :]) / (2 * step)).reshape(x.shape)


def test_preference_losses_are_those_of_the_papers(float64):
    """From the probabilities themselves, without a logarithm taken twice; and their gradients, by hand."""
    rng, beta = np.random.default_rng(0), 0.3
    policy, reference = rng.uniform(0.01, 0.9, (2, 50, 2))  # p(better), p(worse)
    margin = np.log(policy[:, 0] / reference[:, 0]) - np.log(policy[:, 1] / reference[:, 1])
    odds = (policy[:, 0] / reference[:, 0]) ** beta / (
        (policy[:, 0] / reference[:, 0]) ** beta + (policy[:, 1] / reference[:, 1]) ** beta
    )
    value, slope = jax.vmap(jax.value_and_grad(lambda m: preference.dpo(m, beta)))(jnp.asarray(margin))
    np.testing.assert_allclose(value, -np.log(odds), rtol=1e-12)
    np.testing.assert_allclose(slope, -beta * (1 - odds), rtol=1e-12)
    value, slope = jax.vmap(jax.value_and_grad(lambda m: preference.ipo(m, beta)))(jnp.asarray(margin))
    np.testing.assert_allclose(value, margin**2 - margin / beta + 1 / (4 * beta**2), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(slope, 2 * margin - 1 / beta, rtol=1e-12, atol=1e-12)
    assert float(preference.dpo(jnp.float64(0), beta)) == pytest.approx(math.log(2), abs=1e-15)
    for loss in (preference.dpo, preference.ipo, lambda m, _: reward.bradley_terry(m)):
        some = margin[:5]
        total = lambda m, loss=loss: loss(m, beta).sum()  # noqa: E731
        np.testing.assert_allclose(jax.grad(total)(jnp.asarray(some)), differences(total, some), rtol=1e-6, atol=1e-9)
    assert np.isfinite(preference.dpo(jnp.array([-1e6, 1e6]), 1.0)).all()


def test_what_holds_rewards_back(float64):
    rng = np.random.default_rng(1)
    rewards, lengths = rng.normal(size=(3, 4)), rng.integers(1, 30, (3, 4)).astype(float)
    there = np.ones((3, 4))
    there[2, 1:] = 0
    kept = there > 0
    of_zero, correlation = (
        lambda r: reward.of_zero(r, jnp.asarray(there)),
        lambda r: reward.correlation(r, jnp.asarray(lengths), jnp.asarray(there)),
    )
    assert float(of_zero(rewards)) == pytest.approx(rewards[kept].mean() ** 2, rel=1e-12)
    assert float(correlation(rewards)) == pytest.approx(np.corrcoef(rewards[kept], lengths[kept])[0, 1], rel=1e-12)
    for function in (of_zero, correlation):
        slope = jax.grad(function)(jnp.asarray(rewards))
        np.testing.assert_allclose(slope, differences(function, rewards), rtol=1e-6, atol=1e-9)
        assert not slope[~kept].any()
    flat = jax.grad(correlation)(jnp.ones((3, 4)))
    assert float(correlation(jnp.ones((3, 4)))) == 0 and np.isfinite(flat).all()


# The stages


@pytest.fixture(scope="module")
def base(mesh, tokenizer, tmp_path_factory) -> Run:
    """A run with an `sft`, and pairs whose better answer says that there are cats."""
    c = tiny_config()
    c.model.layers, c.data.sequence_length, c.train.microbatch = 1, T, 4
    c.checkpoint.every, c.optimizer.warmup = 100, 0.0
    c.reward.loss, c.reward.steps, c.reward.batch, c.reward.learning_rate = "bradley_terry", 12, 4, 0.01
    c.preference.loss, c.preference.steps, c.preference.batch, c.preference.learning_rate = "dpo", 6, 4, 0.01
    run = run_of(c, tmp_path_factory.mktemp("preferences") / "run", mesh, tokenizer)
    with checkpoint.Checkpoints(run.workdir, "sft") as store:
        meta = {"steps": 1, "parent": None, "tokenizer": run.tokenizer_sha256, "lora": None}
        store.save(1, drawn_params(run.model, run.vocab_size), {"count": jnp.zeros(1)}, meta)
        store.wait()
    words = ["the mat", "a dog", "How many", "cats are there", "The dog sat"]
    records = [pair(f"{a} cat {b}", f"{a} {b}", split="test" if a == b else "train") for a in words for b in words]
    (run.workdir / "data/pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return run


def lines_of(run: Run, stage: str) -> list[dict]:
    return [json.loads(line) for line in (run.workdir / stage / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def rewarded(base) -> Run:
    reward.train(base, lineage.starting_params(base, "reward"))
    return base


def test_a_reward_model_learns_a_planted_taste_and_scores_what_it_has_not_seen(rewarded, tokenizer):
    lines = lines_of(rewarded, "reward")
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)  # a head of zeros
    assert lines[-1]["val_accuracy"] >= 0.8 and lines[-1]["val_loss"] < 0.5
    model = RewardModel(rewarded)
    held_out = [r for r in pairs.read([rewarded.workdir / "data/pairs.jsonl"]) if r["split"] == "test"]
    ids = [pairs.rendered(tokenizer, r, side, T)[0] for r in held_out for side in ("chosen", "rejected")]
    scores = model.score(ids)
    margins = scores.reshape(-1, 2) @ [1, -1]
    assert np.mean(margins) == pytest.approx(lines[-1]["val_margin"], abs=1e-4)  # packed or alone: the same rewards
    np.testing.assert_allclose(model.score(ids[::-1]), scores[::-1], atol=1e-6)
    with pytest.raises(UserError, match=f"reads {T} tokens"):
        model.score([[1] * (T + 1)])


def test_a_reward_model_writes_nothing_and_is_read_by_its_own_tokenizer_only(rewarded, mesh, tmp_path):
    from llm_jax.runs import note
    from llm_jax.tokenizer.sentencepiece import train_tokenizer

    assert rewarded.trained() == ["sft", "reward"] and rewarded.writing() == ["sft"] and rewarded.choose() == "sft"
    with pytest.raises(UserError, match="'reward' trains no model that writes"):
        rewarded.choose("reward")
    note(rewarded.workdir, rewarded.config)
    other = run_of(rewarded.config, tmp_path / "other", mesh, train_tokenizer(["a cat " * 99, "the dog " * 99], 300))
    with pytest.raises(UserError, match=r"reads with another tokenizer than .*other; train one on a run that shares"):
        RewardModel(other, f"{rewarded.workdir}:reward")
    with pytest.raises(UserError, match=r"'sft' of .* is no reward model"):
        RewardModel(rewarded, f"{rewarded.workdir}:sft")


def test_dpo_moves_away_from_its_parent_towards_what_is_preferred(base):
    params = lineage.starting_params(base, "preference")
    preference.train(base, params)
    lines = lines_of(base, "preference")
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)  # at the parent, whatever the answers
    assert lines[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert lines[-1]["val_margin"] > 0.5 and lines[-1]["val_accuracy"] >= 0.8
    assert lineage.source_of(base, "rl").stage == "preference"


@pytest.mark.slow
def test_with_an_adapter_both_start_at_their_parent(base, mesh, tokenizer, tmp_path):
    c = base.config.copy_and_resolve_references()
    c.lora.rank, c.lora.frozen, c.lora.learning_rate = 2, "int8", 0.01
    c.reward.steps = c.preference.steps = 2
    c.preference.loss, c.reward.sum_to_zero, c.reward.length_control = "ipo", 0.1, 0.1
    run = run_of(c, tmp_path / "run", mesh, tokenizer)
    for name in ("sft", "data/pairs.jsonl"):
        (run.workdir / name).symlink_to(base.workdir / name)
    for stage, module in (("reward", reward), ("preference", preference)):
        trained = module.train(run, lineage.starting_params(run, stage))
        loaded = run.load_params(stage)
        assert (scalar_head.NAME in loaded) == (stage == "reward") and trained.keys() == loaded.keys()
    assert lines_of(run, "reward")[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert lines_of(run, "preference")[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert lines_of(run, "preference")[0]["loss"] == pytest.approx(1 / (4 * c.preference.beta**2), rel=1e-4)


def test_what_has_nothing_to_do_or_to_learn_from_is_refused(context):
    with pytest.raises(UserError, match=r"reward\.loss is 'none'"):
        reward.check(context, ["reward"])
    context.config.preference.loss, context.config.pairs.files = "dpo", "nowhere/*.jsonl"
    with pytest.raises(UserError, match=r"no file matches pairs.files='nowhere/\*.jsonl'"):
        preference.check(context, ["preference"])
    (context.workdir / "data/prepared.json").write_text("{}")
    context.config.pairs.files = ""
    with pytest.raises(UserError, match=r"data/pairs.jsonl is not there.*data.pairs"):
        preference.check(context, ["preference"])
