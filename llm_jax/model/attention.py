"""One entry for attention: the mask is a spec, never an array that the caller builds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from llm_jax import sharding
from llm_jax.config import UserError
from llm_jax.model import kernels

MASKED = -1e30  # finite, so that a row with nothing to see gives numbers and not NaN
BLOCK = 64  # queries in a block: on a CPU, 64 took 3.1 ms where 128 took 4.2 and the whole square of 256 7.6
MAX_BLOCKS = 16  # in a row, so that the program stays small
LONG_ROW = 4096  # tokens; the logits of longer rows are not kept for the backward pass
CUDNN_DTYPES = ("bfloat16", "float16")
CUDNN_HEAD = 128  # the largest size of a head that all its versions compute the gradient of
STREAM_CHUNK = 512  # keys whose logits exist at a time, where a row is split over devices


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """What one position of `model.layer_pattern` says: the window in tokens (0: all), rotary or not, experts or not."""

    window: int
    rotary: bool
    experts: bool = False

    @classmethod
    def parse(cls, text: str) -> "LayerSpec":
        what, *options = text.split("-")
        kind, _, window = what.partition(":")
        return cls(int(window) if kind == "window" else 0, "norope" not in options, "experts" in options)

    def __str__(self) -> str:
        """As `parse` reads it."""
        what = f"window:{self.window}" if self.window else "full"
        return what + ("" if self.rotary else "-norope") + ("-experts" if self.experts else "")


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

    def block(self, queries: slice, keys: slice) -> "Mask":
        return Mask(
            self.q_positions_BT[:, queries],
            self.q_segments_BT[:, queries],
            self.k_positions_BS[:, keys],
            self.k_segments_BS[:, keys],
        )


def kernel_for(platform: str, m: ConfigDict, length: int) -> str:
    """What `model.attention` means for devices of a platform that each hold `length` positions of a row.

    "auto" is the kernel of the backend, where that can compute the model. Raises UserError for one that cannot.
    """
    kernel = {"tpu": "splash", "gpu": "cudnn"}.get(platform, "xla") if m.attention == "auto" else m.attention
    wrong = lacks(kernel, platform, m, length)
    if wrong and m.attention != "auto":
        raise UserError(f"model.attention is {kernel!r}, {wrong}; set --config.model.attention=auto")
    return "xla" if wrong else kernel


def lacks(kernel: str, platform: str, m: ConfigDict, length: int) -> str:
    """What keeps a kernel from computing a model, in a few words; empty where nothing does."""
    needs = {"splash": "tpu", "cudnn": "gpu"}.get(kernel, platform)
    if needs != platform:
        return f"which needs a {needs.upper()}, and these devices are of the kind {platform}"
    if kernel == "splash" and length % kernels.SPLASH_UNIT:
        return f"which takes rows of a multiple of {kernels.SPLASH_UNIT} tokens on a device, and here are {length}"
    if kernel != "xla" and m.attention_cap:
        return f"which has no soft cap, and model.attention_cap is {m.attention_cap:g}"
    if kernel == "cudnn" and m.compute_dtype not in CUDNN_DTYPES:
        return f"which computes in {' or '.join(CUDNN_DTYPES)}, and model.compute_dtype is {m.compute_dtype!r}"
    if kernel == "cudnn" and (m.head_dim % 8 or m.head_dim > CUDNN_HEAD or length % 2):
        what = f"heads whose size is a multiple of 8 and at most {CUDNN_HEAD}, and rows of an even length"
        return f"which takes {what}; here are {m.head_dim} and {length}"
    return ""


def attention(q_BTNH, k_BSKH, v_BSKH, mask: Mask, window: int, kernel: str = "xla", cap: float = 0.0) -> jax.Array:
    """Softmax attention with grouped queries -> BTNH, in q's dtype; logits and softmax in float32.

    With a `cap` c, its logits are c tanh(logit / c) (Gemma 2, 2024). For aligned masks, as in training, by `kernel`
    ("splash", "cudnn" or "xla"); decoding has `cached_attention`.
    """
    if kernel == "splash":
        return kernels.splash(q_BTNH, k_BSKH, v_BSKH, mask.q_segments_BT, window)
    if kernel == "cudnn":
        return kernels.cudnn(q_BTNH, k_BSKH, v_BSKH, mask.q_segments_BT, window)
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and sharding.shards(mesh, "length") > 1:
        return gathered_attention(q_BTNH, k_BSKH, v_BSKH, mask, window, cap)
    by_blocks = q_BTNH.shape[1] <= LONG_ROW
    return (blocked_attention if by_blocks else streamed_attention)(q_BTNH, k_BSKH, v_BSKH, mask, window, cap)


def blocked_attention(q_BTNH, k_BSKH, v_BSKH, mask: Mask, window: int, cap: float = 0.0) -> jax.Array:
    """Aligned queries block by block, each with the keys that it can see: almost half of the work of a square."""
    T = q_BTNH.shape[1]
    block = max(BLOCK, -(-T // MAX_BLOCKS))
    outs = []
    for start in range(0, T, block):
        queries = slice(start, min(start + block, T))
        first = max(0, start - window + 1) // block * block if window else 0
        keys = slice(first, queries.stop)
        part = mask.block(queries, keys)
        outs.append(dense_attention(q_BTNH[:, queries], k_BSKH[:, keys], v_BSKH[:, keys], part, window, cap))
    return jnp.concatenate(outs, axis=1)


def gathered_attention(q_BTNH, k_BSKH, v_BSKH, mask: Mask, window: int, cap: float = 0.0) -> jax.Array:
    """Context parallelism: each device keeps its part of the queries and gathers the keys and values of the row."""
    place = lambda heads, length: sharding.spec(("batch", length, heads, None))  # noqa: E731
    ids = lambda length: sharding.spec(("batch", length))  # noqa: E731
    specs = (place("heads", "length"), *(place("kv_heads", None),) * 2, *(ids("length"),) * 2, *(ids(None),) * 2)

    @functools.partial(jax.shard_map, in_specs=specs, out_specs=specs[0], check_vma=False)
    def run(q, k, v, *ids):
        return streamed_attention(q, k, v, Mask(*ids), window, cap)

    where = (mask.q_positions_BT, mask.q_segments_BT, mask.k_positions_BS, mask.k_segments_BS)
    return run(q_BTNH, k_BSKH, v_BSKH, *where)


def streamed_attention(q_BTNH, k_BSKH, v_BSKH, mask: Mask, window: int, cap: float = 0.0) -> jax.Array:
    """Keys chunk by chunk with a running softmax (Milakov & Gimelshein 2018): no T x S array, also backward."""
    B, N = len(q_BTNH), q_BTNH.shape[2]
    S, K = k_BSKH.shape[1:3]
    chunk = STREAM_CHUNK if S % STREAM_CHUNK == 0 else S
    q_BKRH = fold_queries(q_BTNH, K)
    parts = lambda x: jnp.moveaxis(x.reshape(B, S // chunk, chunk, *x.shape[2:]), 1, 0)  # noqa: E731

    @jax.checkpoint
    def step(carry, keys):
        top_BKR, total_BKR, out_BKRH = carry
        k, v, positions, segments = keys
        part = Mask(mask.q_positions_BT, mask.q_segments_BT, positions, segments)
        logits_BKRS = masked_logits(q_BKRH, k, part, window, cap)
        new_top = jnp.maximum(top_BKR, logits_BKRS.max(axis=-1))
        weights = jnp.exp(logits_BKRS - new_top[..., None])
        scale = jnp.exp(top_BKR - new_top)
        out = jnp.einsum("bkrs,bskh->bkrh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return (new_top, total_BKR * scale + weights.sum(axis=-1), out_BKRH * scale[..., None] + out), None

    rows = q_BKRH.shape[:3]
    start = jnp.full(rows, MASKED), jnp.zeros(rows), jnp.zeros(q_BKRH.shape)
    (_, total_BKR, out_BKRH), _ = jax.lax.scan(
        step, start, tuple(map(parts, (k_BSKH, v_BSKH, mask.k_positions_BS, mask.k_segments_BS)))
    )
    return unfold_queries((out_BKRH / total_BKR[..., None]).astype(q_BTNH.dtype), N)


def dense_attention(q_BTNH, k_BSKH, v_BSKH, mask: Mask, window: int, cap: float = 0.0) -> jax.Array:
    """Every query with every key: the reference, and what a block or a decoding step runs."""
    q_BKRH = fold_queries(q_BTNH, k_BSKH.shape[2])
    weights_BKRS = jax.nn.softmax(masked_logits(q_BKRH, k_BSKH, mask, window, cap), axis=-1).astype(q_BTNH.dtype)
    return unfold_queries(jnp.einsum("bkrs,bskh->bkrh", weights_BKRS, v_BSKH), q_BTNH.shape[2])


def cached_attention(q_BTNH, k_BKHS, v_BKSH, mask: Mask, window: int, cap: float = 0.0) -> jax.Array:
    """Queries over all slots of a cache, in the layout that it keeps them."""
    q_BKRH = fold_queries(q_BTNH, k_BKHS.shape[1])
    logits_BKRS = jnp.einsum("bkrh,bkhs->bkrs", q_BKRH, k_BKHS, preferred_element_type=jnp.float32)
    weights_BKRS = jax.nn.softmax(masked(logits_BKRS, q_BKRH, mask, window, cap), axis=-1).astype(q_BTNH.dtype)
    return unfold_queries(jnp.einsum("bkrs,bksh->bkrh", weights_BKRS, v_BKSH), q_BTNH.shape[2])


def masked_logits(q_BKRH, k_BSKH, mask: Mask, window: int, cap: float) -> jax.Array:
    """Float32; what a query does not see is MASKED."""
    logits_BKRS = jnp.einsum("bkrh,bskh->bkrs", q_BKRH, k_BSKH, preferred_element_type=jnp.float32)
    return masked(logits_BKRS, q_BKRH, mask, window, cap)


def masked(logits_BKRS, q_BKRH, mask: Mask, window: int, cap: float) -> jax.Array:
    """Scaled logits; MASKED where a query does not see a key."""
    scaled_BKRS = capped(logits_BKRS * q_BKRH.shape[-1] ** -0.5, cap)
    seen_BTS = mask.dense_BTS(window)
    seen_BRS = jnp.repeat(seen_BTS, q_BKRH.shape[2] // seen_BTS.shape[1], axis=1)
    return jnp.where(seen_BRS[:, None], scaled_BKRS, MASKED)


def capped(logits: jax.Array, cap: float) -> jax.Array:
    """Held between -cap and cap; as they are where it is 0."""
    return cap * jnp.tanh(logits / cap) if cap else logits


def fold_queries(q_BTNH: jax.Array, kv_heads: int) -> jax.Array:
    """The queries that share a key head become the rows (R = T x queries to a key head) of one matrix: BKRH."""
    B, T, N, H = q_BTNH.shape
    return q_BTNH.reshape(B, T, kv_heads, N // kv_heads, H).swapaxes(1, 2).reshape(B, kv_heads, -1, H)


def unfold_queries(x_BKRH: jax.Array, heads: int) -> jax.Array:
    B, K, R, H = x_BKRH.shape
    T = R * K // heads
    return x_BKRH.reshape(B, K, T, heads // K, H).swapaxes(1, 2).reshape(B, T, heads, H)
