r"""Llama-3-70B's shape on v5p 8x8x8 (512 chips).

python -m llm_jax.compile_ahead --config=experiments/llama3_70b.py
python -m llm_jax.main --config=experiments/llama3_70b.py --workdir=DIR \
  --config.data.documents='texts/*.jsonl' --stages=data,pretrain
"""

from llm_jax.config import default


def get_config():
    c = default()
    c.model.dim, c.model.layers, c.model.ff_dim = 8192, 80, 28672
    c.model.heads, c.model.kv_heads, c.model.head_dim = 64, 8, 128
    c.model.qk_norm, c.model.rope_base = False, 500_000.0
    c.model.compute_dtype = "bfloat16"
    c.tokenizer.vocab_size = 128_256
    c.data.sequence_length = 8192
    c.pretrain.batch = c.sft.batch = 512
    c.train.microbatch = 512
    c.optimizer.name, c.optimizer.schedule = "adamw", "cosine"
    c.optimizer.learning_rate, c.optimizer.weight_decay, c.optimizer.final = 0.00015, 0.1, 0.1
    c.rl.batch = c.rl.slots = c.eval.slots = 512  # they divide over the mesh, too
    c.mesh.fsdp = 512
    c.mesh.topology = "v5p:8x8x8"
    return c
