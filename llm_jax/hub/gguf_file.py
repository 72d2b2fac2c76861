"""A GGUF file, read: its config as Hugging Face would write it, its weights under Hugging Face's names.

The `gguf` library dequantises. What is ours is the way back: to the order of axes, of rotary pairs and to the norms
that a folder has. Rows are read from the file when they are asked for, and nothing of it stays in memory.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.config import UserError
from llm_jax.hub.families import Config, Family, of_gguf
from llm_jax.hub.gguf_header import read_header

# Our key in a config.json <- the key of the file, behind the name of its architecture.
KEYS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "max_position_embeddings": "context_length",
    "sliding_window": "attention.sliding_window",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
}
GEMMA = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
EXPERTS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
HEADS = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}  # whose rotary pairs are side by side
MERGED = 4  # rows that are dequantised as one
ROPE_FACTORS = "rope_freqs.weight"  # what divides each rotary frequency


class File:
    """An opened GGUF file. Raises UserError where `gguf` is not installed, or the file is none, or is cut short."""

    def __init__(self, path: Path):
        self.path = path
        self.values, self.entries = read_header(path)
        self._kinds: dict[int, Kind] = {}
        size = path.stat().st_size
        for name, (kind, shape, offset) in self.entries.items():
            if kind not in self._kinds:
                self._kinds[kind] = Kind(kind, f"{path}: {name}")
            whole = bool(shape) and shape[-1] % self._kinds[kind].block == 0
            if not whole or offset + math.prod(shape[:-1]) * self._row_bytes(name) > size:
                what = "lies beyond its end" if whole else f"is {list(shape)}, no whole blocks"
                raise UserError(f"{path} does not read as GGUF ({name} {what}); fetch it again")
        self.family: Family = of_gguf(str(self.value("general.architecture", "none")))

    def _row_bytes(self, name: str) -> int:
        entry = self.entries[name]
        return self._kinds[entry.kind].row_bytes(entry.shape[-1])

    def value(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def config(self) -> Config:
        """As the model's config.json. Raises UserError for a file that lacks values, and for rotary factors that no
        option of ours computes."""
        if "token_embd.weight" not in self.entries:
            raise UserError(f"{self.path} has no token_embd.weight; it holds no whole model")
        for key in KEYS.values():
            if not isinstance(self.value(f"{self.family.gguf}.{key}", 0), int | float):
                raise UserError(f"{self.path} has {key} that is no number; such a {self.family.name} is not supported")
        try:
            c = config_of(self.values, {name: entry.shape for name, entry in self.entries.items()})
            return c | self._scaling(c)
        except (KeyError, ZeroDivisionError) as error:
            raise UserError(f"{self.path} lacks values of its model ({error}); fetch it again") from None

    def _scaling(self, c: Config) -> Config:
        """Of rotary angles, where they are divided by factors: Llama 3.1's."""
        if ROPE_FACTORS not in self.entries or "rope_scaling" in c:
            return {}
        divisors = self._whole(ROPE_FACTORS)
        head = c.get("head_dim", c["hidden_size"] // c["num_attention_heads"])
        guess = {"rope_type": "llama3", "factor": float(divisors.max()), "low_freq_factor": 1.0}
        guess |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        if not np.allclose(divisors, llama3_divisors(head, c["rope_theta"], guess["factor"]), rtol=1e-3):
            raise UserError(f"{self.path} divides rotary frequencies by factors that are not Llama 3.1's")
        return {"rope_scaling": guess}

    def tensors(self) -> Mapping[str, "Dequantised"]:
        """Name in a folder -> tensor. Raises UserError for one of an unknown quantisation or no known name."""
        out: dict[str, Dequantised] = {}
        for name in self.entries:
            if name != ROPE_FACTORS:
                out |= self._named(name)
        return out

    def _named(self, name: str) -> dict[str, "Dequantised"]:
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
        layer, stem, kind = match.groups() if match else (None, name, "")
        where = f"model.layers.{layer}." if layer is not None else ""
        if stem in EXPERTS:
            return {
                f"{where}mlp.experts.{e}.{EXPERTS[stem]}.weight": self._dequantised(name, stem, e)
                for e in range(self.entries[name].shape[0])
            }
        if stem not in (names := names_of(self.family)):
            raise UserError(f"{self.path} has a tensor {name!r}, which no supported model has")
        return {f"{where}{names[stem]}.{kind}": self._dequantised(name, stem)}

    def _dequantised(self, name: str, stem: str, expert: int | None = None) -> "Dequantised":
        entry, kind = self.entries[name], self._kinds[self.entries[name].kind]
        shape, offset = entry.shape, entry.offset
        if expert is not None:
            shape = shape[1:]
            offset += expert * shape[0] * self._row_bytes(name)
        heads = 0
        if self.family.permuted and stem in HEADS:
            heads = self.value(f"{self.family.gguf}.{HEADS[stem]}")
        minus_one = "norm_offset" in self.family.switches and stem.endswith("norm")
        return Dequantised(self.path, offset, shape, kind, heads, minus_one)

    def _whole(self, name: str) -> np.ndarray:
        tensor = self._dequantised(name, "")
        return tensor[0 : tensor.shape[0]]


class Kind:
    """A quantisation. Raises UserError, which names the tensor `whose`, for one that is not known."""

    def __init__(self, number: int, whose: str):
        try:
            import gguf
        except ImportError:
            raise UserError("gguf is not installed; pip install -e '.[hf]'") from None
        try:
            self._kind = gguf.GGMLQuantizationType(number)
            self.block, self.bytes = gguf.GGML_QUANT_SIZES[self._kind]
            gguf.dequantize(np.zeros((1, self.bytes), np.uint8), self._kind)
        except (ValueError, KeyError, NotImplementedError):
            name = getattr(getattr(self, "_kind", None), "name", number)
            raise UserError(f"{whose} is quantised as {name}, which is not supported") from None
        self._dequantise = gguf.dequantize

    def row_bytes(self, columns: int) -> int:
        return columns // self.block * self.bytes

    def dequantised(self, data: np.ndarray) -> np.ndarray:
        """Bytes (rows, bytes of a row) -> float32. The library goes by 16 rows; with longer ones it takes half the
        time."""
        rows, width = data.shape
        longer = data.reshape(-1, MERGED * width) if rows % MERGED == 0 else data
        return self._dequantise(longer, self._kind).reshape(rows, -1)


class Dequantised:
    """A tensor of the file in float32, of which rows are read by slicing. A vector is one row of the file."""

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], kind: Kind, heads: int, minus_one: bool):
        self._path, self._offset, self.shape, self._kind = path, offset, shape, kind
        self._heads, self._minus_one = heads, minus_one

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        if len(self.shape) == 1:
            return self._read(0, 1)[0, start:stop]
        values = self._read(start, stop)
        if self._heads:  # all of its rows are read at once
            values = halves_apart(values, self._heads)
        return values

    def _read(self, start: int, stop: int) -> np.ndarray:
        width = self._kind.row_bytes(self.shape[-1])
        data = np.fromfile(self._path, np.uint8, (stop - start) * width, offset=self._offset + start * width)
        values = self._kind.dequantised(data.reshape(stop - start, width))
        return values - 1 if self._minus_one else values


