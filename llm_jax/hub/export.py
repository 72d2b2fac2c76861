"""A run's model as a Hugging Face folder: python -m llm_jax.hub.export --workdir=DIR --stage=rl --output=DIR2

What Transformers, vLLM and their kin load as Qwen3, Qwen3-MoE (layers with experts) or Llama (without QK-norm):
`config.json` and safetensors in the run's compute dtype; the tokenizer as `tokenizer.json`, with the same ids; beside
them the SentencePiece model, under a name that no loader looks for: what they would make of it loses spaces.
"""

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from llm_jax.frame.cli import quiet_logs, run_cli

quiet_logs()

import jax  # noqa: E402
import numpy as np  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from llm_jax.config import UserError  # noqa: E402
from llm_jax.files import user_path  # noqa: E402
from llm_jax.hub.tokenizer_json import CONFIG, tokenizer_json  # noqa: E402
from llm_jax.model.attention import LayerSpec  # noqa: E402
from llm_jax.runs import STAGE_HELP, Run  # noqa: E402
from llm_jax.tokenizer import Tokenizer  # noqa: E402

FILE_BYTES = 4 * 2**30  # of weights in one file, about
TOKENIZER = "llm_jax_tokenizer.spm"  # loaders look for tokenizer.model, then for any *.model


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("stage", "", STAGE_HELP)
    flags.DEFINE_string("output", None, "Folder to make.", required=True)


def layer_specs(m: ConfigDict) -> list[LayerSpec]:
    """One for each layer. Raises UserError where no engine has such a model."""
    specs = [LayerSpec.parse(m.layer_pattern[i % len(m.layer_pattern)]) for i in range(m.layers)]
    windows, experts = {spec.window for spec in specs} - {0}, any(spec.experts for spec in specs)
    wrong = {
        "layers without rotary": not all(spec.rotary for spec in specs),
        "windows of several lengths": len(windows) > 1,
        "windows beside experts": bool(windows) and experts,
        "windows without qk_norm": bool(windows) and not m.qk_norm,
        "experts without qk_norm": experts and not m.qk_norm,
    }
    for what, is_so in wrong.items():
        if is_so:
            raise UserError(f"{m.layer_pattern} cannot be exported: no Hugging Face model has {what}")
    return specs


