"""A run's model as a Hugging Face folder: python -m llm_jax.hub.export --workdir=DIR --stage=rl --output=DIR2

What Transformers, vLLM and their kin load, as a model of the family that computes the same (`families.family_of`):
`config.json` and safetensors in the run's compute dtype; the tokenizer as `tokenizer.json`, with the same ids; beside
them the SentencePiece model, under a name that no loader looks for: what they would make of it loses spaces. Of a stage
that trained an adapter the weights are merged; with --format=peft the adapter goes out alone, as PEFT loads it.
"""

import contextlib
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
from llm_jax.hub import families, peft, weights  # noqa: E402
from llm_jax.hub.tokenizer_json import CONFIG, tokenizer_json  # noqa: E402
from llm_jax.runs import STAGE_HELP, Run  # noqa: E402
from llm_jax.tokenizer import Tokenizer  # noqa: E402

FILE_BYTES = 4 * 2**30  # of weights in one file, about
TOKENIZER = "llm_jax_tokenizer.spm"  # loaders look for tokenizer.model, then for any *.model


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("stage", "", STAGE_HELP)
    flags.DEFINE_string("output", None, "Folder to make.", required=True)
    flags.DEFINE_enum("format", "hf", ["hf", "peft"], "The whole model, or the adapter that the stage trained.")


def described(config: ConfigDict, tokenizer: Tokenizer) -> dict:
    """Its config.json. Raises UserError where no engine has such a model."""
    longest = max(config.imported.context, config.data.sequence_length)
    out = families.config_json(config.model, tokenizer.vocab_size, longest)
    return out | {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.end, "pad_token_id": tokenizer.pad}


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
    model_json = described(config, tokenizer)
    with made_whole(output) as part:
        (part / "config.json").write_text(json.dumps(model_json, indent=1), encoding="utf-8")
        named = weights.named(config.model, tokenizer.vocab_size, params)
        write_weights(part, named, config.model.compute_dtype)
        tokenizer.save(part / TOKENIZER)
        (part / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokenizer)), encoding="utf-8")
        (part / "tokenizer_config.json").write_text(json.dumps(CONFIG | tokenizer.described()), encoding="utf-8")


@contextlib.contextmanager
def made_whole(output: Path) -> Iterator[Path]:
    """A folder to write into, beside `output`, which it becomes at the end. Raises UserError as `export` does."""
    part = output.with_name(output.name + ".part")
    try:
        if part.exists():
            shutil.rmtree(part)
        part.mkdir(parents=True)
        yield part
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
        if f.format == "peft":
            with made_whole(output) as part:
                peft.write(run, stage, part)
        else:
            export(run.config, run.tokenizer, run.load_params(stage), output)
    print(f"{output}: {stage} of {f.workdir}")


if __name__ == "__main__":
    run_cli(main, define_flags)
