"""One stage's newest checkpoint with an engine around it: what chat, server and batch generation begin with."""

import dataclasses
from pathlib import Path

import jax

from llm_jax import sharding
from llm_jax.runs import Run
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.shared import SharedEngine
from llm_jax.tokenizer import Tokenizer
from llm_jax.tools.search import Place
from llm_jax.tools.table import Toolbox


@dataclasses.dataclass
class Loaded:
    stage: str
    is_base: bool  # it continues documents; others answer turns
    tokenizer: Tokenizer
    params: dict
    engine: Engine
    tools: Toolbox

    def close(self) -> None:
        self.engine.close()
        self.tools.close()


def load(workdir: Path, stage: str = "", slots: int = 1, search: Place = None, **options) -> Loaded:
    """The newest checkpoint of a stage, by default of the newest; it searches where `search` says, and options are the
    engine's.

    Raises UserError when the workdir has no such checkpoint, or `search` is no place to search.
    """
    run = Run.open(workdir)
    stage = run.choose(stage)
    tools = Toolbox(run.workdir, search=search, python=run.config.tools.python)
    params = run.load_params(stage)
    engine = engine_for(run, slots, tools, **options)
    return Loaded(stage, run.kind_of(stage) == "base", run.tokenizer, params, engine, tools)


def engine_for(run: Run, slots: int, tools: Toolbox | None = None, **options) -> Engine:
    """An engine with a run's model and mesh; of several processes, one that answers together with theirs. The slots
    are rounded up to fill the mesh."""
    answers = tools.answers if tools else {}
    if jax.process_count() > 1:
        return SharedEngine(run, slots, answers, **options)
    shards, length = sharding.shards(run.mesh, "batch"), run.config.data.sequence_length
    slots = -(-slots // shards) * shards
    return Engine(run.model, run.tokenizer, run.mesh, slots, length, answers, **options)
