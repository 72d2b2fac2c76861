"""The train loop: interrupted and resumed is never interrupted, bit for bit; failures keep the last checkpoint."""

import itertools
import json
import os
import signal
import struct
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tensorboardX.proto.event_pb2 import Event

from llm_jax import checkpoint, config, sharding
from llm_jax.config import UserError
from llm_jax.model import transformer
from llm_jax.training import loop, progress
from llm_jax.training.nats import cross_entropy_loss
from llm_jax.training.optimizer import make_optimizer

STEPS = 7
AXES = {"w": ("embed", "ff"), "b": (None,)}


class Killed(Exception):
    """Stands for a process that is gone."""


class Batches(loop.Batches):
    """Batches that are a function of the step and of a counter that a checkpoint must carry."""

    def __init__(self, make, at: int | None = None, what=None):
        self.make, self.at, self.what, self.drawn = make, at, what, 0

    def next(self, step, params):
        self.drawn += 1
        batch = self.make(step * 1000 + self.drawn)
        if step == self.at:
            batch = self.what(batch) or batch
        return batch, {"drawn": self.drawn}

    def state(self):
        return {"drawn": self.drawn}

    def restore(self, state):
        self.drawn = state["drawn"]


def kill(batch):
    raise Killed


def terminate(batch):
    os.kill(os.getpid(), signal.SIGTERM)


def spoil(batch):
    return {**batch, "x": batch["x"] * np.nan}


def regression_batch(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    return {"x": x, "y": y, "weights": np.ones(4, np.float32)}


def regression_loss(params, batch):
    error = batch["x"] @ params["w"] + params["b"][None] - batch["y"]
    return (error**2).sum(), jnp.float32(4), {"error_max": jnp.abs(error).max()}


@pytest.fixture
def stores(monkeypatch):
    """Every store that the loop opens, so that a 'killed' run's writes can be finished before the next one."""
    opened = []

    class Recorded(checkpoint.Checkpoints):
        def __init__(self, *args):
            super().__init__(*args)
            opened.append(self)

    monkeypatch.setattr(checkpoint, "Checkpoints", Recorded)
    return opened


class Runner:
    """Runs the regression job in folders of its own."""

    def __init__(self, context, stores, tmp_path):
        self.context, self.stores, self.tmp_path = context, stores, tmp_path
        self.optimizer = make_optimizer(context.config.optimizer, STEPS, 1.0, AXES)

    def run(self, folder: str, at: int | None = None, what=None, steps: int = STEPS, loss=regression_loss, **more):
        self.context.workdir = self.tmp_path / folder
        job = loop.Job("pretrain", steps, self.optimizer, loss, Batches(regression_batch, at, what), **more)
        params = {"w": jnp.full((6, 5), 0.1), "b": jnp.zeros(5)}
        try:
            return loop.train(self.context, job, params)
        finally:
            self.stores[-1].wait() if at is not None else None

    def lines(self, folder: str) -> list[dict]:
        path = self.tmp_path / folder / "pretrain" / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def losses(self, folder: str) -> list[tuple]:
        return [(line["step"], line["loss"], line["drawn"]) for line in self.lines(folder)]

    def latest(self, folder: str) -> int | None:
        store = checkpoint.Checkpoints(self.tmp_path / folder, "pretrain")
        step = store.latest()
        store.close()
        return step


@pytest.fixture(params=["muon", "adamw"])
def either(request, context, stores, tmp_path):
    context.config.optimizer.name = request.param
    return Runner(context, stores, tmp_path)


@pytest.fixture
def runner(context, stores, tmp_path):
    context.config.optimizer.name = "adamw"
    return Runner(context, stores, tmp_path)


def identical(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(np.asarray(x), np.asarray(y)), a, b))


@pytest.mark.parametrize("at", [3, 4])
def test_killed_and_resumed_is_never_interrupted(either, at):
    whole = either.run("whole")
    with pytest.raises(Killed):
        either.run("broken", at, kill)
    assert 0 < either.latest("broken") <= at
    resumed = either.run("broken")
    assert identical(whole, resumed)
    assert not identical(whole, {"w": jnp.full((6, 5), 0.1), "b": jnp.zeros(5)})
    assert either.losses("broken") == either.losses("whole")
    assert [step for step, *_ in either.losses("whole")] == list(range(1, STEPS + 1))


