"""The steps from a crawl to documents, as four datatrove jobs: clean, find duplicates in bands, join them, write.

WORK/ keeps what the jobs hand on, and datatrove's record of finished tasks: the same command continues after a kill.
"""

import collections
import dataclasses
import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter

from data_pipelines.web import filters
from data_pipelines.web.dedup import CONFIG, Signature
from data_pipelines.web.extract import Extract
from data_pipelines.web.funnel import Tally
from data_pipelines.web.pages import Pages
from data_pipelines.web.pii import Mask
from data_pipelines.web.quality import Quality
from data_pipelines.web.urls import Urls
from data_pipelines.web.words import ENGLISH


class BrokenStep(Exception):
    """A step of the pipeline raised; the message names the document."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What the documents depend on."""

    files: tuple[str, ...]
    language: str = "en"
    language_score: float = 0.65
    blocked_hosts: tuple[str, ...] = ()
    quality_model: str = ""  # a file of data_pipelines.web.quality; "" for no score
    least_quality: float = 0.0
    shards: int = 0  # tasks, and files of the output; 0: one for each file of the input

    @property
    def tasks(self) -> int:
        return min(self.shards or len(self.files), len(self.files))


class Shard(PipelineStep):
    """Passes documents on and writes them to FOLDER/RANK.jsonl.gz, which appears when it is whole."""

    name, type = "write", "writer"

    def __init__(self, folder: str, flat: bool = False):
        super().__init__()
        self.folder, self.flat = folder, flat

    def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        path = Path(self.folder) / f"{rank:05}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        # No time and no name in the header: the same documents give the same bytes.
        with partial.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
            for doc in data:
                metadata = {key: value for key, value in doc.metadata.items() if key not in ("_words", "markup")}
                record = {"id": doc.id, "text": doc.text, **({"source": "web"} if self.flat else {}), **metadata}
                file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
                yield doc
        partial.replace(path)


class Named(PipelineStep):
    """The last step: pulls the documents through all others, and says which one broke a step."""

    name, type = "named", "guard"

    def __init__(self, last: PipelineStep, pages: Pages):
        super().__init__()
        self.last, self.pages = last, pages

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> None:
        try:
            collections.deque(self.last.run(data, rank, world_size) or (), maxlen=0)
        except Exception as error:
            raise BrokenStep(f"document {self.pages.current}: {type(error).__name__}: {error}") from error


def tallied(stage: str, work: Path, blocks: list[tuple[str, PipelineStep]]) -> list[Tally]:
    path = f"{work}/funnel/{stage}/{{rank:05}}-{{number:02}}.json"
    return [
        Tally(block, name, path.replace("{number:02}", f"{number:02}")) for number, (name, block) in enumerate(blocks)
    ]


def clean(recipe: Recipe, work: Path) -> list[PipelineStep]:
    pages = Pages(list(recipe.files))
    scored = [("quality", Quality(recipe.quality_model, recipe.least_quality))] if recipe.quality_model else []
    steps = tallied(
        "1_clean",
        work,
        [
            ("read", pages),
            ("url", Urls(recipe.blocked_hosts)),
            ("extract", Extract()),
            ("language", filters.Language(recipe.language, recipe.language_score)),
            ("gopher_repetition", filters.Repetition()),
            ("gopher_quality", filters.Quality()),
            # As FineWeb: without the rule that every line ends a sentence, which alone drops a third of the web.
            ("c4", C4QualityFilter(filter_no_terminal_punct=False, language=ENGLISH)),
            ("fineweb", FineWebQualityFilter(language=ENGLISH)),
            *scored,
        ],
    )
    pages.dropped = steps[0].write
    return [*steps, Shard(f"{work}/clean"), Named(Signature(f"{work}/signatures"), pages)]


def finish(recipe: Recipe, work: Path, output: Path) -> list[PipelineStep]:
    shards = [f"{work}/clean/{rank:05}.jsonl.gz" for rank in range(recipe.tasks)]
    pages = Pages(shards)
    steps = tallied(
        "4_finish",
        work,
        [("near_duplicate", MinhashDedupFilter(f"{work}/remove")), ("pii", Mask())],
    )
    return [pages, *steps, Named(Shard(f"{output}/documents", flat=True), pages)]


def jobs(recipe: Recipe, work: Path, output: Path) -> list[tuple[str, list[PipelineStep], int]]:
    """(name, pipeline, tasks), each to begin when the one before has ended."""
    signatures, pairs, remove = (f"{work}/{name}" for name in ("signatures", "pairs", "remove"))
    return [
        ("1_clean", clean(recipe, work), recipe.tasks),
        ("2_pairs", [MinhashDedupBuckets(signatures, pairs, config=CONFIG)], CONFIG.num_buckets),
        ("3_clusters", [MinhashDedupCluster(pairs, remove, config=CONFIG)], 1),
        ("4_finish", finish(recipe, work, output), recipe.tasks),
    ]


def run(recipe: Recipe, work: Path, output: Path, executor: Callable) -> None:
    """`executor(name, pipeline, tasks, logs, depends)` makes one of datatrove's; the last one runs them all."""
    last = None
    for name, pipeline, tasks in jobs(recipe, work, output):
        last = executor(name, pipeline, tasks, f"{work}/jobs/{name}", last)
    last.run()


def cores() -> int:
    return len(os.sched_getaffinity(0))
