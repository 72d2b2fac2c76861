"""How fast this machine is right now: a fixed float32 XLA matmul, so that times can be compared between machines."""

import time

import jax
import jax.numpy as jnp

SIZE = 256  # about the size of the speedrun's own matrices
REPEATS, ROUNDS = 50, 9


def machine_gflops() -> float:
    """Median over rounds of 10^9 float32 operations a second, a multiply-add counted as two."""
    x = jnp.full((SIZE, SIZE), 1.0 / SIZE, jnp.float32)
    multiply = jax.jit(jnp.matmul).lower(x, x).compile()
    rates = []
    for _ in range(ROUNDS):
        started, y = time.perf_counter(), x
        for _ in range(REPEATS):
            y = multiply(y, x)
        y.block_until_ready()
        rates.append(REPEATS * 2 * SIZE**3 / (time.perf_counter() - started) / 1e9)
    return sorted(rates)[ROUNDS // 2]
