"""A decoder-only transformer in the Qwen3 shape: RMSNorm, QK-norm, grouped queries, rotary, SwiGLU.

Layers are stacked: `nnx.vmap` makes L/p groups of the p layers of `layer_pattern`, and `lax.scan` applies them, so
compile time does not grow with depth. Modules only define; training and sampling use the pure functions
`init_params` and `apply` over a plain nested dict of arrays.
"""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from llm_jax.config import VOCAB_MULTIPLE
from llm_jax.model import exact, experts, kv_cache
from llm_jax.model.attention import LayerSpec, Mask, attention, cached_attention
from llm_jax.model.embedding import look_up
from llm_jax.model.lora import Adapted
from llm_jax.model.outputs_first import INPUTS, OutputsFirst, outputs_first, product, rotated
from llm_jax.sharding import constrain

Params = dict[str, Any]


class Weight(nnx.Param):
    """A parameter that carries the logical names of its axes (`axes`), the one source for its sharding."""


def weight(rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str | None, ...], deviation: float) -> Weight:
    value = jax.random.truncated_normal(rngs.params(), -3, 3, shape, jnp.float32) * deviation
    return Weight(value, axes=axes)


def project(x: jax.Array, w: Weight, contracted: int = 1) -> jax.Array:
    """Every projection of the model: contracts x's last `contracted` axes with w's first, in x's dtype."""
    value = w.get_value()
    return value.product(x, contracted) if isinstance(value, Adapted) else product(x, value, contracted)


class RMSNorm(nnx.Module):
    """Zhang & Sennrich 2019, in float32 whatever the input's dtype."""

    def __init__(self, size: int, m: ConfigDict):
        self.scale = Weight(jnp.full(size, 1 - m.norm_offset, jnp.float32), axes=(None,))
        self.epsilon, self.offset = m.norm_epsilon, m.norm_offset

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32**2, axis=-1, keepdims=True) + self.epsilon)
        scale = jnp.expand_dims(self.scale[...], tuple(range(x.ndim - 1)))
        return (x32 * (scale + self.offset if self.offset else scale)).astype(x.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Places:
    """Where each token of its document stands, and its rotary angles: the same for every layer."""

    positions_BT: jax.Array
    sin_BT1h: jax.Array
    cos_BT1h: jax.Array
    in_windows: "Places | None" = None  # the angles of layers with a window, where they have a base of their own

    @classmethod
    def of(cls, positions_BT: jax.Array, head_dim: int, base: float, scaling: tuple = ()) -> "Places":
        half = head_dim // 2
        frequency_h = scaled(base ** (-jnp.arange(half, dtype=jnp.float32) / half), *scaling)
        angle_BT1h = positions_BT[:, :, None, None].astype(jnp.float32) * frequency_h[None, None, None]
        return cls(positions_BT, jnp.sin(angle_BT1h), jnp.cos(angle_BT1h))

    def rotate(self, x_BTNH: jax.Array) -> jax.Array:
        """Rotary embedding (Su et al. 2021), halves paired as in Llama and Qwen."""
        a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
        sin, cos = self.sin_BT1h, self.cos_BT1h
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BTNH.dtype)


def scaled(frequency_h: jax.Array, kind: str = "", factor=1.0, low=1.0, high=1.0, length=1.0) -> jax.Array:
    """Rotary frequencies for texts `factor` times as long as those trained on: all of them divided by it ("linear",
    Chen et al. 2023), or those that turn less than `low` times in `length` tokens, and none that turns more than `high`
    times, with a straight line between them ("llama3", Llama 3.1, 2024)."""
    if kind == "linear":
        return frequency_h / factor
    if kind == "llama3":
        turns_h = length * frequency_h / (2 * jnp.pi)
        kept_h = jnp.clip((turns_h - low) / (high - low), 0.0, 1.0)
        return frequency_h * (kept_h + (1 - kept_h) / factor)
    return frequency_h


