"""A mesh changes where numbers are, not what they are: one device against eight simulated ones."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from llm_jax import config, sharding
from llm_jax.config import UserError
from tests.commands import DEADLINE

ROOT, STEPS = Path(__file__).parent.parent, 20
MESH = (1, 2, 2, 2)  # data, fsdp, tensor, context


def worker(devices: int, arguments: tuple) -> subprocess.Popen:
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests/mesh_worker.py"), *map(str, arguments)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def results():
    """(on one device, on eight), run side by side."""
    processes = [worker(1, (1, 1, 1, 1, STEPS)), worker(8, (*MESH, STEPS))]
    outputs = [process.communicate(timeout=DEADLINE) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-2000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


@pytest.mark.parametrize("name, tolerance", [("adamw", 1e-5), ("muon", 1e-4)])
def test_losses_do_not_depend_on_the_mesh(results, name, tolerance):
    one, eight = (np.array(result[name]["losses"]) for result in results)
    assert len(one) == STEPS and one[-1] < one[0] - 0.3  # it learns, so errors would grow
    np.testing.assert_allclose(eight, one, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_parameters_are_really_sharded(results, name):
    one, eight = (result[name]["shares"] for result in results)
    assert set(one.values()) == {1.0}
    matrices = {path: share for path, share in eight.items() if "scale" not in path}
    assert len(matrices) == 9 and set(matrices.values()) == {1 / 4}  # fsdp x tensor; context replicates


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_optimizers_state_is_sharded_after_a_step(results, name):
    shares = results[1][name]["after"]
    assert shares and set(shares) == {1 / 4}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_optimizers_state_is_sharded_from_the_start(results, name):
    shares = results[1][name]["before"]
    assert shares and set(shares) == {1 / 4}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_step_is_compiled_once(results, name):
    assert [result[name]["compiled"] for result in results] == [1, 1]


@pytest.mark.parametrize(
    "devices, lengths, tensor",
    [
        (1, (128, 2, 1, 352, 0, 128), 1),
        (8, (128, 2, 1, 352, 0, 128), 1),
        (8, (4096, 32, 8, 14336, 0, 128), 8),
        (16, (4096, 32, 8, 14336, 0, 128), 8),
        (3, (96, 3, 3, 96, 0, 128), 1),  # no vocabulary is cut in three
        (6, (96, 6, 6, 96, 0, 128), 2),
    ],
)
def test_a_reader_cuts_what_divides_and_copies_the_rest(devices, lengths, tensor):
    sizes = sharding.reader_sizes(devices, lengths)
    assert sizes == dict.fromkeys(sharding.MESH_AXES, 1) | {"tensor": tensor, "data": devices // tensor}


def test_a_mesh_of_the_wrong_size_is_a_users_mistake():
    c = config.default()
    c.mesh.data = 3 * jax.device_count()
    with pytest.raises(UserError, match=rf"needs {c.mesh.data} devices, but {jax.device_count()} are here"):
        sharding.make_mesh(c.mesh)


@pytest.mark.parametrize("length", [4096, pytest.param(32768, marks=pytest.mark.slow)])
def test_a_long_row_over_eight_devices_is_the_row_on_one(length):
    out, errors = (process := worker(8, ("attention", length))).communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors[-2000:]
    assert max(json.loads(out.splitlines()[-1])["differences"]) < 2e-5


@pytest.mark.parametrize("sizes", [MESH, pytest.param((2, 4, 1, 1), marks=pytest.mark.slow)])
def test_losses_and_their_gradients_are_those_of_one_device(sizes):
    out, errors = (process := worker(8, ("losses", *sizes))).communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors[-2000:]
    assert max(json.loads(out.splitlines()[-1])["differences"]) < 1e-5


@pytest.mark.slow
def test_an_adapters_losses_do_not_depend_on_the_mesh():
    """The adapter is cut where its matrices are, and so is what it lies on, in float32 and in int8."""
    processes = [worker(1, ("adapter", 1, 1, 1, 1)), worker(8, ("adapter", 2, 2, 2, 1))]
    outputs = [process.communicate(timeout=DEADLINE) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-2000:]
    one, eight = (json.loads(out.splitlines()[-1]) for out, _ in outputs)
    for dtype in ("float32", "int8"):
        np.testing.assert_allclose(eight[dtype]["losses"], one[dtype]["losses"], rtol=0, atol=1e-5)
        assert one[dtype]["losses"][-1] < one[dtype]["losses"][0] - 0.01
        assert eight[dtype]["shares"] == {"a": 1 / 2, "b": 1 / 2, "q": 1 / 4, "merged": 1 / 4}


def test_the_table_names_where_axes_live(mesh):
    assert sharding.spec(("layers", "embed", "heads", None)) == PartitionSpec(None, "fsdp", "tensor", None)
    assert sharding.spec(("vocab", "embed")) == PartitionSpec("tensor", "fsdp")
    assert sharding.named(mesh, "batch", None).spec == PartitionSpec(("data", "fsdp", "expert"), None)
    assert set(sharding.RULES) >= {"batch", "embed", "heads", "kv_heads", "ff", "vocab"}


class Sharding:
    """Stands for the sharding of a process that holds some of the shards of a batch."""

    def __init__(self, held: list[int]):
        self.held = held

    def addressable_devices_indices_map(self, shape):
        return {place: (slice(shard, shard + 1),) for place, shard in enumerate(self.held)}


def test_rows_go_by_the_shards_that_a_process_holds(monkeypatch):
    """Of two microbatches of four shards; the order of the devices and copies of a shard change nothing."""
    monkeypatch.setattr(sharding, "shards", lambda mesh, axis: 4)
    for held, rows in (([0], [0, 1, 8, 9]), ([3, 1, 1, 3], [2, 3, 6, 7, 10, 11, 14, 15]), ([2, 0, 3, 1], range(16))):
        monkeypatch.setattr(sharding, "named", lambda mesh, axis, held=held: Sharding(held))
        assert sharding.own_rows(None, 16, 8).tolist() == list(rows)
        assert len(sharding.own_rows(None, 16)) == len(rows)


def gpu(number: int) -> types.SimpleNamespace:
    """One of four, two a host; JAX numbers the hosts as slices."""
    return types.SimpleNamespace(
        id=number, platform="gpu", device_kind="H", process_index=number, slice_index=number // 2
    )


@pytest.mark.parametrize("sizes", [(1, 4, 1), (1, 1, 4), (2, 1, 2)])
def test_any_axis_may_cross_hosts_of_gpus(monkeypatch, sizes):
    c = config.default()
    c.mesh.data, c.mesh.fsdp, c.mesh.tensor = sizes
    monkeypatch.setattr(sharding, "Mesh", lambda grid, axes, axis_types: grid)
    grid = sharding.make_mesh(c.mesh, [gpu(number) for number in (2, 0, 3, 1)])
    assert [device.id for device in grid.flat] == [0, 1, 2, 3]  # `data`, the first, crosses hosts where there is any


def test_a_batch_is_put_on_the_mesh_unchanged(mesh):
    host = {"tokens": np.arange(12).reshape(4, 3), "weights": np.ones((4, 3), np.float32)}
    for microbatch, parts in ((0, 1), (2, 2), (4, 1), (9, 1)):
        put = sharding.put_batch(mesh, host, microbatch)
        for key, value in host.items():
            np.testing.assert_array_equal(put[key], value.reshape(parts, -1, 3))
