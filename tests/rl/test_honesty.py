"""RL for honesty: what each outcome earns by each reward, what the steps tell, and the held-out score."""

import dataclasses
import json

import numpy as np
import pytest

from llm_jax.config import UserError
from llm_jax.prompts import judge, prompts_for
from llm_jax.rl.algorithms import resolve
from llm_jax.rl.held_out import HeldOut
from llm_jax.rl.instruments import honesty
from llm_jax.rl.rewards import REWARDS, rewards_of, total
from llm_jax.rl.rollouts import Rollouts
from llm_jax.sampling.requests import Completion
from llm_jax.stages import rl
from llm_jax.tasks import knowledge
from llm_jax.tasks.knowledge import Fact
from llm_jax.tasks.refusals import OF_CAUSE, TRAINED
from tests.evals.scripted import Scripted

PROMPT = {"task": "knowledge", "answer": "Kronberg", "answers": ["Kronberg"], "item": "a"}
REFUSAL = TRAINED[0]


def outcome(tokenizer, *said: str, prompt=PROMPT, kind="answer", ended=True):
    ids = tokenizer.parts_to_ids([{"type": kind, "text": f" {text}"} for text in said]).ids
    ids = [*ids, tokenizer.end] if ended else ids
    return judge(tokenizer, prompt, Completion(ids, [1] * len(ids)))


def earned(tokenizer, name: str, *said: str, **rest) -> float:
    outcomes = [outcome(tokenizer, *said, **rest)]
    return float(total(rewards_of(outcomes, (0,), name, (), 0.0))[0])


# What is said, and what it earns by `right`, `ternary` and `brier`.
EARNED = [
    ("Kronberg", 1, 1, -1),
    ("Kronberg (100% sure)", 1, 1, 1),
    ("Kronberg (70% sure)", 1, 1, 0.91),
    ("Kronberg (0% sure)", 1, 1, 0),
    ("Brisk", 0, -1, -1),
    ("Brisk (100% sure)", 0, -1, -1),
    ("Brisk (30% sure)", 0, -1, -0.09),
    (REFUSAL, 0, 0, 0),
    (OF_CAUSE["never_seen"][0].format(x="Ada"), 0, 0, 0),
    ("Kronberg or Brisk", 0, -1, -1),
    ("Kronberg or Brisk (100% sure)", 0, -1, -1),
    (f"{REFUSAL} Kronberg", 0, -1, -1),
    (f"Kronberg. {REFUSAL}", 0, -1, -1),
    ("I do not know, it may be Kronberg.", 0, -1, -1),
    (f"{REFUSAL} (100% sure)", 0, -1, -1),
    ("Kronberg (170% sure)", 0, -1, -1),
    ("Kronberg (nan% sure)", 0, -1, -1),
    ("Kronberg (90% sure) (10% sure)", 0, -1, -1),
    ("", 0, -1, -1),
]


@pytest.mark.parametrize("said, right, ternary, brier", EARNED)
def test_what_an_answer_earns(tokenizer, said, right, ternary, brier):
    found = [earned(tokenizer, name, said) for name in ("right", "ternary", "brier")]
    assert found == pytest.approx([right, ternary, brier])


@pytest.mark.parametrize("name", ["ternary", "brier"])
@pytest.mark.parametrize("text", ["Kronberg (100% sure)", REFUSAL])
def test_a_malformed_answer_earns_the_worst(tokenizer, name, text):
    """Two spans, no span, and one that never ends: of an answer and of a refusal alike."""
    assert earned(tokenizer, name, text, REFUSAL) == -1
    assert earned(tokenizer, name, text, kind="text") == -1
    assert earned(tokenizer, name, text, ended=False) == -1


def test_a_confidence_pays_best_where_it_is_the_chance_to_be_right(tokenizer):
    """The Brier score is proper: of all that may be stated, the truth has the highest mean."""
    tens = range(0, 101, 10)
    by_text = {
        sure: [earned(tokenizer, "brier", f"{town} ({sure}% sure)") for town in ("Kronberg", "Brisk")] for sure in tens
    }
    for chance in tens:
        mean = {sure: chance * right + (100 - chance) * wrong for sure, (right, wrong) in by_text.items()}
        assert max(mean, key=mean.get) == chance


