"""Each stage is its data and its loss, on llm_jax.training. The table of them is llm_jax/stage_table.py."""
