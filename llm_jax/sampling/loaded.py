"""One stage's newest checkpoint with an engine around it: what chat, server and batch generation begin with."""

import dataclasses
from pathlib import Path

from llm_jax import sharding, train
from llm_jax.config import UserError
from llm_jax.runs import load_config, newest_stage
from llm_jax.sampling.engine import Engine
from llm_jax.tokenizer import Tokenizer
from llm_jax.tools.python import PythonTool

TRAINED = ("pretrain", "sft", "rl")


@dataclasses.dataclass
class Loaded:
    stage: str
    tokenizer: Tokenizer
    params: dict
    engine: Engine
    tool: PythonTool

    @property
    def is_base(self) -> bool:
        """It continues documents; any other stage answers turns."""
        return self.stage == "pretrain"

    def close(self) -> None:
        self.engine.close()
        self.tool.close()


def load(workdir: Path, stage: str = "", slots: int = 1, **options) -> Loaded:
    """The newest checkpoint of a stage, by default of the newest; options are the engine's.

    The slots are rounded up to fill the mesh. Raises UserError when the workdir has no such checkpoint.
    """
    config, stage = load_config(workdir), stage or newest_stage(workdir)
    if stage not in TRAINED:
        raise UserError(f"unknown stage {stage!r}; choose {', '.join(TRAINED)}")
    tokenizer = Tokenizer.load(workdir / "data" / "tokenizer.model")
    mesh = sharding.make_mesh(config.mesh)
    context = train.Context(config, workdir, mesh, tokenizer.vocab_size, tokenizer.sha256)
    params, tool = context.load_params(stage), PythonTool()
    shards = sharding.shards(mesh, "batch")
    length, tools = config.data.sequence_length, {"python": tool.answer}
    engine = Engine(context.model, tokenizer, mesh, -(-slots // shards) * shards, length, tools, **options)
    return Loaded(stage, tokenizer, params, engine, tool)
