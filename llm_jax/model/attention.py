"""One entry for attention: the mask is a spec, never an array that the caller builds."""

import dataclasses

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite, so that a row with nothing to see gives numbers and not NaN
BLOCK = 64  # queries in a block: on a CPU, 64 took 3.1 ms where 128 took 4.2 and the whole square of 256 7.6
MAX_BLOCKS = 16  # in a long row, so that the program stays small


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
    aligned: bool = dataclasses.field(metadata={"static": True})  # key t is query t's own: later keys are never seen

    def dense_BTS(self, window: int) -> jax.Array:
        q, k = self.q_positions_BT[:, :, None], self.k_positions_BS[:, None, :]
        seen = (k <= q) & (self.q_segments_BT[:, :, None] == self.k_segments_BS[:, None, :])
        return seen & (q - k < window) if window else seen

    def block(self, queries: slice, keys: slice) -> "Mask":
        return Mask(
            self.q_positions_BT[:, queries],
            self.q_segments_BT[:, queries],
            self.k_positions_BS[:, keys],
            self.k_segments_BS[:, keys],
            aligned=False,
        )


def attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask, window: int) -> jax.Array:
    """Softmax attention with grouped queries -> BTNH, in q's dtype; logits and softmax in float32.

    Aligned queries go block by block, each with the keys that it can see: almost half of the work of a square.
    """
    T = q_BTNH.shape[1]
    block = max(BLOCK, -(-T // MAX_BLOCKS)) if mask.aligned else T
    outs = []
    for start in range(0, T, block):
        queries = slice(start, min(start + block, T))
        first = max(0, start - window + 1) // block * block if window else 0
        keys = slice(first, queries.stop) if mask.aligned else slice(None)
        part = mask.block(queries, keys)
        outs.append(dense_attention(q_BTNH[:, queries], k_BSKH[:, keys], v_BSKH[:, keys], part, window))
    return jnp.concatenate(outs, axis=1)


def dense_attention(q_BTNH, k_BSKH, v_BSKH, mask: Mask, window: int) -> jax.Array:
    """Every query with every key. The queries that share a key head are the rows of one matrix product."""
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    G = N // K
    q_BKRH = q_BTNH.reshape(B, T, K, G, H).swapaxes(1, 2).reshape(B, K, T * G, H)
    logits_BKRS = jnp.einsum("bkrh,bskh->bkrs", q_BKRH, k_BSKH, preferred_element_type=jnp.float32)
    seen_BRS = jnp.repeat(mask.dense_BTS(window), G, axis=1)
    logits_BKRS = jnp.where(seen_BRS[:, None], logits_BKRS * H**-0.5, MASKED)
    weights_BKRS = jax.nn.softmax(logits_BKRS, axis=-1).astype(q_BTNH.dtype)
    out_BKRH = jnp.einsum("bkrs,bskh->bkrh", weights_BKRS, v_BSKH)
    return out_BKRH.reshape(B, K, T, G, H).swapaxes(1, 2).reshape(B, T, N, H)
