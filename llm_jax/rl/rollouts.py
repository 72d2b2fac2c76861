"""The batches of RL: groups of rollouts sampled from the current parameters, graded, and dealt out to updates."""

import collections
import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from llm_jax import checkpoint, sharding
from llm_jax.config import UserError
from llm_jax.files import replace, whole_lines
from llm_jax.model import lora, scalar_head
from llm_jax.prompts import Outcome, prompts_for
from llm_jax.rl import instruments
from llm_jax.rl.advantages import advantages, overlong
from llm_jax.rl.algorithms import Algorithm
from llm_jax.rl.critic import Critic
from llm_jax.rl.episodes import play
from llm_jax.rl.loss import aggregation
from llm_jax.rl.packing import pack_rollouts
from llm_jax.rl.reward_model import RewardModel
from llm_jax.rl.rewards import Parts, rewards_of, total
from llm_jax.rl.scoring import Scorer
from llm_jax.runs import Run
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.requests import Completion, Request
from llm_jax.tables import known
from llm_jax.training import loop


class PromptStream:
    """An endless stream of prompts in the configured shares: the n-th prompt is a function of (seed, n)."""

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

    def at(self, number: int) -> dict:
        """The prompt of a number in the stream."""
        rng = random.Random(f"{self.seed}/rl/{number}")
        return rng.choice(rng.choices(self._pools, self._shares)[0])

    def next(self) -> tuple[int, dict]:
        """(the prompt's number in the stream, the prompt)."""
        number, self.cursor = self.cursor, self.cursor + 1
        return number, self.at(number)


@dataclasses.dataclass
class Rollout:
    """One sampled completion of one prompt, and what it is trained with."""

    number: int  # of its prompt in the stream
    sample: int  # of its group
    request: Request
    completion: Completion
    outcome: Outcome
    graded: float = 0.0  # by the named reward alone
    reward: float = 0.0
    advantage: float | list[float] = 0.0  # by a value head: of each token after the prompt
    ref_logp: list[float] | None = None  # of each token after the prompt, by the reference
    old_logp: list[float] | None = None  # ... by the trainer when the update began
    values: list[float] | None = None  # ... by the value head then
    returns: list[float] | None = None  # ... which it should have been, by what was earned

    def state(self) -> dict[str, Any]:
        """JSON; prompt and request follow from the number. What was graded is not graded again."""
        kept = {name: getattr(self, name) for name in KEPT}
        graded = {name: value for name, value in vars(self.outcome).items() if name != "prompt"}
        return {**kept, "completion": vars(self.completion), "outcome": graded}


KEPT = ("number", "sample", "graded", "reward", "advantage", "ref_logp", "old_logp", "values", "returns")


@dataclasses.dataclass
class Batch:
    """Rollouts in groups after each other, with the figures of all that were drawn for them."""

    rollouts: list[Rollout]
    figures: dict[str, float]
    step: int  # at which they were sampled

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "figures": self.figures, "rollouts": [r.state() for r in self.rollouts]}

    def columns(self, name: str) -> list:
        return [getattr(rollout, name) for rollout in self.rollouts]


