"""The speedrun at toy size: every stage in seconds. A config for tests, in the shape of any experiment."""

from llm_jax.config import default


def get_config():
    c = default()
    c.model.dim, c.model.layers, c.model.heads, c.model.kv_heads, c.model.head_dim, c.model.ff_dim = (
        64,
        2,
        2,
        1,
        32,
        128,
    )
    c.tokenizer.vocab_size = 640
    c.data.scale, c.data.lessons, c.data.python_docs_bytes = 0.05, 0.4, 20_000
    c.pretrain.steps, c.sft.steps, c.rl.steps = 12, 8, 2
    c.rl.batch, c.rl.group, c.rl.slots, c.rl.max_new_tokens = 16, 4, 16, 16
    c.rl.tasks = {"arithmetic/3 numbers": 0.5, "calculator": 0.5}
    c.eval.slots, c.eval.problems, c.eval.map_items, c.eval.max_new_tokens = 16, 12, 1, 16
    c.eval.passk_problems, c.eval.passk_samples = 4, 2
    c.checkpoint.every = 4
    c.log.eval_every = 6
    return c
