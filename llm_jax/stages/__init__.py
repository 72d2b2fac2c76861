"""Each stage is its data and its loss, on llm_jax.train."""
