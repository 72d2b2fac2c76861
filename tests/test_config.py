"""Config: mistakes are named, and a stage's identity is what its numbers depend on."""

import json
import runpy
from pathlib import Path

import pytest

from llm_jax import config
from llm_jax.config import UserError
from llm_jax.main import check_workdir
from llm_jax.runs import note
from llm_jax.stage_table import identity

STAGES = ("pretrain", "sft", "rl")


def setting(key: str, value):
    """The defaults with one key changed."""
    c = config.default()
    section, _, name = key.rpartition(".")
    (c[section] if section else c)[name] = value
    return c


def test_defaults_are_valid():
    config.validate(config.default())


@pytest.mark.parametrize("key, value", [
    ("model.dim", 0),
    ("model.layers", 0),
    ("model.heads", 3),
    ("model.kv_heads", 0),
    ("model.head_dim", 7),
    ("model.layer_pattern", ("fool",)),
    ("model.layer_pattern", ("window",)),
    ("model.layer_pattern", ("full:3",)),
    ("model.layer_pattern", ()),
    ("model.layer_pattern", ("full",) * 7),
    ("data.sequence_length", 0),
    ("pretrain.batch", 0),
    ("rl.batch", 9),
    ("rl.group", 0),
    ("optimizer.name", "adam"),
    ("mesh.fsdp", 3),
    ("mesh.tensor", 2),
])  # fmt: skip
def test_a_value_that_cannot_work_is_refused_by_name(key, value):
    c = setting(key, value)
    if key == "model.heads":
        c.model.kv_heads = 2
    with pytest.raises(UserError) as error:
        config.validate(c)
    assert key in str(error.value) or "multiple of mesh" in str(error.value)


def test_an_empty_window_is_refused():
    with pytest.raises(UserError):
        config.validate(setting("model.layer_pattern", ("window:0",)))


@pytest.mark.parametrize("pattern", [("full",), ("window:8",), ("full-norope", "window:8"), ("window:8-norope",)])
def test_known_layer_patterns_pass(pattern):
    config.validate(setting("model.layer_pattern", pattern))


def test_an_unknown_key_gets_the_nearest_one():
    c = config.default()
    c.model.n_layers = 3
    with pytest.raises(UserError, match=r"'model\.n_layers'; did you mean 'model\.layers'"):
        config.validate(c)


def test_open_sections_take_any_name():
    c = config.default()
    c.rl.tasks, c.data.epochs.whatever, c.data.weights.x = {"arithmetic/3 numbers": 1.0}, 3, 0.5
    config.validate(c)


@pytest.mark.parametrize("name", ["epochs", "weights"])
def test_a_mixture_changes_training_but_not_the_rows(name, tmp_path):
    base, other = config.default(), config.default()
    other.data[name].web = 2.5
    config.validate(other)
    assert identity(base, "data") == identity(other, "data")
    assert all(identity(base, stage) != identity(other, stage) for stage in STAGES)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/prepared.json").touch()
    note(tmp_path, base)
    check_workdir(tmp_path, other)
    note(tmp_path, other)
    (tmp_path / "pretrain/checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"data\.{name}\.web: 2\.5 -> absent"):
        check_workdir(tmp_path, base)


@pytest.mark.parametrize("name, shares", [
    ("epochs", {"web": -1}), ("weights", {"web": -0.5}), ("weights", {"web": 0}), ("epochs", {"web": float("nan")})
])  # fmt: skip
def test_shares_that_are_none_are_refused(name, shares):
    c = config.default()
    c.data[name] = shares
    with pytest.raises(UserError, match=f"data.{name}"):
        config.validate(c)


@pytest.mark.parametrize("key, value, changes", [
    ("seed", 1, STAGES),
    ("model.dim", 64, STAGES),
    ("optimizer.learning_rate", 1.0, STAGES),
    ("data.scale", 2.0, STAGES),
    ("tokenizer.vocab_size", 999, STAGES),
    ("pretrain.batch", 16, STAGES),
    ("sft.batch", 16, ("sft", "rl")),
    ("init_from", "x:sft", ()),
    ("rl.learning_rate", 1.0, ("rl",)),
    ("pretrain.steps", 9, ()),
    ("rl.steps", 9, ()),
    ("mesh.data", 4, ()),
    ("checkpoint.every", 9, ()),
    ("log.eval_every", 9, ()),
    ("eval.problems", 9, ()),
    ("model.remat", "none", ()),
])  # fmt: skip
def test_identity_changes_with_what_the_numbers_depend_on(key, value, changes):
    base, other = config.default(), setting(key, value)
    differing = [stage for stage in STAGES if identity(base, stage) != identity(other, stage)]
    assert differing == list(changes)
    for stage in differing:
        lines = config.differences(identity(base, stage), identity(other, stage))
        assert len(lines) == 1 and lines[0].startswith(f"{key}: ") and str(value) in lines[0]


def test_identity_survives_json():
    for stage in STAGES:
        made = identity(config.default(), stage)
        assert json.loads(json.dumps(made)) == made


def test_differences_name_absent_keys():
    assert config.differences({"a": 1, "b": 2}, {"b": 3, "c": 4}) == ["a: 1 -> absent", "b: 2 -> 3", "c: absent -> 4"]


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.parent.glob("experiments/**/*.py")), ids=lambda p: p.stem)
def test_every_experiment_is_valid(path):
    if path.parent.name != "ablations" and path.stem not in ("imported", "real_model", "run"):  # from elsewhere
        config.validate(runpy.run_path(str(path))["get_config"]())
