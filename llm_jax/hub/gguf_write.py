"""A model as a GGUF file: the names, order of rotary pairs and norms that llama.cpp expects; `gguf_file` reads it back.

The `gguf` library writes, tensor by tensor: the host has no copy of the whole.
"""

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from llm_jax.config import UserError
from llm_jax.hub.families import FAMILIES, Config, Family, model_values
from llm_jax.hub.gguf_file import (
    EXPERTS,
    HEADS,
    KEYS,
    ROPE_FACTORS,
    config_of,
    llama3_divisors,
    names_of,
    side_by_side,
)

FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}  # llama.cpp's numbers for a file's quantisation
FLOATS = ("rms_norm_eps", "rope_theta", "attn_logit_softcapping", "final_logit_softcapping")
WHOLE = ("ffn_gate_inp",)  # stays in float32, as vectors do
QUANTISATION_VERSION = 2


class Planned(NamedTuple):
    """A tensor of the file; of experts, which have one together, that of all."""

    name: str
    shape: tuple[int, ...]
    kind: str


def values_of(c: Config, tokenizer: dict[str, Any], kind: str, about: dict[str, str]) -> dict[str, Any]:
    """The file's values for a model with this config.json and a tokenizer's own values."""
    family = FAMILIES[c["model_type"]]
    said = {theirs: c[key] for key, theirs in KEYS.items() if c.get(key) is not None}
    said |= {KEYS[key]: float(c[key]) for key in FLOATS if c.get(key) is not None}
    said |= {"attention.value_length": c["head_dim"], "rope.dimension_count": c["head_dim"]}
    said["vocab_size"] = c["vocab_size"]
    scaling = c.get("rope_scaling") or {}
    if scaling.get("rope_type") == "linear":
        said |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling["factor"])}
    return {
        "general.architecture": family.gguf,
        "general.type": "model",
        "general.file_type": FILE_TYPES[kind],
        "general.quantization_version": QUANTISATION_VERSION,
        **{f"general.{key}": text for key, text in about.items()},
        **{f"{family.gguf}.{key}": value for key, value in said.items()},
        **tokenizer,
    }


def check(c: Config, values: dict[str, Any], planned: Iterable[Planned]) -> None:
    """Raises UserError for what a file of this architecture does not say, so that an engine would compute another."""
    told = model_values(config_of(values, {tensor.name: tensor.shape for tensor in planned}))
    for key, value in model_values(c).items():
        by_tensor = key == "rope_scaling" and value[0] == "llama3"
        if not by_tensor and told.get(key) != value:
            what = f"model.{key} is {value!r}, and what reads GGUF would take it for {told.get(key)!r}"
            raise UserError(f"this model cannot be a GGUF file: {what}; write a folder")


def write(path: Path, c: Config, values: dict[str, Any], shapes: dict[str, tuple[int, ...]], named, kind: str) -> None:
    """`named` gives (name in a folder, array), in the order of `shapes`. Raises UserError as `check`, before it
    writes."""
    import gguf

    family = FAMILIES[c["model_type"]]
    planned = list(plan(family, shapes, kind))
    check(c, values, planned)
    factors = rope_factors(c)
    writer = gguf.GGUFWriter(path, family.gguf)
    try:
        for key, value in values.items():
            if key != "general.architecture":  # which the writer puts in front itself
                add_value(writer, key, value)
        for tensor in planned:
            quantisation = gguf.GGMLQuantizationType[tensor.kind.upper()]
            block, size = gguf.GGML_QUANT_SIZES[quantisation]
            writer.add_tensor_info(
                tensor.name, tensor.shape, np.dtype(np.float32), math.prod(tensor.shape) // block * size, quantisation
            )
        if factors is not None:
            writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, array in zip(planned, arrays(family, c, named), strict=True):
            writer.write_tensor_data(gguf.quantize(array, gguf.GGMLQuantizationType[tensor.kind.upper()]))
        if factors is not None:
            writer.write_tensor_data(factors)
    finally:
        writer.close()


def add_value(writer, key: str, value: Any) -> None:
    """Whole numbers are unsigned, which llama.cpp insists on; in lists they are signed."""
    from gguf import GGUFValueType

    unsigned = isinstance(value, int) and not isinstance(value, bool)
    writer.add_key_value(key, value, GGUFValueType.UINT32 if unsigned else GGUFValueType.get_type(value))


def plan(family: Family, shapes: dict[str, tuple[int, ...]], kind: str) -> Iterator[Planned]:
    for (name, experts), group in itertools.groupby(shapes, lambda name: name_in_file(family, name)):
        first, *others = group
        shape = (1 + len(others), *shapes[first]) if experts else shapes[first]
        if len(shape) == 1 or any(f".{stem}." in name for stem in WHOLE):
            yield Planned(name, shape, "f32")
        else:
            yield Planned(name, shape, "f16" if kind == "q8_0" and shape[-1] % 32 else kind)


def arrays(family: Family, c: Config, named: Iterable[tuple[str, jax.Array]]) -> Iterator[np.ndarray]:
    """float32, as the file has them."""
    heads = dict(zip(HEADS, (c["num_attention_heads"], c["num_key_value_heads"]), strict=True))
    for (name, experts), group in itertools.groupby(named, lambda pair: name_in_file(family, pair[0])):
        stem = name.split(".")[-2]
        values = [np.asarray(jax.device_get(array), np.float32) for _, array in group]
        array = np.stack(values) if experts else values[0]
        if family.permuted and stem in heads:
            array = side_by_side(array, heads[stem])
        if "norm_offset" in family.switches and stem.endswith("norm"):
            array = array + 1
        yield np.ascontiguousarray(array)


def name_in_file(family: Family, name: str) -> tuple[str, bool]:
    """(name, whether it is one of several experts that have one tensor together)."""
    layer, stem, kind = re.fullmatch(r"(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)", name).groups()
    where = f"blk.{layer}." if layer is not None else ""
    if expert := re.fullmatch(r"mlp\.experts\.\d+\.(\w+)", stem):
        return f"{where}{backwards(EXPERTS)[expert[1]]}.{kind}", True
    return f"{where}{backwards(names_of(family))[stem]}.{kind}", False


def backwards(names: dict[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in names.items()}


def rope_factors(c: Config) -> np.ndarray | None:
    """What divides the rotary frequencies of Llama 3.1 and later. Raises UserError for other numbers than theirs."""
    scaling = c.get("rope_scaling") or {}
    if scaling.get("rope_type") != "llama3":
        return None
    told = [scaling[key] for key in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")]
    if told != [1.0, 4.0, 8192]:
        what = f"its rotary scaling {told} is not Llama 3.1's"
        raise UserError(f"this model cannot be a GGUF file: {what}; write a folder")
    return llama3_divisors(c["head_dim"], c["rope_theta"], scaling["factor"]).astype(np.float32)
