"""Exact sampling: the trainer's log-probabilities are the sampler's to the bit, whatever was decoded together."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import config
from llm_jax.config import UserError
from llm_jax.rl.packing import pack_rollouts
from llm_jax.sampling import replay
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.requests import Request
from llm_jax.stages import rl
from llm_jax.training import loop
from tests.conftest import run_of, tiny_config

LENGTH, NEW = 48, 10


@pytest.fixture(scope="module")
def plain(mesh, tokenizer, tmp_path_factory):
    tiny = tiny_config()
    tiny.data.sequence_length = LENGTH
    return run_of(tiny, tmp_path_factory.mktemp("exact"), mesh, tokenizer)


@pytest.fixture(scope="module")
def run(plain):
    made = replay.exactly(plain)
    made.config = copy.deepcopy(made.config)
    made.config.rl.exact = True
    return made


@pytest.fixture(scope="module")
def requests(tokenizer):
    """Of many lengths, one with forced tokens, one after another that begins alike, in groups of two."""
    texts = ("The cat", "The cat sat on the mat and the dog sat on", "7", "def add(a, b):", "<", "cats are there?")
    prompts = [[tokenizer.bos, *tokenizer.encode(text)] for text in texts]
    forced = tuple(tokenizer.encode("12"))
    return [
        Request(prompt, seed, 1.0, NEW - seed % 3, forced if seed == 3 else ())
        for seed, prompt in enumerate(prompt for prompt in prompts for _ in range(2))
    ]


def sampled(engine, params, requests, order) -> list:
    """Completions in the order of the requests, which are decoded in another."""
    done = engine.generate(params, [requests[i] for i in order])
    engine.forget()
    return [done[i] for i in np.argsort(order)]


@pytest.fixture(scope="module")
def engine(run, tokenizer):
    return Engine(run.model, tokenizer, run.mesh, 9, LENGTH)


@pytest.fixture(scope="module")
def completions(engine, params, requests):
    return sampled(engine, params, requests, np.arange(len(requests)))


def numbers(completions) -> list[tuple]:
    return [(done.ids, done.logprob, done.sampling_logprob) for done in completions]


def test_rollouts_do_not_depend_on_what_is_decoded_beside_them(engine, params, requests, completions):
    shuffled = sampled(engine, params, requests, np.random.default_rng(0).permutation(len(requests)))
    assert numbers(shuffled) == numbers(completions)
    assert all(done.logprob == done.sampling_logprob for done in completions[4:])
    assert numbers(engine.generate(params, requests[5:6])) == numbers(completions[5:6])


@pytest.mark.slow
def test_rollouts_do_not_depend_on_the_number_of_slots(run, params, tokenizer, requests, completions):
    for slots in (1, 32):
        other = Engine(run.model, tokenizer, run.mesh, slots, LENGTH)
        assert numbers(sampled(other, params, requests, np.arange(len(requests))[::-1])) == numbers(completions)


def test_the_gap_is_zero_and_the_gradient_is_that_of_packed_rows(plain, run, params, tokenizer, requests, completions):
    advantage = np.linspace(-1, 1, len(requests)).astype(np.float32)

    def trained(run, rows: int):
        alone = run.config.rl.exact
        batch = pack_rollouts(requests, completions, advantage, LENGTH, tokenizer.pad, alone=alone)
        assert not batch["weights"][rows:].any()
        parts = jax.tree.map(lambda x: x[:rows].reshape(2, -1, *x.shape[1:]), batch)
        return jax.jit(lambda p: loop.gradients(rl.policy_loss(run), p, {}, parts))(params)

    grads, loss, metrics = trained(run, 12)
    packed_grads, packed_loss, packed_metrics = trained(plain, 8)
    assert metrics["logp_gap_max"] == 0.0 < packed_metrics["logp_gap_max"]
    np.testing.assert_allclose(loss, packed_loss, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(packed_grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_a_head_in_float32_is_nearer_to_float32(forward, tiny_model, tokenizer, params):
    tokens, logits = jnp.arange(5, 45)[None], {}
    for name, dtype, head in (
        ("float32", "float32", False),
        ("bfloat16", "bfloat16", False),
        ("head", "bfloat16", True),
    ):
        m = copy.deepcopy(tiny_model)
        m.compute_dtype, m.float32_head = dtype, head
        logits[name] = np.asarray(forward(m, tokenizer.vocab_size, params, tokens)[1])[..., : tokenizer.vocab_size]
    off = {name: np.abs(x - logits["float32"]).mean() for name, x in logits.items()}
    assert 0 < off["head"] < off["bfloat16"]


@pytest.mark.parametrize(
    "key, value, said",
    [("mesh.data", 2, "2 devices"), ("model.compute_dtype", "bfloat16", "float32"), ("model.experts", 4, "expert")],
)
def test_what_cannot_be_exact_is_refused(key, value, said):
    c = config.default()
    c.rl.exact = True
    section, name = key.split(".")
    c[section][name] = value
    if key == "model.experts":
        c.model.layer_pattern, c.model.experts_per_token, c.model.expert_ff_dim = ("full-experts",), 2, 64
    with pytest.raises(UserError, match=rf"rl\.exact.*{said}"):
        config.validate(c)
