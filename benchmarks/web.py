"""Crawl to clean documents: CPU time and decisions, ours and bare datatrove, on the same WARC file.

    python -m benchmarks.web --input=X.warc.gz [--rounds=3] [--json]

Both sides have the same language model and take turns, each in a process; theirs extracts with trafilatura and cuts
words with spaCy. The URL lists are loaded by both, and their loading counts for neither. Both end with the documents'
signatures: what follows is datatrove's own on both sides. Decisions are compared given our texts, too.
"""

import json
import multiprocessing
import os
import tempfile
from pathlib import Path

from absl import flags

from benchmarks.common import shown, spread
from llm_jax.frame.cli import complain, run_cli

SIDES = ("ours", "datatrove")
APART = "datatrove on our texts"


def define_flags() -> None:
    flags.DEFINE_string("input", None, "WARC file.", required=True)
    flags.DEFINE_integer("rounds", 3, "Pairs of measurements.", 1)
    flags.DEFINE_bool("json", False, "Print one JSON object, too.")


def ours(path: str, work: Path):
    from data_pipelines.web import recipe, urls

    urls.Urls().download_data(), urls.mapped("domains"), urls.mapped("urls")
    return recipe.clean(recipe.Recipe((path,)), work)


def theirs(path: str, work: Path):
    import datatrove.pipeline.filters as filters
    import tldextract
    from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupSignature
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.readers import WarcReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils import hashing

    from data_pipelines.web.filters import Language

    url_filter = filters.URLFilter()
    url_filter.tldextractor = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    url_filter.download_data()
    language = Language("en", 0.65)
    return [
        WarcReader(os.path.dirname(path), glob_pattern=os.path.basename(path)),
        url_filter,
        Trafilatura(favour_precision=True),
        filters.LambdaFilter(lambda doc: language.filter(doc) is True),
        filters.GopherRepetitionFilter(),
        filters.GopherQualityFilter(),
        filters.C4QualityFilter(filter_no_terminal_punct=False),
        filters.FineWebQualityFilter(),
        JsonlWriter(f"{work}/clean"),
        # sha1: with xxhash 4 this datatrove does not work.
        MinhashDedupSignature(f"{work}/signatures", MinhashConfig(hash_config=hashing.HashConfig(hash_fc="sha1"))),
    ]


def theirs_on_our_texts(path: str, work: Path):
    """For the decisions alone: how much of the difference is the extractor's."""
    from data_pipelines.web.extract import Extract
    from data_pipelines.web.pages import Pages

    steps = theirs(path, work)
    steps[0], steps[2] = Pages([path]), Extract()
    return steps


PIPELINES = {"ours": ours, "datatrove": theirs, APART: theirs_on_our_texts}


def worker(side: str, path: str, pipe) -> None:
    """Runs the pipeline whenever it is told -> (CPU seconds with those of its children, ids of what is left)."""
    import gzip

    from data_pipelines.web.words import register

    register()
    while pipe.recv():
        with tempfile.TemporaryDirectory() as folder:
            steps, data = PIPELINES[side](path, Path(folder)), None
            before = os.times()
            for step in steps:
                data = step.run(data, 0, 1)
            for _ in data or ():
                pass
            after = os.times()
            kept = gzip.decompress(next(Path(folder, "clean").iterdir()).read_bytes()).decode()
            pipe.send((sum(after[:4]) - sum(before[:4]), [json.loads(line)["id"] for line in kept.splitlines()]))


def main() -> None:
    f = flags.FLAGS
    try:
        import cchardet  # noqa: F401
        import magic  # noqa: F401
        import orjson  # noqa: F401
        import spacy  # noqa: F401
        import trafilatura  # noqa: F401
    except ImportError as error:
        needs = "pip install spacy 'trafilatura<1.12' lxml_html_clean faust-cchardet python-magic orjson"
        raise SystemExit(complain(f"the peer is not complete ({error}); try: {needs}", 2)) from error
    from data_pipelines.web.pages import Pages

    path, context = os.path.abspath(f.input), multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    everything = {doc.id for doc in Pages([path]).run()}
    for side in PIPELINES:
        pipes[side], far = context.Pipe()
        processes.append(context.Process(target=worker, args=(side, path, far)))
        processes[-1].start()  # no daemon: those may have no children
        far.close()  # so that a worker that dies is an end of file here, not a wait for ever

    def measured(side: str) -> float:
        pipes[side].send(True)
        try:
            seconds, ids = pipes[side].recv()
        except EOFError as error:
            for process in processes:
                process.kill()
            raise SystemExit(complain(f"the process of {side} died; see above", 1)) from error
        kept[side] = set(ids)
        return len(everything) / seconds

    rates, kept = {side: [] for side in SIDES}, {}
    print("round   ours documents/CPU s  datatrove   ours / datatrove")
    for i in range(f.rounds):
        a, b = (measured(side) for side in SIDES)
        rates["ours"].append(a)
        rates["datatrove"].append(b)
        print(f"{i + 1:5}   {a:20.0f}  {b:9.0f}   {a / b:16.2f}", flush=True)
    measured(APART)
    for pipe in pipes.values():
        pipe.send(False)
    ratio = spread([a / b for a, b in zip(*(rates[side] for side in SIDES), strict=True)])
    same = {
        side: sum((id_ in kept["ours"]) == (id_ in kept[side]) for id_ in everything) for side in ("datatrove", APART)
    }
    print(f"\nmedian ratio: {shown(ratio)}; above 1, ours is faster")
    print(f"kept by ours {len(kept['ours'])} of {len(everything)} pages")
    for side, count in same.items():
        print(f"{side} kept {len(kept[side])}; the same decision on {count}, {count / len(everything):.1%}")
    if f.json:
        print(json.dumps({"rates": rates, "ratio": ratio, "same": same, "pages": len(everything)}))


if __name__ == "__main__":
    run_cli(main, define_flags)
