"""Raw material to records on disk; may import llm_jax.tokenizer and llm_jax.tasks, nothing in llm_jax imports it."""
