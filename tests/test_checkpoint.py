"""Checkpoints: whole or refused, parameters alone, the identity of a stage."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax import checkpoint
from llm_jax.config import UserError
from llm_jax.stage_table import identity


@pytest.fixture
def tree():
    rng = np.random.default_rng(0)
    return {"w": jnp.asarray(rng.normal(size=(8, 6)), jnp.float32), "deep": {"b": jnp.arange(5.0)}}


@pytest.fixture
def saved(tree, tmp_path):
    """(workdir, optimizer state) with a checkpoint of `tree` after step 3."""
    state = optax.adam(1e-3).init(tree)
    store = checkpoint.Checkpoints(tmp_path, "sft")
    store.save(3, tree, state, {"batches": {"cursor": 7}, "note": "hi"})
    store.close()
    return tmp_path, state


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def equal(a, b) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_everything_comes_back(tree, saved):
    workdir, state = saved
    store = checkpoint.existing(workdir, "sft")
    params, optimizer = store.restore(store.latest(), shapes(tree), shapes(state))
    meta = store.meta(3)
    assert equal(params, tree) and equal(optimizer, state)
    assert (store.latest(), meta["step"], meta["format"]) == (3, 3, checkpoint.FORMAT_VERSION)
    assert meta["batches"] == {"cursor": 7} and meta["note"] == "hi"
    store.close()


def test_parameters_come_back_alone(tree, saved):
    workdir, _ = saved
    store = checkpoint.existing(workdir, "sft")
    assert equal(store.restore_params(3, shapes(tree)), tree)
    store.close()


def test_a_stage_without_checkpoints_is_a_users_mistake(saved):
    with pytest.raises(UserError, match="no checkpoint of stage 'rl'"):
        checkpoint.existing(saved[0], "rl")


@pytest.mark.parametrize("spoil", [
    lambda w: w.at[2, 3].add(1e-6),
    lambda w: w.at[0, 0].multiply(-1),
    lambda w: w[::-1],
    lambda w: w.at[0].set(w[1]).at[1].set(w[0]),
    lambda w: w.at[7, 5].set(jnp.nan),
])  # fmt: skip
def test_checksums_see_every_change(tree, spoil):
    before = checkpoint.checksums(tree)
    after = checkpoint.checksums({**tree, "w": spoil(tree["w"])})
    assert [key for key in before if before[key] != after[key]] == ["['w']"]
    assert before == checkpoint.checksums(jax.tree.map(jnp.array, tree))


def test_a_flipped_value_is_found_when_parameters_are_restored(tree, tmp_path, monkeypatch):
    """The parameters on disk are not those that the record was written of."""
    store = checkpoint.Checkpoints(tmp_path, "sft")
    true_sums = checkpoint.checksums(tree)
    monkeypatch.setattr(checkpoint, "checksums", lambda _: true_sums)
    store.save(1, {**tree, "w": tree["w"].at[1, 1].add(0.5)}, tree, {})
    store.wait()
    monkeypatch.undo()
    with pytest.raises(UserError, match="checksums differ"):
        store.restore_params(1, shapes(tree))
    store.close()


def damage(workdir) -> None:
    """Overwrites the middle of every data file of the parameters."""
    files = [p for p in (workdir / "sft/checkpoints/3/params").rglob("*") if p.is_file() and p.parent.name == "d"]
    assert files
    for path in files:
        data = bytearray(path.read_bytes())
        data[len(data) // 2 - 40 : len(data) // 2 + 40] = bytes(80)
        path.write_bytes(data)


def test_damaged_files_are_a_users_mistake(tree, saved):
    damage(saved[0])
    store = checkpoint.existing(saved[0], "sft")
    assert raised(store.restore_params, 3, shapes(tree)) is UserError


def raised(function, *args) -> type | None:
    """The kind of error; no traceback of a library's depths for pytest to print."""
    try:
        function(*args)
    except Exception as error:
        return type(error)
    return None


def test_a_flipped_value_is_found_on_resume(tree, tmp_path, monkeypatch):
    store = checkpoint.Checkpoints(tmp_path, "sft")
    true_sums = checkpoint.checksums(tree)
    state = optax.sgd(1.0, momentum=0.9).init(tree)
    monkeypatch.setattr(checkpoint, "checksums", lambda _: true_sums)
    store.save(1, {**tree, "w": tree["w"].at[1, 1].add(0.5)}, state, {})
    store.wait()
    monkeypatch.undo()
    with pytest.raises(UserError):
        store.restore(1, shapes(tree), shapes(state))


def test_only_an_equal_identity_may_continue(tiny, tmp_path):
    meta = {"identity": identity(tiny, "pretrain")}
    checkpoint.check_identity(identity(tiny, "pretrain"), meta, tmp_path)
    tiny.mesh.data, tiny.pretrain.steps = 8, 99
    checkpoint.check_identity(identity(tiny, "pretrain"), meta, tmp_path)
    tiny.model.dim = 64
    with pytest.raises(UserError, match=r"model\.dim: 32 -> 64"):
        checkpoint.check_identity(identity(tiny, "pretrain"), meta, tmp_path)
