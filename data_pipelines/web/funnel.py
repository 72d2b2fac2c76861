"""What enters and leaves each step of the pipeline, and examples of what does not."""

import collections
import json
from collections.abc import Iterator
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.utils.text import split_into_words

from data_pipelines.documents import write_whole
from data_pipelines.web.extract import Extract
from data_pipelines.web.words import name_of

EXAMPLES = 3  # kept of each reason, in each task
EXAMPLE_CHARACTERS = 300
SIZES = ("documents", "bytes", "tokens")


class Tally(PipelineStep):
    """Runs a datatrove block and writes FOLDER/STAGE/RANK-NUMBER.json when the stream ends: what entered and left it.

    A token is a word or a mark here: what the filters count. Markup has none yet.
    """

    type = "tally"

    def __init__(self, block: PipelineStep, name: str, path: str, language: str):
        super().__init__()
        self.block, self.name, self.path, self.language = block, name, path, name_of(language)
        self.counts = {"in": collections.Counter(), "out": collections.Counter()}
        self.reasons, self.examples = collections.Counter(), collections.defaultdict(list)

    def __repr__(self) -> str:
        return f"tally of {self.name}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def write(self, doc: Document, rank: int = 0) -> None:
        """As datatrove's exclusion writer: a document was dropped."""
        reason = doc.metadata.get("filter_reason", self.name).partition(":")[0]
        self.reasons[reason] += 1
        if len(self.examples[reason]) < EXAMPLES:
            where = doc.metadata.get("url") or " ".join(dict.fromkeys((doc.metadata.get("file_path", ""), doc.id)))
            self.examples[reason].append({"id": doc.id, "where": where, "text": doc.text[:EXAMPLE_CHARACTERS]})

    def add(self, side: str, doc: Document) -> None:
        known = doc.metadata.get("_size")
        if known is None or known[0] is not doc.text:
            tokens = 0 if doc.metadata.get("markup") == "html" else len(split_into_words(doc.text, self.language))
            size = len(doc.text) if doc.text.isascii() else len(doc.text.encode("utf-8", "replace"))
            known = doc.metadata["_size"] = (doc.text, size, tokens)
        counts = self.counts[side]
        counts["documents"] += 1
        counts["bytes"] += known[1]
        counts["tokens"] += known[2]

    def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        run = self.filtered(data, rank) if isinstance(self.block, BaseFilter) else self.other(data, rank, world_size)
        try:
            for doc in run:
                self.add("out", doc)
                yield doc
        finally:
            if isinstance(self.block, Extract):
                self.block.stop()
        if data is None:  # a reader: what it could not read entered too
            self.counts["in"] = self.counts["out"] + collections.Counter(documents=self.reasons.total())
        noted = {"name": self.name, **self.counts, "reasons": self.reasons, "examples": self.examples}
        write_whole(Path(self.path.format(rank=rank)), json.dumps(noted))

    def filtered(self, data, rank: int) -> Iterator[Document]:
        """As datatrove's filters run, without its statistics: the funnel has them."""
        for doc in data:
            self.add("in", doc)
            result = self.block.filter(doc)
            kept, reason = result if isinstance(result, tuple) else (result, self.name)
            if kept:
                yield doc
            else:
                doc.metadata["filter_reason"] = reason
                self.write(doc, rank)

    def other(self, data, rank: int, world_size: int) -> Iterator[Document]:
        def entering():
            for doc in data:
                self.add("in", doc)
                yield doc

        self.block.exclusion_writer = self
        yield from self.block.run(entering() if data is not None else None, rank, world_size)
        self.block.exclusion_writer = None  # datatrove writes its pipelines down as JSON, which knows no circles


def merged(folder: Path) -> list[dict]:
    """The steps in order, summed over the tasks: name, in, out, reasons, examples."""
    steps: dict[str, dict] = {}
    for path in sorted(folder.glob("*/*.json")):
        order = f"{path.parent.name}/{path.stem.partition('-')[2]}"
        noted = json.loads(path.read_text(encoding="utf-8"))
        into = steps.setdefault(order, {"name": noted["name"], "in": {}, "out": {}, "reasons": {}, "examples": {}})
        for key in ("in", "out", "reasons"):
            into[key] = dict(collections.Counter(into[key]) + collections.Counter(noted[key]))
        for reason, examples in noted["examples"].items():
            into["examples"][reason] = (into["examples"].get(reason, []) + examples)[:EXAMPLES]
    return [steps[order] for order in sorted(steps)]
