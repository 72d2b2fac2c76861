"""How fast this machine is right now: a fixed float32 XLA matmul, so that times can be compared between machines."""

import time

import jax
import jax.numpy as jnp

SIZE = 256  # about the size of the speedrun's own matrices: large ones would measure a machine that it never meets
REPEATS, ROUNDS = 100, 9


def machine_gflops() -> float:
    """10^9 float32 operations a second, a multiply-add counted as two; each call waited for; the median of rounds."""
    x = jnp.full((SIZE, SIZE), 1.0 / SIZE, jnp.float32)
    multiply = jax.jit(jnp.matmul).lower(x, x).compile()
    rates = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(REPEATS):
            multiply(x, x).block_until_ready()
        rates.append(REPEATS * 2 * SIZE**3 / (time.perf_counter() - started) / 1e9)
    return sorted(rates)[ROUNDS // 2]