class Rollouts(loop.Batches):
    """A batch of rollouts serves `rl.updates` steps, each of which takes one of its `rl.minibatches` parts in turn.

    With `rl.lag` the batch that is trained on was sampled so many batches before: those in flight wait in a queue. What
    is in use or waits is part of the state, so a run that is stopped anywhere goes on exactly.
    """

    def __init__(self, run: Run, engine: Engine, algorithm: Algorithm, score: Scorer, reference: Any = None):
        """`reference` takes the current parameters to those of the reference, where the algorithm has a KL."""
        rl: ConfigDict = run.config.rl
        self.rl, self.engine, self.tokenizer, self.algorithm = rl, engine, run.tokenizer, algorithm
        self.score, self.reference = score, reference
        self.critic = Critic(run, algorithm) if algorithm.advantage == "gae" else None
        self.model = RewardModel(run, rl.reward_model) if rl.reward == "model" else None
        self.length, self.adapted = run.config.data.sequence_length, run.config.lora.rank > 0
        self.mesh, self.split = run.mesh, (run.config.train.microbatch, sharding.shards(run.mesh, "batch"))
        self.stream = PromptStream(prompts_for(run.config, run.workdir, "train"), dict(rl.tasks), run.config.seed)
        self.path, self.transcripts = Path(run.workdir) / "rl" / "transcripts.jsonl", run.config.log.transcripts
        self.queue: collections.deque[Batch] = collections.deque()
        self.batch: Batch | None = None  # in use
        self.sums: dict[str, int] = {}  # checksums of the parameters of the last step

    # What a checkpoint holds

    def state(self):
        waiting = [batch.state() for batch in self.queue]
        used = self.batch.state() if self.batch else None
        return {"cursor": self.stream.cursor, "sums": self.sums, "batch": used, "queue": waiting}

    def restore(self, state):
        self.stream.cursor, self.sums = state["cursor"], state["sums"]
        self.batch = self.restored_batch(state["batch"]) if state["batch"] else None
        self.queue = collections.deque(map(self.restored_batch, state["queue"]))

    def restored_batch(self, state: dict[str, Any]) -> Batch:
        return Batch(list(map(self.restored, state["rollouts"])), state["figures"], state["step"])

    def restored(self, state: dict[str, Any]) -> Rollout:
        prompt = self.stream.at(state["number"])
        made = {
            "request": self.request(prompt, state["number"], state["sample"]),
            "completion": Completion(**state["completion"]),
            "outcome": Outcome(prompt, **state["outcome"]),
        }
        return Rollout(**{**state, **made})

    # Steps

    def next(self, step: int, params):
        """(the rows of this step, figures): of fresh rollouts where the batch before has served its updates."""
        params, head = scalar_head.parted(params) if self.critic else (params, {})
        update, figures = step % self.rl.updates, self.moved(params)
        if update == 0:
            while len(self.queue) <= self.rl.lag:
                self.queue.append(self.sample(step, params))
            self.batch = self.queue.popleft()
            if self.rl.updates > 1 or self.algorithm.correct != "none" or self.critic:
                figures |= self.before_update(params, head)
            if jax.process_index() == 0:
                self._write_transcripts(step)
            figures |= self.batch.figures
        if self.rl.lag:
            figures["lag"] = (step - update - self.batch.step) // self.rl.updates
        rows = self.packed(update)
        if update == self.rl.updates - 1:
            self.batch = None
        return rows, figures

    def moved(self, params) -> dict[str, float]:
        """The share of the trained arrays in which a bit is another one than at the last step."""
        before, self.sums = self.sums, checkpoint.checksums(lora.adapters(params) if self.adapted else params)
        changed = [self.sums[name] != before[name] for name in before]
        return {"moved": sum(changed) / len(changed)} if changed else {}

    def sample(self, step: int, params) -> Batch:
        """As many groups as a batch has. Where the algorithm is dynamic, groups without a right or a wrong one are
        replaced by those of other prompts, up to `rl.resample` times; what is then still lacking, they fill."""
        wanted = self.rl.batch // self.rl.group
        drawn, parts = self.draw(params, wanted)
        for _ in range(self.rl.resample if self.algorithm.dynamic else 0):
            lacking = wanted - sum(not same(group) for group in self.groups(drawn))
            if lacking <= 0:
                break
            more, of_more = self.draw(params, lacking)
            drawn, parts = drawn + more, {name: np.concatenate([parts[name], of_more[name]]) for name in parts}
        together = self.rl.group if self.rl.group > 1 else len(drawn)  # a lone rollout is compared with all others
        figures = instruments.figures(
            [r.outcome for r in drawn], [r.completion for r in drawn], parts, together
        )  # of all, or the reward would be that of prompts that are neither too easy nor too hard
        if self.algorithm.dynamic:
            figures["groups_drawn"] = len(drawn) // self.rl.group
            drawn = [rollout for group in sorted(self.groups(drawn), key=same)[:wanted] for rollout in group]
        if self.reference is not None:
            figures["kl_reference"] = divergence(drawn)
        if not self.critic:
            of_group = advantages(np.array([r.reward for r in drawn], np.float32).reshape(wanted, -1),
                                  self.algorithm.advantage)  # fmt: skip
            for rollout, advantage in zip(drawn, of_group.ravel().tolist(), strict=True):
                rollout.advantage = advantage
        return Batch(drawn, figures, step)

    def groups(self, rollouts: list[Rollout]) -> list[list[Rollout]]:
        return [rollouts[at : at + self.rl.group] for at in range(0, len(rollouts), self.rl.group)]

    def draw(self, params, groups: int) -> tuple[list[Rollout], Parts]:
        """Groups of the next prompts, sampled and graded, and the parts of their rewards."""
        asked = []
        for _ in range(groups):
            number, prompt = self.stream.next()
            asked += [(number, s, prompt, self.request(prompt, number, s)) for s in range(self.rl.group)]
        requests = [request for *_, request in asked]
        completions, outcomes = play(self.engine, params, [prompt for *_, prompt, _ in asked], requests)
        rollouts = [
            Rollout(number, sample, request, done, outcome)
            for (number, sample, _, request), done, outcome in zip(asked, completions, outcomes, strict=True)
        ]
        if self.reference is not None:
            scored = self.score(self.reference(params), requests, completions)
            for rollout, logp in zip(rollouts, scored, strict=True):
                rollout.ref_logp = logp.tolist()
        parts = self.rewards(rollouts)
        for rollout, graded, reward in zip(rollouts, parts["answer"].tolist(), total(parts).tolist(), strict=True):
            rollout.graded, rollout.reward = graded, reward
        return rollouts, parts

    def request(self, prompt: dict, number: int, sample: int) -> Request:
        ids = self.tokenizer.render(prompt["messages"], for_generation=True).ids
        seed = (self.stream.seed * 1_000_003 + number) * self.rl.group + sample
        return Request(ids, seed, 1.0, self.rl.max_new_tokens)

    def rewards(self, rollouts: list[Rollout]) -> Parts:
        """The parts of the rewards; those of the algorithm, for length and for leaving the reference, come last."""
        outcomes, seeds = [r.outcome for r in rollouts], [r.request.seed for r in rollouts]
        answers = [r.request.prompt + r.completion.ids for r in rollouts]
        scores = self.model.score(answers) if self.model else None
        parts = rewards_of(outcomes, seeds, self.rl.reward, self.rl.no_tools, self.rl.call_price, scores)
        algorithm, longest = self.algorithm, self.rl.max_new_tokens
        if algorithm.overlong == "shape":
            buffer = max(1, round(algorithm.overlong_share * longest))
            parts["overlong"] = overlong([o.tokens for o in outcomes], longest, buffer).astype(np.float32)
        if algorithm.kl != "none" and algorithm.kl_in == "reward":
            parts["kl"] = np.array([-algorithm.kl_weight * log_ratios(r).sum() for r in rollouts], np.float32)
        return parts

    def before_update(self, params, head) -> dict[str, float]:
        """Notes the trainer's own log-probabilities of the batch, and how far off the sampler's are; with a value head,
        also its values and what follows from them."""
        rollouts, figures = self.batch.rollouts, {}
        asked = self.batch.columns("request"), self.batch.columns("completion")
        if self.critic:
            scored, values = self.score.with_values(params | head, *asked)
            figures = self.judge(values)
        else:
            scored = self.score(params, *asked)
        for rollout, logp in zip(rollouts, scored, strict=True):
            rollout.old_logp = logp.tolist()
        off = np.concatenate([(s - r.completion.sampling_logprob)[sampled(r)]
                              for s, r in zip(scored, rollouts, strict=True)])  # fmt: skip
        size, k3 = np.abs(off), np.expm1(off) - off
        gap = {"logp_gap_max": float(size.max()), "logp_gap": float(size.mean()), "logp_gap_k3": float(k3.mean())}
        return figures | gap

    def judge(self, values: list[np.ndarray]) -> dict[str, float]:
        """Notes the values of the batch's tokens, their advantages and returns -> figures of the values."""
        rollouts = self.batch.rollouts
        earned = [token_rewards(r, self.algorithm) for r in rollouts]
        better, returns, figures = self.critic(earned, values, self.weights(rollouts))
        for rollout, *noted in zip(rollouts, values, better, returns, strict=True):
            rollout.values, rollout.advantage, rollout.returns = (x.tolist() for x in noted)
        return figures

    def weights(self, rollouts: list[Rollout]) -> list[list[int]]:
        """Of each rollout, 1 at the tokens after its prompt that are trained on."""
        masked = self.algorithm.overlong == "mask"
        return [[0] * len(r.completion.ids) if masked and cut(r) else r.completion.sampled_mask for r in rollouts]

    def packed(self, update: int) -> dict[str, np.ndarray]:
        """The rows of an update: of its part of the batch, whole groups."""
        size, part = len(self.batch.rollouts) // self.rl.minibatches, update % self.rl.minibatches
        rollouts, algorithm = self.batch.rollouts[part * size :][:size], self.algorithm
        weights = self.weights(rollouts)
        columns: dict[str, Any] = {"weights": weights}
        if algorithm.aggregate != "token":
            columns["scale"] = scales(algorithm, weights, self.rl.group, self.rl.max_new_tokens)
        if rollouts[0].old_logp is not None:
            columns["old_logp"] = [r.old_logp for r in rollouts]
            columns["sampler_logp"] = [r.completion.sampling_logprob for r in rollouts]
        if self.critic:
            columns |= {"old_values": [r.values for r in rollouts], "returns": [r.returns for r in rollouts]}
        if algorithm.kl != "none" and algorithm.kl_in == "loss":
            columns["ref_logp"] = [r.ref_logp for r in rollouts]
        rows = pack_rollouts(
            [r.request for r in rollouts],
            [r.completion for r in rollouts],
            [r.advantage for r in rollouts],
            self.length,
            self.tokenizer.pad,
            *self.split,
            self.rl.exact,
            **columns,
        )
        return sharding.own_part(self.mesh, rows, self.split[0])

    def _write_transcripts(self, step: int) -> None:
        """`log.transcripts` of each batch, the first of each prompt before all second ones; a resumed run drops those
        that it will write again."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [json.dumps(line) for line in whole_lines(self.path) if line["step"] <= step]
        for rollout in sorted(self.batch.rollouts, key=lambda rollout: rollout.sample)[: self.transcripts]:
            kept.append(
                json.dumps(
                    {
                        "step": step + 1,
                        "prompt": rollout.outcome.prompt["messages"][-1]["content"],
                        "answer": rollout.outcome.prompt["answer"],
                        "parts": [*rollout.outcome.before, *rollout.outcome.parts],
                        "reward": rollout.reward,
                    }
                )
            )
        replace(self.path, "\n".join(kept) + "\n")


def same(group: list[Rollout]) -> bool:
    """Whether all are right, or all wrong, whatever length and calls cost (DAPO, Yu et al. 2025, eq. 11)."""
    return len({rollout.graded for rollout in group}) == 1


def cut(rollout: Rollout) -> bool:
    """Whether it was still being written when its tokens ran out."""
    return rollout.completion.finish == "length"


def sampled(rollout: Rollout) -> np.ndarray:
    return np.array(rollout.completion.sampled_mask, bool)


def log_ratios(rollout: Rollout) -> np.ndarray:
    """log of the sampler's probability of each sampled token / the reference's."""
    return (np.array(rollout.completion.sampling_logprob) - rollout.ref_logp)[sampled(rollout)]


def token_rewards(rollout: Rollout, algorithm: Algorithm) -> np.ndarray:
    """Of each token after the prompt: what it costs to leave the reference there, where that is in the reward; the rest
    of the reward is earned by the last token that was sampled. Float64; the sum is the reward."""
    out, places = np.zeros(len(rollout.completion.ids)), np.flatnonzero(sampled(rollout))
    if not len(places):
        return out
    if algorithm.kl != "none" and algorithm.kl_in == "reward":
        out[places] = -algorithm.kl_weight * log_ratios(rollout)
    out[places[-1]] += rollout.reward - out.sum()
    return out


def divergence(rollouts: list[Rollout]) -> float:
    """KL(sampler || reference) in nats a token, estimated by k3."""
    k1 = np.concatenate([log_ratios(r) for r in rollouts])
    return float(np.mean(np.expm1(-k1) + k1))


def scales(algorithm: Algorithm, weights: list[list[int]], group: int, longest: int) -> np.ndarray:
    """Of each rollout: what its tokens' losses are multiplied by, so that the loop's mean over tokens is the
    algorithm's mean: scale x tokens of the batch / its count (`loss.aggregation`)."""
    lengths_N = np.array([sum(w) for w in weights])
    scale_N, count_N = aggregation(algorithm, lengths_N, group, longest)
    return scale_N * lengths_N.sum() / max(count_N.sum(), 1e-9)