def test_sigterm_saves_stops_and_the_same_command_continues(either):
    whole = either.run("whole")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(loop.Stopped, match="step 3"):
        either.run("stopped", 2, terminate)  # step 3 is no multiple of checkpoint.every
    assert signal.getsignal(signal.SIGTERM) is handler
    assert either.latest("stopped") == 3 and len(either.losses("stopped")) == 3
    assert identical(whole, either.run("stopped"))
    assert either.losses("stopped") == either.losses("whole")


def test_sigterm_in_the_last_step_loses_nothing(runner):
    with pytest.raises(loop.Stopped):
        runner.run("a", STEPS - 1, terminate)
    assert runner.latest("a") == STEPS and identical(runner.run("a"), runner.run("b"))


def test_a_finished_stage_is_not_trained_again(runner):
    first = runner.run("a")
    assert identical(first, runner.run("a", 0, kill)) and len(runner.losses("a")) == STEPS


def test_a_longer_run_goes_on_from_the_end(runner):
    runner.run("a", steps=4)
    runner.run("a", steps=STEPS)
    assert identical(runner.run("a"), runner.run("b")) and runner.losses("a") == runner.losses("b")


@pytest.mark.parametrize("at", [3, 4])
def test_nan_stops_the_run_and_keeps_the_last_checkpoint(runner, at):
    with pytest.raises(
        FloatingPointError, match=f"step {at + 1} has a loss of nan, and the gradient of b is the first"
    ):
        runner.run("a", at, spoil)
    assert runner.latest("a") == at // 2 * 2
    assert all(np.isfinite(loss) for _, loss, _ in runner.losses("a"))
    assert identical(runner.run("a"), runner.run("b"))


def events(folder) -> list[tuple[str, int]]:
    """(tag, step) of the points in the files of TensorBoard events, the oldest file first."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length in 8 bytes, 4 of its checksum, the event, 4 of its checksum
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(value.tag, event.step) for value in event.summary.value]
            at += length + 16
    return found


def test_a_resumed_stage_has_one_point_a_step(runner):
    """Also where the killed one left half a line, and half an event."""
    folder = runner.tmp_path / "a/pretrain"
    runner.context.config.checkpoint.every = 4
    with pytest.raises(Killed):
        runner.run("a", 6, kill)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "a": {"b": 1}')
    next(folder.glob("events.*")).open("ab").write(b"\x40\0\0")
    assert runner.latest("a") == 4
    runner.run("a")
    steps = list(range(1, STEPS + 1))
    assert [line["step"] for line in runner.lines("a")] == steps
    assert [step for tag, step in events(folder) if tag == "pretrain/loss"] == steps
    summary = (folder / "summary.json").read_text()
    runner.run("a")
    assert (folder / "summary.json").read_text() == summary  # of the training, not of another look at it
    (folder / "summary.json").unlink()
    runner.run("a")
    assert json.loads((folder / "summary.json").read_text())["steps"] == STEPS


def test_a_damaged_newest_checkpoint_is_trained_again_from_the_one_before(runner, capsys):
    whole = runner.run("a")
    for path in (runner.tmp_path / "a/pretrain/checkpoints/7/optimizer").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(bytes(path.stat().st_size))
    assert identical(whole, runner.run("a"))
    assert "checkpoints/7 is damaged" in capsys.readouterr().err and runner.latest("a") == 7
    assert [step for step, *_ in runner.losses("a")] == list(range(1, STEPS + 1))


def test_a_restart_from_nothing_starts_its_metrics_anew(runner):
    runner.context.config.checkpoint.every = 100
    with pytest.raises(Killed):
        runner.run("a", 3, kill)
    runner.run("a")
    assert [step for step, *_ in runner.losses("a")] == list(range(1, STEPS + 1))


def spiked_loss(params, batch):
    """The regression's, plus a term that is 0 and has slope 0 x infinity where all inputs are 0."""
    total, weight, metrics = regression_loss(params, batch)
    return total + 0 * jnp.sqrt(jnp.sum((batch["x"] @ params["w"]) ** 2)), weight, metrics


