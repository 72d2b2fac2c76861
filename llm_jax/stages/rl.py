"""Reinforcement learning on checkable problems: sample a group for each prompt, grade, push up what did better.

REINFORCE with the group's mean reward as the baseline (`rl.advantage = "std"`: GRPO's scaling), written as a ratio to
the sampler's own probabilities: each batch is used once, so the ratio is 1 and its gradient is REINFORCE's. Sampled at
temperature 1 from the full distribution; token-mean over the whole batch, as in DAPO.
"""

import contextlib
import json
import math
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from llm_jax import sharding
from llm_jax.config import UserError
from llm_jax.files import replace, whole_lines
from llm_jax.model import transformer
from llm_jax.prompts import Outcome, judge_all, load_prompts
from llm_jax.runs import Run
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.loaded import engine_for
from llm_jax.sampling.requests import Completion, Request
from llm_jax.stages import adapter
from llm_jax.tables import known
from llm_jax.tasks.table import FAMILIES
from llm_jax.tools.table import TOOLS, Toolbox
from llm_jax.training import loop, losses
from llm_jax.training.optimizer import adamw

ROW_BUCKET = 64  # rows of a training batch are padded to a multiple of this: few shapes
KEPT_TRANSCRIPTS = 4  # of each step


def advantages(rewards_PG: np.ndarray, kind: str) -> np.ndarray:
    """Reward minus its group's mean; 'std' divides by the group's deviation (GRPO, Shao et al. 2024)."""
    centred = rewards_PG - rewards_PG.mean(axis=1, keepdims=True)
    return centred / (rewards_PG.std(axis=1, ddof=1, keepdims=True) + 1e-6) if kind == "std" else centred


def token_losses(logp_BT, old_logp_BT, advantage_BT):
    """The per-token policy loss: minus the advantage times the ratio to the probability it was sampled with."""
    return -jnp.exp(logp_BT - old_logp_BT) * advantage_BT


def policy_loss(run: Run):
    """(params, batch) -> (sum of token losses, sampled tokens, metrics)."""
    model, vocab_size, config = run.model, run.vocab_size, run.config

    def loss(params, batch):
        hidden_BTD, *_ = transformer.apply(
            model, vocab_size, params, batch["tokens"], batch["positions"], batch["segments"]
        )
        head_DV = transformer.head_DV(model, params)
        logp_BT = losses.logprobs_BT(
            hidden_BTD, head_DV, batch["targets"], vocab_size, config.train.loss_chunk, run.model.logit_cap
        )
        weights_BT = batch["weights"]
        per_token_BT = token_losses(logp_BT, batch["old_logp"], batch["advantages"])
        gap_BT = jnp.abs(logp_BT - batch["old_logp"]) * weights_BT
        metrics = {"logp_gap_max": gap_BT.max(), "logp_gap": gap_BT.sum()}
        return jnp.sum(per_token_BT * weights_BT), weights_BT.sum(), metrics

    return loss


def check(run: Run, stages: list[str]) -> None:
    """Raises UserError for families of rl.no_tools that are none, and for shares of tasks that have no prompts here."""
    rl = run.config.rl
    there = (run.workdir / "data" / "prompts_train.jsonl").exists()
    prompts = load_prompts(run.workdir, "train") if there else []
    for name in rl.no_tools:
        known("task family of rl.no_tools", name, sorted({*FAMILIES, *(p["task"] for p in prompts)}))
    if there or not any(rl.tasks.values()):
        PromptStream(prompts, dict(rl.tasks), run.config.seed)


class PromptStream:
    """An endless stream of train prompts in the configured shares: the n-th prompt is a function of (seed, n)."""

    def __init__(self, prompts: list[dict], shares: dict[str, float], seed: int):
        self.seed, self.cursor = seed, 0
        self._pools, self._shares = [], []
        for name, share in shares.items():
            family, _, level = name.partition("/")
            pool = [p for p in prompts if p["task"] == family and level in ("", p["level"])]
            if not pool and share > 0:
                there = {p["task"] for p in prompts} | {f"{p['task']}/{p['level']}" for p in prompts}
                known("task of rl.tasks", name, sorted(there))
            self._pools.append(pool)
            self._shares.append(share)
        if not sum(self._shares):
            raise UserError("rl.tasks is empty; name at least one task and its share, as in {'arithmetic': 1.0}")

    def next(self) -> tuple[int, dict]:
        """(the prompt's number in the stream, the prompt)."""
        number, self.cursor = self.cursor, self.cursor + 1
        rng = random.Random(f"{self.seed}/rl/{number}")
        return number, rng.choice(rng.choices(self._pools, self._shares)[0])


