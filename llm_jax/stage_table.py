"""The table of stages: what `main` runs, in which order, and what every command may do with what a stage leaves.

It lies below everything that reads it, so a stage's module is named by a string and imported when it runs.
"""

import dataclasses
from collections.abc import Iterable

from llm_jax.config import flatten
from llm_jax.tables import Row, Table, known

KINDS = ("", "base", "chat", "reward")
# What the loader does with the rows; stage `data` makes the same ones.
MIXTURE = ("data.epochs.", "data.weights.", "data.first")
STEPS = (
    *(f"{stage}.steps" for stage in ("pretrain", "sft", "abstain", "reward", "preference", "rl")),
    *(f"{stage}.epochs" for stage in ("sft", "abstain", "reward", "preference")),
)
LOOKS = ("rl.eval_every", "rl.eval_problems", "rl.keep_best", "rl.canaries")  # what watches a run
NOT_IDENTITY = ("model.remat", "model.attention", "model.float32_head", *STEPS, "rl.slots", *LOOKS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Row):
    """A stage that trains has checkpoints, and `run` is called with (Run, parameters); of others with the Run alone.

    `identity` holds the config's sections that its numbers depend on, beside those of the stages before it: not the
    mesh, logs, checkpoint cadence or the length of the run, so another mesh or a longer run may resume it. (A longer
    run changes the schedule from there on, as in any schedule with a horizon.)
    """

    run: str = None  # "module:function"
    check: str = ""  # "module:function" of (Run, names of the stages to come): refuses before anything is written
    label: str = None  # what people call it
    # Of the model that it trains: "base" continues documents, "chat" answers turns, "reward" scores answers; "": none.
    kind: str = ""
    follows: tuple[str, ...] = ()  # stages whose parameters it may start from, the preferred one first
    section: str = ""  # of the config
    identity: tuple[str, ...] = ()
    one_process: bool = False  # runs in one process only
    first_process: bool = False  # of several, the first one runs it and the others wait
    reads: bool = False  # its parameters come from elsewhere, so `run` is called with the Run alone

    @property
    def trains(self) -> bool:
        return bool(self.kind)

    @property
    def writes(self) -> bool:
        """Whether its model writes text, so that it can be talked to, served, exported and examined."""
        return self.kind in ("base", "chat")

    def wrong(self, names: Iterable[str]) -> str:
        if self.kind not in KINDS:
            return f"kind is {self.kind!r}; choose from {', '.join(map(repr, KINDS))}"
        for other in self.follows:
            known("stage in follows", other, names)
        if self.trains and not (self.section and self.identity):
            return "a stage that trains needs a `section` of the config and an `identity`"
        return "" if ":" in self.run else f"run is {self.run!r}; it must be 'module:function'"

    def clashes(self, other: "Stage") -> str:
        return f"section {self.section!r}" if self.section and self.section == other.section else ""


WORLD = ("seed", "tokenizer", "data")
PRETRAINED = (*WORLD, "model", "optimizer", "pretrain")  # not where a parent lies: lineage knows it by its checksum

STAGES: Table[Stage] = Table(
    "stage",
    (
        Stage(
            name="imported",
            run="llm_jax.hub.import_:stage",
            check="llm_jax.hub.import_:check",
            label="import",
            kind="chat",
            section="imported",
            identity=("model", "imported"),
            reads=True,
        ),
        Stage(
            name="data",
            run="llm_jax.stages.data:prepare",
            check="llm_jax.stages.data:check",
            label="data",
            section="data",
            identity=WORLD,
            first_process=True,
        ),
        Stage(
            name="pretrain",
            run="llm_jax.stages.pretrain:train",
            check="llm_jax.stages.pretrain:check",
            label="pre-training",
            kind="base",
            section="pretrain",
            identity=PRETRAINED,
        ),
        Stage(
            name="sft",
            run="llm_jax.stages.sft:train",
            check="llm_jax.stages.sft:check",
            label="fine-tuning",
            kind="chat",
            follows=("pretrain", "imported"),
            section="sft",
            identity=(*PRETRAINED, "lora", "sft"),
        ),
        Stage(
            name="control",
            run="llm_jax.stages.abstain:control",
            check="llm_jax.stages.abstain:check",
            label="the control of abstaining",
            kind="chat",
            follows=("sft", "imported"),
            section="control",
            identity=(*PRETRAINED, "lora", "sft", "abstain", "control"),
        ),
        Stage(
            name="abstain",
            run="llm_jax.stages.abstain:train",
            check="llm_jax.stages.abstain:check",
            label="abstaining",
            kind="chat",
            follows=("sft", "imported"),
            section="abstain",
            identity=(*PRETRAINED, "lora", "sft", "abstain"),
        ),
        Stage(
            name="reward",
            run="llm_jax.stages.reward:train",
            check="llm_jax.stages.reward:check",
            label="the reward model",
            kind="reward",
            follows=("sft", "imported"),
            section="reward",
            identity=(*PRETRAINED, "lora", "sft", "pairs", "reward"),
            one_process=True,
        ),
        Stage(
            name="preference",
            run="llm_jax.stages.preference:train",
            check="llm_jax.stages.preference:check",
            label="preferences",
            kind="chat",
            follows=("abstain", "sft", "imported"),
            section="preference",
            identity=(*PRETRAINED, "lora", "sft", "abstain", "pairs", "preference"),
            one_process=True,
        ),
        Stage(
            name="rl",
            run="llm_jax.stages.rl:train",
            check="llm_jax.stages.rl:check",
            label="reinforcement learning",
            kind="chat",
            follows=("preference", "abstain", "sft"),
            section="rl",
            identity=(*PRETRAINED, "lora", "sft", "abstain", "pairs", "preference", "rl", "tools"),
        ),
        Stage(
            name="evaluate",
            run="llm_jax.evals.run:evaluate",
            check="llm_jax.evals.run:check",
            label="evaluation",
            section="eval",
        ),
        Stage(
            name="report",
            run="llm_jax.report.finish:finish",
            check="llm_jax.report.finish:check",
            label="this report",
            first_process=True,
        ),
    ),
)


def by_default(config) -> list[str]:
    """The stages of a run that are not chosen by name: a model is imported or pre-trained, and an arm may be none."""
    other = "pretrain" if config.imported.source else "imported"
    idle = {name for name in ("abstain", "control") if config[name].arm == "none"}
    idle |= {name for name in ("reward", "preference") if config[name].loss == "none"}
    return [name for name in STAGES if name not in {other, *idle}]


def trained() -> list[str]:
    """The stages that leave checkpoints, in the order of training."""
    return [stage.name for stage in STAGES.values() if stage.trains]


def writing() -> list[str]:
    """Those of them whose model writes text."""
    return [stage.name for stage in STAGES.values() if stage.writes]


def identity(config, stage: str) -> dict:
    """The flat keys and values that `stage`'s numbers depend on; tuples as lists, as in JSON."""
    sections = STAGES.find(stage).identity
    return {
        key: value
        for key, value in flatten(config).items()
        if key.split(".")[0] in sections
        and key not in NOT_IDENTITY
        and not (stage == "data" and key.startswith(MIXTURE))
    }