def test_parameters_that_are_not_finite_are_not_saved(runner):
    runner.context.config.checkpoint.every = 1
    with pytest.raises(FloatingPointError):
        runner.run("a", 3, lambda batch: {**batch, "x": batch["x"] * 0}, loss=spiked_loss)
    store = checkpoint.Checkpoints(runner.tmp_path / "a", "pretrain")
    saved = store.restore_params(store.latest(), {"w": jnp.zeros((6, 5)), "b": jnp.zeros(5)})
    assert jax.tree.all(jax.tree.map(lambda x: bool(np.isfinite(x).all()), saved))


def test_another_identity_is_refused_with_the_differing_keys(runner):
    before = runner.run("a", steps=4)
    runner.context.config.pretrain.batch = 8
    runner.context.config.optimizer.clip = 0.5
    with pytest.raises(UserError) as error:
        runner.run("a")
    assert "pretrain.batch: 4 -> 8" in str(error.value) and "optimizer.clip: 1.0 -> 0.5" in str(error.value)
    assert "seed" not in str(error.value) and runner.latest("a") == 4
    runner.context.config.pretrain.batch, runner.context.config.optimizer.clip = 4, 1.0
    runner.context.config.checkpoint.every = runner.context.config.log.eval_every = 3
    assert identical(before, runner.run("a", steps=4))  # cadence is no part of the identity


def test_validation_is_logged_at_its_steps(runner):
    runner.context.config.log.eval_every = 3
    runner.run("a", validate=lambda params: {"val_loss": float(params["w"].sum())})
    assert [line["step"] for line in runner.lines("a") if "val_loss" in line] == [3, 6, STEPS]
    summary = json.loads((runner.tmp_path / "a/pretrain/summary.json").read_text())
    assert summary["steps"] == STEPS and summary["seconds"] > 0


def test_a_steps_speed_is_without_the_validation_before_it(runner, monkeypatch):
    clock = itertools.count()  # a second passes whenever somebody looks

    def validate(params):
        for _ in range(1000):
            next(clock)
        return {"val_loss": 0.0}

    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    runner.context.config.log.eval_every = 3
    runner.run("a", validate=validate, tokens_per_step=1000)
    speeds = [line["tokens_per_second"] for line in runner.lines("a") if "loss" in line]
    assert len(speeds) == STEPS and min(speeds) > 100


def test_only_the_newest_checkpoints_are_kept(runner):
    runner.context.config.checkpoint.keep = 2
    runner.run("a")
    kept = [int(p.name) for p in (runner.tmp_path / "a/pretrain/checkpoints").iterdir() if p.name.isdigit()]
    assert sorted(kept) == [6, 7]


def test_a_frozen_tree_joins_the_trained_one():
    frozen, trained = {"a": {"x": 1}, "b": 2}, {"a": {"y": 3}}
    assert loop.join(trained, frozen) == {"a": {"x": 1, "y": 3}, "b": 2}
    assert frozen == {"a": {"x": 1}, "b": 2}


def test_a_batch_without_targets_changes_nothing_but_the_state():
    job = loop.Job("x", 1, optax.sgd(1.0), lambda p, b: (p["w"].sum() * 0, jnp.float32(0), {}), None)
    params = {"w": jnp.ones(3)}
    state, step = loop.prepare(job, params, sharding.make_mesh(config.default().mesh))
    params, _, metrics = step(params, {}, state, {"weights": jnp.zeros((1, 2))})
    assert metrics["loss"] == 0 and np.array_equal(params["w"], np.ones(3))


