"""Adapters as PEFT's files: out and in again, refused where they belong to another model, and the same in PEFT."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_jax import checkpoint, lineage
from llm_jax.config import UserError
from llm_jax.hub import export, peft
from llm_jax.model import lora
from llm_jax.runs import Run
from llm_jax.training import loop
from llm_jax.training.nats import cross_entropy_loss
from tests.conftest import drawn_params, run_of, tiny_config

SCALE = 2.0


def save(run: Run, stage: str, params, meta: dict) -> None:
    with checkpoint.Checkpoints(run.workdir, stage) as store:
        meta = {"steps": 1, "tokenizer": run.tokenizer_sha256, **meta}
        store.save(1, params, {"count": jnp.zeros(1)}, meta)
        store.wait()


@pytest.fixture(scope="module")
def adapted(mesh, tokenizer, tmp_path_factory):
    """(a run with a base, a drawn adapter of it as stage sft, the base, the adapter). A stack of two, a tail of one."""
    c = tiny_config()
    c.model.layers, c.model.layer_pattern, c.model.qk_norm = 3, ("full", "full"), False
    c.lora.rank, c.lora.alpha = 4, 4 * SCALE
    run = run_of(c, tmp_path_factory.mktemp("peft") / "run", mesh, tokenizer)
    base = drawn_params(run.model, run.vocab_size)
    save(run, "pretrain", base, {"parent": None, "lora": None})
    parent = {"run": ".", **lineage.named("pretrain", lineage.newest(run.workdir, "pretrain"))}
    rng = np.random.default_rng(1)
    draw = lambda x: jnp.asarray(0.2 * rng.normal(size=x.shape), jnp.float32)  # noqa: E731
    adapter = jax.tree.map(draw, run.abstract_adapter(c.lora))
    save(run, "sft", adapter, {"parent": parent, "lora": c.lora.to_dict()})
    return run, parent, base, adapter


@pytest.fixture(scope="module")
def written(adapted, tmp_path_factory):
    run, *_ = adapted
    peft.write(run, "sft", folder := tmp_path_factory.mktemp("written"))
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "adapter")


def test_names_and_shapes_are_pefts(adapted, folder):
    run, _, _, adapter = adapted
    tensors, m = load_file(folder / peft.WEIGHTS), run.model
    assert len(tensors) == 3 * 7 * 2
    layer = "base_model.model.model.layers.{}.{}.weight".format
    assert tensors[layer(0, "self_attn.q_proj.lora_A")].shape == (4, m.dim)
    assert tensors[layer(2, "self_attn.k_proj.lora_B")].shape == (m.kv_heads * m.head_dim, 4)
    assert tensors[layer(1, "self_attn.o_proj.lora_A")].shape == (4, m.heads * m.head_dim)
    tail = adapter["tail"]["blocks"]["layer_0"]["ff"]["down"]["a"]
    np.testing.assert_array_equal(tensors[layer(2, "mlp.down_proj.lora_A")], np.asarray(tail).T)
    config = json.loads((folder / peft.CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], len(config["target_modules"])) == (4, 8.0, 7)
    assert config["base_model_name_or_path"] == f"{run.workdir}:pretrain"


def test_what_was_written_is_read_again(adapted, folder):
    run, parent, _, adapter = adapted
    values, again = peft.read(run, folder, parent)
    assert {key: values[key] for key in ("rank", "alpha", "projections")} == {
        key: run.config.lora[key] for key in ("rank", "alpha", "projections")
    }
    assert jax.tree.structure(again) == jax.tree.structure(adapter)
    jax.tree.map(np.testing.assert_array_equal, again, adapter)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"name": "lm_head.lora_A.weight"}, "it has lm_head.lora_A.weight"),
        ({"without": "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"}, "it lacks base_model"),
        (
            {"cut": "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight"},
            r"is \[4, 31\], and here \[4, 32\]",
        ),
        ({"base": "0123456789abcdef"}, "parameters with the checksum 0123456789abcdef, and these have"),
        ({"config": {"base_model_name_or_path": "someone/else"}}, "of someone/else, not of someone/this"),
        ({"config": {"use_dora": True}}, "has use_dora True, which is not supported"),
        ({"config": {"rank_pattern": {"q_proj": 2}}}, "rank_pattern"),
        ({"config": {"peft_type": "LOHA"}}, "describes no LoRA"),
        ({"config": {"r": "eight"}}, "has r 'eight' .* it must be a whole number"),
        ({"config": {"r": 0}}, "has r 0 .* it must be a whole number"),
        ({"config": {"target_modules": ["q_proj", "lm_head"]}}, "target_modules .* supported are lists of q_proj"),
        ({"bytes": b"short"}, "does not read as safetensors"),
    ],
)
def test_an_adapter_of_another_model_or_kind_is_refused_in_a_line(adapted, folder, change, words):
    run, parent, *_ = adapted
    tensors, noted = load_file(folder / peft.WEIGHTS), {"base": change.get("base", parent["checksum"])}
    if name := change.get("name"):
        tensors[name] = np.zeros((4, 4), np.float32)
    tensors.pop(change.get("without"), None)
    if name := change.get("cut"):
        tensors[name] = np.ascontiguousarray(tensors[name][:, 1:])
    save_file(tensors, folder / peft.WEIGHTS, metadata=noted)
    if what := change.get("bytes"):
        (folder / peft.WEIGHTS).write_bytes(what)
    config = json.loads((folder / peft.CONFIG).read_text())
    named = {**parent, "name": "someone/this" if "config" in change else ""}
    config["base_model_name_or_path"] = "someone/this"
    (folder / peft.CONFIG).write_text(json.dumps({**config, **change.get("config", {})}))
    with pytest.raises(UserError, match=words) as error:
        peft.read(run, folder, named)
    assert "\n" not in str(error.value)


def test_peft_computes_the_same_and_learns_the_same(adapted, folder, tmp_path):
    """Logits, and the gradient of every A and B."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="Transformers is not installed")
    theirs = pytest.importorskip("peft", reason="PEFT is not installed")
    run, _, base, adapter = adapted
    export.export(run.config, run.tokenizer, base, tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype="float32")
    model = theirs.PeftModel.from_pretrained(model, folder, is_trainable=True)
    tokens = np.random.default_rng(0).integers(run.vocab_size, size=(2, 17)).astype(np.int32)
    inputs, targets = (torch.tensor(tokens[:, part].astype(np.int64)) for part in (slice(-1), slice(1, None)))
    logits = model(inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    ones, places = np.ones((2, 16), np.int32), np.tile(np.arange(16, dtype=np.int32), (2, 1))
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "segments": ones, "positions": places}
    batch = jax.tree.map(lambda x: x[None], batch | {"weights": ones.astype(np.float32)})
    join = lambda adapter, base: lora.attached(adapter, base, SCALE)  # noqa: E731
    step = jax.jit(lambda adapter: loop.gradients(cross_entropy_loss(run), adapter, base, batch, join))
    grads, ours, _ = step(adapter)
    assert abs(float(ours) - loss.item()) < 1e-5
    leaves = {path: np.asarray(leaf) for path, leaf in peft.weights.flat(grads).items()}
    named, largest = dict(model.named_parameters()), 0.0
    for name, part in peft.parts(run, adapter).items():
        grad = named[name.replace(".weight", ".default.weight")].grad.numpy()
        mine = leaves[part.path][part.at].reshape(part.shape[::-1]).T
        largest = max(largest, np.abs(grad).max())
        np.testing.assert_allclose(mine, grad, rtol=0, atol=1e-5)
    assert largest > 1e-2
