"""Compile the real training or decoding step for a TPU slice that is not there: does it fit, what bounds it?

    python -m llm_jax.compile_ahead --config=experiments/NAME.py [--topology=v5p:4x4x4] [--function=decode] [--json]

Training is a step of stage `pretrain`; with `lora.rank`, one of stage `sft` that trains an adapter. Decoding has
`rl.slots` rows with a cache of `data.sequence_length` positions each. That of a run: --config=experiments/run.py:DIR.

Needs the `tpu` extra (libtpu), no TPU. Figures are the compiler's and a roofline's, not measured times.
"""

import os

# Before libtpu loads: no look-ups of a metadata server or of other hosts, and several processes at a time.
os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", TPU_WORKER_ID="0")
os.environ.update(TPU_ACCELERATOR_TYPE="v5litepod-1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")

import functools
import importlib.util
import json
import math
import re
import time
from pathlib import Path

from absl import flags

from llm_jax.frame.cli import quiet_logs, run_cli

quiet_logs()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from ml_collections import ConfigDict, config_flags  # noqa: E402

from llm_jax import sharding  # noqa: E402
from llm_jax.config import UserError, validate  # noqa: E402
from llm_jax.model import transformer  # noqa: E402
from llm_jax.planning import hlo, roofline  # noqa: E402
from llm_jax.runs import Run  # noqa: E402
from llm_jax.sampling import decode  # noqa: E402
from llm_jax.sampling.slots import makers, placed  # noqa: E402
from llm_jax.stage_table import STAGES  # noqa: E402
from llm_jax.stages import adapter  # noqa: E402
from llm_jax.tables import extend  # noqa: E402
from llm_jax.training import loop  # noqa: E402
from llm_jax.training.nats import cross_entropy_loss  # noqa: E402
from llm_jax.training.optimizer import make_optimizer, schedule  # noqa: E402

GIB = 2**30
# Sizes that are sold: of 2-D slices the grids, of 3-D ones the rule.
GRIDS = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
FLAT, CUBIC = ("v5e", "v6e"), ("v4", "v5p", "tpu7x")


def define_flags() -> None:
    config_flags.DEFINE_config_file("config", None, "The experiment.", lock_config=True)
    flags.DEFINE_string("topology", "", "TPU slice, as in v5p:4x4x4; the config's mesh.topology if not given.")
    flags.DEFINE_enum("function", "train", ["train", "decode"], "Which step.")
    flags.DEFINE_bool("json", False, "Print one JSON object.")
    flags.mark_flag_as_required("config")


def topology_devices(name: str, slices: int) -> list:
    """The devices of a slice that need not exist. Raises UserError for one that is not sold, or without libtpu."""
    kind, _, grid = name.partition(":")
    sides = [int(n) for n in grid.split("x")] if re.fullmatch(r"\d+(x\d+)+", grid) else []
    cubic = kind in CUBIC and len(sides) == 3 and all(n in (1, 2) or n % 4 == 0 for n in sides)
    if not cubic and not (kind in FLAT and grid in GRIDS):
        raise UserError(
            f"no TPU slice {name!r}; choose {' or '.join(FLAT)} with one of {', '.join(GRIDS)}, as in v5e:4x4, or "
            f"{', '.join(CUBIC)} with three sides that are 1, 2 or multiples of 4, as in v5p:4x4x4"
        )
    options: dict = {"num_slices": slices} if slices > 1 else {}
    # Without wrap-around links XLA turns all-gathers into padded all-reduces; real slices have them from these sizes.
    if kind in CUBIC and min(sides) >= 4:
        options["wrap"] = (True,) * 3
    elif kind in FLAT:
        options["wrap"] = (*(n == 16 for n in sides), False)
    if kind == "v4":
        options["chip_config_name"] = "megacore"
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu is not installed; install it: pip install 'llm_jax[tpu]'")
    return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices


