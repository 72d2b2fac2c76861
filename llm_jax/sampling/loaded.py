"""One stage's newest checkpoint with an engine around it: what chat, server and batch generation begin with."""

import dataclasses
from pathlib import Path

from llm_jax import sharding
from llm_jax.runs import Run
from llm_jax.sampling.engine import Engine
from llm_jax.stage_table import STAGES
from llm_jax.tokenizer import Tokenizer
from llm_jax.tools.table import Toolbox


@dataclasses.dataclass
class Loaded:
    stage: str
    tokenizer: Tokenizer
    params: dict
    engine: Engine
    tools: Toolbox

    @property
    def is_base(self) -> bool:
        """It continues documents; any other stage answers turns."""
        return STAGES[self.stage].kind == "base" or not self.tokenizer.talks

    def close(self) -> None:
        self.engine.close()
        self.tools.close()


def load(workdir: Path, stage: str = "", slots: int = 1, **options) -> Loaded:
    """The newest checkpoint of a stage, by default of the newest; options are the engine's.

    Raises UserError when the workdir has no such checkpoint.
    """
    run = Run.open(workdir)
    stage = run.choose(stage)
    params, tools = run.load_params(stage), Toolbox(run.workdir)
    return Loaded(stage, run.tokenizer, params, engine_for(run, slots, tools, **options), tools)


def engine_for(run: Run, slots: int, tools: Toolbox | None = None, **options) -> Engine:
    """An engine with a run's model and mesh; the slots are rounded up to fill the mesh."""
    shards, length = sharding.shards(run.mesh, "batch"), run.config.data.sequence_length
    slots, answers = -(-slots // shards) * shards, tools.answers if tools else {}
    return Engine(run.model, run.tokenizer, run.mesh, slots, length, answers, **options)
