"""Checkable prompts on disk, and what becomes of the answers: shared by RL and evaluation."""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from llm_jax.config import UserError
from llm_jax.files import json_lines
from llm_jax.sampling import shared
from llm_jax.sampling.requests import Completion
from llm_jax.tasks import knowledge
from llm_jax.tasks.base import well_formed
from llm_jax.tasks.grading import grade
from llm_jax.tasks.records import drawn, of_files
from llm_jax.tasks.table import FAMILIES
from llm_jax.tokenizer import Tokenizer


@dataclasses.dataclass
class Outcome:
    """One completion of a prompt record, parsed and graded. Where it has several turns, `parts` are of the last one,
    and `before` has those of the others, with what the user said as parts of type "user"."""

    prompt: dict
    parts: list[dict]
    ended: bool
    right: bool
    well_formed: bool
    tokens: int
    score: float = 0.0  # what it earns, from 0 to 1
    before: list[dict] = dataclasses.field(default_factory=list)

    def has(self, *kinds: str) -> bool:
        return self.count(*kinds) > 0

    def count(self, *kinds: str) -> int:
        """How many of its parts, in all turns, are of these kinds."""
        return sum(part["type"] in kinds for part in [*self.before, *self.parts])

    @property
    def turns(self) -> int:
        return 1 + self.count("user")


def load_prompts(workdir: Path, split: str) -> list[dict]:
    """The `prompt` records of a split. Raises UserError when stage `data` has not written them."""
    path = Path(workdir) / "data" / f"prompts_{split}.jsonl"
    if not path.is_file():
        raise UserError(f"no prompts at {path}; run stage `data` first")
    return json_lines(path)


def prompts_for(config: ConfigDict, workdir: Path, split: str) -> list[dict]:
    """All that a run has to practise on: what stage `data` has written, what is drawn of families that `rl.tasks` names
    and it has not written, the facts to be asked for where it names these, and the problems of the files of
    `rl.prompts`. Raises UserError as these do."""
    written = load_prompts(workdir, split)
    named = {name.partition("/")[0] for name in config.rl.tasks} - {prompt["task"] for prompt in written}
    more = [prompt for name, family in FAMILIES.items() if name in named for prompt in drawn(family, split)]
    more += knowledge.prompts(config, workdir, split) if knowledge.TASK in named else []
    return [*written, *more, *of_files(config.rl.prompts, split)]


def judge_all(tokenizer: Tokenizer, prompts: list[dict], completions: list[Completion]) -> list[Outcome]:
    """`judge` of each. Of several processes each judges some, and all have the same outcomes, also where a time limit
    is at work."""
    return shared.each(lambda pair: judge(tokenizer, *pair), list(zip(prompts, completions, strict=True)))


def judge(tokenizer: Tokenizer, prompt: dict, completion: Completion) -> Outcome:
    """Of one turn. Raises UserError for a grader that fails."""
    parts, ended = tokenizer.parse(completion.ids)
    whole = tokenizer.is_whole(completion.ids)
    score = grade(prompt, parts, ended) if whole else 0.0
    return Outcome(
        prompt=prompt,
        parts=parts,
        ended=ended,
        right=score == 1,
        well_formed=whole and well_formed(parts, ended),
        tokens=len(completion.ids),
        score=score,
    )
