"""A GGUF file, read: its config as Hugging Face would write it, its weights under Hugging Face's names.

The `gguf` library reads and dequantises. What is ours is the way back: to the order of axes, of rotary pairs and to the
norms that a folder has.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.config import UserError
from llm_jax.hub.families import Config, Family, of_gguf

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
ROPE_FACTORS = "rope_freqs.weight"  # what divides each rotary frequency


class File:
    """An opened GGUF file. Raises UserError where `gguf` is not installed, or the file is none, or is cut short."""

    def __init__(self, path: Path):
        try:
            import gguf
        except ImportError:
            raise UserError("gguf is not installed; pip install -e '.[hf]'") from None
        self._gguf, self.path = gguf, path
        try:
            self._reader = gguf.GGUFReader(path)
        except (ValueError, OSError, IndexError, KeyError, MemoryError, OverflowError) as error:
            raise UserError(f"{path} does not read as GGUF ({error or 'it is cut short'}); fetch it again") from None
        self.family: Family = of_gguf(str(self.value("general.architecture", "none")))

    def value(self, key: str, default: Any = None) -> Any:
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    def of_model(self, key: str) -> Any:
        return self.value(f"{self.family.gguf}.{key}")

    def config(self) -> Config:
        """As the model's config.json. Raises UserError for rotary factors that no option of ours computes."""
        c = {key: value for key, theirs in KEYS.items() if (value := self.of_model(theirs)) is not None}
        c |= {"model_type": self.family.name, "architectures": [self.family.architecture]}
        names = {tensor.name for tensor in self._reader.tensors}
        c |= {"tie_word_embeddings": "output.weight" not in names, "vocab_size": self._vocabulary()}
        c |= {key: ids for key, ids in self._special_ids().items() if ids is not None}
        if self.family.permuted and not c.get("sliding_window"):
            c.pop("sliding_window", None)
        if self.family.name == "qwen3_moe":
            c["norm_topk_prob"] = True  # which the files do not say; it is so in all that there are
        if "norm_offset" in self.family.switches:
            c["query_pre_attn_scalar"] = self._query_scalar(c)
        return c | self._scaling(c)

    def _query_scalar(self, c: Config) -> float:
        """Gemma's, which files do not have: the size of a head, but for the 27B models, which divide by heads."""
        sizes = {46: ("gemma2", 144), 62: ("gemma3_text", 168)}
        name, scalar = sizes.get(c["num_hidden_layers"], ("", 0))
        return scalar if name == self.family.name else c["head_dim"]

    def _vocabulary(self) -> int:
        table = next((t for t in self._reader.tensors if t.name == "token_embd.weight"), None)
        if table is None:
            raise UserError(f"{self.path} has no token_embd.weight; it holds no whole model")
        return int(table.shape[1])

    def _special_ids(self) -> dict[str, int | None]:
        ids = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
        return {key: self.value(f"tokenizer.ggml.{name}_token_id") for key, name in ids.items()}

    def _scaling(self, c: Config) -> Config:
        """Of rotary angles: as the file says, or Llama 3.1's where its factors are those."""
        kind, factor = self.of_model("rope.scaling.type"), self.of_model("rope.scaling.factor")
        if kind not in (None, "none"):
            return {"rope_scaling": {"rope_type": kind, "factor": factor}}
        factors = next((t for t in self._reader.tensors if t.name == ROPE_FACTORS), None)
        if factors is None:
            return {}
        divisors = np.asarray(factors.data, np.float32)
        head = c.get("head_dim", c["hidden_size"] // c["num_attention_heads"])
        guess = {"rope_type": "llama3", "factor": float(divisors.max()), "low_freq_factor": 1.0}
        guess |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        if not np.allclose(divisors, llama3_divisors(head, c["rope_theta"], guess["factor"]), rtol=1e-3):
            raise UserError(f"{self.path} divides rotary frequencies by factors that are not Llama 3.1's")
        return {"rope_scaling": guess}

    def tensors(self) -> Mapping[str, "Dequantised"]:
        """Name in a folder -> tensor. Raises UserError for one of an unknown quantisation or no known name."""
        out: dict[str, Dequantised] = {}
        for tensor in self._reader.tensors:
            if tensor.name == ROPE_FACTORS:
                continue
            out |= self._named(tensor)
        return out

    def _named(self, tensor) -> dict[str, "Dequantised"]:
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", tensor.name)
        layer, stem, kind = match.groups() if match else (None, tensor.name, "")
        where = f"model.layers.{layer}." if layer is not None else ""
        if stem in EXPERTS:
            return {
                f"{where}mlp.experts.{e}.{EXPERTS[stem]}.weight": self._dequantised(tensor, tensor.data[e], stem)
                for e in range(len(tensor.data))
            }
        names = TENSORS | (GEMMA if "norm_offset" in self.family.switches else {})
        if stem not in names:
            raise UserError(f"{self.path} has a tensor {tensor.name!r}, which no supported model has")
        return {f"{where}{names[stem]}.{kind}": self._dequantised(tensor, tensor.data, stem)}

    def _dequantised(self, tensor, data: np.ndarray, stem: str) -> "Dequantised":
        kind = tensor.tensor_type
        dequantise = self._gguf.quants.dequantize
        try:
            shape = tuple(dequantise(data[:1], kind).shape[1:])
        except NotImplementedError:
            raise UserError(f"{self.path}: {tensor.name} is quantised as {kind.name}, which is not supported") from None
        heads = 0
        if self.family.permuted and stem in ("attn_q", "attn_k"):
            heads = self.of_model("attention.head_count" if stem == "attn_q" else "attention.head_count_kv")
        minus_one = "norm_offset" in self.family.switches and stem.endswith("norm")
        return Dequantised(data, (len(data), *shape), lambda rows: dequantise(rows, kind), heads, minus_one)


class Dequantised:
    """A tensor of the file in float32, of which rows are read by slicing."""

    def __init__(self, data: np.ndarray, shape: tuple[int, ...], read: Callable, heads: int, minus_one: bool):
        self._data, self.shape, self._read, self._heads, self._minus_one = data, shape, read, heads, minus_one

    def __getitem__(self, rows: slice) -> np.ndarray:
        values = self._read(self._data[rows])
        if self._heads:  # all of its rows are read at once
            values = halves_apart(values, self._heads)
        return values - 1 if self._minus_one else values


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
