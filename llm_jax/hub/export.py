"""A run's model for other engines: python -m llm_jax.hub.export --workdir=DIR --stage=rl --output=DIR2

--format=hf    what Transformers, vLLM and their kin load: a folder with `config.json`, safetensors in the run's compute
               dtype, `tokenizer.json` with the same ids, chat template, `generation_config.json` and a model card. A
               model of ours is of the family that computes the same (`families.family_of`), an imported one of its own.
--format=gguf  what llama.cpp and its kin load: one file, whose numbers are f32, f16 or q8_0 (--type).
--format=peft  the adapter that the stage trained, alone. In the others it is merged.
"""

import contextlib
import functools
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from llm_jax.frame.cli import quiet_logs, run_cli

quiet_logs()

import jax  # noqa: E402
import numpy as np  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from llm_jax.config import UserError  # noqa: E402
from llm_jax.files import user_path  # noqa: E402
from llm_jax.hub import card, families, gguf_tokenizer, gguf_write, peft, weights  # noqa: E402
from llm_jax.hub.tokenizer import HubTokenizer  # noqa: E402
from llm_jax.hub.tokenizer_json import CONFIG, tokenizer_json  # noqa: E402
from llm_jax.runs import STAGE_HELP, Run  # noqa: E402
from llm_jax.tokenizer import Tokenizer  # noqa: E402

FILE_BYTES = 4 * 2**30  # of weights in one file, about
# Of our own tokenizer, beside tokenizer.json: loaders look for tokenizer.model, then for any *.model, and what they
# would make of it loses spaces.
TOKENIZER = "llm_jax_tokenizer.spm"
NEEDS = {"hf": "safetensors", "peft": "safetensors", "gguf": "gguf"}


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("stage", "", STAGE_HELP)
    flags.DEFINE_string("output", None, "Folder to make; with --format=gguf a file.", required=True)
    flags.DEFINE_enum("format", "hf", list(NEEDS), "A folder, one GGUF file, or the adapter that the stage trained.")
    flags.DEFINE_enum("type", "f16", list(gguf_write.FILE_TYPES), "Of the matrices' numbers, with --format=gguf.")


def described(config: ConfigDict, tokenizer: Tokenizer, source: card.Source) -> dict[str, Any]:
    """Its config.json; of an imported model with the longest context that it takes. Raises UserError where no engine
    has such a model."""
    length = max(config.imported.context, config.data.sequence_length)
    out = families.config_json(config.model, tokenizer.vocab_size, length)
    if (source.config.get("model_type"), out["model_type"]) == ("mistral", "llama"):  # which differ in windows alone
        mistral = families.FAMILIES["mistral"]
        out |= {"model_type": mistral.name, "architectures": [mistral.architecture], "sliding_window": None}
    return out | card.special_ids(tokenizer)


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


def write_model(folder: Path, model_json: dict[str, Any], config: ConfigDict, params: dict) -> None:
    """config.json; model-NNNNN.safetensors, and the index that says which file has what."""
    from safetensors.numpy import save_file

    write_json(folder / "config.json", model_json)
    place, total, mode = {}, 0, (folder / "config.json").stat().st_mode & 0o777
    named = weights.named(config.model, model_json["vocab_size"], params)
    for number, part in enumerate(in_files(named, config.model.compute_dtype), 1):
        file = f"model-{number:05}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(mode)  # safetensors makes it for its owner alone, whatever the umask
        place |= dict.fromkeys(part, file)
        total += sum(x.nbytes for x in part.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": place})


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    if isinstance(tokenizer, HubTokenizer):
        (folder / "tokenizer.json").write_text(tokenizer.model_json, encoding="utf-8")
    else:
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokenizer)), encoding="utf-8")
        tokenizer.save(folder / TOKENIZER)
    write_json(folder / "tokenizer_config.json", CONFIG | {k: v for k, v in tokenizer.described().items() if v})


