"""llm_jax: raw pages to a base model, an assistant and a thinking model with tools, in JAX."""

__version__ = "0.1.0"