@pytest.mark.slow  # tests/test_end_to_end.py kills and resumes the command
def test_a_transformer_resumes_bit_for_bit(context, stores, tokenizer, draw_params, tmp_path):
    """With Muon on its matrices and AdamW on the rest."""
    vocab = tokenizer.vocab_size
    optimizer = make_optimizer(context.config.optimizer, 4, 1.0, transformer.param_axes(context.model, vocab))

    def batch(seed: int) -> dict:
        tokens = np.random.default_rng(seed).integers(vocab, size=(2, 9)).astype(np.int32)
        ones, places = np.ones((2, 8), np.int32), np.tile(np.arange(8, dtype=np.int32), (2, 1))
        return {
            "tokens": tokens[:, :-1],
            "targets": tokens[:, 1:],
            "segments": ones,
            "positions": places,
            "weights": ones.astype(np.float32),
        }

    def run(folder: str, at: int | None = None):
        context.workdir = tmp_path / folder
        job = loop.Job("pretrain", 4, optimizer, cross_entropy_loss(context), Batches(batch, at, kill))
        return loop.train(context, job, draw_params(context.model, vocab))

    whole = run("whole")
    with pytest.raises(Killed):
        run("broken", 3)
    stores[-1].wait()
    assert identical(whole, run("broken")) and not identical(whole, draw_params(context.model, vocab))


def test_microbatches_give_the_loss_of_the_whole_batch(context, tokenizer, params):
    """Uneven numbers of targets, and one microbatch without any: the mean is over all targets."""
    B, T, V = 8, 16, tokenizer.vocab_size
    rng = np.random.default_rng(0)
    weights = (rng.uniform(size=(B, T)) < np.linspace(0.1, 0.9, B)[:, None]).astype(np.float32)
    weights[4:6] = 0
    batch = {name: rng.integers(0, V, (B, T)).astype(np.int32) for name in ("tokens", "targets")}
    batch |= {"segments": np.ones((B, T), np.int32), "positions": np.tile(np.arange(T), (B, 1)), "weights": weights}
    step = jax.jit(lambda params, batch: loop.gradients(cross_entropy_loss(context), params, {}, batch)[:2])
    whole, parts = (jax.tree.map(lambda x, n=n: x.reshape(n, -1, T), batch) for n in (1, 4))
    for a, b in zip(jax.tree.leaves(step(params, whole)), jax.tree.leaves(step(params, parts)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_stage_cannot_have_fewer_steps_than_it_has_done(runner):
    runner.run("run", steps=4)
    with pytest.raises(UserError, match="has done 4 steps, and is to have 3"):
        runner.run("run", steps=3)
    assert runner.latest("run") == 4 and len(runner.lines("run")) == 4


def test_waiting_is_a_share_of_the_time(runner, monkeypatch):
    """Of the steps that are logged one after the other before a save, the later one waited before the earlier was."""
    clock, draw = itertools.count(), Batches.next
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock) / 100)

    def slow(self, step, params):
        for _ in range(1000):
            next(clock)
        return draw(self, step, params)

    monkeypatch.setattr(Batches, "next", slow)
    runner.run("run")
    shares = [line["input_wait"] for line in runner.lines("run")]
    assert len(shares) == STEPS and all(0 <= share <= 1 for share in shares) and max(shares) > 0.9, shares


def test_a_step_may_have_a_number_of_tokens_of_its_own(runner, monkeypatch):
    monkeypatch.setattr(Batches, "next", lambda self, step, params: (self.make(step), {"tokens": 10 + step}))
    runner.run("run", tokens_per_step=1000)
    written = [line["tokens"] for line in runner.lines("run")]
    assert written == [10 + step for step in range(STEPS)]
    assert json.loads((runner.tmp_path / "run/pretrain/summary.json").read_text())["tokens"] == sum(written)


@pytest.mark.parametrize("steps, traced", [(14, [5, 10]), (8, [5, 8]), (3, [2, 3]), (1, [0, 1])])
def test_a_trace_ends_where_the_loop_does(runner, monkeypatch, steps, traced):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: calls.append(path))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    profile = loop.Profile(types.SimpleNamespace(profile=True, workdir=runner.tmp_path), "pretrain", steps)
    at = []
    for step in range(steps):
        before = len(calls)
        profile.before(step)
        at += [step] * (len(calls) - before)
    if len(calls) == 1:
        profile.close()
        at.append(steps)
    profile.close()
    assert at == traced and calls == [f"{runner.tmp_path}/pretrain/profile", "stop"]


@pytest.mark.parametrize("how", [kill, terminate])
def test_a_trace_ends_with_a_loop_that_is_broken_off(runner, monkeypatch, how):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    runner.context.profile = True
    with pytest.raises((Killed, loop.Stopped)):
        runner.run("run", 6, how, steps=20)
    assert calls == ["start", "stop"]