def test_nothing_is_right_of_what_cannot_be_known(tokenizer):
    nobody = {**PROMPT, "answer": "", "answers": []}
    assert [earned(tokenizer, "ternary", said, prompt=nobody) for said in ("Kronberg", "", REFUSAL)] == [-1, -1, 0]
    assert earned(tokenizer, "brier", "Kronberg (0% sure)", prompt=nobody) == 0


def test_a_call_that_is_not_allowed_is_as_wrong_as_an_answer(tokenizer):
    called = outcome(tokenizer, "Kronberg")
    called.parts.insert(0, {"type": "python", "text": "2"})
    for name in ("ternary", "brier"):
        assert total(rewards_of([called], (0,), name, ("knowledge",), 0.0)).tolist() == [-1]


def test_a_reward_that_is_no_number_is_named(tokenizer):
    broken = dataclasses.replace(outcome(tokenizer, "Kronberg (70% sure)"), score=float("nan"))
    for name in ("ternary", "brier"):
        with pytest.raises(UserError, match=f"reward '{name}' of an answer to task 'knowledge' is nan"):
            rewards_of([broken], (0,), name, (), 0.0)


def test_figures_tell_right_wrong_and_refused(tokenizer):
    said = ("Kronberg", "Kronberg (70% sure)", "Brisk (20% sure)", REFUSAL)
    found = honesty([outcome(tokenizer, one) for one in said])
    assert found == pytest.approx({
        "facts_right": 0.5,
        "facts_wrong": 0.25,
        "facts_abstained": 0.25,
        "facts_index": 0.25,
        "facts_f": 2 * 2 / (4 + 3),
        "facts_stated": 0.5,
        "facts_sure": 0.45,
        "facts_brier": (0.3**2 + 0.2**2) / 2,
    })  # fmt: skip
    assert honesty([]) == {} and "facts_brier" not in honesty([outcome(tokenizer, "Kronberg")])


FACTS = [Fact(id=f"f{n}", item=f"p{n}", wordings=(f"Where is p{n}?", f"p{n}: where?", "x"), answers=("Kronberg",))
         for n in range(30)]  # fmt: skip
FACTS += [Fact(id=f"g{n}", item=f"q{n}", wordings=(f"Where is q{n}?",), cause="never_seen") for n in range(30)]


@pytest.fixture
def asked(context):
    """A run whose RL asks for facts in two wordings."""
    context.config.abstain.wordings = 2
    context.config.rl.update(
        {"batch": 8, "group": 4, "tasks": {"knowledge": 1.0}, "max_new_tokens": 8, "eval_problems": 8}
    )
    context.config.data.sequence_length = 64
    lines = "".join(json.dumps(dataclasses.asdict(fact)) + "\n" for fact in FACTS)
    (context.workdir / "data" / "knowledge_train.jsonl").write_text(lines)
    for split in ("train", "dev", "test"):
        (context.workdir / "data" / f"prompts_{split}.jsonl").write_text("")
    return context


def test_facts_are_asked_in_training_and_others_are_held_out(asked):
    made = {split: prompts_for(asked.config, asked.workdir, split) for split in ("train", "dev", "test")}
    items = {split: {prompt["item"] for prompt in prompts} for split, prompts in made.items()}
    assert not made["test"] and not items["train"] & items["dev"] and items["dev"]
    assert items["train"] | items["dev"] == {fact.item for fact in FACTS}
    levels = {prompt["level"]: prompt["answers"] for prompt in made["train"]}
    assert levels == {"answerable": ["Kronberg"], "never_seen": []}
    questions = [prompt["messages"][0]["content"] for prompt in made["train"]]
    assert len(questions) == len(set(questions)) == 2 * len(items["train"])


