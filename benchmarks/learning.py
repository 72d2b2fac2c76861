"""Learning per token: bits per byte on held-out pages after the same rows, ours and the PyTorch peer.

    python -m benchmarks.learning [--workdir=runs/learning] [--cells='adamw/1.0/*'] [--tokens=3000000]

A cell is OPTIMIZER/SCALE/SEED/SIDE: the peak rates of the speedrun times SCALE; the seed is that of the initial
parameters and of the order of rows, and both sides of a pair have the same of each. With Muon and SCALE 1.0 there are
also sides without one of our choices (WITHOUT). Every finished cell is a line in WORKDIR/cells.jsonl and is not run
again, so the same command continues.
"""

import fnmatch
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags

from benchmarks import torch_model
from llm_jax.frame.cli import quiet_logs, run_cli

quiet_logs()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from benchmarks.ours import context_of, job_of  # noqa: E402
from data_pipelines.speedrun import prepare  # noqa: E402
from experiments import speedrun  # noqa: E402
from llm_jax import rows, sharding  # noqa: E402
from llm_jax.config import UserError  # noqa: E402
from llm_jax.stages.supervised import RowBatches  # noqa: E402
from llm_jax.training import loader, loop  # noqa: E402
from llm_jax.training.nats import jitted_nats  # noqa: E402
from llm_jax.training.optimizer import schedule  # noqa: E402

OPTIMIZERS, SCALES, SEEDS, SIDES = ("adamw", "muon"), (0.5, 1.0, 2.0), (0, 1, 2), ("ours", "torch")
WITHOUT = {  # a choice of ours -> the config without it
    "qk_norm": {"model.qk_norm": False},
    "untied": {"model.tied_embedding": True},
    "wsd": {"optimizer.schedule": "cosine"},
    "clip": {"optimizer.clip": 0.0},
    "rotary": {"model.layer_pattern": ("full-norope",)},
}
Nats = Callable[[dict[str, np.ndarray]], float]  # a batch of `loader.targets` -> sum of nats


def define_flags() -> None:
    flags.DEFINE_string("workdir", "runs/learning", "Folder of the rows and of the finished cells.")
    flags.DEFINE_string("cells", "*", "Which cells to run: a pattern as in a shell.")
    flags.DEFINE_integer("tokens", 3_000_000, "Tokens that a cell trains on.", lower_bound=1)


def all_cells() -> list[str]:
    """In an order that completes pairs early."""
    pairs = [f"{o}/{x}/{seed}/{side}" for seed, o, x, side in itertools.product(SEEDS, OPTIMIZERS, SCALES, SIDES)]
    return pairs + [f"muon/1.0/{seed}/without_{choice}" for seed, choice in itertools.product(SEEDS, WITHOUT)]


def cell_config(cell: str, tokens: int) -> ConfigDict:
    """The speedrun's with a model of half a million parameters, so that a cell takes minutes."""
    optimizer, scale, seed, side = cell.split("/")
    c = speedrun.get_config()
    c.model.dim, c.model.layers, c.model.ff_dim, c.model.heads = 64, 4, 176, 1
    c.seed, c.optimizer.name, c.pretrain.learning_rate_scale = int(seed), optimizer, float(scale)
    c.pretrain.steps = math.ceil(tokens / (c.pretrain.batch * c.data.sequence_length))
    c.update_from_flattened_dict(WITHOUT.get(side.removeprefix("without_"), {}))
    return c


def train_ours(config: ConfigDict, data: Path) -> Nats:
    """By `loop.train`, in a workdir of its own that is not kept."""
    with tempfile.TemporaryDirectory() as folder:
        config.checkpoint.every = config.pretrain.steps
        context = context_of(config, Path(folder))
        job = job_of(context, config.pretrain.steps, row_batches(config, data))
        params = loop.train(context, job, context.init_params())
    nats = jitted_nats(context)
    return lambda batch: float(nats(params, sharding.put_batch(context.mesh, batch))[0])


def train_torch(config: ConfigDict, data: Path) -> Nats:
    """From our initial parameters, on the same batches, at the same share of the peak rates."""
    torch_model.torch.compiler.reset()  # else PyTorch gives up compiling one function for ever new models
    steps, o = config.pretrain.steps, config.optimizer
    model = torch_model.Model(config.model, config.tokenizer.vocab_size, config.data.sequence_length)
    torch_model.copy_params(context_of(config).init_params(), model)
    trainer = torch_model.Trainer(model, o, config.pretrain.learning_rate_scale)
    batches = row_batches(config, data)
    shares = np.asarray(jax.vmap(schedule(1.0, steps, o))(jnp.arange(steps)))
    for step, share in enumerate(shares.tolist()):
        batch, _ = batches.next(step, None)
        trainer.step(torch_model.torch_batch(batch, packed=True), share)

    @torch_model.torch.no_grad()
    def nats(batch) -> float:
        targets = float(batch["weights"].sum())
        return trainer.loss(model, **torch_model.torch_batch(batch, packed=True)).item() * targets if targets else 0.0

    return nats


