"""A stage that trains an adapter: saved alone, resumed bit for bit, loaded onto the parameters that it belongs to."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import checkpoint, lineage
from llm_jax.config import UserError, flatten
from llm_jax.runs import Run
from llm_jax.stages import adapter
from llm_jax.training import loop
from llm_jax.training.nats import cross_entropy_loss
from tests.conftest import drawn_params, run_of, tiny_config

STEPS, T = 4, 8


class Killed(Exception):
    """Stands for a process that is gone."""


class Rows(loop.Batches):
    """Two rows of what a step says; `params` are those that the step was given last."""

    def __init__(self, vocab_size: int, killed_at: int | None = None):
        self.vocab_size, self.killed_at, self.params = vocab_size, killed_at, None

    def next(self, step, params):
        if step == self.killed_at:
            raise Killed
        self.params = params
        tokens = (np.arange(T + 1) * 3 + step + np.arange(2)[:, None]).astype(np.int32) % self.vocab_size
        places = np.tile(np.arange(T, dtype=np.int32), (2, 1))
        rows = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "positions": places}
        return rows | {"segments": np.ones((2, T), np.int32), "weights": np.ones((2, T), np.float32)}, {}


def train(run: Run, stage: str, rows: Rows, rate: float = 0.02):
    job = loop.Job(stage, STEPS, None, cross_entropy_loss(run), rows)
    return adapter.train(run, job, lineage.starting_params(run, stage), lambda step: rate)


def save_base(run: Run, stage: str = "pretrain", seed: int = 0) -> dict:
    params = drawn_params(run.model, run.vocab_size, seed)
    with checkpoint.Checkpoints(run.workdir, stage) as store:
        meta = {"steps": 1, "parent": None, "tokenizer": run.tokenizer_sha256, "lora": None}
        store.save(1, params, {"count": jnp.zeros(1)}, meta)
        store.wait()
    return params


@pytest.fixture(scope="module")
def of(mesh, tokenizer, tmp_path_factory):
    """(frozen dtype) -> a run whose sft is an adapter of its pretrain."""
    made = {}

    def make(dtype: str) -> Run:
        if dtype not in made:
            c = tiny_config()
            c.model.layers = 1
            c.lora.rank, c.lora.alpha, c.lora.frozen = 4, 8.0, dtype
            run = run_of(c, tmp_path_factory.mktemp(dtype) / "run", mesh, tokenizer)
            save_base(run)
            train(run, "sft", Rows(run.vocab_size))
            made[dtype] = run
        return made[dtype]

    return make


def copied(run: Run, path) -> Run:
    return Run(run.config, shutil.copytree(run.workdir, path), run.mesh)


def losses(run: Run, stage: str = "sft") -> list[float]:
    lines = (run.workdir / stage / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def nats(run: Run, params, step: int = 0) -> float:
    rows, _ = Rows(run.vocab_size).next(step, None)
    return float(jax.jit(cross_entropy_loss(run))(params, rows)[0]) / (2 * T)


def test_it_learns_and_its_checkpoints_hold_the_adapter_alone(of):
    run = of("float32")
    assert losses(run)[-1] < losses(run)[0] - 0.1
    with checkpoint.existing(run.workdir, "sft") as store:
        meta = store.meta(STEPS)
    assert {name[-5:] for name in meta["shapes"]} == {"['a']", "['b']"} and len(meta["shapes"]) == 14
    assert meta["lora"]["rank"] == 4 and meta["parent"]["stage"] == "pretrain"
    with pytest.raises(UserError, match=r"'pretrain' of .* trained all parameters: it has no adapter"):
        run.load_adapter("pretrain")


@pytest.mark.parametrize("dtype", ["float32", pytest.param("int8", marks=pytest.mark.slow)])
def test_what_is_loaded_is_what_was_trained(of, dtype):
    """A plain tree, with the loss that training had with the adapter beside what was frozen."""
    run = of(dtype)
    params = run.load_params("sft")
    assert jax.tree.structure(params) == jax.tree.structure(run.abstract_params())
    with checkpoint.existing(run.workdir, "sft") as store:
        first = store.meta(2)["step"]
    before = run.load_params("sft", step=first)
    assert abs(nats(run, before, first) - losses(run)[first]) < 1e-5
    assert nats(run, params) < nats(run, before) < nats(run, run.load_params("pretrain"))


def test_killed_and_resumed_is_never_killed(of, tmp_path):
    run = of("float32")
    broken = copied(run, tmp_path / "broken")
    shutil.rmtree(broken.workdir / "sft")
    with pytest.raises(Killed):
        train(broken, "sft", Rows(run.vocab_size, killed_at=3))
    with checkpoint.existing(broken.workdir, "sft") as store:
        assert store.latest() == 2
    train(broken, "sft", Rows(run.vocab_size))
    assert losses(broken) == losses(run)
    for a, b in zip(*(jax.tree.leaves(r.load_params("sft")) for r in (run, broken)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rl_starts_a_fresh_adapter_on_the_sum(of, tmp_path):
    """Its first parameters are those that sft ended with; it is loaded through both."""
    run = copied(of("float32"), tmp_path / "run")
    rows = Rows(run.vocab_size)
    train(run, "rl", rows)
    assert abs(losses(run, "rl")[0] - nats(run, run.load_params("sft"))) < 1e-5
    assert nats(run, run.load_params("rl")) < losses(run, "rl")[0]
    shutil.move(run.workdir / "pretrain", tmp_path / "pretrain")
    with pytest.raises(UserError, match=r"'sft' of .* is an adapter of step 1 of 'pretrain' .* not there; bring it"):
        run.load_params("rl")


def test_an_adapter_of_parameters_that_were_trained_again_is_refused(of, tmp_path):
    run = copied(of("float32"), tmp_path / "run")
    shutil.rmtree(run.workdir / "pretrain")
    save_base(run, seed=1)
    with pytest.raises(UserError, match=r"'sft' of .* is an adapter of step 1 .* is another one now \([0-9a-f]{16}\)"):
        run.load_params("sft")
    with pytest.raises(UserError, match="was trained from step 1 of 'pretrain'"):
        lineage.check(run, "sft")


@pytest.mark.slow
def test_an_adapter_finds_the_run_that_its_own_started_from(of, tmp_path):
    """Also where that was moved, when the config says so."""
    run = of("float32")
    branch = copied(run, tmp_path / "branch")
    for stage in ("sft", "pretrain"):
        shutil.rmtree(branch.workdir / stage)
    branch.config = run.config.copy_and_resolve_references()
    branch.config.init_from = f"{run.workdir}:pretrain"
    train(branch, "sft", Rows(run.vocab_size))
    assert losses(branch) == losses(run)
    branch.load_params("sft")
    shutil.copytree(run.workdir / "pretrain", tmp_path / "elsewhere/pretrain")
    branch.config.init_from = f"{tmp_path}/elsewhere:pretrain"
    branch.load_params("sft")
    branch.config.init_from = f"{tmp_path}/nowhere:pretrain"
    with pytest.raises(UserError, match="nowhere, which is not there"):
        branch.load_params("sft")
    (branch.workdir / "config.json").write_text(
        json.dumps({"format": checkpoint.FORMAT_VERSION, "config": flatten(branch.config)})
    )
    with pytest.raises(UserError, match="nowhere, which is not there"):
        run.load_params("sft", branch.workdir)
