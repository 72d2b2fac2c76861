"""Adapters in the files of Hugging Face's PEFT: `adapter_config.json` and `adapter_model.safetensors`.

Theirs are per layer, lora_A (rank, inputs) and lora_B (outputs, rank); the scale is alpha / rank in both. What we write
also names the parameters that it belongs to: their checksum is in the metadata of the safetensors file.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from llm_jax.config import UserError, default
from llm_jax.files import read_json
from llm_jax.hub import weights
from llm_jax.ranges import outside
from llm_jax.runs import Run

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# What an adapter_config.json may say that ours do not compute: key -> the values that change nothing.
UNTOUCHED = {
    "use_rslora": (False, None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "bias": ("none", None),
    "modules_to_save": ([], None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "lora_bias": (False, None),
}


class Part(NamedTuple):
    """Where a tensor of theirs lies in an adapter of ours."""

    path: weights.Path
    at: tuple[int, ...]  # the layer, where layers are stacked
    shape: tuple[int, ...]  # of theirs


def parts(run: Run, adapter: dict) -> dict[str, Part]:
    """Every tensor's name -> its place in an adapter, which may be abstract."""
    leaves = weights.flat(adapter)
    shapes = {path: leaf.shape for path, leaf in weights.flat(run.abstract_params()).items()}
    out = {}
    for name, place in weights.places(run.model, run.vocab_size, shapes).items():
        if (*place.path, "a") in leaves:
            module = PREFIX + name.removesuffix(".weight")
            rank, (outputs, inputs) = leaves[(*place.path, "a")].shape[-1], weights.their_shape(place)
            out[f"{module}.lora_A.weight"] = Part((*place.path, "a"), place.at, (rank, inputs))
            out[f"{module}.lora_B.weight"] = Part((*place.path, "b"), place.at, (outputs, rank))
    return out


def write(run: Run, stage: str, folder: Path) -> None:
    """Writes the adapter of a stage into a folder. Raises UserError when the stage has none."""
    from safetensors.numpy import save_file

    meta, adapter = run.load_adapter(stage)
    values, parent, leaves = meta["lora"], meta["parent"], weights.flat(jax.device_get(adapter))
    tensors = {
        name: np.ascontiguousarray(leaves[part.path][part.at].reshape(part.shape[::-1]).T)
        for name, part in parts(run, adapter).items()
    }
    where = run.workdir.absolute() if parent["run"] == "." else parent["run"]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": f"{where}:{parent['stage']}",
        "r": values["rank"],
        "lora_alpha": values["alpha"],
        "lora_dropout": 0.0,
        "target_modules": sorted(f"{name}_proj" for name in values["projections"]),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt", "base": parent["checksum"]})
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode & 0o777)  # safetensors makes it for its owner alone


def read(run: Run, folder: Path, base: dict[str, Any]) -> tuple[ConfigDict, dict]:
    """(values as those of the section `lora`, the adapter on its shards) of PEFT's files.

    `base` names the parameters that it is to be put on: `checksum`, and `name` where they came from elsewhere. Raises
    UserError for an adapter of others, and for what LoRA of ours does not compute.
    """
    from safetensors import SafetensorError, safe_open

    config, path = read_json(folder / CONFIG), folder / WEIGHTS
    values = values_of(config, folder)
    if base.get("name") and config.get("base_model_name_or_path") not in (None, "", base["name"]):
        theirs = config["base_model_name_or_path"]
        raise UserError(f"{folder} is an adapter of {theirs}, not of {base['name']}; take the one that belongs to it")
    try:
        with safe_open(path, "numpy") as file:
            noted = (file.metadata() or {}).get("base", base["checksum"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} does not read as safetensors ({error}); fetch it again") from None
    if noted != base["checksum"]:
        what = f"{folder} is an adapter of parameters with the checksum {noted}, and these have {base['checksum']}"
        raise UserError(f"{what}; take the one that belongs to them")
    abstract = run.abstract_adapter(values)
    where = parts(run, abstract)
    check(folder, where, tensors)
    leaves = {path: np.zeros(leaf.shape, np.float32) for path, leaf in weights.flat(abstract).items()}
    for name, part in where.items():
        into = leaves[part.path][part.at]
        into[...] = tensors[name].T.reshape(into.shape)
    return values, jax.tree.map(lambda x, leaf: jax.device_put(x, leaf.sharding), weights.nested(leaves), abstract)


def values_of(config: Any, folder: Path) -> ConfigDict:
    """The section `lora` that an adapter_config.json describes. Raises UserError for another kind of adapter."""
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UserError(f"{folder}/{CONFIG} describes no LoRA; only adapters of that type are read")
    for key, fine in UNTOUCHED.items():
        if config.get(key) not in fine:
            raise UserError(f"{folder}/{CONFIG} has {key} {config[key]!r}, which is not supported")
    values, modules = default().lora, config.get("target_modules")
    names = [name.rpartition(".")[2].removesuffix("_proj") for name in modules] if isinstance(modules, list) else []
    known = tuple(name for name in values.projections if name in names)
    if not known or len(known) < len(set(names)):
        what = f"{folder}/{CONFIG} has target_modules {modules!r}"
        raise UserError(f"{what}; supported are lists of {', '.join(f'{name}_proj' for name in values.projections)}")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if wrong := outside("lora.rank", rank or None) or outside("lora.alpha", alpha):
        raise UserError(f"{folder}/{CONFIG} has r {rank!r} and lora_alpha {alpha!r}, and {wrong}")
    values.rank, values.alpha, values.projections = rank, float(alpha), known
    return values


def check(folder: Path, where: dict[str, Part], tensors: dict[str, np.ndarray]) -> None:
    """Raises UserError where an adapter is one of another model: by a tensor's name, or its shape."""
    for name in sorted(where.keys() ^ tensors.keys()):
        said = "lacks" if name in where else "has"
        raise UserError(f"{folder} is an adapter of another model: it {said} {name}; take the one that belongs to it")
    for name, part in where.items():
        if tensors[name].shape != part.shape:
            what = f"{name} is {list(tensors[name].shape)}, and here {list(part.shape)}"
            raise UserError(f"{folder} is an adapter of another model: {what}; take the one that belongs to it")
