"""Stage `data` of a model from elsewhere: a few hundred conversations that teach it to call Python for sums and to
think before longer ones, and what it is asked before and after.

Writes into WORKDIR/data: conversations.jsonl, prompts_*.jsonl, documents.jsonl, sft/, sft_validation/ and validation/
rows, choices.jsonl and prepared.json. The pages and choices are of this Python's own documentation, none of it trained
on: what the model loses of its general ability shows there. Adds the task family `sums`.
"""

import itertools
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from data_pipelines import conversations as talk
from data_pipelines.documents import with_splits, write_jsonl, write_whole
from data_pipelines.packing import pack_records
from data_pipelines.python_docs import python_documents
from llm_jax.rows import facts, row_sets
from llm_jax.tasks import calculator
from llm_jax.tasks.base import Item, Problem, split_of
from llm_jax.tasks.records import record
from llm_jax.tasks.table import FAMILIES, Family
from llm_jax.tokenizer import Tokenizer, path_in

# Conversations that teach each level, one way each: the model is to find for itself no way but how to do it well.
TAUGHT = {
    ("sums", 0, "tool"): 80,
    ("sums", 1, "tool"): 60,
    ("sums", 2, "tool"): 60,
    ("arithmetic", 1, "think"): 360,
    ("arithmetic", 2, "think"): 80,
}
PROMPTS = {"train": 600, "dev": 100, "test": 640}  # of each level
CHOICES, LEAST_CHARACTERS, STARTS = 4, 60, 3  # of a question; of a sentence; sentences before it


def draw_sum(rng: random.Random, level: int, split: str) -> Item:
    """Two numbers of level + 2 digits, added."""
    low, high = 10 ** (level + 1), 10 ** (level + 2) - 1
    while True:
        left, right = rng.randint(low, high), rng.randint(low, high)
        if split_of(expression := f"{left}+{right}") == split:
            return Item(expression, str(left + right), {"e": expression}, program=expression)


FAMILIES.add(
    Family(
        name="sums",
        levels=("2 digits", "3 digits", "4 digits"),
        make=draw_sum,
        wordings=calculator.WORDINGS,
        ways={"tool": (0, 0, 0)},
    )
)


def prepare(config: ConfigDict, workdir: Path) -> None:
    """Makes everything the later stages read; does nothing when it is already there."""
    folder, started = workdir / "data", time.monotonic()
    done = folder / "prepared.json"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.load(path_in(folder))
    spoken = with_splits(list(conversations(config.seed, config.data.scale)))
    documents = [{**d, "split": "val"} for d in python_documents(config.data.python_docs_bytes)]
    write_jsonl(folder / "conversations.jsonl", spoken)
    write_jsonl(folder / "documents.jsonl", documents)
    write_jsonl(folder / "choices.jsonl", choices(config.seed, documents))
    for split in PROMPTS:
        write_jsonl(folder / f"prompts_{split}.jsonl", prompts(config.seed, split, min(1.0, config.data.scale)))
    length = config.data.sequence_length
    pack_records(folder, itertools.chain(documents, spoken), tokenizer, length, seed=config.seed, threads=2)
    counts = {name: facts(*row_sets(folder / name)) for name in ("pretrain", "validation", "sft", "sft_validation")}
    counts["pretrain"]["documents"] = 0
    write_whole(done, json.dumps({"counts": counts, "seconds": {"all": time.monotonic() - started}}, indent=1))


def conversations(seed: int, amount: float) -> Iterator[dict]:
    """`conversation` records of TAUGHT, in a random order; `amount` scales their number."""
    rng, taught = random.Random(f"{seed}/fine_tuning"), []
    for (name, level, way), count in TAUGHT.items():
        wanted = len(taught) + max(1, round(count * amount))
        while len(taught) < wanted:
            problem = FAMILIES[name].problem(rng, level, "train", {})
            if shows_train_alone(problem):
                taught.append((name, talk.exchange(problem, way)))
    rng.shuffle(taught)
    for number, (source, messages) in enumerate(taught):
        yield {"id": f"{number:05d}", "source": source, "messages": messages}


def shows_train_alone(problem: Problem) -> bool:
    """Whether no step of its solution is itself a problem that is kept for testing."""
    return all(split_of(line.partition("=")[0]) == "train" for line in problem.think.splitlines())


def prompts(seed: int, split: str, amount: float) -> Iterator[dict]:
    """`prompt` records of the levels that are taught, each problem once."""
    rng = random.Random(f"{seed}/fine_tuning/{split}")
    count = max(8, round(PROMPTS[split] * amount))
    for name, level, _ in TAUGHT:
        family, seen = FAMILIES[name], set()
        while len(seen) < count:
            problem = family.problem(rng, level, split, {})
            if problem.key not in seen:
                seen.add(problem.key)
                yield record(problem, family.levels[level], split, f"{name}-{level}-{len(seen)}")


def choices(seed: int, documents: list[dict]) -> Iterator[dict]:
    """Questions with four endings, as HellaSwag has them: some sentences of a page, then its own next one or one of
    three from other pages."""
    rng = random.Random(f"{seed}/choices")
    pages = {d["id"]: sentences(d["text"]) for d in documents}
    pages = {id_: found for id_, found in pages.items() if len(found) > STARTS}
    for id_, found in pages.items():
        at = rng.randrange(STARTS, len(found))
        others = rng.sample([other for other in pages if other != id_], CHOICES - 1)
        endings = [found[at], *(rng.choice(pages[other][STARTS:]) for other in others)]
        order = rng.sample(range(CHOICES), CHOICES)
        yield {
            "ctx": " ".join(found[at - STARTS : at]),
            "endings": [endings[number] for number in order],
            "label": order.index(0),
        }


def sentences(text: str) -> list[str]:
    """Of a page, the sentences of prose that are of some length."""
    parts = (" ".join(part.split()) for part in text.replace(":\n", ".\n").split(". "))
    return [f"{part}." for part in parts if len(part) >= LEAST_CHARACTERS and part[0].isupper()]