class Attention(nnx.Module):
    def __init__(self, m: ConfigDict, spec: LayerSpec, rngs: nnx.Rngs):
        D, N, K, H = m.dim, m.heads, m.kv_heads, m.head_dim
        self.q = weight(rngs, (D, N, H), ("embed", "heads", None), D**-0.5)
        self.k = weight(rngs, (D, K, H), ("embed", "kv_heads", None), D**-0.5)
        self.v = weight(rngs, (D, K, H), ("embed", "kv_heads", None), D**-0.5)
        self.o = weight(rngs, (N, H, D), ("heads", None, "embed"), (N * H) ** -0.5 * (2 * m.layers) ** -0.5)
        for name, heads in (("q", N), ("k", K), ("v", K)) if m.qkv_bias else ():
            axes = ("heads" if name == "q" else "kv_heads", None)
            setattr(self, f"{name}_bias", Weight(jnp.zeros((heads, H), jnp.float32), axes=axes))
        self.q_norm, self.k_norm = (RMSNorm(H, m) if m.qk_norm else None for _ in "qk")
        self.spec, self.kernel, self.cap, self.biased = spec, m.attention, m.attention_cap, m.qkv_bias
        self.query_scale = m.attention_scale * H**0.5 if m.attention_scale else 1.0  # attention divides by sqrt(H)
        self.exact = is_exact(m)

    def inputs(self, x_BTD: jax.Array, places: Places) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries BTNH, keys and values BTKH."""
        q_BTNH = constrain(project(x_BTD, self.q), "batch", "length", "heads", None)
        k_BTKH = constrain(project(x_BTD, self.k), "batch", "length", "kv_heads", None)
        v_BTKH = constrain(project(x_BTD, self.v), "batch", "length", "kv_heads", None)
        if self.biased:
            biases = (self.q_bias, self.k_bias, self.v_bias)
            add = lambda x, bias: x + bias[...][None, None].astype(x.dtype)  # noqa: E731
            q_BTNH, k_BTKH, v_BTKH = map(add, (q_BTNH, k_BTKH, v_BTKH), biases)
        if self.q_norm:
            q_BTNH, k_BTKH = self.q_norm(q_BTNH), self.k_norm(k_BTKH)
        if self.spec.rotary:
            angles = (self.spec.window and places.in_windows) or places
            q_BTNH, k_BTKH = angles.rotate(q_BTNH), angles.rotate(k_BTKH)
        q_BTNH = q_BTNH * self.query_scale if self.query_scale != 1.0 else q_BTNH
        return q_BTNH, k_BTKH, v_BTKH

    def mix(self, q_BTNH, k_BTKH, v_BTKH, positions_BT, mask: Mask, cache: dict | None):
        """(what each query finds, BTNH; the cache with the new keys and values)"""
        if cache is None:
            return attention(q_BTNH, k_BTKH, v_BTKH, mask, self.spec.window, self.kernel, self.cap), None
        cache = kv_cache.write(cache, k_BTKH, v_BTKH, positions_BT)
        kept = kv_cache.read(cache, q_BTNH.dtype)
        attend = functools.partial(cached_attention, window=self.spec.window, cap=self.cap)
        return (exact.attend(attend, q_BTNH, *kept, mask) if self.exact else attend(q_BTNH, *kept, mask)), cache


class FeedForward(nnx.Module):
    """SwiGLU, or with GELU (Shazeer 2020)."""

    def __init__(self, m: ConfigDict, rngs: nnx.Rngs):
        D, F = m.dim, m.ff_dim
        self.gate = weight(rngs, (D, F), ("embed", "ff"), D**-0.5)
        self.up = weight(rngs, (D, F), ("embed", "ff"), D**-0.5)
        self.down = weight(rngs, (F, D), ("ff", "embed"), F**-0.5 * (2 * m.layers) ** -0.5)
        self.activation = {"silu": jax.nn.silu, "gelu": jax.nn.gelu}[m.activation]

    def __call__(self, x_BTD: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """(output, its auxiliary losses: none)"""
        hidden_BTF = self.activation(project(x_BTD, self.gate)) * project(x_BTD, self.up)
        return project(constrain(hidden_BTF, "batch", "length", "ff"), self.down), []


class Experts(nnx.Module):
    """In place of the feed-forward: of E smaller ones, each token's router picks a few. The router is float32."""

    def __init__(self, m: ConfigDict, rngs: nnx.Rngs):
        D, E, F = m.dim, m.experts, m.expert_ff_dim
        self.router = weight(rngs, (D, E), ("embed", None), D**-0.5)
        self.gate = weight(rngs, (E, D, F), ("expert", "embed", "ff"), D**-0.5)
        self.up = weight(rngs, (E, D, F), ("expert", "embed", "ff"), D**-0.5)
        self.down = weight(rngs, (E, F, D), ("expert", "ff", "embed"), F**-0.5 * (2 * m.layers) ** -0.5)
        self.per_token, self.load_balance, self.router_z = m.experts_per_token, m.load_balance, m.router_z

    def __call__(self, x_BTD: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """(output, its auxiliary losses: one, the weighted sum)"""
        logits_BTE = project(x_BTD.astype(jnp.float32), self.router)
        # Cast before the shards of a weight are gathered: half of the bytes in bfloat16.
        weights = (w[...].astype(x_BTD.dtype) for w in (self.gate, self.up, self.down))
        out_BTD, chosen_BTk = experts.mixture(x_BTD, logits_BTE, *weights, self.per_token)
        balance = self.load_balance * experts.load_balance(logits_BTE, chosen_BTk)
        return out_BTD, [balance + self.router_z * experts.router_z(logits_BTE)]


class Block(nnx.Module):
    def __init__(self, m: ConfigDict, spec: LayerSpec, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(m.dim, m)
        self.attention = Attention(m, spec, rngs)
        self.ff_norm = RMSNorm(m.dim, m)
        self.after_attention, self.after_ff = (RMSNorm(m.dim, m) if m.post_norms else None for _ in "af")
        self.ff = (Experts if spec.experts else FeedForward)(m, rngs)
        self.exact = is_exact(m)

    def __call__(self, x_BTD, places: Places, mask: Mask, cache: dict | None):
        run = exact.on_tokens if self.exact and cache is not None else on_all
        qkv = run(self, "inputs", x_BTD, places)
        out_BTNH, new_cache = self.attention.mix(*qkv, places.positions_BT, mask, cache)
        x_BTD, auxiliary = run(self, "outputs", x_BTD, out_BTNH, *(("residual",) if cache is None else ()))
        return x_BTD, new_cache, auxiliary

    def inputs(self, x_BTD, places: Places):
        return self.attention.inputs(self.attention_norm(x_BTD), places)

    def outputs(self, x_BTD, out_BTNH, axis: str | None = None) -> tuple[jax.Array, list[jax.Array]]:
        """(the residual stream after attention and feed-forward, auxiliary losses); `axis`: see `between_layers`."""
        out_BTD = project(out_BTNH, self.attention.o, contracted=2)
        out_BTD = self.after_attention(out_BTD) if self.after_attention else out_BTD
        x_BTD = between_layers(x_BTD + out_BTD, axis)
        out_BTD, auxiliary = self.ff(self.ff_norm(x_BTD))
        out_BTD = self.after_ff(out_BTD) if self.after_ff else out_BTD
        return between_layers(x_BTD + out_BTD, axis), auxiliary


def on_all(module: nnx.Module, method: str, *arrays):
    """`module.method(*arrays)`; `exact.on_tokens` gives the same with bits that do not depend on the shapes."""
    return getattr(module, method)(*arrays)


def is_exact(m: ConfigDict) -> bool:
    """Whether the forward with a cache computes exactly (`exact`): stage rl sets it in its own copy of the config."""
    return m.get("exact", False)


def between_layers(x_BTD: jax.Array, axis: str | None) -> jax.Array:
    """Pins activations: over "residual" in training, where they are large; whole in decoding, a few tokens at a time.
    (Split there too, XLA's partitioner gave wrong numbers on a mesh of data, fsdp and tensor, two each.)
    """
    return constrain(x_BTD, "batch", "length", axis)


class Group(nnx.Module):
    """One period of the layer pattern; the model's stack is a vmapped Group, its tail a plain one."""

    def __init__(self, m: ConfigDict, specs: tuple[LayerSpec, ...], rngs: nnx.Rngs):
        # String keys, not a list: they name the parameters in checkpoints.
        self.blocks = nnx.Dict({f"layer_{i}": Block(m, spec, rngs) for i, spec in enumerate(specs)})

    def __call__(self, x_BTD, places: Places, mask: Mask, cache: kv_cache.Cache | None):
        new_cache, auxiliary = {key: [] for key in cache or ()}, []
        for i, block in enumerate(self.blocks.values()):
            layer_cache = cache and {key: arrays[i] for key, arrays in cache.items()}
            x_BTD, layer_cache, losses = block(x_BTD, places, mask, layer_cache)
            auxiliary += losses
            for key in new_cache:
                new_cache[key].append(layer_cache[key])
        return x_BTD, new_cache, auxiliary


class Transformer(nnx.Module):
    """Token ids -> final hidden states; `head_DV` turns those into logits."""

    def __init__(self, m: ConfigDict, vocab_size: int, rngs: nnx.Rngs):
        specs = tuple(LayerSpec.parse(text) for text in m.layer_pattern)
        self.groups, remainder = divmod(m.layers, len(specs))
        V = padded_vocab(vocab_size)
        self.embedding = weight(rngs, (V, m.dim), ("vocab", "embed"), m.dim**-0.5)
        keys_G = jax.random.split(rngs.params(), self.groups)
        self.stack = nnx.vmap(lambda key: Group(m, specs, nnx.Rngs(key)), in_axes=0, out_axes=0)(keys_G)
        self.tail = Group(m, specs[:remainder], rngs)
        self.norm = RMSNorm(m.dim, m)
        self.head = None if m.tied_embedding else weight(rngs, (m.dim, V), ("embed", "vocab"), m.dim**-0.5)
        self.dtype, self.remat = jnp.dtype(m.compute_dtype), m.remat
        self.head_dim, self.rope = m.head_dim, (m.rope_base, tuple(m.rope_scaling))
        self.window_rope_base, self.scaled_embedding = m.window_rope_base, m.scaled_embedding
        self.exact, self.float32_head = is_exact(m), m.float32_head

    def __call__(self, tokens_BT, positions_BT, segments_BT, cache: dict | None = None, groups: list | None = None):
        table_VD = self.embedding[...]
        x_BTD = look_up(table_VD, tokens_BT, self.dtype) if cache is None else table_VD[tokens_BT].astype(self.dtype)
        # Scaled to unit variance, the residual stream starts at the size that the norms expect.
        x_BTD = x_BTD * table_VD.shape[1] ** 0.5 if self.scaled_embedding else x_BTD
        x_BTD = between_layers(x_BTD, "residual" if cache is None else None)
        places = self._places(positions_BT)
        if cache is None:
            x_BTD, auxiliary = self._layers(x_BTD, places, training_mask(segments_BT))
            return self.norm(self._for_head(x_BTD)), None, auxiliary
        x_BTD, cache = self._layers_with_cache(x_BTD, places, cached_mask(positions_BT, cache), cache, groups)
        return (exact.on_tokens if self.exact else on_all)(self.norm, "__call__", self._for_head(x_BTD)), cache, 0.0

    def _for_head(self, x_BTD):
        return x_BTD.astype(jnp.float32) if self.float32_head else x_BTD

    def _places(self, positions_BT: jax.Array) -> Places:
        places = Places.of(positions_BT, self.head_dim, *self.rope)
        if not self.window_rope_base:
            return places
        return dataclasses.replace(places, in_windows=Places.of(positions_BT, self.head_dim, self.window_rope_base))

    def _layers(self, x_BTD, places: Places, mask: Mask):
        graph, stacked = nnx.split(self.stack)

        def one_group(x_BTD, group):
            x_BTD, _, auxiliary = nnx.merge(graph, group)(x_BTD, places, mask, None)
            return x_BTD, auxiliary

        # Else the compiler keeps the angles in the TPU's fast memory, where the weights of the next product belong.
        places = jax.lax.optimization_barrier(places)
        x_BTD, auxiliary = jax.lax.scan(rematerialised(one_group, self.remat), x_BTD, stacked)
        x_BTD, _, of_tail = self.tail(x_BTD, places, mask, None)
        losses = [jnp.atleast_1d(loss) for loss in auxiliary + of_tail]  # of the stack, one for each group
        return x_BTD, jnp.concatenate(losses).mean() if losses else 0.0

    def _layers_with_cache(self, x_BTD, places: Places, mask: Mask, cache: kv_cache.Cache, groups: list[Params]):
        """Layer by layer, so that every layer's cache is updated in place."""
        graph, stacked = nnx.split(self.stack)
        new_cache, at = {key: [] for key in cache}, 0
        for group in (*(nnx.merge(graph, with_values(stacked, values)) for values in groups), self.tail):
            layers = slice(at, at := at + len(group.blocks))
            part = {key: arrays[layers] for key, arrays in cache.items()}
            x_BTD, part, _ = group(x_BTD, places, mask, part)
            for key, arrays in part.items():
                new_cache[key] += arrays
        return x_BTD, new_cache


def rematerialised(function, policy: str):
    """`function`, whose backward pass keeps: all ("none"), matrix products ("dots", "offload" to the host), nothing
    but the input ("full").
    """
    names = jax.checkpoint_policies
    policies = {
        "full": None,
        "dots": names.dots_with_no_batch_dims_saveable,
        "offload": names.offload_dot_with_no_batch_dims("device", "pinned_host"),
    }
    return function if policy == "none" else jax.checkpoint(function, policy=policies[policy])


def training_mask(segments_BT: jax.Array) -> Mask:
    # Rows hold whole segments in order, so the place in the row orders keys; positions restart in each segment.
    place_BT = jnp.broadcast_to(jnp.arange(segments_BT.shape[1])[None], segments_BT.shape)
    return Mask(place_BT, segments_BT, place_BT, segments_BT)


def cached_mask(positions_BT: jax.Array, cache: kv_cache.Cache) -> Mask:
    B, S = len(positions_BT), kv_cache.length_of(cache)
    slots_BS = jnp.broadcast_to(jnp.arange(S), (B, S))
    return Mask(positions_BT, jnp.ones_like(positions_BT), slots_BS, jnp.ones_like(slots_BS))


def padded_vocab(vocab_size: int) -> int:
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


@functools.cache
def _abstract(config_json: str, vocab_size: int):
    """(graph, abstract state) of the model of a config; cached, since tracing the modules takes a while."""
    m = ConfigDict(json.loads(config_json))
    return nnx.split(nnx.eval_shape(lambda: Transformer(m, vocab_size, nnx.Rngs(0))))


def abstract(m: ConfigDict, vocab_size: int):
    return _abstract(m.to_json(), vocab_size)


def init_params(m: ConfigDict, vocab_size: int, key: jax.Array) -> Params:
    """Fresh parameters as a nested dict of float32 arrays; call it under jit with out_shardings."""
    return nnx.to_pure_dict(nnx.state(Transformer(m, vocab_size, nnx.Rngs(key))))


def param_axes(m: ConfigDict, vocab_size: int) -> Params:
    """The logical axes of each parameter, in the tree of `init_params`; stacked ones begin with 'layers'."""
    _, state = abstract(m, vocab_size)
    flat = {}
    for path, variable in nnx.to_flat_state(state):
        stacked = variable.shape and len(variable.shape) > len(variable.axes)
        flat[path] = ("layers", *variable.axes) if stacked else variable.axes
    return nnx.traversals.unflatten_mapping(flat)


def with_values(state: nnx.State, values: Params) -> nnx.State:
    """A copy of a state whose variables hold the values of a plain dict; what the dict leaves out stays."""
    state = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(state, values)
    return state


def merged(m: ConfigDict, vocab_size: int, params: Params) -> Transformer:
    graph, state = abstract(m, vocab_size)
    return nnx.merge(graph, with_values(state, params))


def apply(m: ConfigDict, vocab_size: int, params: Params, tokens_BT, positions_BT, segments_BT, cache=None):
    """The one forward: (hidden_BTD in compute dtype, cache or None, auxiliary loss).

    The auxiliary loss is the mean over the layers with experts; 0.0 where there are none, and with a cache.
    tokens, positions and segments are int32; segment 0 is padding. With a cache, new keys go to slot = position, and
    the parameters are those of `for_decoding`.
    """
    if cache is None:
        return merged(m, vocab_size, params)(tokens_BT, positions_BT, segments_BT)
    rest = {key: params[key] for key in ("embedding", "norm", "tail")}
    return merged(m, vocab_size, rest)(tokens_BT, positions_BT, segments_BT, cache, params["stack"])


def for_decoding(m: ConfigDict, params: Params, int8: bool = False) -> Params:
    """The parameters as a forward with a cache reads them, once a token: the stack taken apart into its groups, and
    matrices with their outputs first, in the compute dtype (which `project` would make of them each time) or in int8.
    """
    groups = m.layers // len(m.layer_pattern)
    stack = [jax.tree.map(lambda w, i=i: w[i], params["stack"]) for i in range(groups)]
    turned = [outputs_first(group, m.compute_dtype, int8) for group in (*stack, params.get("tail", {}))]
    head_VD = params["embedding"] if m.tied_embedding else params["head"].T
    return {
        "embedding": params["embedding"].astype(m.compute_dtype),
        "head_VD": head_VD.astype(jnp.float32 if m.float32_head else m.compute_dtype),
        "norm": params["norm"],
        "stack": turned[:-1],
        "tail": turned[-1],
    }


def decoding_axes(m: ConfigDict, vocab_size: int) -> Params:
    """The logical axes of each array of `for_decoding`, not in int8."""
    axes = param_axes(m, vocab_size)
    is_axes = lambda x: isinstance(x, tuple)  # noqa: E731

    def turn(path, names):
        name, is_expert = path[-1].key, "expert" in names
        return OutputsFirst(rotated(names, INPUTS[name]), None) if name in INPUTS and not is_expert else names

    group = jax.tree.map(lambda names: names[1:], axes["stack"], is_leaf=is_axes)
    group, tail = (jax.tree_util.tree_map_with_path(turn, x, is_leaf=is_axes) for x in (group, axes.get("tail", {})))
    head = {"head_VD": ("vocab", "embed")}
    return {
        **{name: axes[name] for name in ("embedding", "norm")},
        **head,
        "stack": [group] * (m.layers // len(m.layer_pattern)),
        "tail": tail,
    }


def head_DV(m: ConfigDict, params: Params) -> jax.Array:
    """The output matrix, D x padded vocabulary."""
    return params["embedding"].T if m.tied_embedding else params["head"]


def empty_cache(m: ConfigDict, batch: int, length: int, int8: bool = False) -> kv_cache.Cache:
    return kv_cache.empty(
        m.layers, batch, length, m.kv_heads, m.head_dim, jnp.int8 if int8 else jnp.dtype(m.compute_dtype)
    )
