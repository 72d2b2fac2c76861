"""MFU of a 1.1B model on one GPU, bfloat16, packed rows of 2048 tokens: ours, then torch.compile on the same shape.

    python -m benchmarks.train_gpu [--steps=20] [--toy] [--json]

Each side has a process of its own, one after the other, since each wants all of the memory. `--toy` is a small model on
whatever is here, to see that the script runs. Not run on a GPU yet: the figures are the reader's.
"""

import json
import multiprocessing
import statistics
import time

from absl import flags
from ml_collections import ConfigDict

from benchmarks.common import need_torch, random_batches
from llm_jax.config import default
from llm_jax.frame.cli import quiet_logs, run_cli

HORIZON, DOCUMENTS = 10_000, 4  # steps of the schedule; documents in a row


def define_flags() -> None:
    flags.DEFINE_integer("steps", 20, "Timed steps of each side.", lower_bound=2)
    flags.DEFINE_bool("toy", False, "A small model, for a look at the script.")
    flags.DEFINE_bool("json", False, "Print one JSON object, too.")


def shape(toy: bool) -> ConfigDict:
    c = default()
    c.optimizer.name, c.model.compute_dtype = "adamw", "bfloat16"
    if not toy:
        c.model.dim, c.model.layers, c.model.ff_dim = 2048, 16, 8192
        c.model.heads, c.model.kv_heads, c.model.head_dim = 16, 8, 128
        c.tokenizer.vocab_size, c.data.sequence_length = 32_768, 2048
        c.model.remat, c.train.microbatch, c.train.loss_chunk = "dots", 8, 4096
    return c


def batches_of(c: ConfigDict):
    return random_batches(c.tokenizer.vocab_size, c.pretrain.batch, c.data.sequence_length, DOCUMENTS)


def ours(c: ConfigDict, steps: int) -> dict:
    """As `loop.train` does it: one put a step, no implicit transfer, metrics read one step late."""
    quiet_logs()
    import jax

    from benchmarks.ours import context_of, job_of
    from llm_jax import sharding
    from llm_jax.planning.roofline import peak_flops, train_flops
    from llm_jax.training import loop

    context = context_of(c)
    params = context.init_params()
    state, step = loop.prepare(job_of(context, HORIZON), params, context.mesh)
    batches, seconds, pending = batches_of(c), [], None
    for _ in range(steps + 2):
        started = time.perf_counter()
        batch = sharding.put_batch(context.mesh, next(batches), c.train.microbatch)
        with jax.transfer_guard("disallow"):
            params, state, metrics = step(params, {}, state, batch)
        if pending:
            jax.device_get(pending["loss"])
        pending = metrics
        seconds.append(time.perf_counter() - started)
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30
    flops = train_flops(c.model, c.tokenizer.vocab_size, c.pretrain.batch, c.data.sequence_length)
    facts = {"device": device.device_kind, "kernel": context.model.attention, "peak_flops": peak_flops(device)}
    return {"seconds": seconds[2:], "memory_gib": memory, "flops": flops, **facts}


def theirs(c: ConfigDict, steps: int) -> dict:
    from benchmarks import torch_model

    torch = torch_model.torch
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = torch_model.Model(c.model, c.tokenizer.vocab_size, c.data.sequence_length).to(device)
    trainer, batches, seconds = torch_model.Trainer(model, c.optimizer), batches_of(c), []
    for _ in range(steps + 2):
        started = time.perf_counter()
        batch = {k: x.to(device) for k, x in torch_model.torch_batch(next(batches), packed=True).items()}
        with torch.autocast(device, torch.bfloat16):
            loss = trainer.step(batch)
        loss.item()
        seconds.append(time.perf_counter() - started)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return {"seconds": seconds[2:], "memory_gib": memory}


def worker(side: str, toy: bool, steps: int, pipe) -> None:
    pipe.send({"ours": ours, "torch": theirs}[side](shape(toy), steps))


def measured(side: str) -> dict:
    near, far = multiprocessing.Pipe()
    options = (side, flags.FLAGS.toy, flags.FLAGS.steps, far)
    process = multiprocessing.get_context("spawn").Process(target=worker, args=options)
    process.start()
    far.close()  # so that a worker that dies is an end of file here
    result = near.recv()
    process.join()
    return result


def main() -> None:
    need_torch()
    c = shape(flags.FLAGS.toy)
    results = {side: measured(side) for side in ("ours", "torch")}
    flops, peak = results["ours"]["flops"], results["ours"]["peak_flops"]
    print(f"{results['ours']['device']}, attention by {results['ours']['kernel']}, {flops:.3e} model FLOPs a step")
    for side, result in results.items():
        second = statistics.median(result["seconds"])
        rate = c.pretrain.batch * c.data.sequence_length / second
        mfu = f"MFU {flops / second / peak:.1%}" if peak else "MFU unknown: no peak for this device"
        print(f"{side:6} {second:.3f} s a step (median), {rate:,.0f} tokens/s, {mfu}, {result['memory_gib']:.1f} GiB")
    if flags.FLAGS.json:
        print(json.dumps(results))


if __name__ == "__main__":
    run_cli(main, define_flags)
