"""Stage `data`: whatever `data.prepare` names, from raw material to rows; the only tie to `data_pipelines`."""

from llm_jax.runs import Run
from llm_jax.tables import function


def prepare(run: Run) -> None:
    function(run.config.data.prepare)(run.config, run.workdir)
