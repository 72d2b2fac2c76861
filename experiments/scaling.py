"""One model of a family that is sized by its depth alone; the default depth is the speedrun's.

python -m llm_jax.main --config=experiments/scaling.py:4 --workdir=runs/scaling/4 --stages=data,pretrain

Width grows with depth (64 / 3 to a layer, rounded to heads of 64), the feed-forward with width. What Muon's
update makes of an input is of the same size for every shape, so its rate stays (the update's own root mean square falls
with the root of the width); AdamW's rate for the tables falls with the root of the width.
`experiments/ablations/scaling_law.py` trains several depths and fits loss against compute.
"""

from llm_jax.config import default

TOKENS_PER_PARAMETER = 2  # far fewer than the ~20 that are best, so that a sweep takes minutes


def get_config(depth: str = "6"):
    c = default()
    layers = int(depth)
    heads = max(1, round(layers / 3))
    c.model.layers, c.model.heads, c.model.kv_heads = layers, heads, max(1, heads // 2)
    c.model.dim, c.model.head_dim = 64 * heads, 64
    c.model.ff_dim = 32 * round(2.75 * 2 * heads)
    c.optimizer.learning_rate = 0.004 * (128 / c.model.dim) ** 0.5
    c.data.python_docs_bytes = 200_000
    c.data.epochs.biography = 2
    c.data.epochs.questions = 4
    layer = c.model.dim * 64 * (2 * heads + 2 * c.model.kv_heads) + 3 * c.model.dim * c.model.ff_dim
    tokens = TOKENS_PER_PARAMETER * (layers * layer + 2 * c.model.dim * c.tokenizer.vocab_size)
    c.pretrain.steps = round(tokens / (c.pretrain.batch * c.data.sequence_length))
    return c
