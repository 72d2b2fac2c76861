"""Exported folders: the names and shapes of Hugging Face's models, and the same logits in Transformers."""

import json
import os

import hypothesis
import numpy as np
import pytest
from conftest import drawn_params
from hypothesis import strategies as st
from safetensors import safe_open
from tiny import get_config

from llm_jax.config import UserError
from llm_jax.hub import export
from llm_jax.hub.template import Template
from llm_jax.hub.tokenizer_json import tokenizer_json
from llm_jax.tokenizer import Tokenizer
from llm_jax.tokenizer.sentencepiece import TEMPLATE


def config_of(kind: str):
    c = get_config()
    c.model.layers = 4
    if kind == "llama":
        c.model.qk_norm = False
    if kind == "windows":
        c.model.layer_pattern = ("window:8", "full", "full")  # one group and a tail
    if kind == "tied":
        c.model.tied_embedding = True
    if kind == "experts":
        c.model.layer_pattern = ("full", "full-experts", "full-experts")
        c.model.experts, c.model.experts_per_token, c.model.expert_ff_dim = 4, 2, 48
    return c


def exported(kind: str, tokenizer, folder):
    c = config_of(kind)
    params = drawn_params(c.model, tokenizer.vocab_size)
    export.export(c, tokenizer, params, folder)
    return c, params


def test_experts_have_the_names_and_shapes_of_qwen3_moe(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "FILE_BYTES", 100_000)  # so that there are several files
    c, params = exported("experts", tokenizer, tmp_path / "out")
    m, V = c.model, tokenizer.vocab_size
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    weights = {}
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "out" / file, "numpy") as opened:
            weights[name] = opened.get_tensor(name)
    assert len(set(index["weight_map"].values())) > 1
    assert index["metadata"]["total_size"] == sum(w.nbytes for w in weights.values())
    shapes = {name: w.shape for name, w in weights.items() if ".layers." not in name or ".layers.1." in name}
    in_layer = {
        "self_attn.q_proj": (m.heads * m.head_dim, m.dim),
        "self_attn.k_proj": (m.kv_heads * m.head_dim, m.dim),
        "self_attn.v_proj": (m.kv_heads * m.head_dim, m.dim),
        "self_attn.o_proj": (m.dim, m.heads * m.head_dim),
        "self_attn.q_norm": (m.head_dim,),
        "self_attn.k_norm": (m.head_dim,),
        "input_layernorm": (m.dim,),
        "post_attention_layernorm": (m.dim,),
        "mlp.gate": (4, m.dim),
        **{f"mlp.experts.{e}.{name}_proj": (48, m.dim) for e in range(4) for name in ("gate", "up")},
        **{f"mlp.experts.{e}.down_proj": (m.dim, 48) for e in range(4)},
    }
    assert shapes == {
        "model.embed_tokens.weight": (V, m.dim),
        "model.norm.weight": (m.dim,),
        "lm_head.weight": (V, m.dim),
        **{f"model.layers.1.{name}.weight": shape for name, shape in in_layer.items()},
    }
    # Layer 3 is the tail's first, which is dense.
    tail = params["tail"]["blocks"]["layer_0"]["ff"]["gate"]
    np.testing.assert_array_equal(weights["model.layers.3.mlp.gate_proj.weight"], np.asarray(tail).T)
    assert json.loads((tmp_path / "out/config.json").read_text())["mlp_only_layers"] == [0, 3]


@pytest.mark.parametrize("kind", ["dense", "llama", "windows", "tied", "experts"])
def test_transformers_computes_the_same_logits(kind, tokenizer, tmp_path, forward):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="Transformers is not installed")
    c, params = exported(kind, tokenizer, tmp_path / "out")
    tokens = np.random.default_rng(0).integers(tokenizer.vocab_size, size=(2, 24))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="float32")
    with torch.no_grad():
        theirs = model(torch.tensor(tokens)).logits.numpy()
    _, ours = forward(c.model, tokenizer.vocab_size, params, tokens)
    np.testing.assert_allclose(ours[..., : tokenizer.vocab_size], theirs, atol=1e-4)


