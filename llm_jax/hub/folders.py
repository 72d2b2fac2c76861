"""A Hugging Face folder, read: its config, and its weights without loading them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from llm_jax.config import UserError
from llm_jax.files import read_json

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(jnp.bfloat16)}  # little-endian
INDEX = "model.safetensors.index.json"


def config_of(folder: Path) -> dict[str, Any]:
    """Its config.json. Raises UserError when there is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} has no config.json; give the folder of a Hugging Face model, or a .gguf file")
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path} is no object; take the one that belongs to the model")
    if "auto_map" in config:
        print(f"{path} names code of its own (auto_map), which is ignored", flush=True)
    return config


class Slices:
    """A tensor of a safetensors file, of which rows are read by slicing; nothing of the file stays in memory."""

    def __init__(self, path: Path, kind: str, shape: list[int], offset: int):
        self._path, self._kind, self.shape, self._offset = path, kind, tuple(shape), offset

    def __getitem__(self, rows: slice) -> np.ndarray:
        if self._kind not in DTYPES:
            raise UserError(f"{self._path} has weights of the kind {self._kind}; supported are {', '.join(DTYPES)}")
        start, stop, _ = rows.indices(self.shape[0])
        dtype, row = DTYPES[self._kind], math.prod(self.shape[1:])
        at = self._offset + start * row * dtype.itemsize
        values = np.fromfile(self._path, dtype, (stop - start) * row, offset=at)
        return values.reshape(stop - start, *self.shape[1:])


def tensors_of(folder: Path) -> Mapping[str, Slices]:
    """Name -> tensor, of all the files. Raises UserError for a file that lacks, is damaged or pickled."""
    tensors: dict[str, Slices] = {}
    for path in weight_files(folder):
        tensors |= tensors_in(path)
    return tensors


def tensors_in(path: Path) -> dict[str, Slices]:
    """The library checks the file. It would map it, too, and what was read of it would stay in memory."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} does not read as safetensors ({error}); fetch it again") from None
    header.pop("__metadata__", None)
    return {
        name: Slices(path, entry["dtype"], entry["shape"], 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def weight_files(folder: Path) -> list[Path]:
    """Those that the index names, or all. Raises UserError for one that lacks, or lies outside the folder."""
    index = folder / INDEX
    if index.is_file():
        noted = read_json(index)
        named = noted.get("weight_map") if isinstance(noted, dict) else None
        if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
            raise UserError(f"{index} is damaged (it has no weight_map); fetch it again")
        names = sorted(set(named.values()))
        for name in names:
            if Path(name).name != name:
                raise UserError(f"{index} names {name!r}, which is no file of the folder; it is not to be trusted")
            if not (folder / name).is_file():
                raise UserError(f"{folder} lacks {name}, which its index names; fetch it")
        return [folder / name for name in names]
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
        what = f"{folder} has no .safetensors"
        if pickled:
            raise UserError(f"{what}, and {pickled[0]} is pickled: loading it could run any program; convert it first")
        raise UserError(f"{what}; fetch the weights of the model")
    return found


def generation_of(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    return read_json(path) if path.is_file() else {}
