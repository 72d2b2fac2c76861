"""What the tests share: one CPU device, a small tokenizer, a tiny model and its run.

Tests of several devices run in processes of their own (test_sharding.py): eight simulated devices here would slow
down all the others.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest

from llm_jax import config, sharding, train
from llm_jax.model import transformer
from llm_jax.tokenizer import train_tokenizer

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


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(CORPUS, 420)


@pytest.fixture
def tiny():
    """A config whose model is tiny; short rows, a checkpoint every other step, no validation."""
    c = config.default()
    c.model.dim, c.model.layers, c.model.heads, c.model.kv_heads = 32, 2, 4, 2
    c.model.head_dim, c.model.ff_dim = 8, 48
    c.data.sequence_length, c.train.loss_chunk = 16, 32
    c.pretrain.batch = c.sft.batch = 4
    c.checkpoint.every, c.log.eval_every = 2, 1000
    return c


@pytest.fixture(scope="session")
def mesh():
    """One device, whatever the machine has: the axes are there, of size one."""
    return jax.make_mesh((1, 1, 1), sharding.MESH_AXES, axis_types=(sharding.AXIS_TYPE,) * 3, devices=jax.devices()[:1])


@pytest.fixture
def context(tiny, mesh, tokenizer, tmp_path):
    return train.Context(tiny, tmp_path / "run", mesh, tokenizer.vocab_size, tokenizer.sha256)


@pytest.fixture
def params(tiny, tokenizer):
    return transformer.init_params(tiny.model, tokenizer.vocab_size, jax.random.key(0))
