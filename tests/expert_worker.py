"""A process of model/test_experts.py: trains a tiny model with experts on a mesh, prints one JSON line.

python tests/expert_worker.py STEPS DATA,FSDP,EXPERT,TENSOR,CONTEXT ...    # one result for each mesh
"""

import json
import sys
from pathlib import Path

import jax
from mesh_worker import VOCAB, B, batch, share_of

from llm_jax import config, sharding
from llm_jax.model import transformer
from llm_jax.runs import Run
from llm_jax.training import loop
from llm_jax.training.nats import cross_entropy_loss
from llm_jax.training.optimizer import make_optimizer


def tiny(sizes: list[int]):
    c = config.default()
    c.model.dim, c.model.layers, c.model.heads, c.model.kv_heads, c.model.head_dim, c.model.ff_dim = 32, 2, 4, 2, 8, 48
    c.model.layer_pattern = ("full-experts",)
    c.model.experts, c.model.experts_per_token, c.model.expert_ff_dim = 8, 2, 16
    c.model.load_balance, c.model.router_z = 0.3, 0.1  # large: an error in them must show
    c.mesh.data, c.mesh.fsdp, c.mesh.expert, c.mesh.tensor, c.mesh.context = sizes
    c.optimizer.name, c.train.loss_chunk, c.pretrain.batch, c.data.sequence_length = "adamw", 32, B, 16
    config.validate(c)
    return c


def train_on(sizes: list[int], steps: int) -> dict:
    c = tiny(sizes)
    context = Run(c, Path("."), sharding.make_mesh(c.mesh), VOCAB)
    optimizer = make_optimizer(c.optimizer, steps, 1.0, transformer.param_axes(c.model, VOCAB))
    job = loop.Job("pretrain", steps, optimizer, cross_entropy_loss(context), loop.Batches())
    with jax.set_mesh(context.mesh):
        params, out = context.init_params(), {"loss": [], "aux": []}
        state, step_fn = loop.prepare(job, params, context.mesh)
        for step in range(steps):
            placed = sharding.put_batch(context.mesh, batch(step), B // 2)
            params, state, metrics = step_fn(params, {}, state, placed)
            for name, values in out.items():
                values.append(float(metrics[name]))
    ff = params["stack"]["blocks"]["layer_0"]["ff"]
    return out | {"shares": {name: share_of(x) for name, x in ff.items()}}


if __name__ == "__main__":
    print(json.dumps([train_on([int(n) for n in sizes.split(",")], int(sys.argv[1])) for sizes in sys.argv[2:]]))
