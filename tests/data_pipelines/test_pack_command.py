"""`python -m data_pipelines.pack`: all kinds of files, refusals, and real kills."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import pack
from llm_jax import rows
from llm_jax.config import UserError
from llm_jax.tokenizer.sentencepiece import train_tokenizer
from llm_jax.training import loader
from tests.commands import DEADLINE, ENVIRONMENT, ROOT, refused, run, until

WORDS = "the cat sat on a mat and 12 dogs are there how many".split()


def text_of(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "a.model"
    tokenizer.save(path)
    return path


def command(folder: Path, output: str, model: Path, *more: str) -> list[str]:
    options = (f"--tokenizer={model}", f"--output={folder / output}", *more)
    return ["data_pipelines.pack", f"--input={folder}/in/*", "--sequence_length=64", *options]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Files of every kind, with the awkward documents."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    import pyarrow

    inside, rng = tmp_path / "in", random.Random(0)
    inside.mkdir()
    (inside / "empty.txt").touch()
    (inside / "a.txt").write_text("A text of \u2581 its own.\n" * 3)
    awkward = [
        '{"text": "a lone \\ud800 surrogate"}',
        '{"text": "", "source": "web/x"}',
        "",
        '{"text": "\u2581\u2028"}',
    ]
    (inside / "awkward.jsonl").write_text("\n".join(awkward))
    documents = [{"text": text_of(rng, 40), "source": "web", "id": n} for n in range(100)]
    (inside / "web-00001-of-00002.jsonl.gz").write_bytes(gzip.compress(lines(documents[:60] + documents[:1]).encode()))
    parquet.write_table(pyarrow.Table.from_pylist(documents[60:]), inside / "web.parquet")
    talks = [[{"role": "user", "content": text_of(rng, 5)}, {"role": "assistant", "content": "12"}] for _ in range(50)]
    (inside / "talks.jsonl").write_text(lines({"messages": m, "id": "x"} for m in talks))
    (inside / "nothing.jsonl").touch()
    return tmp_path


def lines(records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_files_of_all_kinds_become_rows_of_their_sources(folder, model, tokenizer):
    result = run(*command(folder, "out", model, "--packing=best_fit"))
    assert result.returncode == 0, result.stderr[-2000:]
    count = lambda name: rows.facts(*rows.row_sets(folder / "out" / name)).get("documents", 0)  # noqa: E731
    assert count("pretrain") + count("validation") == 2 + 3 + 101 and count("validation") > 0
    assert count("sft") + count("sft_validation") == 50 and count("sft_validation") > 0
    assert "156 documents read, 2 of them again" in result.stdout  # a copy, and the second of two empty ones
    assert {p.name for p in (folder / "out/sft").iterdir()} == {"talks"}
    assert {p.name for p in (folder / "out/pretrain").iterdir()} <= {"text", "awkward", "web", "web_x"}
    row = loader.read_all(folder / "out/sft/talks")[0]
    said = tokenizer.encode("12")
    first = row["segment_ids"] == 1
    assert row["tokens"][first & (row["loss_mask"] > 0)].tolist() == [*said, tokenizer.end]
    before = tree(folder / "out")
    again = run(*command(folder, "out", model, "--packing=best_fit"))
    assert again.returncode == 0 and "156 documents read" in again.stdout and tree(folder / "out") == before


def test_other_rows_in_the_folder_are_refused(folder, model, tmp_path):
    assert run(*command(folder, "out", model)).returncode == 0
    before = tree(folder / "out")
    longer = command(folder, "out", model, "--sequence_length=65")
    refused(run(*longer), "sequence_length: 64 -> 65", "--output")
    refused(run(*command(folder, "out", model, "--packing=best_fit")), "packing: back_to_back -> best_fit")
    other = tmp_path / "other.model"
    train_tokenizer(["another text " * 100], 310).save(other)
    refused(run(*command(folder, "out", other)), "tokenizer: ")
    (folder / "in/more.txt").write_text("more")
    refused(run(*command(folder, "out", model)), "more.txt: absent -> 4 bytes")
    assert tree(folder / "out") == before
    (folder / "mine/pretrain").mkdir(parents=True)
    refused(run(*command(folder, "mine", model)), "mine/pretrain is there already")


def test_mistakes_are_one_line(tmp_path, model):
    refused(run(*command(tmp_path, "out", model)), "no file matches")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_text('{"text": "fine"}\n{"messages": [{"role": "cat", "content": "miaow"}]}\n')
    refused(run(*command(tmp_path, "out", model)), "a.jsonl line 2: messages[0].role: 'cat'")
    (tmp_path / "in/a.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "\xff"}\n')
    refused(run(*command(tmp_path, "out", model)), "a.jsonl line 2: not valid UTF-8 (byte 10)")
    (tmp_path / "in/a.jsonl").write_text("\n")
    refused(run(*command(tmp_path, "out3", model)), "hold no document")
    refused(run(*command(tmp_path, "out3", tmp_path / "in/a.jsonl")), "is no SentencePiece model")
    refused(run(*command(tmp_path, "out3", tmp_path / "nothing")), "no tokenizer at")
    refused(run(*command(tmp_path, "out3", model, "--sequence_length=7")), "sequence_length", "8")
    (tmp_path / "file").touch()
    refused(run(*command(tmp_path, "file", model)), "is a file")
    assert not list(tmp_path.glob("out3/*"))


def test_short_rows_are_fine(tmp_path, model):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("the cat sat on the mat")
    assert run(*command(tmp_path, "out", model, "--sequence_length=8")).returncode == 0


def test_what_was_read_must_be_in_the_rows(tmp_path, tokenizer, model, capsys):
    (tmp_path / "a.txt").write_text("the cat sat on the mat")
    work = tmp_path / "work"
    pack.pack_task([tmp_path / "a.txt"], 0, work, str(model), 16, "back_to_back")
    assert pack.compared(work, 1)["documents"] == 1
    read = np.load(work / "00000.npy")
    for changed in (np.append(read, read), read + np.uint64(1)):
        np.save(work / "00000.npy", changed)
        with pytest.raises(SystemExit) as stopped:
            pack.compared(work, 1)
        assert stopped.value.code == 1 and "1 packed" in capsys.readouterr().err
    np.save(work / "00000.npy", read[:0])
    with pytest.raises(UserError, match="no document"):
        pack.compared(work, 1)


@pytest.fixture(scope="module")
def several(tmp_path_factory, model) -> Path:
    """Four tasks, and what an undisturbed worker makes of them."""
    folder, rng = tmp_path_factory.mktemp("several"), random.Random(0)
    (folder / "in").mkdir()
    texts = [text_of(rng, 60) for _ in range(500)]
    for name in "abcd":
        size, documents = 0, []
        while size <= pack.TASK_BYTES / 2:
            documents.append({"text": f"{name} {len(documents)} {rng.choice(texts)}", "source": rng.choice("xyz")})
            size += len(documents[-1]["text"])
        (folder / f"in/{name}.jsonl").write_text(lines(documents))
    result = run(*command(folder, "whole", model))
    assert result.returncode == 0 and "task 4 of 4 done" in result.stdout, result.stderr[-2000:]
    return folder


class Group:
    """The command in a process group of its own, and what is in it."""

    def __init__(self, folder: Path, output: str, model: Path):
        line = [sys.executable, "-m", *command(folder, output, model, "--workers=2")]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.main = subprocess.Popen(line, cwd=ROOT, env=ENVIRONMENT, start_new_session=True, **pipes)

    def others(self) -> dict[int, int]:
        """{process: its parent} of those that are not the main process."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, parent, group = path.read_text().rpartition(")")[2].split()[:3]
            except OSError:  # it has ended
                continue
            if int(group) == self.main.pid != int(path.parent.name) and state != "Z":
                found[int(path.parent.name)] = int(parent)
        return found

    def workers(self) -> list[int]:
        """The server that forks them is a child of the main process; they are its children."""
        others = self.others()
        return [process for process, parent in others.items() if parent in others]

    def wait_until(self, condition) -> bool:
        """Whether it is met before the main process ends."""
        until(lambda: condition() or self.main.poll() is not None, pause=0.005)
        return self.main.poll() is None

    def wait_until_gone(self) -> None:
        """The server that forks workers lives a moment longer than the main process."""
        until(lambda: not self.others())


