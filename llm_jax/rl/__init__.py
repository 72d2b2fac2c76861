"""Reinforcement learning: what a step of it is made of."""
