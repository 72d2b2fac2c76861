"""Llama-3-8B on v5p 4x4x4, sharded over 64 chips: the settings that MaxText is compared at.

python -m llm_jax.compile_ahead --config=experiments/anchors/llama3_8b_v5p.py
"""

from llm_jax.config import default


def get_config():
    c = default()
    c.model.dim, c.model.layers, c.model.ff_dim = 4096, 32, 14336
    c.model.heads, c.model.kv_heads, c.model.head_dim = 32, 8, 128
    c.model.qk_norm, c.model.rope_base, c.model.compute_dtype = False, 500_000.0, "bfloat16"
    c.tokenizer.vocab_size = 128_256
    c.data.sequence_length = 4096
    c.pretrain.batch = c.sft.batch = 128
    c.train.microbatch, c.train.loss_chunk = 0, 2048
    c.optimizer.name = "adamw"
    c.mesh.fsdp = 64
    c.mesh.topology = "v5p:4x4x4"
    return c