class Rollouts(loop.Batches):
    """Each step's batch: groups of completions sampled from the current parameters, graded and packed."""

    def __init__(self, run: Run, engine: Engine):
        rl: ConfigDict = run.config.rl
        self.rl, self.engine, self.tokenizer = rl, engine, run.tokenizer
        self.length, self.mesh = run.config.data.sequence_length, run.mesh
        self.split = run.config.train.microbatch, sharding.shards(run.mesh, "batch")
        self.stream = PromptStream(load_prompts(run.workdir, "train"), dict(rl.tasks), run.config.seed)
        self.path = Path(run.workdir) / "rl" / "transcripts.jsonl"

    def state(self):
        return {"cursor": self.stream.cursor}

    def restore(self, state):
        self.stream.cursor = state["cursor"]

    def next(self, step: int, params):
        """Fresh rollouts of the current parameters."""
        prompts, requests = self.requests()
        completions = self.engine.generate(params, requests)
        outcomes = judge_all(self.tokenizer, prompts, completions)
        rewards_PG = np.array([self.reward(o) for o in outcomes], np.float32).reshape(-1, self.rl.group)
        advantage = advantages(rewards_PG, self.rl.advantage).ravel()
        if jax.process_index() == 0:
            self._write_transcripts(step, outcomes)
        batch = pack_rollouts(requests, completions, advantage, self.length, self.tokenizer.pad, *self.split)
        return sharding.own_part(self.mesh, batch, self.split[0]), figures(outcomes, completions, rewards_PG)

    def requests(self) -> tuple[list[dict], list[Request]]:
        prompts, requests = [], []
        for _ in range(self.rl.batch // self.rl.group):
            number, prompt = self.stream.next()
            ids = self.tokenizer.render(prompt["messages"], for_generation=True).ids
            for sample in range(self.rl.group):
                seed = (self.stream.seed * 1_000_003 + number) * self.rl.group + sample
                requests.append(Request(ids, seed, 1.0, self.rl.max_new_tokens))
                prompts.append(prompt)
        return prompts, requests

    def reward(self, outcome: Outcome) -> float:
        """1 for a right answer, 0 for any other, and for a call where the problem is to be solved without tools."""
        return float(outcome.right and not (outcome.prompt["task"] in self.rl.no_tools and outcome.has(*TOOLS)))

    def _write_transcripts(self, step: int, outcomes: list[Outcome]) -> None:
        """A few of each step, one of each of the first prompts; a resumed run drops those it will write again."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [json.dumps(line) for line in whole_lines(self.path) if line["step"] <= step]
        for outcome in outcomes[:: self.rl.group][:KEPT_TRANSCRIPTS]:
            kept.append(
                json.dumps(
                    {
                        "step": step + 1,
                        "prompt": outcome.prompt["messages"][-1]["content"],
                        "answer": outcome.prompt["answer"],
                        "parts": outcome.parts,
                        "reward": self.reward(outcome),
                    }
                )
            )
        replace(self.path, "\n".join(kept) + "\n")


def figures(outcomes: list[Outcome], completions: list[Completion], rewards_PG: np.ndarray) -> dict[str, float]:
    """What a step logs of its rollouts. Entropy is estimated by the sampled tokens' mean -log p, in nats."""
    sampled = [p for c in completions for p, m in zip(c.sampling_logprob, c.sampled_mask, strict=True) if m]
    means = rewards_PG.mean(axis=1)
    return {
        "reward": float(rewards_PG.mean()),
        "tokens": sum(o.tokens for o in outcomes),
        "completion_length": float(np.mean([o.tokens for o in outcomes])),
        "thinks": float(np.mean([o.has("think") for o in outcomes])),
        "calls": float(np.mean([o.has(*TOOLS) for o in outcomes])),
        "well_formed": float(np.mean([o.well_formed for o in outcomes])),
        "groups_all_right": float(np.mean(means == 1)),
        "groups_all_wrong": float(np.mean(means == 0)),
        "entropy": -float(np.mean(sampled)),
    }


def padded_rows(rows: int, microbatch: int, shards: int) -> int:
    """How many rows a batch of so many gets: whole microbatches, where it is more than one, that the mesh can split."""
    rows = whole(rows, math.lcm(ROW_BUCKET, shards))
    return whole(rows, microbatch) if 0 < microbatch < rows else rows


def whole(n: int, unit: int) -> int:
    """n, rounded up to a multiple of the unit."""
    return -(-n // unit) * unit


def first_fit(items: list[int], need: list[int], room: int) -> list[list[int]]:
    """Items in rows of `room` tokens, longest first, each in the first row that has the `need` of it left."""
    rows: list[list[int]] = []
    free: list[int] = []
    for i in sorted(items, key=lambda i: -need[i]):
        at = next((r for r, left in enumerate(free) if left >= need[i]), len(rows))
        if at == len(rows):
            rows.append([])
            free.append(room)
        rows[at].append(i)
        free[at] -= need[i]
    return rows


def pack_rollouts(
    requests: list[Request],
    completions: list[Completion],
    advantage,
    length: int,
    pad: int,
    microbatch: int = 0,
    shards: int = 1,
) -> dict:
    """Rollouts -> rows of the training step, several to a row (first fit, longest first).

    Weights are 1 on sampled tokens and 0 on prompts and on what tools wrote. Rollouts without an advantage, those of
    groups that were all right or all wrong, have no gradient, but count in the mean and in what is measured. Small
    microbatches have either the one kind or the other.
    """
    need = [len(request.prompt) + len(done.ids) for request, done in zip(requests, completions, strict=True)]
    if max(need) > length + 1:
        raise UserError(f"a rollout of {max(need)} tokens does not fit a row of {length}: lower rl.max_new_tokens")
    moving, still = ([i for i in range(len(need)) if bool(advantage[i]) == moves] for moves in (True, False))
    rows = first_fit(moving, need, length + 1)
    if 0 < microbatch < ROW_BUCKET:
        rows += [[]] * (whole(len(rows), microbatch) - len(rows))
    rows += first_fit(still, need, length + 1)
    B = padded_rows(max(1, len(rows)), microbatch, shards)
    out = {name: np.zeros((B, length + 1), np.int32) for name in ("tokens", "segments", "positions")}
    out["tokens"][:] = pad
    out |= {name: np.zeros((B, length + 1), np.float32) for name in ("weights", "old_logp", "advantages")}
    for r, members in enumerate(rows):
        at = 0
        for number, i in enumerate(members, 1):
            prompt, done = requests[i].prompt, completions[i]
            end = at + len(prompt) + len(done.ids)
            out["tokens"][r, at:end] = prompt + done.ids
            out["segments"][r, at:end], out["positions"][r, at:end] = number, np.arange(end - at)
            written = slice(at + len(prompt), end)
            out["weights"][r, written], out["old_logp"][r, written] = done.sampled_mask, done.sampling_logprob
            out["advantages"][r, written] = advantage[i]
            at = end
    inputs = {name: out[name][:, :-1] for name in ("tokens", "segments", "positions")}
    targets = {name: out[name][:, 1:] for name in ("weights", "old_logp", "advantages")}
    return {**inputs, **targets, "targets": out["tokens"][:, 1:]}


def train(run: Run, params):
    config = run.config
    warmup = max(1, config.rl.steps // 20)
    rate = lambda peak: lambda step: peak * jnp.minimum(1.0, (step + 1) / warmup)  # noqa: E731
    of_all = adamw(rate(config.rl.learning_rate), 0.0, run.axes())
    optimizer = optax.chain(optax.clip_by_global_norm(config.optimizer.clip or 1e9), of_all)
    with contextlib.closing(Toolbox(run.workdir)) as tools:
        engine = engine_for(run, config.rl.slots, tools)
        job = loop.Job(
            stage="rl",
            steps=config.rl.steps,
            optimizer=optimizer,
            loss=policy_loss(run),
            batches=Rollouts(run, engine),
        )
        return adapter.train(run, job, params, rate(config.lora.learning_rate))
