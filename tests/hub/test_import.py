"""A model of ours goes out and comes in again; a folder or a GGUF file becomes a run that talks."""

import runpy
import sys

import jax
import numpy as np
import pytest
from families_reference import SMALL
from test_families import folder_of, noted  # noqa: F401 (a fixture)

from benchmarks import import_ as measured
from llm_jax.config import UserError, validate
from llm_jax.hub import card, export, families, folders, gguf_file, import_
from llm_jax.model import transformer
from llm_jax.runs import Run
from tests.commands import run as command


def exported(tokenizer, tiny, draw_params, path):
    tiny.tokenizer.vocab_size = tokenizer.vocab_size
    params = draw_params(tiny.model, tokenizer.vocab_size)
    export.export(tiny, tokenizer, params, path)
    return params


def test_out_and_in_again_are_the_same_bits(tokenizer, tiny, draw_params, tmp_path, forward):
    params = exported(tokenizer, tiny, draw_params, tmp_path / "out")
    done = command("llm_jax.hub.import_", f"--source={tmp_path}/out", f"--workdir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    run = Run.open(tmp_path / "run")
    assert run.choose() == "imported"
    with jax.set_mesh(run.mesh):
        again = run.load_params("imported")
    for name in ("imported", "real_model"):
        validate(runpy.run_path(f"experiments/{name}.py")["get_config"](str(tmp_path / "out")))
    shorter = import_.config_for(import_.opened(tmp_path / "out"), 12)
    lengths = [(c.imported.context, c.data.sequence_length) for c in (run.config, shorter)]
    assert lengths == [(16, 16), (16, 12)]
    tokens = np.random.default_rng(0).integers(tokenizer.vocab_size, size=(2, 12))
    _, ours = forward(tiny.model, tokenizer.vocab_size, params, tokens)
    _, theirs = forward(run.config.model, tokenizer.vocab_size, again, tokens)
    np.testing.assert_array_equal(ours, theirs)
    text = "The cat sat.  Twice\n"
    assert run.tokenizer.encode(text) == tokenizer.encode(text)
    assert not (tmp_path / "run.part").exists()
    source = card.source_of(tmp_path / "run")
    export.export(run.config, run.tokenizer, again, tmp_path / "out2", source)
    for name in ("model-00001.safetensors", "generation_config.json", "tokenizer_config.json"):
        assert (tmp_path / "out2" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert source.name == "out" and source.generation["temperature"] == card.SAMPLING["temperature"]
    second = command("llm_jax.hub.import_", f"--source={tmp_path}/out", f"--workdir={tmp_path}/run")
    assert second.returncode == 2 and "exists" in second.stderr


def written(path, config, tensors, heads):
    """A GGUF file as llama.cpp's converter makes one: rotary pairs side by side in Llamas, 1 added to Gemma's norms."""
    import gguf

    gemma = config["model_type"].startswith("gemma")
    architecture = {"gemma3_text": "gemma3"}.get(config["model_type"], config["model_type"])
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads[0])
    writer.add_head_count_kv(heads[1])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_context_length(128)
    if gemma:
        writer.add_key_length(config["head_dim"])
        writer.add_sliding_window(config["sliding_window"])
        writer.add_rope_freq_base(config["rope_parameters"]["full_attention"]["rope_theta"])
    else:
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    names = gguf_file.TENSORS | (gguf_file.GEMMA if gemma else {})
    back = {theirs: ours for ours, theirs in names.items()}
    for name, values in tensors.items():
        stem, kind = name.removeprefix("model.").rsplit(".", 1)
        if stem.startswith("layers."):
            _, layer, stem = stem.split(".", 2)
            stem = f"blk.{layer}.{back[stem]}"
        else:
            stem = back.get(f"model.{stem}") or back[stem]
        if architecture == "llama" and stem.endswith(("attn_q", "attn_k")):
            values = gguf_file.side_by_side(values, heads[stem.endswith("attn_k")])
        writer.add_tensor(f"{stem}.{kind}", values + 1 if gemma and "norm" in stem else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("case", ["llama_tied", "qwen2", "gemma3"])
def test_a_gguf_file_is_the_folder_that_it_was_made_of(case, noted, tmp_path):  # noqa: F811
    pytest.importorskip("gguf", reason="gguf is not installed")
    tensors = folder_of(noted, case, tmp_path / "in")
    config = folders.config_of(tmp_path / "in")
    if case == "gemma3":  # what a file does not say is as in the models that there are
        config = {key: value for key, value in config.items() if "pattern" not in key and key != "layer_types"}
        config["query_pre_attn_scalar"] = config["head_dim"]
    written(tmp_path / "m.gguf", config, tensors, (SMALL["num_attention_heads"], SMALL["num_key_value_heads"]))
    source = import_.opened(tmp_path / "m.gguf")
    told, folder = families.model_values(source.config), families.model_values(config)
    assert told | {"norm_epsilon": 0} == folder | {"norm_epsilon": 0}  # which a file has in 32 bits
    read = source.tensors()
    assert set(read) == set(tensors)
    for name, values in tensors.items():
        off = 2e-7 if case == "gemma3" and "norm" in name else 0  # 1 was added to these, and is taken away
        np.testing.assert_allclose(read[name][0 : len(values)], values, rtol=0, atol=off)
    with pytest.raises(UserError, match="holds no tokenizer"):
        source.tokenizer()
    data = (tmp_path / "m.gguf").read_bytes()
    for at, name in ((100, "short"), (len(data) - 20_000, "cut")):
        (tmp_path / f"{name}.gguf").write_bytes(data[:at])
        with pytest.raises(UserError, match="does not read as GGUF"):
            import_.opened(tmp_path / f"{name}.gguf")


def test_rotary_pairs_go_side_by_side_and_back():
    rows = np.arange(24.0).reshape(12, 2)
    np.testing.assert_array_equal(gguf_file.halves_apart(gguf_file.side_by_side(rows, 3), 3), rows)
    np.testing.assert_array_equal(gguf_file.side_by_side(rows, 3)[:4], rows[[0, 2, 1, 3]])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's peak of a process is Linux's")
def test_an_import_takes_less_than_the_parameters_and_a_fifth_over_a_tensor(tokenizer, tiny, tmp_path):
    m = tiny.model
    m.dim, m.layers, m.heads, m.kv_heads, m.head_dim, m.ff_dim = 1024, 8, 16, 8, 64, 2560
    params = jax.tree.map(lambda x: np.full(x.shape, 0.01, np.float32), abstract(m, tokenizer.vocab_size))
    export.export(tiny, tokenizer, params, tmp_path / "out")
    export.export_gguf(tiny, tokenizer, params, tmp_path / "m.gguf", "q8_0")
    for source in (tmp_path / "out", tmp_path / "m.gguf"):
        parameters, largest = measured.sizes(source)
        assert parameters > 2**28
        assert measured.ours(source)[1] <= parameters + measured.SPARE * largest


def abstract(m, vocab_size):
    return jax.eval_shape(lambda: transformer.init_params(m, vocab_size, jax.random.key(0)))


@pytest.mark.slow
def test_what_was_imported_is_trained_on(tokenizer, tiny, draw_params, tmp_path):
    exported(tokenizer, tiny, draw_params, tmp_path / "out")
    small = ["--config.data.scale=0.02", "--config.data.sequence_length=128", "--config.sft.steps=2"]
    flags = [f"--config=experiments/imported.py:{tmp_path}/out", f"--workdir={tmp_path}/run", *small]
    done = command("llm_jax.main", *flags, "--stages=imported,data,sft")
    assert done.returncode == 0, done.stderr
    run = Run.open(tmp_path / "run")
    assert run.trained() == ["imported", "sft"] and run.choose() == "sft"
    said = command("llm_jax.chat", f"--workdir={tmp_path}/run", "--prompt=Hi", "--json")
    assert said.returncode == 0, said.stderr
