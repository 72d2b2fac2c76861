"""A toy of each kind, one row each, as a module outside the package adds them."""

import random

from llm_jax.evals.measure import share
from llm_jax.evals.table import MEASUREMENTS, Measurement
from llm_jax.stage_table import STAGES, Stage
from llm_jax.stages.supervised import supervised_job
from llm_jax.tasks.base import Item, of_split, split_of
from llm_jax.tasks.table import FAMILIES, Family
from llm_jax.tools.table import TOOLS, Tool
from llm_jax.training import loader, loop


def polish(run, params):
    data = run.workdir / "data"
    return loop.train(run, supervised_job(run, "polish", loader.mixture(data / "sft"), data / "sft_validation"), params)


def double(rng: random.Random, level: int, split: str, colours: list[str]) -> Item:
    while True:
        number = rng.randrange(1000)
        if split_of(f"double:{number}") == split:
            return Item(f"double:{number}", str(2 * number), {"n": str(number), "c": rng.choice(colours)})


def think_of(rng: random.Random, level: int) -> Item:
    number = str(rng.randint(1, 100))
    return Item(f"thought of {number}", number, {})


def hint(prompt: dict, answers: list[str]) -> str | None:
    """Four guesses, and a hint after each but the last; what is no number ends it."""
    last = answers[-1]
    if len(answers) == 4 or not last.isdecimal() or int(last) == int(prompt["answer"]):
        return None
    return "Higher." if int(last) < int(prompt["answer"]) else "Lower."


class Bell:
    def answer(self, text: str) -> str:
        return f"ding {text}"

    def close(self) -> None:
        pass


def open_bell(workdir, given) -> Bell:
    return Bell()


def doubled(examiner, params) -> dict:
    outcomes = examiner.ask(params, examiner.choose("doubling", ("only",), 8))
    return {"right": share(outcomes, lambda o: o.right)}


STAGES.add(
    Stage(
        name="polish",
        run="tests.toys:polish",
        label="polishing",
        kind="chat",
        follows=("sft",),
        section="polish",
        identity=(*STAGES["sft"].identity, "polish"),
    ),
    before="rl",
)
FAMILIES.add(
    Family(
        name="doubling",
        levels=("only",),
        make=double,
        wordings=("Double the {c} {n}.",),
        ways={"direct": (200,)},
        lists=("job",),
        lesson="order",
    )
)
FAMILIES.add(
    Family(
        name="guessing",
        levels=("1 to 100",),
        make=of_split(think_of),
        wordings=("I think of a number from 1 to 100. Guess it.", "Guess my number. It is one of 1 to 100."),
        ways={},
        step=hint,
        discount=0.9,
        on_demand=True,
    )
)
TOOLS.remove("search")  # the only other span that a call may stand in
TOOLS.add(
    Tool(
        name="search",
        open="tests.toys:open_bell",
        description="Rings a bell.",
        argument="query",
        limits="none",
        returns="document",
    )
)
MEASUREMENTS.add(Measurement(name="doubled", measure=doubled, on="last", tasks=("doubling",), tools=("search",)))
