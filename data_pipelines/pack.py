"""Tokenize and pack documents and conversations into fixed-length rows, in parallel and restartable.

python -m data_pipelines.pack --input='texts/*.jsonl' --tokenizer=FILE --output=DIR --sequence_length=256 [--workers=N]

Documents go to DIR/pretrain/SOURCE, one in twenty by its hash to DIR/validation/SOURCE, records with `messages` to
DIR/sft/SOURCE and DIR/sft_validation/SOURCE. A task is a file, or several small ones, and makes one shard of each of
these. All of it lies in DIR/unfinished until every task is done and what is in the rows was compared with what was
read: the same command goes on where a killed one was, and makes the same bytes.
"""

import functools
import json
import multiprocessing
import shutil
import sys
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
from absl import flags

from data_pipelines.chats import messages_of
from data_pipelines.documents import (
    KINDS,
    Invalid,
    check_sources,
    document_of,
    few_sources,
    files_of,
    named_split,
    read_records,
    source_of,
    with_split,
    write_whole,
)
from data_pipelines.packing import PACKINGS, pack_records
from data_pipelines.processes import end_with_parent
from llm_jax import rows
from llm_jax.config import UserError, differences
from llm_jax.frame.cli import complain, run_cli
from llm_jax.tokenizer import Tokenizer

SETS = ("pretrain", "validation", "sft", "sft_validation")
TASK_BYTES = 4_000_000  # small files share a task up to this size
DONE = "packed.json"


def define_flags() -> None:
    flags.DEFINE_string("input", None, f"Glob of {KINDS} files.", required=True)
    flags.DEFINE_string("tokenizer", None, "SentencePiece model.", required=True)
    flags.DEFINE_string("output", None, "Folder to hold pretrain/, validation/ and so on.", required=True)
    flags.DEFINE_enum("packing", "back_to_back", PACKINGS, "How documents fill rows.")
    flags.DEFINE_integer("sequence_length", 256, "Tokens in a row.", lower_bound=8)
    flags.DEFINE_integer("workers", 1, "Processes.", lower_bound=1)


def main() -> None:
    f, output = flags.FLAGS, Path(flags.FLAGS.output)
    paths = files_of(f.input)
    tokenizer = Tokenizer.load(f.tokenizer)
    wanted = what_rows_depend_on(f, tokenizer, paths)
    work = claim(output, wanted)
    if not (output / DONE).exists():
        if not (work / DONE).exists():
            tasks = in_tasks(paths)
            run_tasks(tasks, work, f)
            write_whole(work / DONE, json.dumps({"of": wanted, **compared(work, len(tasks))}, indent=1))
        publish(work, output)
    shutil.rmtree(work, ignore_errors=True)
    for name in SETS:
        for folder in rows.row_sets(output / name):
            print(f"{name}/{folder.name}: {described(rows.facts(folder))}")
    noted = json.loads((output / DONE).read_text(encoding="utf-8"))
    print(f"{noted['documents']:,} documents read, {noted['duplicates']:,} of them again; each is in the rows")


def what_rows_depend_on(f, tokenizer: Tokenizer, paths: list[Path]) -> dict:
    files = {f"input {path}": f"{path.stat().st_size} bytes" for path in paths}
    return {
        "tokenizer": tokenizer.sha256[:12],
        "sequence_length": f.sequence_length,
        "packing": f.packing,
        **files,
    }


def claim(output: Path, wanted: dict) -> Path:
    """The folder to work in. Raises UserError when the output holds other rows."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output={output} is a file; name a folder")
    work = output / "unfinished"
    for path in (output / DONE, work / "of.json"):
        if path.exists():
            noted = json.loads(path.read_text(encoding="utf-8"))
            if path.parent == work and not any(work.glob("*.npy")):
                break  # it was refused before anything was done
            if changed := differences(noted.get("of", noted), wanted):
                more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
                raise UserError(
                    f"{output} holds rows made otherwise: {'; '.join(changed[:3])}{more}. "
                    "Use another --output, or the old values"
                )
            return work
    shutil.rmtree(work, ignore_errors=True)
    if found := [name for name in SETS if (output / name).exists()]:
        raise UserError(f"{output}/{found[0]} is there already, and not by this command; use another --output")
    write_whole(work / "of.json", json.dumps(wanted, indent=1))
    return work


def in_tasks(paths: list[Path]) -> list[list[Path]]:
    """Files in order; small ones share a task."""
    tasks, size = [], TASK_BYTES
    for path in paths:
        if size + path.stat().st_size > TASK_BYTES:
            tasks.append([])
            size = 0
        tasks[-1].append(path)
        size += path.stat().st_size
    return tasks


def run_tasks(tasks: list[list[Path]], work: Path, f) -> None:
    """Each unfinished task in a process of its own, `workers` at a time. Exits when one fails."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_pipelines.packing"])
    left = [number for number in range(len(tasks)) if not marker(work, number).exists()]
    if len(left) < len(tasks):
        print(f"{len(tasks) - len(left)} of {len(tasks)} tasks were done before", flush=True)
    running = {}
    try:
        while left or running:
            while left and len(running) < f.workers:
                number = left.pop(0)
                args = (tasks[number], number, work, f.tokenizer, f.sequence_length, f.packing)
                process = context.Process(target=run_task, args=args)
                process.start()
                running[process.sentinel] = process, number
            for sentinel in wait(list(running)):
                process, number = running.pop(sentinel)
                process.join()
                if process.exitcode:
                    stop(process.exitcode, tasks[number])
                check_sources({folder.name: None for name in SETS for folder in rows.row_sets(work / name)})
                print(f"task {number + 1} of {len(tasks)} done: {tasks[number][-1]}", flush=True)
    finally:
        for process, _ in running.values():
            process.kill()
            process.join()


