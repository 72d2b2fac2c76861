"""Canaries: a run that goes wrong says so, with its reason, while there is still something to save.

Each looks at the lines of the stage's metrics up to now. `rl.canaries` says what one that fires does: it warns, once,
or stops the run.
"""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm_jax.files import whole_lines

Lines = Sequence[dict[str, Any]]
FEW, SOME = 3, 8  # steps in a row
MOST_CUT = 0.3
LARGEST_GAP = 0.01  # k3, nats a token: what prime-rl's tests allow its runs
SURE = 3.0  # standard errors


class Fired(FloatingPointError):
    """A canary has stopped the run, which ends as with a loss that is not finite: exit code 1, one line."""


def unmoved(lines: Lines) -> str:
    """`moved` is the share of the parameters' arrays in which some bit is another one than a step before."""
    last = [line for line in lines if "moved" in line][-FEW:]
    if len(last) < FEW or any(line["moved"] or not line["grad_norm"] for line in last):
        return ""
    return f"no bit of the weights has changed in {FEW} steps that had a gradient: look at the learning rate"


def constant(lines: Lines) -> str:
    """Where all are right there is nothing left to learn, and nothing wrong."""
    last = [line for line in lines if "groups_same" in line][-SOME:]
    if len(last) < SOME or any(line["groups_same"] < 1 or line["groups_all_right"] == 1 for line in last):
        return ""
    return (
        f"in {SOME} steps every group got one reward, {last[-1]['reward']:g} at the end, so nothing is learned: the "
        "problems are too hard, or the grader does not see what is right"
    )


def cut(lines: Lines) -> str:
    last = [line["cut"] for line in lines if "cut" in line][-FEW:]
    share = sum(last) / max(1, len(last))
    if len(last) < FEW or share <= MOST_CUT:
        return ""
    return f"{share:.0%} of the rollouts were cut at rl.max_new_tokens and earn nothing: raise it"


def apart(lines: Lines) -> str:
    """Of rollouts that lag, the trainer's probabilities are meant to be others."""
    line = next((line for line in reversed(lines) if "logp_gap_k3" in line), {})
    if line.get("lag", 0) or line.get("logp_gap_k3", 0.0) <= LARGEST_GAP:
        return ""
    return (
        f"sampler and trainer differ by {line['logp_gap_k3']:.3g} nats a token (k3, at most {line['logp_gap_max']:.3g} "
        "at one): the model learns from answers that it would not give"
    )


def falling(lines: Lines) -> str:
    """The newest held-out score against the best one before, by standard errors of their difference."""
    scores = [(line["held_out"], line["held_out_problems"]) for line in lines if "held_out" in line]
    if len(scores) < 2:
        return ""
    (now, n), best = scores[-1], max(score for score, _ in scores[:-1])
    shares = [(n * score + 1) / (n + 2) for score in (now, best)]  # of a few problems, all or none right is no proof
    error = math.sqrt(sum(p * (1 - p) for p in shares) / n)
    if best - now <= SURE * error:
        return ""
    return f"the held-out score fell from {best:.0%} to {now:.0%} ({n} problems), while the reward is what is trained"


CANARIES: dict[str, Callable[[Lines], str]] = {
    "weights unmoved": unmoved,
    "reward constant": constant,
    "rollouts cut": cut,
    "sampler and trainer apart": apart,
    "held-out falling": falling,
}


def look(lines: Lines) -> dict[str, str]:
    """The canaries that fire at the last of these lines of metrics, each with its reason."""
    said = {name: canary(lines) for name, canary in CANARIES.items()}
    return {name: reason for name, reason in said.items() if reason}


class Watch:
    """Looks at each line of a stage's metrics as it comes. Those of before a restart are read from its file."""

    def __init__(self, folder: Path, mode: str, tells: bool):
        """`mode` is "warn", "stop" or "off"; of several processes the first one `tells`."""
        self.path, self.mode, self.tells = folder / "metrics.jsonl", mode, tells
        self.lines: list[dict[str, Any]] = []
        self._said: set[str] = set()

    def __call__(self, step: int, values: dict[str, Any]) -> None:
        """Raises Fired where a canary stops the run."""
        if self.mode == "off":
            return
        if not self.lines and self.path.exists():
            self.lines = [line for line in whole_lines(self.path) if line["step"] < step]
        recent = [*self.lines, {"step": step, **values}]
        self.lines = [line for line in recent[: -2 * SOME] if "held_out" in line] + recent[-2 * SOME :]
        for name, reason in look(self.lines).items():
            told = f"rl: step {step}: {name}: {reason}"
            if self.mode == "stop":
                raise Fired(f"{told} (rl.canaries is 'stop'; the last checkpoint is kept)")
            if self.tells and name not in self._said:
                print(f"warning: {told}", file=sys.stderr, flush=True)
            self._said.add(name)
