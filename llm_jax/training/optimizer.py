"""AdamW, Muon on stacked matrices, and two schedules, as optax transformations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from llm_jax import sharding

MOMENTUM = 0.95
# Quintic Newton-Schulz coefficients of Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def schedule(peak: float, steps: int, o: ConfigDict) -> Callable:
    """Linear warm-up; then flat with a linear decay at the end ("wsd"), or half a cosine, towards `final` x peak."""
    warmup, decay = max(1, round(o.warmup * steps)), max(1, round(o.decay * steps))

    def rate(step):
        up = (step + 1) / warmup
        if o.schedule == "cosine":
            done = jnp.clip((step - warmup) / max(1, steps - warmup), 0.0, 1.0)
            down = o.final + (1 - o.final) * (1 + jnp.cos(jnp.pi * done)) / 2
        else:
            down = o.final + (1 - o.final) * (steps - step) / decay
        return peak * jnp.clip(jnp.minimum(up, down), 0.0, 1.0)

    return rate


def as_matrices(x: jax.Array, axes: tuple) -> jax.Array:
    """A stacked weight -> (layers, in, out), or (layers, experts, in, out).

    The residual axis 'embed' is one side; heads x head size, or the feed-forward, the other.
    """
    if axes[0] != "layers":
        x, axes = x[None], ("layers", *axes)
    if "expert" in axes:
        return x
    if axes[-1] == "embed":
        return x.reshape(x.shape[0], -1, x.shape[-1])
    return x.reshape(x.shape[0], x.shape[1], -1)


def orthogonalize(g_Lio: jax.Array) -> jax.Array:
    """Newton-Schulz: each matrix of the stack goes to about its nearest semi-orthogonal one.

    Where the stack divides over the mesh, each device has whole matrices: no communication inside the iteration.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and len(g_Lio) % sharding.shards(mesh, "stack") == 0:
        g_Lio = sharding.constrain(g_Lio, "stack", *("expert",) * (g_Lio.ndim - 3), None, None)
    a, b, c = NEWTON_SCHULZ
    wide = g_Lio.shape[-2] <= g_Lio.shape[-1]
    x = g_Lio if wide else g_Lio.mT
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


def scale_by_muon(axes_tree) -> optax.GradientTransformation:
    """Nesterov momentum, then orthogonalised and scaled.

    An update's RMS is about 0.9 / sqrt(in): an input of RMS 1 gets an output of RMS 0.9 from it, whatever the shape.
    """

    def init(params):
        return jax.tree.map(jnp.zeros_like, params)

    def update(grads, momentum, params=None):
        del params
        momentum = jax.tree.map(lambda m, g: MOMENTUM * m + (1 - MOMENTUM) * g, momentum, grads)

        def leaf(m, g, axes):
            g_Lio = as_matrices(MOMENTUM * m + (1 - MOMENTUM) * g, axes)
            scale = max(1.0, g_Lio.shape[-1] / g_Lio.shape[-2]) ** 0.5
            return (scale * orthogonalize(g_Lio)).reshape(g.shape)

        return jax.tree.map(leaf, momentum, grads, axes_tree), momentum

    return optax.GradientTransformation(init, update)


def is_matrix(axes: tuple) -> bool:
    """Weights of the layers: not norms, not the vocabulary's tables."""
    return "embed" in axes and "vocab" not in axes


def adamw(rate: Callable, weight_decay: float, axes_tree) -> optax.GradientTransformation:
    mask = jax.tree.map(is_matrix, axes_tree, is_leaf=lambda x: isinstance(x, tuple))
    return optax.adamw(rate, b1=0.9, b2=0.95, eps=1e-10, weight_decay=weight_decay, mask=mask)


def make_optimizer(
    o: ConfigDict, steps: int, scale: float, axes_tree, tables_scale: float = 1.0
) -> optax.GradientTransformation:
    """The optimizer of a stage of `steps` steps whose peak rates are `scale` times the configured ones, and of the
    vocabulary's tables `tables_scale` times those."""
    rest = adamw(schedule(o.learning_rate * scale, steps, o), o.weight_decay, axes_tree)
    is_axes = {"is_leaf": lambda x: isinstance(x, tuple)}
    if o.name == "adamw":
        chosen = rest
    else:
        labels = jax.tree.map(lambda axes: "muon" if is_matrix(axes) else "adamw", axes_tree, **is_axes)
        matrices = jax.tree.map(lambda axes: axes if is_matrix(axes) else optax.MaskedNode(), axes_tree, **is_axes)
        muon = optax.chain(
            scale_by_muon(matrices),
            optax.add_decayed_weights(o.weight_decay),
            optax.scale_by_learning_rate(schedule(o.muon_learning_rate * scale, steps, o)),
        )
        chosen = optax.partition(
            {
                "muon": muon,
                "adamw": optax.adamw(
                    schedule(o.learning_rate * scale, steps, o), b1=0.9, b2=0.95, eps=1e-10, weight_decay=0.0
                ),
            },
            labels,
        )
    if tables_scale != 1:
        tables = jax.tree.map(lambda axes: "vocab" in axes, axes_tree, **is_axes)
        chosen = optax.chain(chosen, optax.masked(optax.scale(tables_scale), tables))
    return optax.chain(optax.clip_by_global_norm(o.clip), chosen) if o.clip else chosen
