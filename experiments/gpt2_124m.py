r"""A GPT-2-class model of 124 M parameters in today's shape, on one v5e host (8 chips) or 8 GPUs.

python -m llm_jax.compile_ahead --config=experiments/gpt2_124m.py
python -m llm_jax.main --config=experiments/gpt2_124m.py --workdir=DIR \
  --config.data.documents='texts/*.jsonl' --stages=data,pretrain
"""

from llm_jax.config import default


def get_config():
    c = default()
    c.model.dim, c.model.layers, c.model.ff_dim = 768, 12, 2048
    c.model.heads, c.model.kv_heads, c.model.head_dim = 12, 12, 64
    c.model.compute_dtype = "bfloat16"
    c.tokenizer.vocab_size = 50_304
    c.data.sequence_length = 1024
    c.pretrain.batch = c.sft.batch = 512
    c.train.microbatch = 256
    c.optimizer.name, c.optimizer.schedule = "adamw", "cosine"
    c.optimizer.learning_rate, c.optimizer.weight_decay, c.optimizer.final = 0.0006, 0.1, 0.1
    c.mesh.fsdp = 8
    c.mesh.topology = "v5e:2x4"
    return c
