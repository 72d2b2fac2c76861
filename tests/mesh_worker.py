"""A process of test_sharding.py: trains the tiny model on the mesh of its arguments, prints one JSON line.

python tests/mesh_worker.py DATA FSDP TENSOR CONTEXT STEPS
python tests/mesh_worker.py losses DATA FSDP TENSOR CONTEXT    # of both losses and gradients: relative differences
python tests/mesh_worker.py adapter DATA FSDP TENSOR CONTEXT    # losses of an adapter's steps, by the dtype under it
python tests/mesh_worker.py attention LENGTH    # a long row over all devices against one: the largest differences
"""

import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llm_jax import config, sharding
from llm_jax.model import lora, transformer
from llm_jax.model.attention import attention
from llm_jax.model.transformer import training_mask
from llm_jax.runs import Run
from llm_jax.training import loop
from llm_jax.training.losses import cross_entropy, logprobs_BT
from llm_jax.training.nats import cross_entropy_loss
from llm_jax.training.optimizer import make_optimizer

VOCAB, B, T = 300, 8, 16


def tiny(sizes: list[int], name: str):
    c = config.default()
    c.model.dim, c.model.layers, c.model.heads, c.model.kv_heads, c.model.head_dim, c.model.ff_dim = 32, 2, 4, 2, 8, 48
    c.mesh.data, c.mesh.fsdp, c.mesh.tensor, c.mesh.context = sizes
    c.optimizer.name, c.train.loss_chunk, c.pretrain.batch = name, 32, B
    config.validate(c)
    return c


def batch(step: int) -> dict[str, np.ndarray]:
    """Sequences that count up, so that there is something to learn."""
    rng = np.random.default_rng(step)
    tokens = ((rng.integers(VOCAB, size=(B, 1)) + 3 * np.arange(T + 1)) % VOCAB).astype(np.int32)
    ones = np.ones((B, T), np.int32)
    weights = (rng.uniform(size=(B, T)) < 0.8).astype(np.float32)
    places = np.tile(np.arange(T, dtype=np.int32), (B, 1))
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segments": ones,
        "positions": places,
        "weights": weights,
    }


def share_of(x: jax.Array) -> float:
    """The part of an array that one device holds."""
    return x.addressable_shards[0].data.size / x.size


def train_on(sizes: list[int], name: str, steps: int) -> dict:
    c = tiny(sizes, name)
    context = Run(c, Path("."), sharding.make_mesh(c.mesh), VOCAB)
    optimizer = make_optimizer(c.optimizer, steps, 1.0, transformer.param_axes(c.model, VOCAB))
    job = loop.Job("pretrain", steps, optimizer, cross_entropy_loss(context), loop.Batches())
    params = context.init_params()
    (state, step_fn), losses = loop.prepare(job, params, context.mesh), []
    before = [share_of(x) for x in jax.tree.leaves(state) if x.ndim > 2]
    for step in range(steps):
        params, state, metrics = step_fn(params, {}, state, sharding.put_batch(context.mesh, batch(step)))
        losses.append(float(metrics["loss"]))
    shares = {jax.tree_util.keystr(path): share_of(x) for path, x in jax.tree_util.tree_flatten_with_path(params)[0]}
    after = [share_of(x) for x in jax.tree.leaves(state) if x.ndim > 2]
    return {"losses": losses, "shares": shares, "before": before, "after": after, "compiled": step_fn._cache_size()}


