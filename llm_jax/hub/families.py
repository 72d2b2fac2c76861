"""The families of models that come in and go out: how their `config.json` says what our `model.*` says.

A family is a row: the switches of the model that are always so in it, and which of its layers have a window, no rotary
or experts. Everything else is read from the same keys in all of them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from llm_jax.config import UserError
from llm_jax.model.attention import LayerSpec
from llm_jax.tables import Row, Table

Config = dict[str, Any]  # a Hugging Face model's config.json


def every(config: Config, i: int) -> LayerSpec:
    """Layers that are all alike, with a window where the config has one in use."""
    used = config.get("use_sliding_window", True) and i >= config.get("max_window_layers", 0)
    return LayerSpec((used and config.get("sliding_window")) or 0, True)


def full(config: Config, i: int) -> LayerSpec:
    return LayerSpec(0, True)


def some_without_rotary(config: Config, i: int) -> LayerSpec:
    """SmolLM3: one layer in four has no rotary, or those whose entry in `no_rope_layers` is 0."""
    listed = config.get("no_rope_layers")
    rotary = listed[i] if listed else (i + 1) % (config.get("no_rope_layer_interval") or 4)
    return LayerSpec(every({"use_sliding_window": False, **config}, i).window, bool(rotary))


def some_with_experts(config: Config, i: int) -> LayerSpec:
    step = config.get("decoder_sparse_step", 1)
    experts = i not in config.get("mlp_only_layers", ()) and (i + 1) % step == 0
    return LayerSpec(every({"use_sliding_window": False, **config}, i).window, True, experts)


def local_and_global(config: Config, i: int) -> LayerSpec:
    """Gemma: all but every n-th layer have a window."""
    period = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 2
    return LayerSpec(0 if (i + 1) % period == 0 else config["sliding_window"], True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family(Row):
    """`name` is Hugging Face's `model_type`."""

    architecture: str = None  # Hugging Face's class
    gguf: str = None  # what GGUF files call it
    switches: dict[str, Any] = dataclasses.field(default_factory=dict)  # of our model, always so
    defaults: Config = dataclasses.field(default_factory=dict)  # of its config.json, where that leaves out a key
    layer: Callable[[Config, int], LayerSpec] = every
    permuted: bool = False  # GGUF files hold queries and keys with rotary pairs side by side