def config_of(values: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> Config:
    """The values of a file, and the shapes of its tensors -> the model's config.json, but for Llama 3.1's scaling."""
    family = of_gguf(str(values.get("general.architecture", "none")))
    said = {key: values.get(f"{family.gguf}.{theirs}") for key, theirs in KEYS.items()}
    c = {key: value for key, value in said.items() if value is not None}
    c |= {"model_type": family.name, "architectures": [family.architecture]}
    c |= {"tie_word_embeddings": "output.weight" not in shapes, "vocab_size": shapes["token_embd.weight"][0]}
    ids = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    special = {key: values.get(f"tokenizer.ggml.{name}_token_id") for key, name in ids.items()}
    c |= {key: id_ for key, id_ in special.items() if id_ is not None}
    if family.permuted and not c.get("sliding_window"):
        c.pop("sliding_window", None)
    if family.name == "qwen3_moe":
        c["norm_topk_prob"] = True  # which the files do not say; it is so in all that there are
    if "norm_offset" in family.switches:
        c["query_pre_attn_scalar"] = query_scalar(family, c)
    kind, factor = (values.get(f"{family.gguf}.rope.scaling.{name}") for name in ("type", "factor"))
    return c if kind in (None, "none") else c | {"rope_scaling": {"rope_type": kind, "factor": factor}}


def query_scalar(family: Family, c: Config) -> float:
    """Gemma's, which files do not have: the size of a head, but for the 27B models, which divide by heads."""
    sizes = {46: ("gemma2", 144), 62: ("gemma3_text", 168)}
    name, scalar = sizes.get(c["num_hidden_layers"], ("", 0))
    return scalar if name == family.name else c["head_dim"]


def names_of(family: Family) -> dict[str, str]:
    """Names of tensors without layer and ending: in the file -> in a folder."""
    return TENSORS | (GEMMA if "norm_offset" in family.switches else {})


def halves_apart(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rotary pairs lie side by side in the file (0 1, 2 3, ...), and half a head apart in a folder and in our model."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def side_by_side(rows: np.ndarray, heads: int) -> np.ndarray:
    """The other way."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def llama3_divisors(head_dim: int, base: float, factor: float) -> np.ndarray:
    frequencies = base ** (-np.arange(0, head_dim, 2) / head_dim)
    turns = 8192 * frequencies / (2 * np.pi)
    kept = np.clip((turns - 1) / 3, 0, 1)
    return 1 / (kept + (1 - kept) / factor)
