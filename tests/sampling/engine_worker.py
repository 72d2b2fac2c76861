"""A process of test_engine_mesh.py: the same requests on one device and on a mesh of all; prints one JSON line.

python tests/sampling/engine_worker.py DATA FSDP TENSOR EXPERT CONTEXT; with experts where EXPERT is more than 1.
"""

import json
import sys

import jax

from llm_jax import config, sharding
from llm_jax.model import transformer
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.requests import Request
from llm_jax.tokenizer.sentencepiece import train_tokenizer

TEXTS = ("The cat", "How many cats are there?", "7", "The cat sat on the mat and the dog", "<", "12 + 7 = 19 12 + 7 =")


def main() -> None:
    c = config.default()
    c.model.dim, c.model.layers, c.model.heads, c.model.kv_heads, c.model.head_dim, c.model.ff_dim = 32, 3, 4, 2, 8, 48
    c.model.layer_pattern = ("full", "window:6")
    for axis, size in zip(("data", "fsdp", "tensor", "expert", "context"), sys.argv[1:], strict=True):
        c.mesh[axis] = int(size)
    if c.mesh.expert > 1:
        c.model.layer_pattern = ("full", "window:6-experts")
        c.model.experts, c.model.experts_per_token, c.model.expert_ff_dim = 4, 2, 16
    tokenizer = train_tokenizer(["The cat sat on the mat and the dog sat on the cat. 12 + 7 = 19 cats.\n" * 40], 350)
    axes = transformer.param_axes(c.model, tokenizer.vocab_size)
    out = {}
    for name, mesh in (
        ("one", sharding.make_mesh(config.default().mesh, jax.devices()[:1])),
        ("mesh", sharding.make_mesh(c.mesh)),
    ):
        places = jax.tree.map(
            lambda a, mesh=mesh: sharding.named(mesh, *a), axes, is_leaf=lambda x: isinstance(x, tuple)
        )
        make = lambda key: transformer.init_params(c.model, tokenizer.vocab_size, key)  # noqa: E731
        with jax.set_mesh(mesh):
            params = jax.jit(make, out_shardings=places)(jax.random.key(0))
            engine = Engine(c.model, tokenizer, mesh, 4, 96)
            requests = [
                Request([tokenizer.bos, *tokenizer.encode(text)], i, float(i % 2), 24, forced=(5, 6) if i == 3 else ())
                for i, text in enumerate(TEXTS)
            ]
            requests += [Request(requests[1].prompt, 50 + i, 1.0, 24) for i in range(3)]  # a group
            done = engine.generate(params, requests)
            part = engine._lanes[0]._slots._cache["k"][0]
            share = part.addressable_shards[0].data.size / part.size
        out[name] = {"ids": [d.ids for d in done], "logprob": [d.logprob for d in done], "share": share}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