GEMMA = {"norm_offset": 1.0, "post_norms": True, "activation": "gelu", "qk_norm": False, "scaled_embedding": True}
GEMMA_DEFAULTS = {"tie_word_embeddings": True, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh"}

FAMILIES: Table[Family] = Table(
    "model_type",
    (
        Family(name="llama", architecture="LlamaForCausalLM", gguf="llama", layer=full, permuted=True),
        Family(
            name="mistral",
            architecture="MistralForCausalLM",
            gguf="llama",
            defaults={"sliding_window": 4096, "num_key_value_heads": 8},
            permuted=True,
        ),
        Family(
            name="qwen2",
            architecture="Qwen2ForCausalLM",
            gguf="qwen2",
            switches={"qkv_bias": True},
            defaults={"use_sliding_window": False, "max_window_layers": 28},
        ),
        Family(
            name="qwen3",
            architecture="Qwen3ForCausalLM",
            gguf="qwen3",
            switches={"qk_norm": True},
            defaults={"use_sliding_window": False, "max_window_layers": 28, "head_dim": 128},
        ),
        Family(
            name="qwen3_moe",
            architecture="Qwen3MoeForCausalLM",
            gguf="qwen3moe",
            switches={"qk_norm": True},
            defaults={"norm_topk_prob": False, "moe_intermediate_size": 768},
            layer=some_with_experts,
        ),
        Family(
            name="smollm3",
            architecture="SmolLM3ForCausalLM",
            gguf="smollm3",
            defaults={"tie_word_embeddings": True},
            layer=some_without_rotary,
            permuted=True,
        ),
        Family(
            name="gemma2",
            architecture="Gemma2ForCausalLM",
            gguf="gemma2",
            switches=GEMMA,
            defaults={
                **GEMMA_DEFAULTS,
                "query_pre_attn_scalar": 256,
                "sliding_window": 4096,
                "attn_logit_softcapping": 50.0,
                "final_logit_softcapping": 30.0,
            },
            layer=local_and_global,
        ),
        Family(
            name="gemma3_text",
            architecture="Gemma3ForCausalLM",
            gguf="gemma3",
            switches={**GEMMA, "qk_norm": True},
            defaults={
                **GEMMA_DEFAULTS,
                "query_pre_attn_scalar": 256,
                "sliding_window": 4096,
                "sliding_window_pattern": 6,
                "rope_theta": 1_000_000.0,
                "rope_local_base_freq": 10_000.0,
            },
            layer=local_and_global,
        ),
    ),
)

# What a config may say that our model does not compute: key -> the values that change nothing.
UNTOUCHED = {
    "attention_bias": (False, None),  # Qwen2's biases are no key of its config
    "mlp_bias": (False, None),
    "pretraining_tp": (1, None),
    "partial_rotary_factor": (1.0, None),
    "use_bidirectional_attention": (False, None),
}
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu"}


def model_values(config: Config) -> dict[str, Any]:
    """The values of `model.*` that make our model compute what a config.json describes.

    Raises UserError for an unknown model_type, and for what no option of ours computes.
    """
    family = FAMILIES.find(str(config.get("model_type")))
    given = {key: value for key, value in config.items() if value is not None}
    c = {"tie_word_embeddings": False, "hidden_act": "silu", **family.defaults, **given}
    for key, fine in UNTOUCHED.items():
        if c.get(key) not in fine:
            raise UserError(f"config.json has {key} {c[key]!r}, and such a {family.name} is not supported")
    try:
        heads = c["num_attention_heads"]
        values = {
            "dim": c["hidden_size"],
            "layers": c["num_hidden_layers"],
            "heads": heads,
            "kv_heads": c.get("num_key_value_heads", heads),
            "head_dim": c.get("head_dim", c["hidden_size"] // heads),
            "ff_dim": c["intermediate_size"],
            "norm_epsilon": c.get("rms_norm_eps", 1e-6),
            "tied_embedding": c["tie_word_embeddings"],
            "layer_pattern": pattern([layer_spec(family, c, i) for i in range(c["num_hidden_layers"])]),
        }
    except KeyError as error:
        raise UserError(f"config.json lacks {error}; take the one that belongs to the model") from None
    except (TypeError, ZeroDivisionError) as error:
        raise UserError(f"config.json has values that no model has ({error}); fetch it again") from None
    activation = c.get("hidden_activation", c["hidden_act"])
    if activation not in ACTIVATIONS:
        raise UserError(f"config.json has the activation {activation!r}; supported are {', '.join(ACTIVATIONS)}")
    values |= {"scaled_embedding": False, "qk_norm": False, "activation": ACTIVATIONS[activation]}
    return {**values, **family.switches, **rotary(c), **extras(c, values["layer_pattern"])}


def layer_spec(family: Family, c: Config, i: int) -> LayerSpec:
    """`layer_types` has the last word about windows, where a config has it."""
    spec = family.layer(c, i)
    if types := c.get("layer_types"):
        kinds = {"full_attention": 0, "sliding_attention": c.get("sliding_window") or 0}
        if types[i] not in kinds:
            raise UserError(f"config.json has a layer of the type {types[i]!r}; supported are {', '.join(kinds)}")
        spec = dataclasses.replace(spec, window=kinds[types[i]])
    return spec


def pattern(specs: list[LayerSpec]) -> tuple[str, ...]:
    """The shortest `model.layer_pattern` of these layers."""
    period = next(p for p in range(1, len(specs) + 1) if all(spec == specs[i % p] for i, spec in enumerate(specs)))
    return tuple(map(str, specs[:period]))


def rotary(c: Config) -> dict[str, Any]:
    """Bases and scaling, from the keys of Transformers 4 or those of 5."""
    new, local = c.get("rope_parameters") or {}, c.get("rope_local_base_freq", 0.0)
    if "full_attention" in new:
        new, local = new["full_attention"], new["sliding_attention"].get("rope_theta", local)
    scaling = new or c.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    values = {"rope_base": float(new.get("rope_theta", c.get("rope_theta", 10_000.0))), "window_rope_base": local}
    if kind == "linear":
        values["rope_scaling"] = ("linear", float(scaling["factor"]))
    elif kind == "llama3":
        keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        values["rope_scaling"] = ("llama3", *(float(scaling[key]) for key in keys))
    elif kind != "default":
        raise UserError(f"config.json scales rotary angles by {kind!r}; supported are 'linear' and 'llama3'")
    return values


def extras(c: Config, layers: tuple[str, ...]) -> dict[str, Any]:
    """Experts, soft caps and the scale of attention, where a config has them."""
    values = {}
    if any(spec.endswith("-experts") for spec in layers):
        if not c["norm_topk_prob"] and c["num_experts_per_tok"] > 1:
            raise UserError("config.json has norm_topk_prob false; our experts' weights add up to 1")
        count = c["num_experts"] if "num_experts" in c else c["num_local_experts"]  # Transformers 4 and 5
        values = {"experts": count, "experts_per_token": c["num_experts_per_tok"]}
        values["expert_ff_dim"] = c["moe_intermediate_size"]
    if "query_pre_attn_scalar" in c:
        values["attention_scale"] = c["query_pre_attn_scalar"] ** -0.5
    values["attention_cap"] = float(c.get("attn_logit_softcapping", 0.0))
    values["logit_cap"] = float(c.get("final_logit_softcapping", 0.0))
    return values


def family_of(m: ConfigDict) -> Family:
    """That of a model of ours. Raises UserError where none computes what it does."""
    specs = layer_specs(m)
    windows, experts = {spec.window for spec in specs} - {0}, any(spec.experts for spec in specs)
    if m.post_norms:
        return FAMILIES["gemma3_text" if m.qk_norm else "gemma2"]
    wrong = {
        "windows of several lengths": len(windows) > 1,
        "windows beside experts": bool(windows) and experts,
        "experts without qk_norm": experts and not m.qk_norm,
        "layers without rotary beside qk_norm": not all(spec.rotary for spec in specs) and m.qk_norm,
    }
    for what, is_so in wrong.items():
        if is_so:
            raise UserError(f"{m.layer_pattern} cannot be exported: no Hugging Face model has {what}")
    if experts:
        return FAMILIES["qwen3_moe"]
    if m.qk_norm:
        return FAMILIES["qwen3"]
    if m.qkv_bias:
        return FAMILIES["qwen2"]
    if not all(spec.rotary for spec in specs):
        return FAMILIES["smollm3"]
    return FAMILIES["mistral" if windows else "llama"]


def scales_alike(m: ConfigDict) -> bool:
    """Whether the family's lookup scales the table, or not, as ours does; else a tied table goes out as two."""
    return m.scaled_embedding == family_of(m).switches.get("scaled_embedding", False)


def layer_specs(m: ConfigDict) -> list[LayerSpec]:
    """One for each layer."""
    return [LayerSpec.parse(m.layer_pattern[i % len(m.layer_pattern)]) for i in range(m.layers)]


def config_json(m: ConfigDict, vocab_size: int, positions: int) -> Config:
    """The config.json of a model of ours; `positions` is the longest context. Raises UserError as `family_of`."""
    family, specs = family_of(m), layer_specs(m)
    out = {
        "architectures": [family.architecture],
        "model_type": family.name,
        "vocab_size": vocab_size,
        "hidden_size": m.dim,
        "intermediate_size": m.ff_dim,
        "num_hidden_layers": m.layers,
        "num_attention_heads": m.heads,
        "num_key_value_heads": m.kv_heads,
        "head_dim": m.head_dim,
        "hidden_act": "silu" if m.activation == "silu" else "gelu_pytorch_tanh",
        "rms_norm_eps": m.norm_epsilon,
        "rope_theta": m.rope_base,
        "max_position_embeddings": positions,
        "attention_bias": False,
        "tie_word_embeddings": m.tied_embedding and scales_alike(m),
        "torch_dtype": m.compute_dtype,
    }
    return out | layers_json(m, specs) | gemma_json(m) | scaling_json(m)


def layers_json(m: ConfigDict, specs: list[LayerSpec]) -> Config:
    out: Config = {}
    if windows := {spec.window for spec in specs} - {0}:
        out |= {"use_sliding_window": True, "sliding_window": windows.pop(), "max_window_layers": 0}
        out["layer_types"] = ["sliding_attention" if spec.window else "full_attention" for spec in specs]
    if not all(spec.rotary for spec in specs):
        out["no_rope_layers"] = [int(spec.rotary) for spec in specs]
    if any(spec.experts for spec in specs):
        out |= {"num_experts": m.experts, "num_experts_per_tok": m.experts_per_token}
        out |= {"moe_intermediate_size": m.expert_ff_dim, "norm_topk_prob": True, "decoder_sparse_step": 1}
        out["mlp_only_layers"] = [i for i, spec in enumerate(specs) if not spec.experts]
    return out


def gemma_json(m: ConfigDict) -> Config:
    if not m.post_norms:
        return {}
    scale = m.attention_scale or m.head_dim**-0.5
    caps = {"attn_logit_softcapping": m.attention_cap or None, "final_logit_softcapping": m.logit_cap or None}
    out = {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": round(scale**-2, 6), **caps}
    return out | ({"rope_local_base_freq": m.window_rope_base} if m.qk_norm else {})


def scaling_json(m: ConfigDict) -> Config:
    if not m.rope_scaling:
        return {}
    kind, *numbers = m.rope_scaling
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return {"rope_scaling": {"rope_type": kind, **dict(zip(keys, numbers, strict=False))}}


@functools.cache
def of_gguf(architecture: str) -> Family:
    """The family of a GGUF file. Raises UserError, which lists them, for one that is not supported."""
    for family in FAMILIES.values():
        if family.gguf == architecture:
            return family
    names = ", ".join(sorted({family.gguf for family in FAMILIES.values()}))
    raise UserError(f"the file holds a model of the architecture {architecture!r}; supported are {names}")
