"""Paths as people write them, a folder's one writer, and files that are whole, half or none."""

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llm_jax import files
from llm_jax.config import UserError
from llm_jax.frame.times import Times
from tests.commands import ROOT


@pytest.mark.parametrize("text", ["", "  ", "gs://bucket/run", "s3://a/b", "file:///tmp/x"])
def test_what_is_no_path_of_this_machine_is_refused(text):
    with pytest.raises(UserError, match="--workdir is"):
        files.user_path(text, "--workdir")


def test_home_is_expanded_and_the_rest_left_as_it_is(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert files.user_path("~/runs/a b", "x") == Path("/home/me/runs/a b")
    assert files.user_path("runs/[1] ~x", "x") == Path("runs/[1] ~x")
    with pytest.raises(UserError, match="~nobody-of-that-name"):
        files.user_path("~nobody-of-that-name/x", "x")


@pytest.mark.parametrize("folder", ["plain", "a b", "corpus [v2]", "[ab]", "what?", "st*r"])
def test_a_folder_that_is_there_is_no_pattern(tmp_path, monkeypatch, folder):
    (tmp_path / folder / "deep").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "[c].txt", "deep/d.txt"):
        (tmp_path / folder / name).write_text("")
    named = lambda pattern: [str(path.relative_to(tmp_path)) for path in files.matching(pattern)]  # noqa: E731
    assert named(f"{tmp_path}/{folder}/?.txt") == [f"{folder}/a.txt", f"{folder}/b.txt"]
    assert named(f"{tmp_path}/{folder}/[c].txt") == [f"{folder}/[c].txt"]
    assert len(named(f"{tmp_path}/{folder}/**/*.txt")) == 4
    assert not named(f"{tmp_path}/{folder}") and not named(f"{tmp_path}/none/*")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.matching(f"{folder}/?.txt") == [Path(f"{folder}/a.txt"), Path(f"{folder}/b.txt")]
    assert named(f"~/{folder}/[ab].txt") == [f"{folder}/a.txt", f"{folder}/b.txt"]
    assert files.matching("plai[n]/*.txt") == files.matching("plain/*.txt")


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    files.writable(tmp_path / "new" / "deep")
    for place in ("file", "file/run", "dangling", "dangling/run"):
        with pytest.raises(UserError, match="is no folder; move it away"):
            files.writable(tmp_path / place)
    assert not (tmp_path / "new").exists()


HOLD = """
import sys, time
from llm_jax.files import one_writer
with one_writer(sys.argv[1]):
    print(1, flush=True)
    time.sleep(900)
"""


def test_one_writer_whose_hold_ends_with_it(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"1\n"
    with pytest.raises(UserError, match="another command is at work"), files.one_writer(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
    other.send_signal(signal.SIGKILL)
    other.communicate()
    with files.one_writer(tmp_path):
        with pytest.raises(UserError), files.one_writer(tmp_path):
            pass
        with files.one_writer(tmp_path.parent):
            pass
    with pytest.raises(BlockingIOError), files.one_writer(tmp_path):
        raise BlockingIOError  # one of what is done meanwhile is not taken for the lock's


def test_one_writer_where_folders_cannot_be_locked(tmp_path, monkeypatch):
    real = fcntl.flock

    def flock(handle, what):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EBADF, "as NFS says")
        real(handle, what)

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        files.one_writer(tmp_path),
        pytest.raises(UserError, match="another command is at work"),
        files.one_writer(tmp_path),
    ):
        pass
    with files.one_writer(tmp_path):
        pass


TEXTS = [
    "a\u2028b",
    "c\u0085d",
    "e\x0bf\x1cg",
    "ü\r",
    "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
]


def test_a_line_of_json_ends_where_json_lines_do(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS]
    path.write_bytes("\n".join(lines).encode())
    assert [line["text"] for line in files.json_lines(path)] == TEXTS
    assert files.whole_lines(path) == files.json_lines(path)


@pytest.mark.parametrize("half", ['{"step": 3, "loss": 1', '{"a": {"b": 1}', "\0\0\0", '"text"', "3"])
def test_a_half_line_is_left_out_of_a_log_and_named_in_a_record(tmp_path, half):
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\n\n{"step": 2}\n' + half)
    assert files.whole_lines(path) == [{"step": 1}, {"step": 2}]
    with pytest.raises(UserError, match=r"a\.jsonl line 4 is damaged"):
        files.json_lines(path)
    path.write_bytes(b'{"t": "\xff"}\n')
    assert files.whole_lines(path) == files.whole_lines(tmp_path / "none") == []
    with pytest.raises(UserError, match="line 1"):
        files.json_lines(path)


@pytest.mark.parametrize("data", [b"", b'{"a": ', b"[1]", b"\xff{}", b"null"])
def test_an_object_that_is_not_whole_is_one_line(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.json is damaged .*; move it away"):
        files.read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match="is not there"):
        files.read_json(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        files.read_json(tmp_path)


@pytest.mark.parametrize("data", ["", '{"seconds": {"da', "{}", "[]", '{"seconds": 3, "gflops": []}'])
def test_times_that_are_damaged_begin_anew(tmp_path, data):
    (tmp_path / "times.json").write_text(data)
    Times(tmp_path).add("data", 2.0)
    assert Times(tmp_path).read() == {"seconds": {"data": 2.0}, "gflops": []}
