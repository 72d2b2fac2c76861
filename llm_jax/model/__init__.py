"""The transformer: one forward for training, prefill and decoding."""
