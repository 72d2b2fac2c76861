"""The bytes of a cache: as told, and refused where there is no room."""

import jax
import pytest

from llm_jax.config import UserError
from llm_jax.sampling import memory
from llm_jax.sampling.engine import Engine


@pytest.mark.parametrize("int8", [False, True])
def test_the_bytes_are_those_of_the_cache_when_it_is_full(tiny_model, tokenizer, mesh, capsys, monkeypatch, int8):
    told = []
    monkeypatch.setattr(memory, "shown", lambda size: told.append(size) or f"{size} bytes")
    engine = Engine(tiny_model, tokenizer, mesh, 4, 66, int8_cache=int8)
    slots = engine._lanes[0]._slots
    slots.make_room(66)
    full = sum(x.nbytes for x in jax.tree.leaves(slots._cache))
    assert told == [full] and f"4 slots x 66 tokens: {full} bytes" in capsys.readouterr().err
    per_token = (
        tiny_model.layers * tiny_model.kv_heads * 2 * (tiny_model.head_dim + 4 if int8 else 4 * tiny_model.head_dim)
    )
    assert full == 4 * 72 * per_token
    engine.close()


def test_one_without_room_is_refused(tiny_model, tokenizer, mesh, params, monkeypatch):
    weights = sum(x.nbytes for x in jax.tree.leaves(params))
    cache = 4 * 64 * tiny_model.layers * tiny_model.kv_heads * 2 * 4 * tiny_model.head_dim
    monkeypatch.setattr(memory, "free", lambda mesh: weights + cache)
    Engine(tiny_model, tokenizer, mesh, 4, 64).close()
    monkeypatch.setattr(memory, "free", lambda mesh: weights + cache - 1)
    with pytest.raises(UserError, match=r"4 slots x 64 tokens: .*fewer slots, or a shorter data\.sequence_length"):
        Engine(tiny_model, tokenizer, mesh, 4, 64)


def test_what_is_free_is_what_the_device_or_the_host_says(mesh, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert memory.free(mesh) > 2**28  # all that the machine has
    (tmp_path / "meminfo").write_text("MemTotal:       100 kB\nMemAvailable:       64 kB\n")
    assert memory.free(mesh) == 65_536
