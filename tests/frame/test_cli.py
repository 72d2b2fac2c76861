"""The frame of every command: config files that fail, flags of open sections, paths, readers that go away."""

import errno
import json
import os
import subprocess
import sys

import pytest

from llm_jax.config import UserError
from llm_jax.frame import cli
from tests.commands import ENVIRONMENT, ROOT


def outcome(capsys, problem: BaseException) -> tuple[int, str]:
    """(exit code, stderr) of a command that raises this."""

    def main():
        raise problem

    code = cli.exit_code(main, lambda: None)
    return code, capsys.readouterr().err


@pytest.fixture(autouse=True)
def no_flags(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command"])


@pytest.mark.parametrize("number", sorted(cli.OF_PATHS))
def test_a_path_that_cannot_be_is_one_line(capsys, number):
    code, said = outcome(capsys, OSError(number, os.strerror(number), "some/where"))
    assert code == 2 and said.startswith("error: some/where: ") and len(said.splitlines()) == 1


def test_a_failure_of_the_machine_is_no_users_mistake(capsys):
    with pytest.raises(OSError):
        outcome(capsys, OSError(errno.EIO, "input/output error", "disk"))
    assert outcome(capsys, FloatingPointError("step 3 has a loss of nan")) == (1, "error: step 3 has a loss of nan\n")
    code, said = outcome(capsys, OSError(errno.ENOSPC, "No space left on device", "disk"))
    assert code == 1 and "disk is full" in said


def test_real_paths(capsys, tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path, tmp_path / "file/inside", tmp_path / ("x" * 300)):
        with pytest.raises(OSError) as error:
            path.read_text()
        code, said = outcome(capsys, error.value)
        assert code == 2 and str(path) in said


CONFIGS = {
    "syntax": ("x = (\n", "line 1: SyntaxError"),
    "name": ("def get_config():\n    return nosuch\n", "line 2: NameError"),
    "module": ("import nosuch_module\n", "line 1: ModuleNotFoundError"),
    "zero": ("def get_config():\n\n    return 1 / 0\n", "line 3: ZeroDivisionError"),
    "argument": ("def get_config(n):\n    return int(n)\n", "line 2: ValueError"),
    "empty": ("", "get_config"),
    "mapping": ("def get_config():\n    return {'a': 1}\n", "ConfigDict"),
    "binary": ("\0", "null byte"),
}
# Each command line in a fork of one process, since a flag can be defined but once in each.
WITH_CONFIG = """
import json, os, sys
from absl import flags
from ml_collections import config_flags
from llm_jax.frame.cli import exit_code
define = lambda: config_flags.DEFINE_config_file("config", None, "", lock_config=True)
for line in sys.stdin:
    sys.argv = ["command", *json.loads(line)]
    read, write = os.pipe()
    if not (child := os.fork()):
        os.dup2(write, 1), os.dup2(write, 2)
        code = 70
        try:
            code = exit_code(lambda: print(flags.FLAGS.config.to_json()), define)
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    os.close(write)
    said = os.fdopen(read).read()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said]))
"""


def python(program: str, stdin: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True, input=stdin)


def with_config(*commands: list[str]) -> list[tuple[int, str]]:
    """(exit code, what it said) of each."""
    done = python(WITH_CONFIG, "".join(json.dumps(command) + "\n" for command in commands))
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_a_config_file_that_fails_says_where(tmp_path):
    for name, (text, _) in CONFIGS.items():
        (tmp_path / f"{name}.py").write_text(text)
    files = {name: f"{tmp_path}/{name}.py" for name in CONFIGS}
    given = [[f"--config={file}" + (":x" if name == "argument" else "")] for name, file in files.items()]
    for (name, (_, words)), (code, said) in zip(CONFIGS.items(), with_config(*given), strict=True):
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(lines) == 1 and "Traceback" not in said, (name, said)
        assert words in lines[0] and (name == "mapping" or files[name] in lines[0]), lines


def test_an_open_key_may_be_there_with_another_type_or_not_at_all(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("from llm_jax.config import default\ndef get_config():\n    c = default()\n")
    file.write_text(file.read_text() + "    c.data.epochs.web = 3\n    return c\n")
    flags = ["--config.data.epochs.web=2.5", "--config.data.weights.other=1", "--config.rl.tasks.a/b c", "0.5"]
    ((code, said),) = with_config([f"--config={file}", *flags])
    assert code == 0, said
    config = json.loads(said)
    assert config["data"]["epochs"] == {"web": 2.5} and config["data"]["weights"] == {"other": 1.0}
    assert config["rl"]["tasks"] == {"a/b c": 0.5}


@pytest.mark.parametrize("path", ["none.py", "none.py:4", ".", "a b.py"])
def test_no_config_file(monkeypatch, tmp_path, path):
    file = cli.config_file(["command", f"--config={tmp_path}/{path}", "--other"])
    assert file == f"{tmp_path}/{path}".removesuffix(":4")
    assert cli.config_file(["command", "--config", "x.py"]) == "x.py"


@pytest.mark.parametrize("words, section, name, value", [
    (["--config.data.epochs.web=2.5"], "data.epochs", "web", 2.5),
    (["-config.data.weights.my_own=1"], "data.weights", "my_own", 1.0),
    (["--config.rl.tasks.arithmetic/3 numbers=0.5"], "rl.tasks", "arithmetic/3 numbers", 0.5),
    (["--config.data.epochs.web", "0"], "data.epochs", "web", 0.0),
    (["--config.rl.parts.clip_high=0.3"], "rl.parts", "clip_high", 0.3),
    (["--config.rl.parts.advantage", "rloo"], "rl.parts", "advantage", "rloo"),
    (["--config.rl.parts.dynamic=True"], "rl.parts", "dynamic", True),
])  # fmt: skip
def test_flags_of_open_sections(words, section, name, value):
    before, after = ["--config.model.dim=3", "--config.data.scale", "1"], ["--workdir=x", "--config.data.epochs={}"]
    kept, named = cli.opened(["command", *before, *words, *after])
    assert kept == ["command", *before, *after] and named == {(section, name): value}


@pytest.mark.parametrize("word", ["--config.data.epochs.web=many", "--config.rl.tasks.x", "--config.data.weights.x="])
def test_no_number_for_an_open_section(word):
    with pytest.raises(UserError, match="must be a number"):
        cli.opened(["command", word])


@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_goes_away_is_no_error(buffered):
    """As `head -1` does. What is still in the buffer is not written at the exit either."""
    program = "import sys\nfrom llm_jax.frame.cli import run_cli\n"
    program += f"run_cli(lambda: [print('line', flush={not buffered}) for _ in range(100_000)], lambda: None)"
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env=ENVIRONMENT, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    os.read(read, 1)
    os.close(read)
    assert process.communicate()[1] == "" and process.returncode == 1


def test_output_that_is_whole_ends_well():
    assert (
        python("from llm_jax.frame.cli import run_cli\nrun_cli(lambda: print('all'), lambda: None)").stdout == "all\n"
    )
