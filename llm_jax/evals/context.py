"""The context window as working memory: the same kind of question from a text in the prompt, and from memory alone."""

from llm_jax.evals.measure import Examiner, right, share
from llm_jax.evals.statistics import rate
from llm_jax.prompts import Outcome
from llm_jax.tasks import portrait
from llm_jax.tools.table import TOOLS

ROOM = 128  # tokens of a quotation and an answer
READING = {"one": "1 in the text", "two": "2 in the text", "three": "3 in the text", "five": "5 in the text"}
SUMMARIES = {"sums": "of a text", "memory": "from memory"}


def measure_context(e: Examiner, params) -> dict:
    """Questions on a text about one to five people, of whom the model has read much, little or nothing; and summaries
    of a text beside what it tells of the same people without one."""
    group = {}
    for name, level in READING.items():
        outcomes = e.ask(params, e.by_level["reading", level], suppress=tuple(TOOLS), max_new_tokens=ROOM)
        stated = [o for o in outcomes if not o.prompt["unstated"]]
        group[name] = share(stated, right)
        group[f"{name}_fresh"] = share([o for o in stated if o.prompt["kind"] == "stranger"], right)
        group[f"{name}_unstated"] = share([o for o in outcomes if o.prompt["unstated"]], right)
    for name, level in SUMMARIES.items():
        told = e.ask(params, e.by_level["portrait", level], suppress=tuple(TOOLS), max_new_tokens=ROOM)
        group |= summed_up(name, told)
    return group


def summed_up(name: str, outcomes: list[Outcome]) -> dict:
    """Of the facts that there are, the share that summaries state; of what they state, the share that is not so."""
    covered, invented, items = [], [], []
    for outcome in outcomes:
        said = "".join(part["text"] for part in outcome.parts if part["type"] == "answer")
        facts = outcome.prompt["facts"]
        right_count, wrong_count = portrait.counted(said, facts)
        covered.append(right_count / len(facts))
        invented.append(wrong_count / max(1, right_count + wrong_count))
        items.append(outcome.prompt["item"])
    return {f"{name}_covered": rate(covered, items), f"{name}_invented": rate(invented, items)}
