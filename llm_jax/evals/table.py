"""The table of measurements: what is asked of a checkpoint, of which one, and what must be there for it."""

import dataclasses
from collections.abc import Callable, Iterable

from llm_jax.evals import best_of_n, knowledge, search, self_knowledge
from llm_jax.evals.bpb import bits_per_byte
from llm_jax.evals.context import measure_context
from llm_jax.evals.map import measure_map
from llm_jax.evals.measure import (
    Examiner,
    measure_calls,
    measure_code,
    measure_passk,
    measure_reasoning,
    measure_sft,
    measure_think,
    measure_tools,
)
from llm_jax.evals.questions import measure_files
from llm_jax.evals.real import measure_real
from llm_jax.evals.texts import bits_per_byte_of
from llm_jax.tables import Row, Table

ON = ("base", "assistant", "assistants", "last", "before and after", "every")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement(Row):
    """A group of the report. `on` is whose checkpoint it is about: the model that continues documents, the first one
    that answers turns, each that does, the last one, the one before and the one after reinforcement learning, or every
    one."""

    measure: Callable[[Examiner, dict], dict] = None  # (examiner, parameters) -> {name: metric or such a dict}
    on: str = None
    final: bool = False  # asked again of the last checkpoint, for the group `final`
    prompts: bool = True  # it asks held-out prompts of the run
    tasks: tuple[str, ...] = ()  # families whose held-out prompts it needs
    tools: tuple[str, ...] = ()  # that it needs
    lacks: Callable[[Examiner], str] = lambda examiner: ""  # what else it needs and is not there, in a few words
    key: str = ""  # of `eval`, as that of the user's own files; it is measured where this is not empty or 0

    def wrong(self, names: Iterable[str]) -> str:
        return "" if self.on in ON else f"on is {self.on!r}; choose from {', '.join(ON)}"

    def missing(self, examiner: Examiner) -> str:
        """What it needs that this run has not, in a few words; empty when all is there."""
        asked = {task for task, _ in examiner.by_level}
        lacking = ["held-out prompts"] if self.prompts and not asked else []
        lacking += [f"prompts of {task!r}" for task in self.tasks if task not in asked]
        lacking += [what] if (what := self.lacks(examiner)) else []
        lacking += [f"eval.{self.key}"] if self.key and not examiner.config[self.key] else []
        lacking += [f"the tool {tool!r}" for tool in self.tools if tool not in examiner.engine.tools]
        return " and ".join(lacking)


MEASUREMENTS: Table[Measurement] = Table(
    "task",
    (
        Measurement(
            name="bpb", measure=lambda examiner, params: bits_per_byte(examiner.run, params), on="base", prompts=False
        ),
        Measurement(name="sft", measure=measure_sft, on="assistant", final=True),
        Measurement(name="think", measure=measure_think, on="assistant", final=True, tasks=("arithmetic",)),
        Measurement(
            name="tools",
            measure=measure_tools,
            on="last",
            final=True,
            tasks=("calculator",),
            tools=("python",),
        ),
        Measurement(
            name="calls",
            measure=measure_calls,
            on="before and after",
            tasks=("calculator", "arithmetic"),
            tools=("python",),
        ),
        Measurement(name="map", measure=measure_map, on="last", final=True, prompts=False, key="map_items"),
        Measurement(name="passk", measure=measure_passk, on="before and after", tasks=("arithmetic",)),
        Measurement(name="code", measure=measure_code, on="before and after", tasks=("functions",)),
        Measurement(
            name="reasoning",
            measure=measure_reasoning,
            on="before and after",
            final=True,
            tasks=("arithmetic",),
        ),
        Measurement(
            name="abstain",
            measure=knowledge.measure_abstain,
            on="assistants",
            final=True,
            prompts=False,
            lacks=knowledge.lacks,
        ),
        Measurement(
            name="self",
            measure=self_knowledge.measure_self,
            on="assistant",
            final=True,
            prompts=False,
            lacks=self_knowledge.lacks,
        ),
        Measurement(name="context", measure=measure_context, on="last", final=True, tasks=("reading", "portrait")),
        Measurement(
            name="search", measure=search.measure_search, on="last", final=True, tasks=("facts",), tools=("search",)
        ),
        Measurement(name="real", measure=measure_real, on="before and after", tasks=("sums", "arithmetic")),
        Measurement(
            name="best_of_n",
            measure=best_of_n.measure_best_of_n,
            on="last",
            tasks=(best_of_n.taste.TASK,),
            lacks=best_of_n.lacks,
            key="best_of",
        ),
        Measurement(
            name="texts",
            measure=lambda examiner, params: bits_per_byte_of(examiner.run, params, examiner.config.texts),
            on="every",
            prompts=False,
            key="texts",
        ),
        Measurement(
            name="questions",
            measure=lambda e, params: measure_files(e.engine, params, e.config.questions, e.talks),
            on="every",
            prompts=False,
            key="questions",
        ),
    ),
)
