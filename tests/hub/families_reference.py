"""Small models of every family, and what Transformers computes with them: `python tests/hub/families_reference.py`
writes families_reference.npz anew (with `transformers` and `torch`; made with 5.24 and 2.13).

Weights are drawn from their names, so the file holds configs and logits alone.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".npz")
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
TOKENS = np.random.default_rng(0).integers(SMALL["vocab_size"], size=(2, 24))
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES = {
    "llama": ("LlamaConfig", {"rope_theta": 5e5}),
    "llama_scaled": ("LlamaConfig", {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 16}}),
    "llama_tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {"sliding_window": 8}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {
            "head_dim": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
        },
    ),
    "smollm3": ("SmolLM3Config", {"no_rope_layer_interval": 2, "pad_token_id": 0, "eos_token_id": 2}),
    "gemma2": (
        "Gemma2Config",
        {
            "head_dim": 16,
            "sliding_window": 8,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {"head_dim": 16, "sliding_window": 8, "sliding_window_pattern": 3, "query_pre_attn_scalar": 24},
    ),
}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32, drawn from the name; large enough that attention is not flat."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    if "norm" in name:
        return 0.3 * values + 1
    return values * (0.3 if len(shape) == 1 else 1.5 * shape[-1] ** -0.5)


def main() -> None:
    import torch
    import transformers

    out = {}
    for case, (kind, values) in CASES.items():
        config = getattr(transformers, kind)(**{**SMALL, **values})
        config._attn_implementation = "eager"
        model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
        names = {}
        model.save_pretrained(folder := Path(sys.argv[1]) / case)  # the names and shapes of a folder
        from safetensors import safe_open

        with safe_open(folder / "model.safetensors", "numpy") as file:
            names = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        from safetensors.numpy import save_file

        save_file({name: weight(name, shape) for name, shape in names.items()}, folder / "model.safetensors")
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
        with torch.no_grad():
            out[f"{case}_logits"] = model(torch.tensor(TOKENS)).logits.numpy()
        text = json.dumps({"config": json.loads((folder / "config.json").read_text()), "names": names})
        out[f"{case}_json"] = np.frombuffer(text.encode(), np.uint8)
        print(case, float(np.abs(out[f"{case}_logits"]).max()), flush=True)
    np.savez_compressed(FILE, **out)


if __name__ == "__main__":
    main()
