r"""Qwen3-30B-A3B's shape, 3.3 of 30.5 billion parameters active, on v5p 4x4x4 (64 chips).

python -m llm_jax.compile_ahead --config=experiments/qwen3_30b_a3b.py
python -m llm_jax.main --config=experiments/qwen3_30b_a3b.py --workdir=DIR \
  --config.data.documents='texts/*.jsonl' --stages=data,pretrain
"""

from llm_jax.config import default


def get_config():
    c = default()
    c.model.dim, c.model.layers, c.model.layer_pattern = 2048, 48, ("full-experts",)
    c.model.experts, c.model.experts_per_token, c.model.expert_ff_dim = 128, 8, 768
    c.model.heads, c.model.kv_heads, c.model.head_dim = 32, 4, 128
    c.model.rope_base = 1_000_000.0
    c.model.compute_dtype = "bfloat16"
    c.tokenizer.vocab_size = 151_936
    c.data.sequence_length = 4096
    c.pretrain.batch = c.sft.batch = 256
    c.train.microbatch = 256
    c.optimizer.name, c.optimizer.schedule = "adamw", "cosine"
    c.optimizer.learning_rate, c.optimizer.weight_decay, c.optimizer.final = 0.0003, 0.1, 0.1
    # Not 8 x 8 with `expert`: the compiler estimates 6.0 s of cycles a step there, mostly for moving copies of tokens
    # that other devices work on, and 1.6 s here (in both without the products of the experts).
    c.mesh.fsdp = 64
    c.mesh.topology = "v5p:4x4x4"
    return c
