"""Sampling in several processes: who does what, and in which order it comes together. The processes: test_multihost."""

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_jax.config import UserError
from llm_jax.sampling import memory, shared


@given(keys=st.lists(st.integers(0, 9), max_size=60), processes=st.integers(1, 5))
def test_requests_are_dealt_out_evenly_and_groups_stay_together(keys, processes):
    shares = shared.dealt(keys, processes)
    assert sorted(number for share in shares for number in share) == list(range(len(keys)))
    sizes, share = [len(numbers) for numbers in shares], -(-len(keys) // processes)
    largest = max((keys.count(key) for key in keys), default=0)
    assert max(sizes) - min(sizes) <= max(1, min(largest, share))
    for key in set(keys):
        if keys.count(key) <= share:
            assert sum(any(keys[number] == key for number in numbers) for numbers in shares) == 1
    parts = [[keys[number] for number in numbers] for numbers in shares]
    assert shared.in_order(shares, parts) == keys


def test_a_model_without_room_in_one_process_is_refused(mesh, monkeypatch, context):
    params = context.abstract_params()
    memory.check_copy(params, mesh)
    size = sum(leaf.size * 4 for leaf in jax.tree.leaves(params))
    monkeypatch.setattr(memory, "free", lambda _: size - 1)
    with pytest.raises(UserError, match=r"copies all weights onto its own devices: .* MB on the host, where"):
        memory.check_copy(params, mesh)
    monkeypatch.setattr(memory, "free", lambda _: size)
    memory.check_copy(params, mesh)