def stop(exitcode: int, paths: list[Path]) -> None:
    """Exits as a worker did, which has said why; if it was killed, says so."""
    if exitcode in (1, 2):
        sys.exit(exitcode)
    sys.exit(complain(f"the worker on {paths[0]} was killed ({exitcode}); the same command goes on from there", 1))


def run_task(*args) -> None:
    """In a process of its own, which ends with the one that started it."""
    end_with_parent()
    run_cli(functools.partial(pack_task, *args), define_flags)


def pack_task(paths: list[Path], number: int, work: Path, tokenizer: str, length: int, packing: str) -> None:
    records = (with_split(record_of(path, *found)) for path in paths for found in read_records(path))
    keys = pack_records(work, few_sources(records), Tokenizer.load(tokenizer), length, packing, number)
    path, partial = marker(work, number), work / f"{number:05d}.partial"
    with partial.open("wb") as file:
        np.save(file, np.array(keys, np.uint64))
    partial.replace(path)


def marker(work: Path, number: int) -> Path:
    """A task is done when this is there; it has the hashes of the documents that the task has read."""
    return work / f"{number:05d}.npy"


def record_of(path: Path, where: str, record: object) -> dict:
    """A document, or a conversation in our form. Raises UserError naming file, line and field."""
    has = lambda name: isinstance(record, dict) and record.get(name) is not None  # noqa: E731
    if has("text") or not (has("messages") or has("conversations")):
        return document_of(path, where, record)
    try:
        return {"messages": messages_of(record), "source": source_of(path, record), "split": named_split(record)}
    except Invalid as error:
        raise UserError(f"{where}: {error}") from error


def compared(work: Path, tasks: int) -> dict[str, int]:
    """Counts of what was read. Exits when it is not what is in the rows."""
    keys = np.concatenate([np.load(marker(work, number)) for number in range(tasks)])
    if not len(keys):
        shutil.rmtree(work)
        raise UserError("the files hold no document; give it some text")
    folders = [folder for name in SETS for folder in rows.row_sets(work / name)]
    try:
        for folder in folders:
            for shard in folder.glob("*.array_record"):
                rows.check(shard)
    except RuntimeError as error:
        sys.exit(complain(f"{error}; remove {work}", 1))
    packed, total = rows.facts(*folders), int(np.sum(keys, dtype=np.uint64))
    if (packed["documents"], packed["hash"]) != (len(keys), total):
        what = f"{len(keys):,} documents were read, but {packed['documents']:,} packed"
        sys.exit(complain(f"{what}, or others (hashes {total:x} and {packed['hash']:x}); remove {work}", 1))
    keys.sort()
    return {"documents": len(keys), "duplicates": int(np.count_nonzero(keys[1:] == keys[:-1])), "hash": total}


def publish(work: Path, output: Path) -> None:
    """Moves the whole row sets to their place."""
    for name in SETS:
        if (work / name).exists():
            (work / name).rename(output / name)
    (work / DONE).rename(output / DONE)


def described(facts: dict) -> str:
    out = f"{facts['documents']:,} documents, {facts['tokens']:,} tokens -> {facts['rows']:,} rows, "
    out += f"{facts['padding']:.2%} padding, {facts['pieces_per_document']:.2f} pieces a document"
    for name in ("empty", "truncated", "dropped"):
        if facts[name]:
            out += f", {facts[name]:,} {name}"
    return out


if __name__ == "__main__":
    run_cli(main, define_flags)
