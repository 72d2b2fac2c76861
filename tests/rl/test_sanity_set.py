"""The sanity set: a sound algorithm solves nearly all of the problems it is trained on that it solves now and then.

Only problems that the fine-tuned model solves 20 to 80 % of the time, so that each can be learned from (Qi et al. 2025,
arXiv 2510.26788). SANITY_RUN names a workdir whose stage `sft` is done, by default one is trained: the speedrun's.
"""

import json
import os
import random
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from llm_jax import sharding
from llm_jax.lineage import starting_params
from llm_jax.prompts import judge, load_prompts
from llm_jax.rl import rollouts
from llm_jax.runs import Run
from llm_jax.sampling.loaded import engine_for
from llm_jax.sampling.requests import Request
from llm_jax.stages import rl
from tests.commands import ROOT, run

pytestmark = pytest.mark.slow

PROBLEMS, TRIES, LOOKED_AT = 24, 16, 400
SPEEDRUN = ROOT / "experiments" / "speedrun.py"


@pytest.fixture(scope="session")
def tuned(tmp_path_factory) -> Path:
    """A speedrun with stage `sft` done."""
    if there := os.environ.get("SANITY_RUN"):
        return Path(there)
    workdir = tmp_path_factory.mktemp("tuned")
    done = run("llm_jax.main", f"--config={SPEEDRUN}", f"--workdir={workdir}", "--stages=data,pretrain,sft")
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir


@pytest.fixture(scope="session")
def problems(tuned) -> list[dict]:
    """Train prompts that the model solves now and then."""
    opened = Run.open(tuned)
    t, params, engine = opened.tokenizer, opened.load_params("sft"), engine_for(opened, 64)
    sums = [p for p in load_prompts(tuned, "train") if p["task"] == "arithmetic"]
    asked = random.Random(0).sample(sums, LOOKED_AT)
    ids = [t.render(p["messages"], for_generation=True).ids for p in asked]
    requests = [Request(ids[i // TRIES], i, 1.0, 80) for i in range(len(asked) * TRIES)]
    done = engine.generate(params, requests)
    right = np.reshape([judge(t, asked[i // TRIES], c).right for i, c in enumerate(done)], (-1, TRIES)).mean(axis=1)
    engine.close()
    found = [p for p, share in zip(asked, right, strict=True) if 0.2 <= share <= 0.8]
    assert len(found) >= PROBLEMS, f"only {len(found)} of {len(asked)} problems are solved now and then"
    return found[:PROBLEMS]


@pytest.fixture
def practise(tuned, problems, tmp_path):
    """The training reward at the end of the speedrun's budget of RL on these problems."""

    def train(seed: int) -> float:
        config = runpy.run_path(str(SPEEDRUN))["get_config"]()
        config.seed, config.rl.tasks, config.rl.no_tools, config.rl.eval_every = seed, {"arithmetic": 1.0}, (), 0
        (tmp_path / "data").mkdir()
        shutil.copy(tuned / "data" / "tokenizer.model", tmp_path / "data")
        (tmp_path / "data" / "prompts_train.jsonl").write_text("".join(json.dumps(p) + "\n" for p in problems))
        config.init_from = f"{tuned}:sft"
        opened = Run(config, tmp_path, sharding.make_mesh(config.mesh))
        rl.train(opened, starting_params(opened, "rl"))
        lines = [json.loads(line) for line in (tmp_path / "rl" / "metrics.jsonl").read_text().splitlines()]
        return float(np.mean([line["reward"] for line in lines][-3:]))

    return train


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_what_it_solves_now_and_then(practise, seed):
    assert practise(seed) >= 0.95


def shifted(pack):
    """What is trained on lies one token further than it should."""
    names = ("weights", "old_logp", "advantages")
    return lambda *args, **more: {
        name: np.roll(x, 1, axis=1) if name in names else x for name, x in pack(*args, **more).items()
    }


def permuted(rewards_of):
    """Each rollout gets the reward of another."""

    def mixed(*args):
        order = np.random.default_rng(0)
        return {name: order.permutation(part) for name, part in rewards_of(*args).items()}

    return mixed


def turned(advantages):
    return lambda *args: -advantages(*args)


@pytest.mark.parametrize("name, broken", [("pack_rollouts", shifted), ("rewards_of", permuted), ("advantages", turned)])
def test_what_is_broken_on_purpose_does_not_learn(practise, monkeypatch, name, broken):
    monkeypatch.setattr(rollouts, name, broken(getattr(rollouts, name)))
    assert practise(0) < 0.95
