"""What the sampler gives to tokens that are there already: the trainer's log-probabilities, the same to the bit.

Of models that compute exactly (`model.exact`). Each row has one rollout, from its first position on.
"""

import dataclasses
import functools

import jax.numpy as jnp
from ml_collections import ConfigDict

from llm_jax.model import exact, transformer
from llm_jax.runs import Run
from llm_jax.sampling import decode
from llm_jax.sampling.slots import cache_lengths
from llm_jax.training import losses


def exactly(run: Run) -> Run:
    """The run, with a model that computes exactly where it decodes."""
    run = dataclasses.replace(run)
    with run.model.unlocked():
        run.model.exact = True
    return run


def logprobs_BT(m: ConfigDict, vocab_size: int, chunk_tokens: int, params, batch: dict):
    """log p(target) of every token, differentiable, of a batch with `tokens`, `positions`, `segments` and `targets`."""
    tokens_BT, segments_BT = batch["tokens"], batch["segments"]
    cache = transformer.empty_cache(m, len(tokens_BT), cache_lengths(tokens_BT.shape[1])[-1])
    # What pads a row has position 0, too; its keys are dropped.
    positions_BT = jnp.where(segments_BT > 0, batch["positions"], 2 * tokens_BT.shape[1])
    weights = transformer.for_decoding(m, params)
    hidden_BTD, *_ = transformer.apply(m, vocab_size, weights, tokens_BT, positions_BT, segments_BT, cache)

    def plain(head_VD, hidden_BTD, targets_BT):
        return losses.logprobs_BT(hidden_BTD, head_VD.T, targets_BT, vocab_size, chunk_tokens, m.logit_cap)

    picked = functools.partial(exact.picked, functools.partial(decode.logits_of, m, vocab_size))
    return exact.with_gradient_of(plain, picked)(weights["head_VD"], hidden_BTD, batch["targets"])
