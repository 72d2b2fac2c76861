"""Decoding: one jitted engine for chat, evaluation and RL, and the chat turns on top of it."""
