"""The steps from a crawl to documents, as four datatrove jobs: clean, find duplicates in bands, join them, write.

WORK/ keeps what the jobs hand on, and datatrove's record of finished tasks: the same command continues after a kill.
"""

import collections
import dataclasses
from pathlib import Path

from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster
from datatrove.pipeline.filters import FineWebQualityFilter

from data_pipelines.web import filters
from data_pipelines.web.dedup import CONFIG, Signature, Unique
from data_pipelines.web.extract import Extract
from data_pipelines.web.funnel import Tally
from data_pipelines.web.languages import LANGUAGES
from data_pipelines.web.pages import Pages
from data_pipelines.web.pii import Mask
from data_pipelines.web.quality import Quality
from data_pipelines.web.shards import Documents, Shard
from data_pipelines.web.urls import Urls
from data_pipelines.web.words import name_of

SIGNATURES = 1000  # of a task that are read at a time


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
    format: str = "jsonl"

    @property
    def tasks(self) -> int:
        return self.shards or len(self.files)

    @property
    def parts(self) -> int:
        """Tasks that share a file of the input."""
        return -(-self.tasks // len(self.files))


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


def tallied(stage: str, work: Path, language: str, blocks: list[tuple[str, PipelineStep]]) -> list[Tally]:
    path = f"{work}/funnel/{stage}/{{rank:05}}-{{number:02}}.json"
    return [
        Tally(block, name, path.replace("{number:02}", f"{number:02}"), language)
        for number, (name, block) in enumerate(blocks)
    ]


def clean(recipe: Recipe, work: Path) -> list[PipelineStep]:
    pages, language = Pages(list(recipe.files), parts=recipe.parts), recipe.language
    short = LANGUAGES[language].short_line
    scored = [("quality", Quality(recipe.quality_model, recipe.least_quality))] if recipe.quality_model else []
    steps = tallied(
        "1_clean",
        work,
        language,
        [
            ("read", pages),
            ("url", Urls(recipe.blocked_hosts)),
            ("extract", Extract()),
            ("language", filters.Language(language, recipe.language_score)),
            ("gopher_repetition", filters.Repetition(language)),
            ("gopher_quality", filters.Quality(language)),
            ("c4", filters.C4(language)),
            ("fineweb", FineWebQualityFilter(short_line_length=short, language=name_of(language))),
            *scored,
        ],
    )
    pages.dropped = steps[0].write
    return [*steps, Shard(f"{work}/clean"), Named(Signature(f"{work}/signatures", language), pages)]


def finish(recipe: Recipe, work: Path, output: Path) -> list[PipelineStep]:
    shards = [f"{work}/clean/{rank:05}.jsonl.gz" for rank in range(recipe.tasks)]
    pages = Pages(shards)
    steps = tallied(
        "4_finish",
        work,
        recipe.language,
        [("near_duplicate", Unique(f"{work}/remove", f"{work}/pairs")), ("pii", Mask())],
    )
    return [pages, *steps, Named(Documents(f"{output}/documents", recipe.format), pages)]


def jobs(recipe: Recipe, work: Path, output: Path) -> list[tuple[str, list[PipelineStep], int]]:
    """(name, pipeline, tasks), each to begin when the one before has ended."""
    signatures, pairs, remove = (f"{work}/{name}" for name in ("signatures", "pairs", "remove"))
    buckets = MinhashDedupBuckets(signatures, pairs, config=CONFIG, lines_to_buffer=SIGNATURES)
    return [
        ("1_clean", clean(recipe, work), recipe.tasks),
        ("2_pairs", [buckets], CONFIG.num_buckets),
        ("3_clusters", [MinhashDedupCluster(pairs, remove, config=CONFIG)], 1),
        ("4_finish", finish(recipe, work, output), recipe.tasks),
    ]
