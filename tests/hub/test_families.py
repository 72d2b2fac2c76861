"""Every family computes as in Transformers, whose logits were noted, and its weights go out as they came in."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families_reference import CASES, FILE, SMALL, TOKENS, weight
from safetensors.numpy import save_file

from llm_jax.config import UserError, default, validate
from llm_jax.hub import families, folders, import_, weights
from llm_jax.model import transformer

V = SMALL["vocab_size"]
FAST = ("llama_scaled", "qwen2", "smollm3", "gemma3")  # between them they have every option


@pytest.fixture(scope="module")
def noted():
    with np.load(FILE) as file:
        return {name: file[name] for name in file.files}


def folder_of(noted, case, path):
    """A Hugging Face folder of the case, and its weights."""
    made = json.loads(bytes(noted[f"{case}_json"]))
    tensors = {name: weight(name, tuple(shape)) for name, shape in made["names"].items()}
    path.mkdir(exist_ok=True)
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(made["config"]))
    return tensors


def read(path):
    """(model config, parameters) of a folder."""
    config = default()
    for key, value in families.model_values(folders.config_of(path)).items():
        config.model[key] = value
    config.tokenizer.vocab_size = 2048
    validate(config)
    return config.model, filled(config.model, V, folders.tensors_of(path))


def filled(m, vocab_size, tensors):
    """Parameters made of tensors."""
    shapes = jax.eval_shape(lambda: transformer.init_params(m, vocab_size, jax.random.key(0)))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf.make()), weights.leaves_of(m, vocab_size, shapes, tensors))


@pytest.mark.parametrize("case", [c if c in FAST else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_logits_are_those_of_transformers(case, noted, tmp_path, forward):
    given = folder_of(noted, case, tmp_path / "in")
    m, params = read(tmp_path / "in")
    _, logits = forward(m, V, params, TOKENS)
    np.testing.assert_allclose(logits[..., :V], noted[f"{case}_logits"], atol=1e-4)
    back = dict(weights.named(m, V, params))
    assert set(back) == set(given)
    assert all(np.array_equal(back[name], given[name]) for name in given)
    described = families.config_json(m, V, SMALL["max_position_embeddings"])
    assert families.model_values(described) == families.model_values(folders.config_of(tmp_path / "in"))


def test_each_row_of_a_table_is_read_once(noted, tmp_path, monkeypatch):
    given = folder_of(noted, "qwen3", tmp_path)
    monkeypatch.setattr(weights, "BLOCK_BYTES", 4 * SMALL["hidden_size"] * 7)  # so that 64 rows are ten blocks
    _, params = read(tmp_path)
    np.testing.assert_array_equal(params["embedding"][:V], given["model.embed_tokens.weight"])
    np.testing.assert_array_equal(params["head"][:, :V], given["lm_head.weight"].T)
    assert not params["embedding"][V:].any()


def test_what_is_no_model_of_ours_is_told(noted, tmp_path):
    folder_of(noted, "llama", tmp_path)
    right = json.loads((tmp_path / "config.json").read_text())
    for change, said in (
        ({"model_type": "gpt_neox"}, "unknown model_type 'gpt_neox'; choose from llama, mistral"),
        ({"model_type": "quen2"}, "did you mean 'qwen2'"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"hidden_act": "relu"}, "activation 'relu'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ({"hidden_size": None}, "lacks 'hidden_size'"),
        ({"intermediate_size": 44}, r"mlp.gate_proj.weight is \[48, 32\], and the config makes it \[44, 32\]"),
        ({"num_hidden_layers": 4}, "lack model.layers.3"),
        ({"num_hidden_layers": 2}, "have model.layers.2"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(right | change))
        with pytest.raises(UserError, match=said):
            read(tmp_path)


def test_folders_that_are_not_whole_or_not_to_be_trusted_are_refused(noted, tmp_path):
    folder_of(noted, "llama", tmp_path)
    index, file = tmp_path / folders.INDEX, tmp_path / "model.safetensors"
    for named, said in (
        ("model-00002.safetensors", "lacks model-00002"),
        ("../model.safetensors", "not to be trusted"),
        ("/etc/passwd", "not to be trusted"),
        (7, "damaged"),
    ):
        index.write_text(json.dumps({"weight_map": {"model.norm.weight": named}}))
        with pytest.raises(UserError, match=said):
            read(tmp_path)
    index.unlink()
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="does not read as safetensors"):
        read(tmp_path)
    file.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"neither a folder nor a \.gguf"):
        import_.opened(tmp_path / "nothing")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "auto_map": {"AutoModel": "evil.Model"}}')
    with pytest.raises(UserError, match="lacks 'num_attention_heads'"):
        families.model_values(import_.opened(tmp_path).config)


def test_a_layers_text_reads_as_it_was_written():
    for text in ("full", "window:512", "full-norope", "window:8-norope-experts", "full-experts"):
        assert str(families.LayerSpec.parse(text)) == text


def test_every_family_says_what_it_is(noted):
    assert {json.loads(bytes(noted[f"{case}_json"]))["config"]["model_type"] for case in CASES} == set(
        families.FAMILIES
    )