def hugging_face_config(config: ConfigDict, tokenizer: Tokenizer) -> dict:
    m, specs = config.model, layer_specs(config.model)
    out = {
        "architectures": ["Qwen3ForCausalLM" if m.qk_norm else "LlamaForCausalLM"],
        "model_type": "qwen3" if m.qk_norm else "llama",
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": m.dim,
        "intermediate_size": m.ff_dim,
        "num_hidden_layers": m.layers,
        "num_attention_heads": m.heads,
        "num_key_value_heads": m.kv_heads,
        "head_dim": m.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": m.norm_epsilon,
        "rope_theta": m.rope_base,
        "max_position_embeddings": config.data.sequence_length,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": m.compute_dtype,
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.end,
        "pad_token_id": tokenizer.pad,
    }
    if windows := {spec.window for spec in specs} - {0}:
        out |= {"use_sliding_window": True, "sliding_window": windows.pop(), "max_window_layers": 0}
        out["layer_types"] = ["sliding_attention" if spec.window else "full_attention" for spec in specs]
    if any(spec.experts for spec in specs):
        out |= {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": m.experts}
        out |= {"num_experts_per_tok": m.experts_per_token, "moe_intermediate_size": m.expert_ff_dim}
        out |= {"norm_topk_prob": True, "decoder_sparse_step": 1}
        out["mlp_only_layers"] = [i for i, spec in enumerate(specs) if not spec.experts]
    return out


def tensors(m: ConfigDict, vocab_size: int, params: dict) -> Iterator[tuple[str, jax.Array]]:
    """(name, array) of every weight, in Hugging Face's names and orders of axes."""
    period, table_VD = len(m.layer_pattern), params["embedding"][:vocab_size]
    # Our lookup scales the table; a model that ties it is written with two.
    yield "model.embed_tokens.weight", table_VD * m.dim**0.5
    for i in range(m.layers):
        group, place = divmod(i, period)
        stacked = group < m.layers // period
        block = params["stack" if stacked else "tail"]["blocks"][f"layer_{place}"]
        block = jax.tree.map(lambda w, group=group: w[group], block) if stacked else block
        for name, array in layer_tensors(m, block):
            yield f"model.layers.{i}.{name}.weight", array
    yield "model.norm.weight", params["norm"]["scale"]
    yield "lm_head.weight", table_VD if m.tied_embedding else params["head"].T[:vocab_size]


def layer_tensors(m: ConfigDict, block: dict) -> Iterator[tuple[str, jax.Array]]:
    attention, ff = block["attention"], block["ff"]
    for name in "qkv":
        yield f"self_attn.{name}_proj", attention[name].reshape(m.dim, -1).T
    yield "self_attn.o_proj", attention["o"].reshape(-1, m.dim).T
    for name in ("q_norm", "k_norm") if m.qk_norm else ():
        yield f"self_attn.{name}", attention[name]["scale"]
    yield "input_layernorm", block["attention_norm"]["scale"]
    yield "post_attention_layernorm", block["ff_norm"]["scale"]
    names = ("gate", "up", "down")
    if "router" in ff:
        yield "mlp.gate", ff["router"].T
        yield from ((f"mlp.experts.{e}.{name}_proj", ff[name][e].T) for e in range(m.experts) for name in names)
    else:
        yield from ((f"mlp.{name}_proj", ff[name].T) for name in names)


def in_files(named: Iterator[tuple[str, jax.Array]], dtype: str) -> Iterator[dict[str, np.ndarray]]:
    """The weights of one file at a time; no more of them are in memory."""
    part: dict[str, np.ndarray] = {}
    for name, array in named:
        part[name] = np.ascontiguousarray(jax.device_get(array.astype(dtype)))
        if sum(x.nbytes for x in part.values()) >= FILE_BYTES:
            yield part
            part = {}
    if part:
        yield part


def write_weights(folder: Path, named: Iterator[tuple[str, jax.Array]], dtype: str) -> None:
    """model-NNNNN.safetensors, and the index that says which file has what."""
    from safetensors.numpy import save_file

    place, total, mode = {}, 0, (folder / "config.json").stat().st_mode & 0o777
    for number, part in enumerate(in_files(named, dtype), 1):
        file = f"model-{number:05}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(mode)  # safetensors makes it for its owner alone, whatever the umask
        place |= dict.fromkeys(part, file)
        total += sum(x.nbytes for x in part.values())
    index = {"metadata": {"total_size": total}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def check_place(output: Path) -> None:
    """Raises UserError when `output` is taken, or safetensors is missing."""
    if importlib.util.find_spec("safetensors") is None:
        raise UserError("safetensors is not installed; pip install -e '.[hf]'")
    if os.path.lexists(output):
        raise UserError(f"{output} exists; give --output a folder that does not")


def export(config: ConfigDict, tokenizer: Tokenizer, params: dict, output: Path) -> None:
    """Writes the folder beside its place and moves it there whole. Raises UserError when the place is taken, or nothing
    can be written there."""
    check_place(output)
    described = hugging_face_config(config, tokenizer)
    part = output.with_name(output.name + ".part")
    try:
        if part.exists():
            shutil.rmtree(part)
        part.mkdir(parents=True)
        (part / "config.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
        write_weights(part, tensors(config.model, tokenizer.vocab_size, params), config.model.compute_dtype)
        tokenizer.save(part / TOKENIZER)
        (part / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokenizer)), encoding="utf-8")
        (part / "tokenizer_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
        part.rename(output)
    except Exception as error:
        shutil.rmtree(part, ignore_errors=True)
        # safetensors has an error of its own for what the file system refuses.
        if (isinstance(error, OSError) or "os error" in str(error)) and "No space left" not in str(error):
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{output} cannot be written ({reason}); give --output another place") from None
        raise


def main() -> None:
    f = flags.FLAGS
    output = user_path(f.output, "--output")
    check_place(output)
    run = Run.open(user_path(f.workdir, "--workdir"))
    stage = run.choose(f.stage)
    with jax.set_mesh(run.mesh):
        export(run.config, run.tokenizer, run.load_params(stage), output)
    print(f"{output}: {stage} of {f.workdir}")


if __name__ == "__main__":
    run_cli(main, define_flags)
