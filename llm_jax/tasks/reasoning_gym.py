"""The datasets of reasoning-gym as families on demand, `gym_` and the name of one: named in `extensions`."""

import functools
import random

from llm_jax.config import UserError
from llm_jax.tasks.base import Item, split_of
from llm_jax.tasks.table import FAMILIES, Family

try:
    from reasoning_gym.factory import DATASETS, create_dataset
except ImportError as error:
    raise UserError("llm_jax.tasks.reasoning_gym needs reasoning-gym; pip install 'llm_jax[gym]'") from error

TRIES = 2000  # draws for a problem of a split: some datasets have few


@functools.lru_cache(maxsize=512)
def dataset(name: str, seed: int):
    """One of one problem, which is made again from its seed wherever it is graded."""
    return create_dataset(name, seed=seed, size=1)


def make(name: str, rng: random.Random, level: int, split: str) -> Item:
    for _ in range(TRIES):
        seed = rng.randrange(2**31)
        made = dataset(name, seed)[0]
        if split_of(key := f"{name}:{made['question']}") == split:
            return Item(key, str(made["answer"]), {"q": made["question"]}, check={"dataset": name, "seed": seed})
    raise UserError(f"task family 'gym_{name}' has no problem of the split {split!r}; leave it out")


def grade(prompt: dict, given: str) -> bool:
    """Right is what has the full score; many datasets give a part of it for an answer that holds the right one."""
    of = dataset(prompt["check"]["dataset"], prompt["check"]["seed"])
    return bool(given) and of.score_answer(given, of[0]) == 1


for _name in DATASETS:
    FAMILIES.add(
        Family(
            name=f"gym_{_name}",
            levels=("as it comes",),
            make=functools.partial(make, _name),
            wordings=("{q}",),
            ways={},
            grade=grade,
            on_demand=True,
        )
    )
