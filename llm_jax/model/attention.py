"""One entry for attention: the mask is a spec, never an array that the caller builds."""

import dataclasses

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite, so that a row with nothing to see gives numbers and not NaN


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """What one position of `model.layer_pattern` says: the window in tokens (0: all) and whether rotary is on."""

    window: int
    rotary: bool

    @classmethod
    def parse(cls, text: str) -> "LayerSpec":
        kind, _, window = text.removesuffix("-norope").partition(":")
        return cls(window=int(window) if kind == "window" else 0, rotary=not text.endswith("-norope"))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mask:
    """Key s is seen by query t when it is in t's segment, not after t, and within the window.

    Segment 0 is padding. With a cache the keys are the cache's slots: slot s holds position s.
    """

    q_positions_BT: jax.Array
    q_segments_BT: jax.Array
    k_positions_BS: jax.Array
    k_segments_BS: jax.Array

    def dense_BTS(self, window: int) -> jax.Array:
        q, k = self.q_positions_BT[:, :, None], self.k_positions_BS[:, None, :]
        seen = (k <= q) & (self.q_segments_BT[:, :, None] == self.k_segments_BS[:, None, :])
        return seen & (q - k < window) if window else seen


def attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask, window: int) -> jax.Array:
    """Softmax attention with grouped queries -> BTNH, in q's dtype; logits and softmax in float32.

    This is the reference, and what the CPU runs.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    logits_BKGTS = jnp.einsum("btkgh,bskh->bkgts", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32)
    seen_BTS = mask.dense_BTS(window)
    logits_BKGTS = jnp.where(seen_BTS[:, None, None], logits_BKGTS * H**-0.5, MASKED)
    weights_BKGTS = jax.nn.softmax(logits_BKGTS, axis=-1).astype(q_BTNH.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights_BKGTS, v_BSKH).reshape(B, T, N, H)
