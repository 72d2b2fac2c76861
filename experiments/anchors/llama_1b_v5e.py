"""A Llama-3-class 1B (1.50 B parameters, untied) on one v5e 4x4: the settings that MaxText is compared at.

python -m llm_jax.compile_ahead --config=experiments/anchors/llama_1b_v5e.py
"""

from llm_jax.config import default


def get_config():
    c = default()
    c.model.dim, c.model.layers, c.model.ff_dim = 2048, 16, 8192
    c.model.heads, c.model.kv_heads, c.model.head_dim = 32, 8, 64
    c.model.qk_norm, c.model.rope_base, c.model.compute_dtype = False, 500_000.0, "bfloat16"
    c.tokenizer.vocab_size = 128_256
    c.data.sequence_length = 2048
    c.pretrain.batch = c.sft.batch = 16
    c.train.microbatch, c.train.loss_chunk = 0, 512
    c.optimizer.name = "adamw"
    c.mesh.fsdp = 16
    c.mesh.topology = "v5e:4x4"
    return c
