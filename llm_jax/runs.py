"""What a run's workdir says of itself."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from llm_jax.checkpoint import written
from llm_jax.config import UserError, default


def load_config(workdir: Path) -> ConfigDict:
    """The config that the run was started with. Raises UserError when the folder is no run, or of another version."""
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} is no run (it has no config.json); start one with llm_jax.main --workdir={workdir}")
    config = default()
    with config.unlocked():
        for key, value in json.loads(path.read_text())["config"].items():
            section, name = config, key
            while name.partition(".")[0] in section and "." in name:
                head, _, name = name.partition(".")
                section = section[head]
            try:
                section[name] = tuple(value) if isinstance(value, list) else value
            except TypeError as error:
                what = f"its {key} is {value!r}"
                raise UserError(f"{workdir} is a run of another version: {what}; run it anew") from error
    return config


def newest_stage(workdir: Path) -> str:
    """The last trained stage. Raises UserError when there is none."""
    load_config(workdir)  # a folder that is no run says so first
    for stage in ("rl", "sft", "pretrain"):
        if written(workdir, stage):
            return stage
    raise UserError(f"{workdir} has no trained stage yet; run llm_jax.main first")
