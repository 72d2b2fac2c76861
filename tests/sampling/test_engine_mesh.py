"""The engine on eight simulated devices writes what it writes on one. In processes of their own: see conftest.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.commands import DEADLINE

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("mesh", "share"),  # slots over the batch axes, heads over tensor
    [
        ((2, 2, 2, 1, 1), 1 / 8),
        pytest.param((4, 1, 2, 1, 1), 1 / 8, marks=pytest.mark.slow),
        pytest.param((2, 1, 1, 2, 2), 1 / 4, marks=pytest.mark.slow),
    ],
)
def test_a_mesh_writes_what_one_device_writes(mesh, share):
    command = [sys.executable, str(ROOT / "tests/sampling/engine_worker.py"), *map(str, mesh)]
    flags = "--xla_force_host_platform_device_count=8"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr[-3000:]
    out = json.loads(done.stdout.splitlines()[-1])
    assert out["mesh"]["ids"] == out["one"]["ids"]
    for ours, theirs in zip(out["mesh"]["logprob"], out["one"]["logprob"], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert out["mesh"]["share"] == share
    assert len({tuple(ids) for ids in out["one"]["ids"]}) > 5
