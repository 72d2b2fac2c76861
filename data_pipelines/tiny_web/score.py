"""How much of what was planted in the tiny web's crawl was found.

python -m data_pipelines.tiny_web.score --labels='crawl/*.jsonl' --documents='runs/web/documents/*'
"""

import collections
import dataclasses
from collections.abc import Iterable

from absl import flags

from data_pipelines.documents import matching, read_documents
from llm_jax.config import UserError
from llm_jax.files import json_lines
from llm_jax.frame.cli import run_cli

DROPPED = ("blocked_url", "foreign", "spam", "broken")
COPIES = ("duplicate_of", "near_duplicate_of")


@dataclasses.dataclass
class Score:
    """planted: pages of a kind (strings, for pii). right: those treated as they should be."""

    planted: int = 0
    right: int = 0

    def add(self, right: bool) -> None:
        self.planted += 1
        self.right += right


def score(labels: Iterable[dict], texts: dict[str, str]) -> dict[str, Score]:
    """`texts` are the documents that are left, by id. Right is: junk is dropped, of a page and each of its copies not
    both are left, a planted string is nowhere, and of a clean page the text is left, be it as its copy."""
    scores: dict[str, Score] = collections.defaultdict(Score)
    copies, clean = collections.defaultdict(list), []
    for label in labels:
        id_, (kind, _, source) = label["id"], label["planted"][0].partition(":")
        if kind in DROPPED:
            scores[kind].add(id_ not in texts)
        elif kind in COPIES:
            if id_ in texts or source in texts:
                scores[kind].add(not (id_ in texts and source in texts))
            copies[source].append(id_)
        else:
            clean.append(id_)
        for string in label["pii"]:
            scores["pii"].add(string not in texts.get(id_, ""))
    for id_ in clean:
        scores["clean"].add(any(one in texts for one in (id_, *copies[id_])))
    return dict(sorted(scores.items()))


def define_flags() -> None:
    flags.DEFINE_string("labels", None, "Glob of the crawl's labels.", required=True)
    flags.DEFINE_string("documents", None, "Glob of the documents that are left.", required=True)


def main() -> None:
    f = flags.FLAGS
    labels = [label for path in matching(f.labels, ".jsonl") for label in json_lines(path)]
    if not all({"id", "planted"} <= label.keys() for label in labels):
        raise UserError(f"--labels={f.labels}: a line has no `id` or no `planted`; data_pipelines.tiny_web writes them")
    texts = {document["id"]: document["text"] for document in read_documents(f.documents)}
    for kind, found in score(labels, texts).items():
        print(f"{kind:20}{found.right:7,} of {found.planted:7,}  {found.right / found.planted:.4f}")


if __name__ == "__main__":
    run_cli(main, define_flags)
