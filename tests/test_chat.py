"""The chat in a terminal: real processes, some of them under a pseudo-terminal."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios

import pytest
from pexpect import EOF
from pexpect.fdpexpect import fdspawn

from data_pipelines.chats import convert
from llm_jax.chat import visible
from llm_jax.checkpoint import FORMAT_VERSION, Checkpoints
from llm_jax.config import flatten
from llm_jax.tokenizer.sentencepiece import train_tokenizer
from llm_jax.tools.search import build
from tests import commands
from tests.conftest import CORPUS, drawn_params, tiny_config

UP, PASTE, PASTED, CTRL_C, CTRL_D = "\033[A", "\033[200~", "\033[201~", "\003", "\004"
AT_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell in the background has it ignored
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def drawn_run(workdir, stages=("pretrain", "sft"), length=512):
    """A run whose parameters are drawn, not trained: it talks nonsense, and greedily it never ends its turn."""
    config, tokenizer = tiny_config(), train_tokenizer(CORPUS, 420)
    config.data.sequence_length = length
    (workdir / "data").mkdir(parents=True)
    tokenizer.save(workdir / "data/tokenizer.model")
    (workdir / "config.json").write_text(json.dumps({"format": FORMAT_VERSION, "config": flatten(config)}))
    for seed, stage in enumerate(stages):
        params = drawn_params(config.model, tokenizer.vocab_size, seed)
        params["head"] = params["head"].at[:, tokenizer.end].set(0.0)
        store = Checkpoints(workdir, stage)
        store.save(3, params, params["norm"], {"tokenizer": tokenizer.sha256})
        store.close()
    return workdir


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One process's is the next one's."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"XDG_STATE_HOME": str(folder), "TERM": "xterm", "NO_COLOR": ""}.items():
            patch.setitem(commands.ENVIRONMENT, name, value)
        yield folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, home):
    return drawn_run(tmp_path_factory.mktemp("run") / "drawn")


def piped(workdir, *lines, flags=()):
    result = commands.run("llm_jax.chat", f"--workdir={workdir}", *flags, stdin="".join(f"{line}\n" for line in lines))
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.split("\n> ")[1:]


class Terminal:
    """The chat under a pseudo-terminal."""

    def __init__(self, workdir, *flags, **environment):
        ours, its = pty.openpty()
        termios.tcsetwinsize(ours, (50, 250))
        # Not pexpect.spawn, which forks: JAX has threads.
        self.process = subprocess.Popen(
            [sys.executable, "-c", AT_TERMINAL, "-m", "llm_jax.chat", f"--workdir={workdir}", *flags],
            cwd=commands.ROOT,
            env={**commands.ENVIRONMENT, **environment},
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)
        self.screen = fdspawn(ours, encoding="utf-8", codec_errors="replace", timeout=commands.DEADLINE)
        self.prompted()

    def prompted(self) -> str:
        """What was printed up to the next prompt; readline says so when it takes pastes, thus when it reads."""
        self.screen.expect_exact("\033[?2004h> ")
        return self.screen.before

    def say(self, text: str) -> str:
        self.screen.send(text + "\r")
        return self.prompted()

    def ended(self) -> int:
        self.screen.expect(EOF)
        self.screen.close()
        return self.process.wait()


def typed(history):
    return [json.loads(line) for line in history.read_text().splitlines() if line.endswith('"')]


def saved(path):
    """The record of /save, as stage `data` reads it."""
    [record] = convert(str(path), pytest.fail)
    assert record["source"] == "chat"
    return record["messages"]


def test_text_of_a_model_does_nothing_to_the_terminal():
    assert visible("\033]0;title\007\r\x9b2J\x7f") == "\\x1b]0;title\\x07\\x0d\\x9b2J\\x7f"
    assert visible("tab\tand\nline, Köln 日本") == "tab\tand\nline, Köln 日本"


def test_control_characters_of_an_answer_are_spelled_out(workdir):
    flags = (f"--workdir={workdir}", "--stage=pretrain", "--prompt=The cat")
    answer = json.loads(commands.run("llm_jax.chat", *flags, "--json").stdout)["text"]
    assert CONTROL.search(answer), "this nonsense has none; draw another"
    shown = commands.run("llm_jax.chat", *flags).stdout
    assert not CONTROL.search(shown)
    assert "".join(shown.split()) == "".join(visible(answer).split())


def test_commands(workdir, tmp_path):
    file, note = tmp_path / "talk.jsonl", tmp_path / "note.txt"
    note.write_text("The cat sat.")
    file_again, nowhere = f"/save {file}", f"/save {tmp_path}/none/talk.jsonl"
    lines = {
        "/save x": "no answer to save",
        "/help": "/think auto|on|off|show|fold",
        "/rest": "did you mean /reset?",
        "/zzz": "/help lists",
        "/think perhaps": "usage: /think auto|on|off|show|fold",
        "/seed few": "no whole number",
        "/seed": "seed: 0\n",
        "/temperature -1": "no temperature",
        "/temperature 0.25": "temperature: 0.25\n",
        "/temperature": "temperature: 0.25\n",
        "/temperature 0": "temperature: 0\n",
        "/stage": "stage: sft\n",
        "/system You are a dog.": "system: You are a dog.\n",
        "/system none": "system: none\n",
        "/system You are the cat.": "system: You are the cat.\n",
        "/system": "system: You are the cat.\n",
        "/tools": "tools: on (python); no search, for this run has no index in data/search",
        "/tools off": "tools: off\n",
        "/think off": "think: off; thoughts are shown\n",
        "/think": "think: off; thoughts are shown\n",
        "/quit now": "usage: /quit\n",
        "//etc is a \\\nfolder": "",
        f"/save {file}": f"{file}: 1 turn\n",
        file_again + "  ": "File exists",
        nowhere: "No such file",
        "/stage rl": "no checkpoint of stage 'rl'",
        "/stage king": "choose from imported, pretrain, sft, ",
        "/think on": "",
        "/read": "usage: /read FILE\n",
        f"/read {tmp_path}/none.txt": "none.txt is no file",
        f"/read {note}": "note.txt: ",
        "/think fold": "",
        "Hello": "thought for ",
        "/think show": "",
        "Hello again": "thinks: ",
        "/stage pretrain": "pretrain model. Begin a document",
        "/think off ": "for stages that answer",
        "/system x": "for stages that answer",
        "/tools on": "for stages that answer",
        "/read x": "for stages that answer",
        "The dog": "",
    }
    said = piped(workdir, *lines)
    assert len(said) == len(lines) + 1  # the last prompt finds the end
    for (line, expected), printed in zip(lines.items(), said, strict=False):
        assert expected in printed, (line, printed)
    messages = saved(file)
    assert [m["role"] for m in messages] == ["system", "user", "assistant"]
    assert messages[0]["content"] == "You are the cat." and messages[1]["content"] == "/etc is a \nfolder"
    assert "python" not in str(messages[2]["content"]) and "'think'" not in str(messages[2]["content"])


def test_temperature_and_seed_are_those_of_the_flags(workdir):
    by_flags = piped(workdir, "Hello", "/reset", "/seed 7", "Hello", flags=("--temperature=1.5", "--seed=7"))
    said = piped(workdir, "/temperature 1.5", "/seed 7", "Hello", "/reset", "/seed 8", "Hello")
    assert by_flags[0] == by_flags[3] == said[2] != said[5]


def test_it_searches_where_it_is_told_to(workdir, tmp_path):
    build([{"id": "a", "text": "The cat sat."}], tmp_path / "index")
    assert piped(workdir, "/tools", flags=[f"--index={tmp_path}/index"])[0] == "tools: on (python, search)\n"
    assert piped(workdir, "/tools", flags=["--provider=brave"])[0] == "tools: on (python, search)\n"


@pytest.mark.parametrize("command", ["chat", "serve", "evaluate"])
def test_a_place_that_cannot_be_searched_is_refused(workdir, tmp_path, command):
    refused = commands.run(f"llm_jax.{command}", f"--workdir={workdir}", f"--index={tmp_path}")
    commands.refused(refused, "there is no index in", "--build=GLOB")


@pytest.mark.parametrize("word", ["/quit", "/exit"])
def test_a_word_ends_it(workdir, word):
    assert len(piped(workdir, "/seed 1", word, "/seed 2")) == 2


def test_an_empty_line_ends_where_no_terminal_is(workdir):
    assert len(piped(workdir, "/seed 1", "", "/seed 2")) == 2


def test_a_conversation_in_a_terminal(workdir, tmp_path):
    chat, file = Terminal(workdir), tmp_path / "talk.jsonl"
    assert chat.say("") == "\r\n\033[?2004l\r\r\n", "an empty line is no message"
    chat.screen.send(f"{PASTE}first line\r/second line{PASTED}")
    chat.screen.expect_exact("second line")
    chat.say("")
    chat.screen.send("Tell me more\r")
    chat.screen.expect_exact("\033[?2004l\r")
    chat.screen.expect(r"\S")  # it answers
    chat.screen.send(CTRL_C)
    chat.screen.expect_exact("[stopped]")
    chat.prompted()
    chat.screen.send("never sent" + CTRL_C)
    chat.screen.expect_exact("Ctrl-D ends")
    chat.prompted()
    assert "2 turns" in chat.say(f"/save {file}")
    chat.screen.send(CTRL_C)  # not the second in a row
    chat.prompted()
    chat.screen.send(CTRL_D)
    assert chat.ended() == 0
    messages = saved(file)
    assert [m["content"] for m in messages if m["role"] == "user"] == ["first line\n/second line", "Tell me more"]
    whole, stopped = (len(str(m["content"])) for m in messages if m["role"] == "assistant")
    assert 0 < stopped < whole


def test_a_signal_to_end_ends_it_while_it_answers(workdir):
    chat = Terminal(workdir)
    chat.screen.send("Tell me more\r")
    chat.screen.expect_exact("\033[?2004l\r")
    chat.screen.expect(r"\S")
    chat.process.send_signal(signal.SIGTERM)
    assert chat.ended() == -signal.SIGTERM


def test_ctrl_c_while_a_stage_loads_goes_back_to_the_prompt(workdir):
    chat = Terminal(workdir)
    chat.screen.send("/stage pretrain\r")
    chat.screen.expect_exact("\033[?2004l\r")
    chat.screen.send(CTRL_C)
    assert "pretrain model" not in chat.prompted()
    assert "0 takes" in chat.say("/help")
    chat.screen.send(CTRL_D)
    assert chat.ended() == 0


def test_what_was_typed_is_there_again(workdir, tmp_path):
    home = {"XDG_STATE_HOME": str(tmp_path / "state")}
    chat = Terminal(workdir, **home)
    chat.screen.send(f"{PASTE}/system one\rtwo{PASTED}\r")
    chat.prompted()
    chat.say("/seed 5")
    chat.screen.send(CTRL_C)
    chat.prompted()
    chat.screen.send(CTRL_C)
    assert chat.ended() == 0
    history = tmp_path / "state/llm_jax/history"
    assert typed(history) == ["/system one\ntwo", "/seed 5"]
    assert history.stat().st_mode & 0o77 == 0
    with history.open("a") as file:
        file.write('\n"cut sho')
    chat = Terminal(workdir, **home)
    assert "/seed 5" in chat.say(UP)
    chat.screen.send(UP + UP + UP)
    chat.screen.expect_exact("two")
    chat.screen.send("\r")
    chat.prompted()
    chat.screen.send("/save" + CTRL_D)
    chat.screen.send("\r")
    assert "usage: /save FILE" in chat.prompted()
    chat.screen.send(CTRL_D)
    assert chat.ended() == 0
    assert typed(history) == ["/system one\ntwo", "/seed 5", "/seed 5", "/system one\ntwo", "/save"]


@pytest.mark.parametrize("colour", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_colours_and_a_home_that_cannot_be_written(workdir, tmp_path, colour):
    (tmp_path / "file").write_text("")
    environment = {"XDG_STATE_HOME": str(tmp_path / "file/below")} | ({} if colour else {"NO_COLOR": "1"})
    chat = Terminal(workdir, **environment)
    chat.say("/think on")
    assert ("\033[2mthinks: " in chat.say("Hello")) == colour
    assert "/think on" in chat.say(UP + UP)
    chat.screen.send(CTRL_D)
    assert chat.ended() == 0