def kill(several: Path, output: str, model: Path, rng: random.Random) -> None:
    """One run, killed after a random number of files have appeared: all of it, its main process, or a worker."""
    group = Group(several, output, model)
    before, some = len(tree(several / output)), rng.randint(0, 6)
    started = lambda: group.workers() and len(tree(several / output)) >= min(before + some, 30)  # noqa: E731
    if not group.wait_until(started):
        assert group.main.wait(timeout=DEADLINE) == 0
        return
    what = rng.choice(("all", "main", "worker", "worker"))
    if what == "worker" and (workers := group.workers()):
        os.kill(rng.choice(workers), signal.SIGKILL)
        _, error = group.main.communicate(timeout=DEADLINE)
        assert group.main.returncode in (0, 1)  # 0: it was done already
        assert group.main.returncode == 0 or ("was killed" in error and "Traceback" not in error), error
    elif what == "main":
        group.main.kill()
    else:
        os.killpg(group.main.pid, signal.SIGKILL)
    group.main.communicate(timeout=DEADLINE)
    group.wait_until_gone()  # nobody goes on writing


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_any_time_and_run_again_gives_the_same_bytes(several, model, kills):
    rng, output = random.Random(kills), f"killed{kills}"
    for _ in range(kills):
        kill(several, output, model, rng)
        for name in pack.SETS:  # rows that are there are whole
            assert tree(several / output / name) in ({}, tree(several / "whole" / name))
    result = run(*command(several, output, model, "--workers=2"))
    assert result.returncode == 0, result.stderr[-2000:]
    assert tree(several / output) == tree(several / "whole")


