"""A model from elsewhere becomes a run: python -m llm_jax.hub.import_ --source=DIR|FILE.gguf --workdir=runs/smol

DIR is a Hugging Face folder with safetensors. Of the run, stage `imported` is there for `chat`, `serve`, `generate` and
`evaluate`, and for `main --stages=sft` to start from. The folder appears when all of it is there.
"""

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from llm_jax.frame.cli import quiet_logs, run_cli

quiet_logs()

import jax  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from llm_jax import checkpoint, sharding  # noqa: E402
from llm_jax.config import UserError, default, validate  # noqa: E402
from llm_jax.files import user_path  # noqa: E402
from llm_jax.hub import card, families, folders, gguf_file, streaming, vocabularies, weights  # noqa: E402
from llm_jax.hub.tokenizer import HubTokenizer  # noqa: E402
from llm_jax.runs import Run, note  # noqa: E402
from llm_jax.stage_table import identity  # noqa: E402

STAGE = "imported"
LENGTH = 2048  # tokens of a row and a conversation, where the model takes as many


def define_flags() -> None:
    flags.DEFINE_string("source", None, "A Hugging Face folder, or a GGUF file.", required=True)
    flags.DEFINE_string("workdir", None, "Folder of the run to make.", required=True)
    flags.DEFINE_integer("length", LENGTH, "Longest prompt and answer together, in tokens.", lower_bound=8)


@dataclasses.dataclass
class Source:
    """A model that is opened, and not read yet."""

    path: Path
    config: families.Config  # as its config.json
    note: card.Source
    tensors: Callable[[], Mapping[str, weights.Tensor]]
    tokenizer: Callable[[], HubTokenizer]


def opened(path: Path) -> Source:
    """Raises UserError for what is no model of a supported family."""
    if path.is_dir():
        config = folders.config_of(path)
        generation = folders.generation_of(path)
        read = lambda: vocabularies.of_folder(path, config, generation)  # noqa: E731
        name = config.get("_name_or_path") or path.absolute().name
        note = card.Source(config, generation, name, card.licence_in(path))
        return Source(path, config, note, lambda: folders.tensors_of(path), read)
    if path.suffix != ".gguf" or not path.is_file():
        raise UserError(f"--source={path} is neither a folder nor a .gguf file that is there")
    file = gguf_file.File(path)
    config = file.config()
    note = card.Source(config, {}, file.value("general.name", path.stem), file.value("general.license", ""))
    return Source(path, config, note, file.tensors, lambda: vocabularies.of_gguf(file, config["vocab_size"]))


def config_for(source: Source, length: int = LENGTH) -> ConfigDict:
    """The defaults, with the model's values. Raises UserError for a model that ours cannot compute."""
    config = default()
    with config.unlocked():
        for key, value in families.model_values(source.config).items():
            config.model[key] = value
    config.tokenizer.vocab_size = source.config["vocab_size"]
    config.imported.source = str(source.path.absolute())
    config.imported.context = source.config.get("max_position_embeddings", 0)
    config.data.sequence_length = min(length, config.imported.context or length)
    validate(config)
    return config


def read(run: Run, source: Source) -> int:
    """Reads the model into stage `imported` of a run whose config is made for it, and gives how many parameters it has.
    Raises UserError, and has written no checkpoint, for weights or a tokenizer that are not the model's."""
    tensors = source.tensors()
    run.tokenizer = source.tokenizer()  # a cached property: what `data/` will hold
    params = weights.leaves_of(run.model, run.vocab_size, run.abstract_params(), tensors)
    folder = run.workdir / "data"
    folder.mkdir(parents=True, exist_ok=True)
    run.tokenizer.save(folder / "tokenizer.json")
    card.note(folder, source.note)
    meta = {
        "stage": STAGE,
        "steps": 1,
        "config": json.loads(run.config.to_json()),
        "identity": identity(run.config, STAGE),
        "parent": None,
        "tokenizer": run.tokenizer_sha256,
    }
    streaming.save(run.workdir, STAGE, params, meta)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def stage(run: Run) -> None:
    """Stage `imported` of `main`, where the config names a source."""
    if checkpoint.written(run.workdir, STAGE) is None:
        read(run, opened(user_path(run.config.imported.source, "imported.source")))


def check(run: Run, stages: list[str]) -> None:
    """Raises UserError when the config has no source, one that is no model, or another model's values."""
    if checkpoint.written(run.workdir, STAGE) is not None:
        return
    if not run.config.imported.source:
        raise UserError("imported.source is empty; set --config.imported.source to a Hugging Face folder or GGUF file")
    source = opened(user_path(run.config.imported.source, "imported.source"))
    for key, value in families.model_values(source.config).items():
        if (mine := run.config.model[key]) != value:
            raise UserError(f"model.{key} is {mine!r}, and {source.path} has {value!r}; set it as there")


def main() -> None:
    f = flags.FLAGS
    source = opened(user_path(f.source, "--source"))
    workdir = user_path(f.workdir, "--workdir")
    if os.path.lexists(workdir) and not (workdir.is_dir() and not any(workdir.iterdir())):
        raise UserError(f"{workdir} exists; give --workdir a folder that does not")
    config = config_for(source, f.length)
    part = workdir.with_name(workdir.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        run = Run(config, part, sharding.make_mesh(reader_mesh(config)))
        count = read(run, source)
        note(part, config)
        if workdir.is_dir():
            workdir.rmdir()
        part.rename(workdir)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{workdir} cannot be written ({reason}); give --workdir another place") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    length, longest = config.data.sequence_length, config.imported.context
    of = f" of {longest:,}" if longest > length else ""
    said = f"{count / 1e6:,.1f}M parameters, {config.model.layers} layers, {length:,}{of} tokens at a time"
    print(f"{workdir}: {said}; talk to it with python -m llm_jax.chat --workdir={f.workdir}")


def reader_mesh(config: ConfigDict) -> Any:
    m = config.model
    lengths = (m.dim, m.heads, m.kv_heads, m.ff_dim, m.expert_ff_dim, 128)
    return sharding.reader_sizes(jax.device_count(), lengths)


if __name__ == "__main__":
    run_cli(main, define_flags)
