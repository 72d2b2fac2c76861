"""A scalar at each position, read from the final hidden states: a reward, or the value of a state.

In a checkpoint it stands beside the model's parameters, under a name of its own.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from llm_jax.sharding import named

NAME = "scalar_head"
AXES = {"w_D": (None,), "b": ()}  # whole on every device


def init(key: jax.Array, dim: int) -> dict[str, jax.Array]:
    """{"w_D": [D], "b": []}, float32 zeros: every scalar begins at 0, whatever the key."""
    del key
    return {"w_D": jnp.zeros(dim, jnp.float32), "b": jnp.zeros((), jnp.float32)}


def scalars_BT(head: dict[str, jax.Array], hidden_BTD: jax.Array) -> jax.Array:
    """Float32 scalars [B, T] of hidden states [B, T, D] in any dtype."""
    return jnp.einsum("btd,d->bt", hidden_BTD.astype(jnp.float32), head["w_D"]) + head["b"]


def parted(params: dict) -> tuple[dict, dict]:
    """(the tree without the head, {NAME: the head}, or {} where there is none)"""
    rest = {name: part for name, part in params.items() if name != NAME}
    return rest, {name: part for name, part in params.items() if name == NAME}


def is_in(names: Iterable[str]) -> bool:
    """Whether there is a head among leaves with these names, as a checkpoint's record has them."""
    return any(name.startswith(f"['{NAME}']") for name in names)


def abstract(dim: int, mesh: Mesh) -> dict:
    """{NAME: shapes and shardings of a head}"""
    made = jax.eval_shape(lambda: init(jax.random.key(0), dim))
    place = lambda x, axes: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=named(mesh, *axes))  # noqa: E731
    return {NAME: {name: place(x, AXES[name]) for name, x in made.items()}}