def test_what_no_engine_loads_is_refused_and_nothing_is_written(tokenizer, tmp_path):
    for pattern, what in ((("full-norope",), "rotary"), (("window:8", "window:4"), "several lengths")):
        c = config_of("dense")
        c.model.layer_pattern = pattern
        with pytest.raises(UserError, match=what):
            export.export(c, tokenizer, {}, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists"):
        export.export(config_of("dense"), tokenizer, {}, tmp_path / "out")


def test_loaders_find_no_tokenizer_that_is_not_ours(tokenizer, tmp_path):
    exported("dense", tokenizer, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    weights = {"model-00001.safetensors", "model.safetensors.index.json"}
    told = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert names == {*told, export.TOKENIZER, *weights}
    assert not export.TOKENIZER.endswith((".model", ".json", ".txt"))
    text = "  Two  spaces,\n\tthree tabs. "
    assert Tokenizer.load(tmp_path / "out" / export.TOKENIZER).encode(text) == tokenizer.encode(text)


@hypothesis.given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=60))
def test_tokenizer_json_gives_the_same_ids(tokenizer, text):
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    theirs = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(tokenizer)))
    for t in (text, f"  The cat {text} sat  on\n\tthe mat 12345 "):
        ids = theirs.encode(t, add_special_tokens=False).ids
        assert ids == tokenizer.encode(t) and theirs.decode(ids) == t


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_files_are_for_whom_the_umask_says(tokenizer, tmp_path, umask):
    before = os.umask(umask)
    try:
        exported("dense", tokenizer, tmp_path / "out")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert set(modes.values()) == {0o666 & ~umask}, modes
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_place_that_cannot_be_written_is_told_and_nothing_is_left(tokenizer, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place, why in (
        ("file/out", "Not a directory"),
        ("file", "exists"),
        ("link", "exists"),
        ("x" * 300, "too long"),
    ):
        with pytest.raises(UserError, match=why):
            exported("dense", tokenizer, tmp_path / place)
    monkeypatch.setattr(export.weights, "named", lambda *_: iter([("w", FullDisk())]))
    with pytest.raises(OSError, match="No space left"):  # which the command tells in its own words, as a failure
        exported("dense", tokenizer, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
    assert (tmp_path / "file").read_text() == "mine"


class FullDisk:
    def astype(self, dtype):
        raise OSError(28, "No space left on device")


def test_the_chat_template_gives_our_ids(tokenizer):
    """Also of thoughts, calls and their outputs; by Transformers' own way with a template."""
    theirs = tokenizers_of(tokenizer)
    compiled = Template(TEMPLATE, {})
    call = {"function": {"name": "python", "arguments": {"code": "6*7"}}}
    cases = [
        ([("user", "Hi")], [{"role": "user", "content": "Hi"}]),
        (
            [("system", " Be brief."), ("user", "6*7?\n"), ("assistant", "42"), ("user", "{{ x }}")],
            [
                {"role": "system", "content": " Be brief."},
                {"role": "user", "content": "6*7?\n"},
                {"role": "assistant", "content": "42"},
                {"role": "user", "content": "{{ x }}"},
            ],
        ),
        (
            [
                ("user", "6*7?"),
                ("assistant", [{"type": "think", "text": "a\n"}, {"type": "python", "text": "6*7"}]),
                ("tool", "42"),
                ("assistant", " It is 42."),
            ],
            [
                {"role": "user", "content": "6*7?"},
                {"role": "assistant", "content": None, "reasoning_content": "a\n", "tool_calls": [call]},
                {"role": "tool", "content": "42"},
                {"role": "assistant", "content": " It is 42."},
            ],
        ),
    ]
    for ours, messages in cases:
        conversation = [{"role": role, "content": content} for role, content in ours]
        for asked in (False, ours[-1][0] == "user"):
            text = compiled.text(messages, asked)
            assert theirs.encode(text, add_special_tokens=False).ids == tokenizer.render(conversation, asked).ids


def tokenizers_of(tokenizer):
    import tokenizers

    return tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(tokenizer)))
