"""A model from elsewhere, before it is trained on and after: the same questions, graded alike.

Before, it writes no spans, so the answer is the last number of what it says; after, that is what stands in its answer.
"""

import re
import resource
import sys

from llm_jax.evals.bpb import bits_per_byte
from llm_jax.evals.measure import Examiner, share
from llm_jax.evals.questions import measure_file
from llm_jax.prompts import Outcome
from llm_jax.tasks.grading import DEFAULTS, grader_of, score
from llm_jax.tools.table import TOOLS

PROBLEMS, DEV = 500, 64  # behind a rate; for the choice of a prompt
LONGER = ("3 numbers",)
NUMBER = re.compile(r"-?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?")
OPPOSITE = {"yes": "no", "no": "yes", "even": "odd", "odd": "even"}
# What a user would try who wants it to think. The first one is the question alone.
WAYS_TO_ASK = (
    "{q}",
    "{q} Think step by step.",
    "{q} Write down every step, and the result at the end.",
    "What is 11+6-9?\n11+6=17\n17-9=8\nThe answer is 8.\n\n{q}",
)


def last_number_right(outcome: Outcome) -> bool:
    """Whether the last number of what is not thought or a tool's is the answer."""
    said = " ".join(part["text"] for part in outcome.parts if part["type"] in ("text", "answer"))
    found = NUMBER.findall(said)
    return bool(found) and float(found[-1].replace(",", "")) == float(outcome.prompt["answer"])


def said_right(outcome: Outcome) -> bool:
    """Lenient: whether the answer, of a kind that tasks have, stands in what is said, where it may be in a sentence.

    The last number; the last letter that stands alone; a word, and not its opposite too; several words where nothing
    but a mark or the end of a line stands around them, for one more would be another answer. Where a family has a
    grader of its own, what that takes of the last line, or of a part of it.
    """
    answer = outcome.prompt["answer"]
    if grader_of(outcome.prompt) not in DEFAULTS:
        return any(score(outcome.prompt, part) == 1 for part in last_parts(outcome))
    if NUMBER.fullmatch(answer):
        return last_number_right(outcome)
    said = "\n".join(part["text"] for part in outcome.parts if part["type"] in ("text", "answer"))
    said = re.sub(r"[*`\"]", "", said).replace(",", "")
    if answer.islower():
        said = said.lower()
    if len(answer) == 1:
        return re.findall(r"(?<![\w-])(?<!\w')[^\W\d_](?![\w-])", said)[-1:] == [answer]
    words = re.escape(answer)
    if " " in answer:
        return bool(re.search(rf"(?:^|[:\n])\s*{words}\.?\s*(?:$|\n)", said))
    alone = lambda word: re.search(rf"(?<![\w-]){word}(?![\w-])", said)  # noqa: E731
    return bool(alone(words)) and not (answer in OPPOSITE and alone(OPPOSITE[answer]))


def last_parts(outcome: Outcome) -> list[str]:
    """The last line that is said, and what stands between its colons and equals signs, or after "is"."""
    said = "\n".join(part["text"] for part in outcome.parts if part["type"] in ("text", "answer"))
    last = said.strip().rpartition("\n")[2].removesuffix(".")
    return [part.strip() for part in (last, *re.split(r"[:=]|\bis\b", last)) if part.strip()]


def put(prompt: dict, how: str) -> dict:
    *before, last = prompt["messages"]
    return {**prompt, "messages": [*before, {**last, "content": how.format(q=last["content"])}]}


def measure_real(e: Examiner, params) -> dict:
    """Sums of two numbers as the model takes them; longer ones by the best of four prompts, chosen on others, without
    the tool. And of pages that it is not trained on, bits per byte and which endings it finds likeliest."""
    sums = e.ask(params, e.choose("sums", e.levels("sums"), PROBLEMS)[:PROBLEMS])
    longer = e.choose("arithmetic", LONGER, PROBLEMS + DEV)
    dev, held_out = longer[:DEV], longer[DEV:]
    ask = lambda prompts, how: e.ask(params, [put(p, how) for p in prompts], suppress=tuple(TOOLS))  # noqa: E731
    chosen = {how: share(ask(dev, how), last_number_right) for how in WAYS_TO_ASK}
    best = max(chosen, key=lambda how: chosen[how]["value"])
    choices = measure_file(e.engine, params, e.run.workdir / "data" / "choices.jsonl")
    return {
        "sums": share(sums, last_number_right),
        "sums_called": share(sums, lambda o: o.has(*TOOLS)),
        "think": share(ask(held_out, best), last_number_right),
        "think_prompt": {"value": best},
        "choices": choices["accuracy_per_byte"],
        "bpb": bits_per_byte(e.run, params)["val_bpb_python_docs"],
    }


def real_group(groups: dict[str, dict]) -> dict:
    """`real` of the report, from {"before": ..., "after": ...}; sums are named by how they are solved."""
    names = {("sums", "before"): "sums_direct_before", ("sums", "after"): "sums_tool"}
    group = {names.get((n, when), f"{n}_{when}"): m for when, found in groups.items() for n, m in found.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    group["peak_memory_bytes"] = {"value": peak if sys.platform == "darwin" else 1024 * peak}
    return group