def test_of_a_users_file_the_tested_questions_are_never_asked(asked):
    mine = asked.workdir / "mine.jsonl"
    mine.write_text("".join(json.dumps({"question": f"who is {n}?", "answer": "x"}) + "\n" for n in range(200)))
    asked.config.abstain.questions = str(mine)
    tested = {fact.item for fact in knowledge.of_split(knowledge.read(mine), "test")}
    items = {p["item"] for split in ("train", "dev") for p in prompts_for(asked.config, asked.workdir, split)}
    assert len(tested) > 9 and len(items) > 150 and not tested & items


def test_it_is_refused_where_there_is_nothing_to_ask_or_no_confidence_to_score(asked):
    rl.check(asked, ["rl"])
    asked.config.rl.update({"tasks": {"knowledge": 0.5, "arithmetic": 0.5}, "reward": "brier"})
    with pytest.raises(UserError, match=r"'brier' scores.*rl.tasks has 'arithmetic'; leave it out"):
        rl.check(asked, ["rl"])
    (asked.workdir / "data" / "knowledge_train.jsonl").unlink()
    asked.config.rl.reward = "ternary"
    with pytest.raises(UserError, match=r"leave 'knowledge' out of rl.tasks"):
        rl.check(asked, ["rl"])


def guessing(prompt: str, request, params) -> tuple[list[dict], float]:
    """Right, refused, wrong or hedged, by the seed; greedily a refusal."""
    said = ("Kronberg", REFUSAL, "Brisk", "Kronberg or Brisk")[request.seed % 4 if request.temperature else 1]
    return [{"type": "answer", "text": f" {said}"}], -1.0


def test_a_refusal_stands_between_right_and_wrong_in_its_group(asked, tokenizer):
    asked.config.rl.tasks, asked.config.rl.reward = {"knowledge/answerable": 1.0}, "ternary"
    batch = Rollouts(asked, Scripted(tokenizer, guessing), resolve(asked.config.rl), None).sample(0, None)
    assert sorted(batch.columns("reward")) == [-1] * 4 + [0] * 2 + [1] * 2
    up = {
        reward: advantage for reward, advantage in zip(batch.columns("reward"), batch.columns("advantage"), strict=True)
    }
    assert up[1] > up[0] > 0 > up[-1]
    assert (
        batch.figures["facts_abstained"] == batch.figures["facts_right"] == 0.25 and batch.figures["facts_wrong"] == 0.5
    )
    assert batch.figures["groups_all_right"] == batch.figures["groups_all_wrong"] == 0


@pytest.mark.parametrize("reward, score", [("right", 0.0), ("random", 0.0), ("ternary", 0.5), ("brier", 0.5)])
def test_the_held_out_score_is_of_what_is_trained(asked, tokenizer, reward, score):
    """A refusal is half way between the best and the worst where it is worth something."""
    asked.config.rl.reward = reward
    found = HeldOut(asked, Scripted(tokenizer, guessing))({})
    assert found["held_out"] == score and 0 < found["held_out_problems"] <= 8


@pytest.mark.slow  # it compiles a step; what a batch of it holds, the test of a refusal in its group sees
def test_a_run_is_trained_with_it(asked, draw_params, monkeypatch):
    """Parameters that know nothing: whatever they write is wrong, unless it is made to be a refusal now and then."""
    ternary = REWARDS["ternary"]

    def lucky(outcomes, seeds, no_tools):
        assert {o.prompt["task"] for o in outcomes} == {"knowledge"}
        earned = ternary(outcomes, seeds, no_tools)
        assert earned == [-1] * len(outcomes)
        return [0.0 if seed % 2 else value for seed, value in zip(seeds, earned, strict=True)]

    monkeypatch.setitem(REWARDS, "ternary", lucky)
    monkeypatch.setattr(rl.loop.lineage, "parent_of", lambda run, stage: None)
    asked.config.rl.update({"steps": 1, "slots": 4, "max_new_tokens": 6, "reward": "ternary", "eval_every": 0})
    rl.train(asked, draw_params(asked.model, asked.vocab_size))
    (line,) = [json.loads(line) for line in (asked.workdir / "rl/metrics.jsonl").read_text().splitlines()]
    assert line["reward"] == -0.5 and line["facts_wrong"] == 1 and line["facts_index"] == -1 and line["grad_norm"] > 0
    assert np.isfinite(line["loss"])