def test_a_task_without_its_marker_is_done_again(several, model):
    group, work = Group(several, "unmarked", model), several / "unmarked/unfinished"
    assert group.wait_until(lambda: list(work.glob("*.npy")))
    os.killpg(group.main.pid, signal.SIGKILL)
    group.main.communicate(timeout=DEADLINE)
    (marker := min(work.glob("*.npy"))).unlink()
    for shard in work.glob(f"*/*/{marker.stem}.array_record"):
        shard.write_bytes(b"half")
    result = run(*command(several, "unmarked", model))
    assert result.returncode == 0, result.stderr[-2000:]
    assert tree(several / "unmarked") == tree(several / "whole")


def test_a_killed_worker_ends_the_run_with_a_line(several, model):
    group = Group(several, "worker", model)
    assert group.wait_until(group.workers)
    os.kill(group.workers()[0], signal.SIGKILL)
    _, error = group.main.communicate(timeout=DEADLINE)
    assert group.main.returncode == 1
    group.wait_until_gone()
    assert error.count("error: ") == 1 and "was killed (-9)" in error and "Traceback" not in error


def test_workers_do_not_outlive_the_command(several, model):
    group = Group(several, "orphans", model)
    assert group.wait_until(group.workers)
    for worker in (workers := group.workers()):
        os.kill(worker, signal.SIGSTOP)  # just begun, with all of their work to do
    group.main.kill()
    group.main.wait(timeout=DEADLINE)
    for worker in workers:
        os.kill(worker, signal.SIGCONT)
    group.wait_until_gone()
    assert not list((several / "orphans/unfinished").glob("*.npy"))


@pytest.mark.slow
def test_a_document_of_50_megabytes(tmp_path, model):
    (tmp_path / "in").mkdir()
    rng = random.Random(0)
    texts = [text_of(rng, 1000) for _ in range(100)]
    with (tmp_path / "in/a.txt").open("w") as file:
        while file.tell() < 50_000_000:
            file.write(rng.choice(texts))
    result = run(*command(tmp_path, "out", model))
    assert result.returncode == 0 and "1 documents read" in result.stdout, result.stderr[-2000:]
