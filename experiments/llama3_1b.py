r"""A Llama-3-class 1B (1.24 B parameters, one table for input and output), on v5e 4x4.

python -m llm_jax.compile_ahead --config=experiments/llama3_1b.py
python -m llm_jax.main --config=experiments/llama3_1b.py --workdir=DIR \
  --config.data.documents='texts/*.jsonl' --stages=data,pretrain
"""

from llm_jax.config import default


def get_config():
    c = default()
    c.model.dim, c.model.layers, c.model.ff_dim = 2048, 16, 8192
    c.model.heads, c.model.kv_heads, c.model.head_dim = 32, 8, 64
    c.model.qk_norm, c.model.rope_base = False, 500_000.0
    c.model.compute_dtype = "bfloat16"
    c.model.tied_embedding = True
    c.tokenizer.vocab_size = 128_256
    c.data.sequence_length = 2048
    c.pretrain.batch = c.sft.batch = 512
    c.train.microbatch = 64
    c.optimizer.name, c.optimizer.schedule = "adamw", "cosine"
    c.optimizer.learning_rate, c.optimizer.weight_decay, c.optimizer.final = 0.0004, 0.1, 0.1
    c.mesh.fsdp = 16
    c.mesh.topology = "v5e:4x4"
    return c
