r"""nanochat's d24 in our shape (depth 24, width 1536), on v6e-8 or 8 GPUs.

python -m llm_jax.compile_ahead --config=experiments/nanochat_d24.py
python -m llm_jax.main --config=experiments/nanochat_d24.py --workdir=DIR \
  --config.data.documents='texts/*.jsonl' --stages=data,pretrain
"""

from llm_jax.config import default


def get_config():
    c = default()
    c.model.dim, c.model.layers, c.model.ff_dim = 1536, 24, 4096
    c.model.heads, c.model.kv_heads, c.model.head_dim = 12, 12, 128
    c.model.compute_dtype = "bfloat16"
    c.tokenizer.vocab_size = 65_536
    c.data.sequence_length = 2048
    c.pretrain.batch = c.sft.batch = 256
    c.train.microbatch = 128
    c.optimizer.muon_learning_rate, c.optimizer.learning_rate = 0.02, 0.003
    c.optimizer.decay = 0.4
    c.mesh.fsdp = 8
    c.mesh.topology = "v6e:2x4"
    return c
