"""Checkable prompts on disk, and what becomes of the answers: shared by RL and evaluation."""

import dataclasses
from pathlib import Path

from llm_jax.config import UserError
from llm_jax.files import json_lines
from llm_jax.sampling import shared
from llm_jax.sampling.requests import Completion
from llm_jax.tasks.base import grade, well_formed
from llm_jax.tokenizer import Tokenizer


@dataclasses.dataclass
class Outcome:
    """One completion of a prompt record, parsed and graded."""

    prompt: dict
    parts: list[dict]
    ended: bool
    right: bool
    well_formed: bool
    tokens: int

    def has(self, *kinds: str) -> bool:
        return any(part["type"] in kinds for part in self.parts)


def load_prompts(workdir: Path, split: str) -> list[dict]:
    """The `prompt` records of a split. Raises UserError when stage `data` has not written them."""
    path = Path(workdir) / "data" / f"prompts_{split}.jsonl"
    if not path.is_file():
        raise UserError(f"no prompts at {path}; run stage `data` first")
    return json_lines(path)


def judge_all(tokenizer: Tokenizer, prompts: list[dict], completions: list[Completion]) -> list[Outcome]:
    """`judge` of each. Of several processes each judges some, and all have the same outcomes, also where a time limit
    is at work."""
    return shared.each(lambda pair: judge(tokenizer, *pair), list(zip(prompts, completions, strict=True)))


def judge(tokenizer: Tokenizer, prompt: dict, completion: Completion) -> Outcome:
    parts, ended = tokenizer.parse(completion.ids)
    whole = tokenizer.is_whole(completion.ids)
    return Outcome(
        prompt=prompt,
        parts=parts,
        ended=ended,
        right=whole and grade(prompt["answer"], parts, ended),
        well_formed=whole and well_formed(parts, ended),
        tokens=len(completion.ids),
    )
