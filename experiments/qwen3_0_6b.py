r"""Qwen3-0.6B's shape on v6e-8 or 8 GPUs.

python -m llm_jax.compile_ahead --config=experiments/qwen3_0_6b.py
python -m llm_jax.main --config=experiments/qwen3_0_6b.py --workdir=DIR \
  --config.data.documents='texts/*.jsonl' --stages=data,pretrain
"""

from llm_jax.config import default


def get_config():
    c = default()
    c.model.dim, c.model.layers, c.model.ff_dim = 1024, 28, 3072
    c.model.heads, c.model.kv_heads, c.model.head_dim = 16, 8, 128
    c.model.rope_base, c.model.tied_embedding = 1_000_000.0, True
    c.model.compute_dtype = "bfloat16"
    c.tokenizer.vocab_size = 151_936
    c.data.sequence_length = 4096
    c.pretrain.batch = c.sft.batch = 128
    c.train.microbatch = 64
    c.optimizer.name, c.optimizer.schedule = "adamw", "cosine"
    c.optimizer.learning_rate, c.optimizer.weight_decay, c.optimizer.final = 0.0004, 0.1, 0.1
    c.mesh.fsdp = 8
    c.mesh.topology = "v6e:2x4"
    return c