def check_place(output: Path, form: str = "hf") -> None:
    """Raises UserError when `output` is taken or no name of a file of its kind, or a library is missing."""
    if importlib.util.find_spec(NEEDS[form]) is None:
        raise UserError(f"{NEEDS[form]} is not installed; pip install -e '.[hf]'")
    if form == "gguf" and output.suffix != ".gguf":
        raise UserError(f"{output} is no name of a GGUF file; give --output one that ends with .gguf")
    if os.path.lexists(output):
        raise UserError(f"{output} exists; give --output a place that does not")


def export(
    config: ConfigDict,
    tokenizer: Tokenizer,
    params: dict,
    output: Path,
    source: card.Source = card.OURS,
    model_card: str = "",
) -> None:
    """Writes the folder beside its place and moves it there whole. Raises UserError when the place is taken, or nothing
    can be written there."""
    check_place(output)
    model_json = described(config, tokenizer, source)
    with made_whole(output) as part:
        part.mkdir(parents=True)
        write_model(part, model_json, config, params)
        write_tokenizer(part, tokenizer)
        write_json(part / "generation_config.json", card.generation_config(tokenizer, source))
        if model_card:
            (part / "README.md").write_text(model_card, encoding="utf-8")


def export_gguf(
    config: ConfigDict, tokenizer: Tokenizer, params: dict, output: Path, kind: str, source: card.Source = card.OURS
) -> None:
    """Writes the file beside its place and moves it there whole. Raises UserError as `export` does, and for a model or
    a tokenizer that no GGUF file describes."""
    check_place(output, "gguf")
    model_json = described(config, tokenizer, source)
    about = {key: text for key, text in (("name", source.name), ("license", source.licence)) if text}
    values = gguf_write.values_of(model_json, gguf_tokenizer.values_of(tokenizer), kind, about)
    named = functools.partial(weights.named, config.model, tokenizer.vocab_size)
    names: list[str] = []

    def listed(params: dict) -> list[jax.Array]:
        pairs = list(named(params))
        names.extend(name for name, _ in pairs)
        return [array for _, array in pairs]

    shapes = [array.shape for array in jax.eval_shape(listed, params)]
    with made_whole(output) as part:
        part.parent.mkdir(parents=True, exist_ok=True)
        gguf_write.write(part, model_json, values, dict(zip(names, shapes, strict=True)), named(params), kind)


@contextlib.contextmanager
def made_whole(output: Path) -> Iterator[Path]:
    """A place for a folder or file, beside `output`, which it becomes at the end. Raises UserError as `export` does."""
    part = output.with_name(output.name + ".part")
    try:
        discard(part)
        yield part
        part.rename(output)
    except Exception as error:
        discard(part)
        # safetensors has an error of its own for what the file system refuses.
        if (isinstance(error, OSError) or "os error" in str(error)) and "No space left" not in str(error):
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{output} cannot be written ({reason}); give --output another place") from None
        raise


def discard(part: Path) -> None:
    """What an export that was killed has left; nothing where there is none, or cannot be any."""
    shutil.rmtree(part, ignore_errors=True)
    with contextlib.suppress(OSError):
        part.unlink()


def main() -> None:
    f = flags.FLAGS
    output = user_path(f.output, "--output")
    check_place(output, f.format)
    run = Run.open(user_path(f.workdir, "--workdir"))
    stage, source = run.choose(f.stage), card.source_of(run.workdir)
    with jax.set_mesh(run.mesh):
        if f.format == "peft":
            with made_whole(output) as part:
                part.mkdir(parents=True)
                peft.write(run, stage, part)
        elif f.format == "gguf":
            export_gguf(run.config, run.tokenizer, run.load_params(stage), output, f.type, source)
        else:
            told = card.model_card(run, stage, source)
            export(run.config, run.tokenizer, run.load_params(stage), output, source, told)
    print(f"{output}: {stage} of {f.workdir}")


if __name__ == "__main__":
    run_cli(main, define_flags)