def row_batches(config: ConfigDict, data: Path) -> RowBatches:
    return RowBatches(loader.wanted(data, config.data), config.pretrain.batch, config.seed)


def bits_per_byte(nats: Nats, data: Path, batch: int) -> float:
    """On the pages that `val_bpb` of a report is about: all held-out ones but Python's documentation."""
    total, size = 0.0, 0
    for folder in rows.row_sets(data / "validation"):
        if folder.name != "python_docs":
            total += sum(nats(part) for part in whole_batches(folder, batch))
            size += rows.facts(folder)["bytes"]
    return total / math.log(2) / size


def whole_batches(folder: Path, batch: int) -> Iterator[dict[str, np.ndarray]]:
    """Each row of a row set once; the last batch is filled up with rows without targets."""
    source = loader.read_all(folder)
    source += [{name: np.zeros_like(x) for name, x in source[0].items()}] * (-len(source) % batch)
    for start in range(0, len(source), batch):
        part = source[start : start + batch]
        yield loader.targets({name: np.stack([row[name] for row in part]) for name in rows.FIELDS})


def finished(path: Path, tokens: int) -> dict[str, float]:
    """Bits per byte of the cells that are done with so many tokens; a line cut short by a crash is none."""
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return {r["cell"]: r["bits_per_byte"] for r in records if r["tokens"] == tokens}


def run_cell(cell: str, workdir: Path, tokens: int) -> dict:
    config, data = cell_config(cell, tokens), workdir / "data"
    started = time.monotonic()
    side = cell.split("/")[-1]
    trained = (train_torch if side == "torch" else train_ours)(config, data)
    value = bits_per_byte(trained, data, config.pretrain.batch)
    return {"cell": cell, "tokens": tokens, "bits_per_byte": value, "seconds": round(time.monotonic() - started, 1)}


def print_table(done: dict[str, float]) -> None:
    """Means over the seeds whose pair is complete."""
    print(f"{'optimizer':9}  rates x  seeds    ours   torch   ours - torch, mean (each seed)    ours / torch")
    for optimizer, scale in itertools.product(OPTIMIZERS, SCALES):
        keys = [[f"{optimizer}/{scale}/{seed}/{side}" for side in SIDES] for seed in SEEDS]
        pairs = np.array([[done[a], done[b]] for a, b in keys if a in done and b in done])
        if len(pairs):
            (ours, theirs), differences = pairs.mean(axis=0), pairs[:, 0] - pairs[:, 1]
            each = f"{differences.mean():+.4f} ({', '.join(f'{d:+.4f}' for d in differences)})"
            means = f"{ours:.4f}  {theirs:.4f}   {each:33}  {ours / theirs:.4f}"
            print(f"{optimizer:9}  {scale:7}  {len(pairs):5}  {means}")


def print_choices(done: dict[str, float]) -> None:
    """What bits per byte rise by without one choice, on each seed that is complete."""
    print("\nwithout          bits per byte more, mean (each seed)")
    for choice in WITHOUT:
        keys = [(f"muon/1.0/{seed}/without_{choice}", f"muon/1.0/{seed}/ours") for seed in SEEDS]
        rises = np.array([done[a] - done[b] for a, b in keys if a in done and b in done])
        if len(rises):
            print(f"{choice:15}  {rises.mean():+.4f} ({', '.join(f'{r:+.4f}' for r in rises)})")


def main() -> None:
    f = flags.FLAGS
    wanted = [cell for cell in all_cells() if fnmatch.fnmatch(cell, f.cells)]
    if not wanted:
        raise UserError(f"no cell matches {f.cells!r}; one is {all_cells()[0]!r}")
    workdir = Path(f.workdir)
    prepare(speedrun.get_config(), workdir)
    path = workdir / "cells.jsonl"
    for cell in wanted:
        if cell not in finished(path, f.tokens):
            record = run_cell(cell, workdir, f.tokens)
            print(json.dumps(record), flush=True)
            with path.open("a") as file:
                file.write(json.dumps(record) + "\n")
    print_table(finished(path, f.tokens))
    print_choices(finished(path, f.tokens))


if __name__ == "__main__":
    run_cli(main, define_flags)
