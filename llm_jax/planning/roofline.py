"""What a step costs in model FLOPs, and how fast a chip could do it at best."""

import dataclasses

import jax
from ml_collections import ConfigDict

from llm_jax.frame.calibrate import machine_gflops
from llm_jax.model import transformer
from llm_jax.model.attention import LayerSpec


@dataclasses.dataclass(frozen=True)
class Chip:
    """One JAX device's share, from the vendor's tables: dense bf16 FLOP/s, bytes/s of HBM and of all its links."""

    flops: float
    hbm_bytes: float
    hbm_gib: float  # what a program may use
    link_bytes: float


# cloud.google.com/tpu/docs: v4, v5e, v5p, v6e, tpu7x (two devices a chip). Links: one direction, all of them together.
CHIPS = {
    "v4": Chip(275e12, 1.228e12, 30.75, 300e9),
    "v5e": Chip(197e12, 0.819e12, 15.75, 200e9),
    "v5p": Chip(459e12, 2.765e12, 94.75, 600e9),
    "v6e": Chip(918e12, 1.640e12, 31.25, 448e9),
    "tpu7x": Chip(1153.5e12, 3.690e12, 94.75, 600e9),
}


# device_kind of JAX -> dense bf16 FLOP/s
GPUS = {"H100": 989e12, "H200": 989e12, "B200": 2250e12, "A100": 312e12, "L4": 121e12}
TPUS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5p": "v5p", "TPU v5": "v5p", "TPU v6 lite": "v6e"}
TPUS |= {"TPU v6e": "v6e", "TPU7x": "tpu7x"}


def peak_flops(device: jax.Device) -> float:
    """What MFU divides by: the vendor's dense bf16 figure, or this CPU's measured matmul. 0 for an unknown device."""
    if device.platform == "cpu":
        return machine_gflops() * 1e9 / jax.local_device_count()
    if device.device_kind in TPUS:
        return CHIPS[TPUS[device.device_kind]].flops
    return next((flops for name, flops in GPUS.items() if name in device.device_kind), 0.0)


def forward_flops_per_token(m: ConfigDict, vocab_size: int, length: int) -> float:
    """Of one token in a row of `length`: 2 per weight of a matrix, and attention over the keys it sees on average.

    Causal attention is halved; a window cuts it further; segments are not known and not subtracted. Of the experts,
    those of one token count.
    """
    attention, ff = m.dim * m.head_dim * (2 * m.heads + 2 * m.kv_heads), 3 * m.dim * m.ff_dim
    mixture = m.dim * m.experts + m.experts_per_token * 3 * m.dim * m.expert_ff_dim
    total = 2.0 * m.dim * transformer.padded_vocab(vocab_size)
    for layer in range(m.layers):
        spec = LayerSpec.parse(m.layer_pattern[layer % len(m.layer_pattern)])
        total += 2 * (attention + (mixture if spec.experts else ff))
        window = min(spec.window or length, length)
        seen = window - window * (window - 1) / (2 * length)  # mean over the row of min(t + 1, window)
        total += 2 * 2 * m.heads * m.head_dim * seen
    return total


def train_flops(m: ConfigDict, vocab_size: int, rows: int, length: int) -> float:
    """Model FLOPs of one step: forward and twice that backward; what is computed again is not counted."""
    return 3 * rows * length * forward_flops_per_token(m, vocab_size, length)


def projection(chip: Chip, flops: float, hbm_bytes: float, wire_bytes: float) -> tuple[float, str]:
    """(seconds, what bounds them): the slowest of compute, memory and network, each at its peak and overlapped."""
    seconds = {
        "compute": flops / chip.flops,
        "HBM": hbm_bytes / chip.hbm_bytes,
        "network": wire_bytes / chip.link_bytes,
    }
    bound = max(seconds, key=seconds.get)
    return seconds[bound], bound
