"""Crawl -> clean documents: python -m data_pipelines.web --input='crawl/*.warc.gz' --output=DIR

Reads WARC, WET, HTML, text, jsonl and parquet files. DIR gets documents/*.jsonl.gz (or .parquet), and funnel.html and
funnel.json: what entered and left each step, with examples. The same command continues after a crash.
`--executor=slurm` and `ray` spread the tasks over a cluster with a shared file system.
"""

import dataclasses
import json
import sys
from pathlib import Path

from absl import flags

from data_pipelines.documents import matching, write_whole
from data_pipelines.web import executors, report
from data_pipelines.web.funnel import merged
from data_pipelines.web.languages import LANGUAGES, known
from data_pipelines.web.pages import SUFFIXES
from data_pipelines.web.quality import Model
from data_pipelines.web.recipe import BrokenStep, Recipe
from data_pipelines.web.shards import FORMATS
from llm_jax.config import UserError
from llm_jax.frame.cli import complain, run_cli


def define_flags() -> None:
    flags.DEFINE_string("input", None, f"Glob of files: {' '.join(SUFFIXES)}.", required=True)
    flags.DEFINE_string("output", None, "Folder for the documents and the funnel.", required=True)
    flags.DEFINE_string("language", "en", f"The language to keep: {', '.join(LANGUAGES)}.")
    flags.DEFINE_float("language_score", 0.65, "Least probability of that language.", 0, 1)
    flags.DEFINE_list("blocked_hosts", [], "Domains to leave out, beside datatrove's own lists.")
    flags.DEFINE_string("quality_model", "", "A model of data_pipelines.web.quality, whose score is noted.")
    flags.DEFINE_float("least_quality", 0.0, "Drop documents of a lower score.", 0, 1)
    flags.DEFINE_integer("shards", 0, "Tasks, and files of the output; 0: one for each file of the input.", 0)
    flags.DEFINE_enum("format", "jsonl", list(FORMATS), "Of the documents: jsonl.gz, or parquet.")
    flags.DEFINE_integer("workers", 0, "Tasks at a time; 0: one for each core.", 0)
    flags.DEFINE_enum("executor", "local", ["local", "slurm", "ray"], "Where the tasks run.")
    flags.DEFINE_string("slurm_partition", "", "Partition of --executor=slurm.")
    flags.DEFINE_string("slurm_time", "08:00:00", "Time limit of a Slurm task.")
    flags.DEFINE_integer("slurm_memory", 4, "GB of memory of a Slurm task.", 1)


def input_files(pattern: str) -> tuple[str, ...]:
    """Raises UserError when nothing matches, or a file is of no kind that can be read."""
    paths = matching(pattern, " ".join(SUFFIXES))
    if unknown := [path for path in paths if not path.name.endswith(SUFFIXES)]:
        raise UserError(f"{unknown[0]} is of no known kind; give files that end in {' '.join(SUFFIXES)}")
    return tuple(str(path.absolute()) for path in paths)


def check_same(recipe: Recipe, work: Path) -> None:
    """A folder holds the documents of one recipe, of files as they were. Raises UserError, naming what differs."""
    path, mine = work / "recipe.json", json.loads(json.dumps(dataclasses.asdict(recipe)))
    sizes = {file: Path(file).stat().st_size for file in recipe.files}
    if not path.exists():
        write_whole(path, json.dumps({**mine, "bytes": sizes}, indent=1))
        return
    theirs = json.loads(path.read_text(encoding="utf-8"))
    if changed := [key for key, value in mine.items() if theirs.get(key) != value]:
        raise UserError(f"{work.parent} was made with another {', '.join(changed)}; give another --output")
    for file, then in theirs["bytes"].items():
        if sizes[file] != then:
            what = f"{file} had {then:,} bytes when {work.parent} was begun, and has {sizes[file]:,} now"
            raise UserError(f"{what}; give another --output, or the old file")


def main() -> None:
    f, output = flags.FLAGS, Path(flags.FLAGS.output).absolute()
    known(f.language)
    if f.least_quality and not f.quality_model:
        raise UserError("--least_quality needs a --quality_model that scores")
    model = f.quality_model and str(Path(f.quality_model).absolute())
    if model:
        Model.load(model)  # says what is wrong with it before any work
    files, hosts = input_files(f.input), tuple(f.blocked_hosts)
    recipe = Recipe(files, f.language, f.language_score, hosts, model, f.least_quality, f.shards, f.format)
    work = output / "work"
    check_same(recipe, work)
    run = executors.Run(recipe, work, output)
    try:
        if f.executor == "slurm":
            executors.slurm(run, f.workers, f.slurm_partition, f.slurm_time, f.slurm_memory)
        elif f.executor == "ray":
            executors.ray(run, f.workers)
        else:
            executors.local(run, f.workers or executors.cores())
    except BrokenStep as error:
        sys.exit(complain(f"{error}; what was done is kept, the same command goes on from there", 1))
    if any(run.missing(name, tasks) for name, _, tasks in run.jobs):
        print("submitted; run the same command again when the jobs have ended, for the funnel")
        return
    steps = merged(work / "funnel")
    report.write(output, steps)
    for broken in steps[0]["examples"].get("broken_file", []):
        print(f"broken file, read as far as it goes: {broken['where']}: {broken['text']}")
    print(report.table(steps))
    print(f"documents: {output}/documents; what was dropped and why: {output}/funnel.html")


if __name__ == "__main__":
    run_cli(main, define_flags)
