"""The tiny web as a crawl.

python -m data_pipelines.tiny_web --output=X.warc.gz [--pages=N] [--seed=S] [--labels=FILE]
"""

from pathlib import Path

from absl import flags

from data_pipelines.documents import write_jsonl
from data_pipelines.tiny_web.crawl import crawl, write_warc
from llm_jax.config import UserError
from llm_jax.frame.cli import run_cli


def define_flags() -> None:
    flags.DEFINE_string("output", None, "The .warc or .warc.gz to write.", required=True)
    flags.DEFINE_integer("pages", 5000, "Records.", 1)
    flags.DEFINE_integer("seed", 0, "Of everything.")
    flags.DEFINE_string("labels", "", "Where to write what each page is: a JSON line a page.")


def main() -> None:
    f = flags.FLAGS
    if not f.output.endswith((".warc", ".warc.gz")):
        raise UserError(f"--output={f.output} must end in .warc or .warc.gz")
    Path(f.output).absolute().parent.mkdir(parents=True, exist_ok=True)
    partial = Path(f.output).with_name(f"partial-{Path(f.output).name}")
    labels = list(write_warc(str(partial), crawl(f.pages, f.seed)))
    partial.replace(f.output)
    if f.labels:
        write_jsonl(Path(f.labels), labels)
    print(f"{f.output}: {len(labels)} pages")


if __name__ == "__main__":
    run_cli(main, define_flags)
