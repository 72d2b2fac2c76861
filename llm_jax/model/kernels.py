"""Attention kernels of single backends: splash (TPU, Pallas) and cuDNN (NVIDIA). Both ship inside JAX."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from llm_jax import sharding
from llm_jax.config import UserError

SPLASH_UNIT = 128  # its smallest block
SPLASH_BLOCK = 512  # positions of queries and of keys that the kernel holds at a time


def splash(q_BTNH, k_BSKH, v_BSKH, segments_BT, window: int, interpret: bool = False) -> jax.Array:
    """Causal (windowed) attention within segments -> BTNH, by the kernel that ships in JAX; never a T x T array.

    Each device has its rows and heads; with a `context` axis also its queries, and all of the keys. Needs a mesh
    (`jax.set_mesh`). Raises UserError when T is no multiple of 128, or `tensor` does not divide the heads.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    T, N, H = q_BTNH.shape[1:]
    mesh = jax.sharding.get_abstract_mesh()
    heads, queries = sharding.shards(mesh, "heads"), sharding.shards(mesh, "length")
    if T % (SPLASH_UNIT * queries) or N % heads or k_BSKH.shape[2] % heads:
        raise UserError(
            f"splash attention needs rows of a multiple of {SPLASH_UNIT * queries} tokens and heads that divide over "
            f"{heads} shards; here are {T} tokens, {N} query heads and {k_BSKH.shape[2]} key heads"
        )
    kernel = splash_kernel(T, N, window, heads, queries, interpret)
    kernel_spec = kernel.manual_sharding_spec(NamedSharding(mesh, sharding.spec(("heads", "length"))))
    q_spec, kv_spec = (
        sharding.spec(("batch", axis, length, None)) for axis, length in (("heads", "length"), ("kv_heads", None))
    )
    ids = [sharding.spec(("batch", length)) for length in ("length", None)]

    @functools.partial(
        jax.shard_map, in_specs=(kernel_spec, q_spec, kv_spec, kv_spec, *ids), out_specs=q_spec, check_vma=False
    )
    def run(kernel, q_BNTH, k_BKSH, v_BKSH, q_ids_BT, k_ids_BS):
        one = lambda q, k, v, a, b: kernel(q, k, v, segment_ids=SegmentIds(q=a, kv=b))  # noqa: E731
        return jax.vmap(one)(q_BNTH, k_BKSH, v_BKSH, q_ids_BT, k_ids_BS)

    scaled = q_BTNH * jnp.asarray(H**-0.5, q_BTNH.dtype)
    out_BNTH = run(kernel, *(x.swapaxes(1, 2) for x in (scaled, k_BSKH, v_BSKH)), segments_BT, segments_BT)
    return out_BNTH.swapaxes(1, 2)


def splash_kernel(T: int, heads: int, window: int, head_shards: int, query_shards: int, interpret: bool):
    from jax.experimental.pallas.ops.tpu import splash_attention as s

    block = max(b for b in (SPLASH_UNIT, 256, SPLASH_BLOCK) if (T // query_shards) % b == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    mask = s.LocalMask((T, T), (window - 1, 0), 0) if window else s.CausalMask((T, T))
    return s.make_splash_mha(
        s.MultiHeadMask([mask] * heads),
        block_sizes=s.BlockSizes(**{f"block_{name}": block for name in names}),
        head_shards=head_shards,
        q_seq_shards=query_shards,
        interpret=interpret,
    )


def cudnn(q_BTNH, k_BSKH, v_BSKH, segments_BT, window: int) -> jax.Array:
    """Causal (windowed) attention by cuDNN, 16-bit. It takes no segment ids: segments go in as a dense mask."""
    seen_B1TS = segments_BT[:, None, :, None] == segments_BT[:, None, None, :]
    local = (window - 1, 0) if window else None
    return jax.nn.dot_product_attention(
        q_BTNH, k_BSKH, v_BSKH, mask=seen_B1TS, is_causal=True, local_window_size=local, implementation="cudnn"
    )
