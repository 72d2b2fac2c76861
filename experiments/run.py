"""The config of a run that is there, as of one that `llm_jax.hub.import_` made.

python -m llm_jax.compile_ahead --config=experiments/run.py:runs/mine --topology=v5e:2x2 --config.mesh.fsdp=4
python -m llm_jax.main --config=experiments/run.py:runs/mine --workdir=runs/mine --stages=data,sft --config.lora.rank=8
"""

from pathlib import Path

from llm_jax.config import UserError
from llm_jax.runs import load_config


def get_config(workdir=""):
    if not workdir:
        raise UserError("give the run's folder behind a colon: --config=experiments/run.py:WORKDIR")
    return load_config(Path(workdir).expanduser())
