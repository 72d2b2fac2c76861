"""A checkpoint written leaf by leaf: restored as any other, one leaf at a time, and whole or not at all."""

import weakref

import jax
import numpy as np
import pytest

from llm_jax import checkpoint
from llm_jax.config import UserError
from llm_jax.hub import streaming

SHAPES = {"a": (30, 7), "b": (3, 5, 14), **dict.fromkeys("cdef", (50,))}


@pytest.fixture
def arrays(monkeypatch):
    monkeypatch.setattr(streaming, "CHUNK", 100)
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def leaves(arrays, made=None):
    made = [] if made is None else made

    def make(array):
        assert not any(other() is not None for other in made[:-1])  # the thread that wrote the last may still end
        made.append(weakref.ref(own := array.copy()))
        return own

    return {"inside": {name: streaming.Leaf(x.shape, lambda x=x: make(x)) for name, x in arrays.items()}}


def test_it_is_restored_as_any_other_and_one_leaf_is_there_at_a_time(arrays, tmp_path, mesh):
    streaming.save(tmp_path, "imported", leaves(arrays, made := []), {"parent": None})
    assert len(made) == 6
    place = jax.sharding.SingleDeviceSharding(mesh.devices.flat[0])
    abstract = {"inside": {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for n, x in arrays.items()}}
    with checkpoint.existing(tmp_path, "imported") as store:
        restored = store.newest(lambda step: store.restore_params(step, abstract))  # compares the checksums
        assert store.meta(1)["checksums"] == checkpoint.checksums({"inside": arrays})
    assert all(np.array_equal(restored["inside"][name], x) for name, x in arrays.items())


def test_what_is_not_finite_is_told_and_nothing_is_left(arrays, tmp_path):
    arrays["b"][2, 4, 13] = np.inf
    with pytest.raises(UserError, match=r"not finite, in \['inside'\]\['b'\]"):
        streaming.save(tmp_path, "imported", leaves(arrays), {})
    assert checkpoint.written(tmp_path, "imported") is None
    assert not list(checkpoint.folder(tmp_path, "imported").iterdir())
