"""What the tests share: one CPU device, a small tokenizer, a tiny model and its run.

Tests of several devices run in processes of their own (test_sharding.py): eight simulated devices here would slow
down all the others.
"""

import os

from tests.commands import COMPILED, FEWER_PASSES
from tests.commands import tiny as tiny_run

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.update(COMPILED | {FEWER_PASSES: os.environ.get(FEWER_PASSES, "1")})  # before JAX is imported

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import fasteners
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from llm_jax import config, sharding
from llm_jax.model import transformer
from llm_jax.runs import Run
from llm_jax.tokenizer.sentencepiece import train_tokenizer
from llm_jax.training import losses

hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("tests")

# It spells special tokens and byte pieces, so that merges of them are there to be confused with the real ones.
CORPUS = [
    "The cat sat on the mat and the dog sat on the cat. How many cats are there? There are 12 + 7 = 19 cats.\n" * 40,
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n" * 20,
    "<|end|> <|user|> <|/python|> <0x41> <unk> <s>\n" * 60,
    "Grüße aus Köln, où l'été est très chaud. 日本語のテキスト\n" * 10,
]


# Files that take longest begin first, so that no worker is left alone with one at the end.
LONG = (
    "tests/test_end_to_end.py",
    "tests/test_multihost.py",
    "tests/test_tables.py",
    "tests/test_generate.py",
    "tests/test_chat.py",
    "tests/sampling/test_engine_sharing.py",
    "tests/model/test_experts.py",
    "tests/data_pipelines/test_web.py",
    "tests/data_pipelines/test_sets.py",
    "tests/test_sharding.py",
    "tests/serve/test_chat_page.py",
    "tests/training/test_loop.py",
    "tests/data_pipelines/test_web_executors.py",
    "tests/test_bad_input.py",
    "tests/sampling/test_engine_mesh.py",
)


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.location[0], len(LONG)))


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(CORPUS, 420)


def tiny_config() -> ConfigDict:
    """A config whose model is tiny; short rows, a checkpoint every other step, no validation."""
    c = config.default()
    c.model.dim, c.model.layers, c.model.heads, c.model.kv_heads = 32, 2, 4, 2
    c.model.head_dim, c.model.ff_dim = 8, 48
    c.data.sequence_length, c.train.loss_chunk = 16, 32
    c.pretrain.batch = c.sft.batch = 4
    c.checkpoint.every, c.log.eval_every = 2, 1000
    return c


@pytest.fixture
def tiny():
    return tiny_config()


def drawn_params(m: ConfigDict, vocab_size: int, seed: int = 0):
    """Parameters drawn by NumPy: no compilation, and norms' scales that are not all one."""
    shapes = jax.eval_shape(lambda: transformer.init_params(m, vocab_size, jax.random.key(0)))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        return jnp.asarray(1 + 0.1 * noise if path[-1].key == "scale" else m.dim**-0.5 * noise)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="session")
def draw_params() -> Callable:
    return drawn_params


@pytest.fixture(scope="session")
def tiny_model() -> ConfigDict:
    return tiny_config().model


@pytest.fixture(scope="session")
def params(tiny_model, tokenizer):
    return drawn_params(tiny_model, tokenizer.vocab_size)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(model_json: str, vocab_size: int, params, tokens_BT, positions_BT, segments_BT):
    m = ConfigDict(json.loads(model_json))
    hidden_BTD, *_ = transformer.apply(m, vocab_size, params, tokens_BT, positions_BT, segments_BT)
    return hidden_BTD, losses.logits_of(hidden_BTD, transformer.head_DV(m, params), vocab_size, m.logit_cap)


@pytest.fixture(scope="session")
def forward() -> Callable:
    """(model config, vocab size, params, tokens [, positions, segments]) -> (hidden, logits), compiled once a shape."""

    def run(m, vocab_size, params, tokens, positions=None, segments=None):
        tokens = jnp.asarray(tokens)
        places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        positions = places if positions is None else jnp.asarray(positions)
        segments = jnp.ones_like(tokens) if segments is None else jnp.asarray(segments)
        return _forward(m.to_json(), vocab_size, params, tokens, positions, segments)

    return run


@pytest.fixture(scope="session")
def mesh():
    """One device, whatever the machine has: the axes are there, of size one."""
    axes = sharding.MESH_AXES
    types = (sharding.AXIS_TYPE,) * len(axes)
    return jax.make_mesh((1,) * len(axes), axes, axis_types=types, devices=jax.devices()[:1])


def run_of(config: ConfigDict, workdir, mesh, tokenizer) -> Run:
    """A run in a folder that has a tokenizer and nothing else yet."""
    (workdir / "data").mkdir(parents=True, exist_ok=True)
    tokenizer.save(workdir / "data" / "tokenizer.model")
    run = Run(config, workdir, mesh)
    assert run.vocab_size == tokenizer.vocab_size  # read here: tests then set other workdirs
    return run


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A function that lays a tiny run with stage `data` done at a path; the data is made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "prepared"
    with fasteners.InterProcessLock(f"{folder}.lock"):
        if not (folder / "data/prepared.json").exists():
            made = tiny_run(folder, "--stages=data")
            assert made.returncode == 0, made.stderr[-3000:]

    def lay(workdir) -> Path:
        return Path(shutil.copytree(folder, workdir))

    return lay


@pytest.fixture
def context(tiny, mesh, tokenizer, tmp_path):
    return run_of(tiny, tmp_path / "run", mesh, tokenizer)
