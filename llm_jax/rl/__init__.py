"""Reinforcement learning: what the stage is made of."""
