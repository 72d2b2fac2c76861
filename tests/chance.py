"""A config whose RL has something to learn from a model that knows nothing; for tests of several processes.

A completion is right by the parity of its ids. $FAIL, "PLACE PROCESS STEP", kills a process in the middle of a step of
RL: at `sampling`, `grading` or `update`. $ROLLOUTS is a file to which each step's completions go.
"""

import json
import os
from pathlib import Path

import jax

from llm_jax import prompts, sharding
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.shared import SharedEngine
from tests import tiny

asked = 0  # how often an engine was asked for samples: once a step


def get_config():
    c = tiny.get_config()
    c.extensions = ("tests.chance",)
    c.pretrain.steps, c.rl.steps, c.checkpoint.every, c.rl.learning_rate = 4, 8, 3, 1e-3
    c.rl.tasks = {"arithmetic/3 numbers": 0.5, "calculator": 0.5}
    return c


def fail(place: str) -> None:
    wanted, process, step = os.environ.get("FAIL", "nowhere 0 0").split()
    if (place, jax.process_index(), asked) == (wanted, int(process), int(step)):
        os.kill(os.getpid(), 9)


def failing(place: str, function):
    def call(*args, **kwargs):
        fail(place)
        return function(*args, **kwargs)

    return call


def noted(generate, kind: type):
    def call(self, params, requests):
        global asked
        is_step = type(self) is kind and any(r.temperature for r in requests)  # not what a SharedEngine asks of itself
        asked += is_step
        done = generate(self, params, requests)
        if is_step and jax.process_index() == 0 and "ROLLOUTS" in os.environ:
            told = [[r.seed, r.prompt, c.ids, c.logprob] for r, c in zip(requests, done, strict=True)]
            with Path(os.environ["ROLLOUTS"]).open("a", encoding="utf-8") as file:
                file.write(json.dumps(told) + "\n")
        return done

    return call


def by_chance(tokenizer, prompt, completion):
    outcome = judge(tokenizer, prompt, completion)
    outcome.right = sum(completion.ids) % 2 == 0
    return outcome


if __name__ == "tests.chance":  # the extension, not the config file
    judge, prompts.judge = prompts.judge, failing("grading", by_chance)
    Engine.step = failing("sampling", Engine.step)
    sharding.put_batch = failing("update", sharding.put_batch)
    for kind in (Engine, SharedEngine):
        kind.generate = noted(kind.generate, kind)
