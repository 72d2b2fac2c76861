"""Tokenize, pack and load: each beside what it stands on, as ratios of one run.

    python -m benchmarks.pack [--input='texts/*.txt'] [--sequence_length=2048] [--rounds=5] [--workers_megabytes=64]

Without --input the text is the tiny web's. In each round SentencePiece's own `encode`, our tokenizing, both packings
and the loader take turns in one process; CPU seconds are of all its threads. At the end the real command packs so many
megabytes of the text with one worker and with two.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sentencepiece
from absl import flags

from benchmarks.common import shown, spread
from data_pipelines.documents import read_documents
from data_pipelines.packing import ENCODE_CHARACTERS, PACKINGS, by_size, pack_records
from data_pipelines.tiny_web.pages import world_pages
from data_pipelines.tiny_web.world import make_world
from llm_jax.frame.cli import run_cli
from llm_jax.rows import row_sets
from llm_jax.tokenizer import Tokenizer
from llm_jax.tokenizer.sentencepiece import train_tokenizer
from llm_jax.training import loader

FILES = 4  # that the workers share


def define_flags() -> None:
    flags.DEFINE_string("input", None, "Glob of documents.")
    flags.DEFINE_integer("sequence_length", 2048, "Tokens in a row.", 8)
    flags.DEFINE_integer("vocab_size", 4096, "Pieces of the tokenizer, which is trained on a part of the text.", 300)
    flags.DEFINE_integer("rounds", 5, "Measurements of each.", 1)
    flags.DEFINE_integer("workers_megabytes", 64, "Text for one worker and for two; 0: leave that out.", 0)


def documents_of(pattern: str | None) -> list[dict]:
    """{text, source, split, size}"""
    if pattern:
        texts = [d["text"] for d in read_documents(pattern)]
    else:
        texts = [page.text for page in world_pages(make_world(0), 0, 2000)]
    return [{"text": text, "source": "text", "split": "train", "size": len(text)} for text in texts]


def cpu_seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def tokenize(tokenizer: Tokenizer, documents: list[dict]) -> None:
    for part in by_size(documents, ENCODE_CHARACTERS):
        tokenizer.encode_batch([d["text"] for d in part], threads=1)


def loaded_tokens_per_second(folder: Path, length: int, tokens: int = 20_000_000) -> float:
    """Of the wall, on one process, after the first batch."""
    batch = max(1, 2**15 // length)
    stream = loader.batches(loader.mixture(folder), batch, 0, 0)
    next(stream)
    steps = -(-tokens // (batch * length))
    started = time.perf_counter()
    for made in itertools.islice(stream, steps):
        loader.targets(made)
    return steps * batch * length / (time.perf_counter() - started)


def pack_seconds(folder: Path, output: str, length: int, workers: int) -> float:
    """Of the wall, of the real command."""
    command = [sys.executable, "-m", "data_pipelines.pack", f"--input={folder}/*.jsonl"]
    command += [f"--tokenizer={folder}/tokenizer.model", f"--output={folder}/{output}"]
    command += [f"--sequence_length={length}", f"--workers={workers}"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def write_files(folder: Path, documents: list[dict], megabytes: int) -> None:
    """The documents, again and again, in files of equal size."""
    endless = itertools.cycle(documents)
    for number in range(FILES):
        with (folder / f"{number}.jsonl").open("w") as file:
            while file.tell() < megabytes * 1e6 / FILES:
                file.write(json.dumps({"text": next(endless)["text"]}) + "\n")


def main() -> None:
    f = flags.FLAGS
    documents = documents_of(f.input)
    texts, length = [d["text"] for d in documents], f.sequence_length
    tokenizer = train_tokenizer(texts[:: max(1, len(texts) // 300)], f.vocab_size)
    bare = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_bytes)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} documents, {megabytes:.1f} MB, {tokenizer.vocab_size} pieces, rows of {length}")
    ratios, added, speeds = [], {packing: [] for packing in PACKINGS}, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("round   bare MB/CPU s   ours   ours / bare   back_to_back adds   best_fit adds   loader M tokens/s")
        for i in range(f.rounds):
            theirs = cpu_seconds(lambda: [bare.encode(text) for text in texts])
            ours = cpu_seconds(lambda: tokenize(tokenizer, documents))
            ratios.append(theirs / ours)
            for packing in PACKINGS:
                args = (folder / packing, documents, tokenizer, length, packing)
                added[packing].append(cpu_seconds(lambda args=args: pack_records(*args)) / ours - 1)
            speeds.append(loaded_tokens_per_second(folder / "back_to_back/pretrain", length) / 1e6)
            line = f"{i + 1:5}   {megabytes / theirs:13.2f}  {megabytes / ours:5.2f}   {ratios[-1]:11.2f}"
            line += "".join(
                f"   {added[packing][-1]:{width}.1%}" for packing, width in zip(PACKINGS, (17, 13), strict=True)
            )
            print(f"{line}   {speeds[-1]:17.1f}", flush=True)
        sizes = {p: sum(x.stat().st_size for x in row_sets(folder / p / "pretrain")[0].iterdir()) for p in PACKINGS}
        print(f"\ntokenizing, ours / bare: {shown(spread(ratios))}; above 1, ours is faster")
        for packing in PACKINGS:
            share = f"{shown(spread(added[packing]), 3)} of tokenizing's CPU time"
            print(f"{packing} adds {share}; its rows take {sizes[packing] / 1e6 / megabytes:.2f} bytes a byte of text")
        print(f"the loader's M tokens a second: {shown(spread(speeds), 1)}")
        if f.workers_megabytes:
            write_files(folder, documents, f.workers_megabytes)
            tokenizer.save(folder / "tokenizer.model")
            pairs = [[pack_seconds(folder, f"out{n}{i}", length, n) for n in (1, 2)] for i in range(2)]
            speedups = ", ".join(f"{one / two:.2f} ({one:.1f} s, {two:.1f} s)" for one, two in pairs)
            print(f"two workers / one, on {os.cpu_count()} cores: {speedups}")


if __name__ == "__main__":
    run_cli(main, define_flags)
