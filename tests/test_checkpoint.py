"""Checkpoints: whole or refused, parameters alone, the identity of a stage."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax import checkpoint
from llm_jax.config import UserError
from llm_jax.stage_table import identity
from tests.commands import until


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


def damage(workdir, step: int = 3) -> None:
    """Overwrites the middle of every data file of the parameters."""
    files = [p for p in (workdir / f"sft/checkpoints/{step}/params").rglob("*") if p.is_file() and p.parent.name == "d"]
    assert files
    for path in files:
        data = bytearray(path.read_bytes())
        data[len(data) // 2 - 40 : len(data) // 2 + 40] = bytes(80)
        path.write_bytes(data)


def test_damaged_files_are_a_users_mistake(tree, saved):
    damage(saved[0])
    store = checkpoint.existing(saved[0], "sft")
    assert raised(store.restore_params, 3, shapes(tree)) is checkpoint.Damaged


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


def test_a_flipped_value_of_the_optimizer_is_found_on_resume(tree, tmp_path, monkeypatch):
    state, sums = optax.sgd(1.0, momentum=0.9).init(tree), checkpoint.checksums
    other = jax.tree.map(lambda x: x + 1, state)
    monkeypatch.setattr(checkpoint, "checksums", lambda it: sums(state if it is other else it))
    with checkpoint.Checkpoints(tmp_path, "sft") as store:
        store.save(1, tree, other, {})
        store.wait()
        monkeypatch.undo()
        with pytest.raises(checkpoint.Damaged, match=r"checksums differ, first that of .*trace"):
            store.restore(1, shapes(tree), shapes(state))
        assert equal(store.restore_params(1, shapes(tree)), tree)  # these are whole


@pytest.mark.parametrize("spoil", [
    lambda record: record["batches"].update(cursor=8),
    lambda record: record.update(step=4),
    lambda record: record.update(more=1),
    lambda record: record.pop("sha256"),
])  # fmt: skip
def test_a_changed_record_is_found(saved, spoil):
    path = saved[0] / "sft/checkpoints/3/meta/metadata"
    record = json.loads(path.read_text())
    spoil(record)
    path.write_text(json.dumps(record))
    with checkpoint.existing(saved[0], "sft") as store, pytest.raises(checkpoint.Damaged, match="record differ"):
        store.meta(3)


@pytest.mark.parametrize("name", ["ü [1] b", "st*r?"])
def test_every_path_holds_checkpoints(tree, tmp_path, name):
    """Also one that a glob takes for a pattern: Orbax alone leaves such a checkpoint in parts, and cannot read it."""
    state = optax.adam(1e-3).init(tree)
    with checkpoint.Checkpoints(tmp_path / name, "sft", 1) as store:
        for step in (1, 2):
            store.save(step, tree, state, {"at": step})
        store.wait()
    with checkpoint.existing(tmp_path / name, "sft") as store:
        assert store.newest(store.meta)["at"] == 2
        assert equal(store.restore(2, shapes(tree), shapes(state)), (tree, state))
    place = tmp_path / name / "sft/checkpoints"
    assert (place / "2/params/manifest.ocdbt").exists() and [path.name for path in place.iterdir()] == ["2"]


def test_checksums_see_every_bit_of_whole_numbers():
    counts = jnp.asarray([2**24, -1], jnp.int32)
    assert checkpoint.checksums({"n": counts}) != checkpoint.checksums({"n": counts.at[0].add(1)})
    assert checkpoint.checksums({"n": counts}) != checkpoint.checksums({"n": counts.at[1].add(-1)})


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_what_is_not_finite_is_never_saved(tree, saved, value):
    """Neither parameters nor what the optimizer keeps of them; the checkpoint before stays the newest."""
    workdir, state = saved
    bad = {**tree, "deep": {"b": tree["deep"]["b"].at[2].set(value)}}
    with checkpoint.Checkpoints(workdir, "sft", 1) as store:
        with pytest.raises(FloatingPointError, match=r"sft: after step 4 \['params'\]\['deep'\]\['b'\] is not finite"):
            store.save(4, bad, state, {})
        with pytest.raises(FloatingPointError, match=r"\['optimizer'\].*\.mu.* is not finite"):
            store.save(4, tree, jax.tree.map(lambda x: x, (state[0]._replace(mu=bad), *state[1:])), {})
        store.wait()
        assert store.latest() == 3 and store.newest(store.meta)["note"] == "hi"


def test_what_a_killed_save_left_is_cleaned_by_the_next_writer_alone(saved):
    left = saved[0] / "sft/checkpoints/9.orbax-checkpoint-tmp"
    (left / "params").mkdir(parents=True)
    with checkpoint.existing(saved[0], "sft") as store:
        assert store.latest() == 3 and left.exists()
    with checkpoint.Checkpoints(saved[0], "sft") as store:
        assert store.latest() == 3
    assert not left.exists()


def test_a_damaged_newest_is_named_and_the_one_before_used(tree, saved, capsys):
    workdir, state = saved
    with checkpoint.Checkpoints(workdir, "sft") as store:
        store.save(5, jax.tree.map(lambda x: x + 1, tree), state, {})
        store.wait()
        damage(workdir, 5)
        read = lambda step: (step, store.restore(step, shapes(tree), shapes(state))[0])  # noqa: E731
        step, params = store.newest(read)
        assert step == 3 and equal(params, tree)
        assert "checkpoints/5 is damaged" in (said := capsys.readouterr().err) and said.count("\n") == 1
        store.put_aside(3)
        assert store.latest() == 3 and (store.path / "5.damaged").is_dir()
        store.save(5, tree, state, {"again": True})  # nothing is in its way
        store.wait()
        assert store.newest(read)[0] == 5
        damage(workdir, 3), damage(workdir, 5)
        with pytest.raises(UserError, match=r"checkpoints/3 is damaged: .*none before it: move .*/sft away"):
            store.newest(read)


def test_another_model_is_not_called_damaged(tree, saved):
    other = {**shapes(tree), "w": jax.ShapeDtypeStruct((8, 7), jnp.float32, sharding=tree["w"].sharding)}
    more = {**shapes(tree), "v": other["w"]}
    with checkpoint.existing(saved[0], "sft") as store:
        for wanted, word in ((other, r"\['w'\]: \[8, 6\] -> \[8, 7\]"), (more, r"\['v'\]: absent -> \[8, 7\]")):
            with pytest.raises(UserError, match=f"of another model .*{word}") as error:
                store.restore_params(3, wanted)
            assert not {"damaged", "delete"} & set(str(error.value).split())


def test_one_that_was_deleted_meanwhile_is_not_called_damaged(tree, saved):
    """A reader that has looked, and a writer that keeps one: the reader takes the newer one."""
    workdir, state = saved
    reader = checkpoint.existing(workdir, "sft")
    with checkpoint.Checkpoints(workdir, "sft", 1) as writer:
        writer.save(4, tree, state, {"note": "newer"})
        writer.wait()
    until(lambda: not (workdir / "sft/checkpoints/3").exists())
    with pytest.raises(checkpoint.Gone, match="deleted meanwhile"):
        reader.meta(3)
    assert reader.newest(reader.meta)["note"] == "newer"
    shutil.rmtree(workdir / "sft/checkpoints/4")
    with pytest.raises(checkpoint.Gone, match="run the same command again"):
        reader.newest(reader.meta)


def test_one_that_may_not_be_read_is_not_called_damaged(saved, monkeypatch):
    path = saved[0] / "sft/checkpoints/3/meta/metadata"
    real = os.access
    monkeypatch.setattr(os, "access", lambda p, mode, **how: real(p, mode, **how) and p != path)
    with checkpoint.existing(saved[0], "sft") as store:
        monkeypatch.setattr(store._manager, "restore", lambda *_, **__: path.read_bytes() and 1 / 0)
        with pytest.raises(UserError, match="meta/metadata may not be read by this user"):
            store.meta(3)


def test_only_an_equal_identity_may_continue(tiny, tmp_path):
    meta = {"identity": identity(tiny, "pretrain")}
    checkpoint.check_identity(identity(tiny, "pretrain"), meta, tmp_path)
    tiny.mesh.data, tiny.pretrain.steps = 8, 99
    checkpoint.check_identity(identity(tiny, "pretrain"), meta, tmp_path)
    tiny.model.dim = 64
    with pytest.raises(UserError, match=r"model\.dim: 32 -> 64"):
        checkpoint.check_identity(identity(tiny, "pretrain"), meta, tmp_path)