def lower_decoding(config: ConfigDict, devices: list) -> jax.stages.Lowered:
    """The engine's jitted chunk, lowered for shapes alone; its loop's body is one step."""
    vocab_size, mesh = config.tokenizer.vocab_size, sharding.make_mesh(config.mesh, devices)
    run = Run(config, Path(), mesh, vocab_size)
    static = (run.model.to_json(), vocab_size, 0)
    shapes = jax.eval_shape(lambda p: transformer.for_decoding(run.model, p), run.abstract_params())
    axes = transformer.decoding_axes(run.model, vocab_size)
    with_place = lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)  # noqa: E731
    weights = jax.tree.map(lambda x, a: with_place(x, sharding.named(mesh, *a)), shapes, axes)
    cache, state = makers(static, config.rl.slots, config.data.sequence_length)
    made = functools.partial(cache, config.data.sequence_length), state
    cache, state = (jax.tree.map(with_place, jax.eval_shape(make), placed(mesh, make)) for make in made)
    numbers = (with_place(jax.ShapeDtypeStruct(size, jnp.int32), sharding.named(mesh)) for size in ((), (), (1, 1)))
    rows = lambda x: with_place(x, sharding.named(mesh, "batch", *(None,) * (x.ndim - 1)))  # noqa: E731
    resumed = jax.tree.map(rows, decode.empty_resumed(vocab_size, config.rl.slots))
    with jax.set_mesh(mesh):
        return decode.decode_chunk.lower(static, weights, cache, state, *numbers, resumed)


def lower_training(config: ConfigDict, devices: list) -> tuple[jax.stages.Lowered, dict[str, int]]:
    """(the jitted step of stage `pretrain`, or of an adapter in `sft`, lowered for shapes alone; bytes of state)."""
    vocab_size, stage = config.tokenizer.vocab_size, trained_stage(config)
    mesh = sharding.make_mesh(config.mesh, devices)
    run = Run(config, Path(), mesh, vocab_size)
    axes = transformer.param_axes(run.model, vocab_size)
    job = loop.Job(
        stage=stage,
        steps=10_000,
        optimizer=make_optimizer(config.optimizer, 10_000, 1.0, axes),
        loss=cross_entropy_loss(run),
        batches=loop.Batches(),
    )
    params, frozen = run.abstract_params(), {}
    if config.lora.rank:
        job = adapter.adapted(run, job, schedule(config.lora.learning_rate, 10_000, config.optimizer))
        params, frozen = adapter.abstract(run)
    state, step = loop.abstract_state(job, params, mesh), loop.step_function(job, params, mesh)
    held = {"trained_bytes": bytes_on_one((params, state)), "frozen_bytes": bytes_on_one(frozen)}
    with jax.set_mesh(mesh):
        return step.lower(params, frozen, state, abstract_batch(config, stage, mesh)), held


def trained_stage(config: ConfigDict) -> str:
    return "sft" if config.lora.rank else "pretrain"