def adapter_steps(sizes: list[int], dtype: str, steps: int = 3) -> dict:
    """Losses, and the shares of the adapter and of what it lies on that a device has."""
    c = tiny(sizes, "adamw")
    c.lora.rank, c.lora.frozen, c.lora.learning_rate = 4, dtype, 0.05
    context = Run(c, Path("."), sharding.make_mesh(c.mesh), VOCAB)
    join = functools.partial(lora.attached, scale=c.lora.alpha / c.lora.rank)
    adamw = optax.adamw(c.lora.learning_rate)
    job = loop.Job("sft", steps, adamw, cross_entropy_loss(context), loop.Batches(), join=join)
    frozen = lora.frozen(context.init_params(), context.axes(), dtype)
    adapter, losses = context.init_adapter("sft"), []
    state, step_fn = loop.prepare(job, adapter, context.mesh)
    for step in range(steps):
        placed = sharding.put_batch(context.mesh, batch(step))
        adapter, state, metrics = step_fn(adapter, frozen, state, placed)
        losses.append(float(metrics["loss"]))
    merged = lora.merged(join(adapter, frozen), context.axes())
    block = lambda tree: tree["stack"]["blocks"]["layer_0"]  # noqa: E731
    q, of_q = block(frozen)["attention"]["q"], block(adapter)["attention"]["q"]
    parts = {"a": of_q["a"], "b": of_q["b"], "q": jax.tree.leaves(q)[0], "merged": block(merged)["attention"]["q"]}
    return {"losses": losses, "shares": {name: share_of(x) for name, x in parts.items()}}


def train_with_mesh(sizes: list[int], name: str, steps: int) -> dict:
    with jax.set_mesh(sharding.make_mesh(tiny(sizes, name).mesh)):
        return train_on(sizes, name, steps)


def long_attention(length: int) -> dict:
    """Output and gradients of attention over a row that is split over all devices, and on one device."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(1, length, heads, 8)), jnp.float32) for heads in (2, 1, 1))
    segments = jnp.asarray(np.repeat([1, 2, 3], [length // 2, length // 4, length // 4])[None])

    def loss(q, k, v):
        out = attention(q, k, v, training_mask(segments), 0)
        return jnp.sum(jnp.sin(out)), out

    outputs = []
    for devices in (jax.devices(), jax.devices()[:1]):
        c = config.default()
        c.mesh.context = len(devices)
        with jax.set_mesh(sharding.make_mesh(c.mesh, devices)):
            (_, out), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
            outputs.append(jax.device_get((out, *grads)))
    return {"differences": [float(np.abs(a - b).max()) for a, b in zip(*outputs, strict=True)]}


def both_losses(sizes: list[int]) -> dict:
    """Values and gradients of the two losses on the mesh and on one device."""
    rng = np.random.default_rng(0)
    hidden, head = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((B, T, 32), (32, 384)))
    targets, weights = jnp.asarray(rng.integers(VOCAB, size=(B, T))), jnp.asarray(rng.uniform(size=(B, T)))

    def total(hidden, head):
        logp_BT = logprobs_BT(hidden, head, targets, VOCAB, 16)
        return jnp.stack([cross_entropy(hidden, head, targets, weights, VOCAB, 16), jnp.sum(weights * logp_BT)])

    outputs = []
    for devices, cut in ((jax.devices(), sizes), (jax.devices()[:1], [1, 1, 1, 1])):
        with jax.set_mesh(sharding.make_mesh(tiny(cut, "adamw").mesh, devices)):
            grads = jax.jit(jax.jacrev(total, argnums=(0, 1)))(hidden, head)
            outputs.append(jax.device_get((jax.jit(total)(hidden, head), *grads)))
    return {"differences": [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(*outputs, strict=True)]}


def main() -> None:
    if sys.argv[1] == "losses":
        print(json.dumps(both_losses([int(size) for size in sys.argv[2:]])))
        return
    if sys.argv[1] == "adapter":
        sizes = [int(size) for size in sys.argv[2:]]
        with jax.set_mesh(sharding.make_mesh(tiny(sizes, "adamw").mesh)):
            print(json.dumps({dtype: adapter_steps(sizes, dtype) for dtype in ("float32", "int8")}))
        return
    if sys.argv[1] == "attention":
        print(json.dumps(long_attention(int(sys.argv[2]))))
        return
    *sizes, steps = map(int, sys.argv[1:])
    print(json.dumps({name: train_with_mesh(sizes, name, steps) for name in ("adamw", "muon")}))


if __name__ == "__main__":
    main()