def bytes_on_one(tree) -> int:
    """Of a device's shards."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def abstract_batch(config: ConfigDict, stage: str, mesh) -> dict[str, jax.ShapeDtypeStruct]:
    B, T = config[stage].batch, config.data.sequence_length
    size = min(config.train.microbatch or B, B)
    place = sharding.batch_sharding(mesh, 3)
    kinds = dict.fromkeys(("tokens", "positions", "segments", "targets"), jnp.int32) | {"weights": jnp.float32}
    return {k: jax.ShapeDtypeStruct((B // size, size, T), kind, sharding=place) for k, kind in kinds.items()}


def report(config: ConfigDict, topology: str, function: str) -> dict:
    """The figures of one compilation, per device; `fits: false` with what is missing when memory is short."""
    devices = topology_devices(topology, config.mesh.slices)
    chip = roofline.CHIPS[topology.partition(":")[0]]
    T, model, vocab_size = config.data.sequence_length, config.model, config.tokenizer.vocab_size
    started, held = time.monotonic(), {}
    if function == "decode":
        lowered, tokens = lower_decoding(config, devices), config.rl.slots
        flops = tokens * roofline.forward_flops_per_token(model, vocab_size, T)
    else:
        (lowered, held), rows = lower_training(config, devices), config[trained_stage(config)].batch
        tokens, flops = rows * T, roofline.train_flops(model, vocab_size, rows, T)
        flops *= adapter.FLOPS if config.lora.rank else 1
    flops /= len(devices)
    out = {"function": function, "topology": topology, "devices": len(devices), "model_flops": flops, **held}
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed, available = hbm_of_error(str(error))
        return out | {
            "fits": False,
            "hbm_peak_gib": needed,
            "hbm_available_gib": available,
            "hbm_missing_gib": round(needed - available, 2),
        }
    out["compile_seconds"] = round(time.monotonic() - started, 1)
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    counted = hlo.analyse(compiled.as_text(), len(devices))
    # Of a decoding step the compiler's count has the cost of branches that are seldom taken; it reads its arguments.
    read = memory.argument_size_in_bytes if function == "decode" else cost["bytes accessed"]
    seconds, bound = roofline.projection(chip, max(flops, counted["gemm_flops"]), read, counted["wire_bytes"])
    out |= {
        "fits": True,
        "hbm_peak_gib": round(memory.peak_memory_in_bytes / GIB, 3),
        "hbm_temp_gib": round(memory.temp_size_in_bytes / GIB, 3),
        "hbm_args_gib": round(memory.argument_size_in_bytes / GIB, 3),
        "hbm_available_gib": chip.hbm_gib,
        "xla_flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        **counted,
        "projected_step_seconds": seconds,
        "projected_tokens_per_second": tokens / seconds,
        "projected_mfu": flops / seconds / chip.flops,
        "bound_by": bound,
    }
    return out


def hbm_of_error(message: str) -> tuple[float, float]:
    """(GiB needed, GiB available) from XLA's words."""
    found = re.search(r"\(([\d.]+)([GM])\).{0,80}?exceeds.{0,80}?\(([\d.]+)([GM])\)", message, re.S)
    if not found:
        return math.nan, math.nan
    size = lambda number, unit: round(float(number) / (1 if unit == "G" else 1024), 2)  # noqa: E731
    return size(found[1], found[2]), size(found[3], found[4])


def show(figures: dict) -> None:
    print(
        f"{figures['function']}: {figures['topology']}, {figures['devices']} devices; "
        "figures per device, from the compiler, not measured"
    )
    if not figures["fits"]:
        print(
            f"does not fit: needs {figures['hbm_peak_gib']} GiB, has {figures['hbm_available_gib']} "
            f"({figures['hbm_missing_gib']} too much)"
        )
        return
    print(
        f"fits: {figures['hbm_peak_gib']} of {figures['hbm_available_gib']} GiB "
        f"(arguments {figures['hbm_args_gib']}, temporaries {figures['hbm_temp_gib']})\n"
        f"matrix FLOPs {figures['gemm_flops']:.3e}, of the model {figures['model_flops']:.3e}, "
        f"estimated cycles {figures['est_cycles']:.3e}"
    )
    if "trained_bytes" in figures:
        trained, frozen = (figures[name] / GIB for name in ("trained_bytes", "frozen_bytes"))
        print(f"trained, with its optimizer's state, {trained:.3f} GiB; frozen {frozen:.3f}")
    for kind, size in sorted(figures["collective_bytes"].items()):
        print(f"{kind}: {figures['collective_counts'][kind]} a step, {size / 1e9:.2f} GB")
    print(
        f"on the wire {figures['wire_bytes'] / 1e9:.2f} GB\n"
        f"at best {figures['projected_step_seconds']:.4f} s a step, "
        f"{figures['projected_tokens_per_second']:,.0f} tokens/s, MFU {figures['projected_mfu']:.1%}, "
        f"bound by {figures['bound_by']} (roofline: peaks, all overlapped)\n"
        f"compiled in {figures['compile_seconds']} s"
    )


def main() -> None:
    f = flags.FLAGS
    topology = f.topology or f.config.mesh.topology
    if not topology:
        raise UserError("the config names no mesh.topology; give one, as in --topology=v5e:4x4")
    extend(f.config.extensions)
    validate(f.config, tuple(stage.section for stage in STAGES.values()))
    figures = report(f.config, topology, f.function)
    print(json.dumps(figures)) if f.json else show(figures)


if __name__ == "__main__":
    run_cli(main, define_flags)
