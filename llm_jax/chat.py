"""Talk to a run: python -m llm_jax.chat --workdir=DIR [--stage=rl] [--prompt=TEXT] [--json]

The base stage (--stage=pretrain) continues documents. /help lists the commands. Ctrl-C stops an answer, Ctrl-D ends.
"""

import contextlib
import dataclasses
import difflib
import itertools
import json
import os
import re
import signal
import sys
from pathlib import Path

from absl import flags

from llm_jax.frame.cli import quiet_logs, run_cli

try:
    import readline
except ImportError:  # no arrow keys then
    readline = None

quiet_logs()

from llm_jax.config import UserError  # noqa: E402
from llm_jax.files import user_path  # noqa: E402
from llm_jax.frame.interrupt import Interrupt  # noqa: E402
from llm_jax.runs import STAGE_HELP  # noqa: E402
from llm_jax.sampling.chat import Chat  # noqa: E402
from llm_jax.sampling.loaded import load  # noqa: E402
from llm_jax.tools.search import Place, define_place, place_of  # noqa: E402
from llm_jax.tools.table import TOOLS  # noqa: E402

DIM, PLAIN = "\033[2m", "\033[0m"
SHOWN = {"think": "thinks: ", "output": "output: ", "document": "document: ", "source": "source: "}
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but newline and tab
HISTORY = Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "llm_jax", "history")
REMEMBERED = 1000  # messages under the arrow keys; each is a JSON string, since it may have several lines


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("stage", "", STAGE_HELP)
    flags.DEFINE_string("prompt", None, "Answer this once and exit.")
    flags.DEFINE_bool("json", False, "With --prompt: print one JSON object.")
    flags.DEFINE_float("temperature", 0.0, "0 takes the likeliest token.", lower_bound=0.0)
    flags.DEFINE_integer("seed", 0, "Of the samples.")
    define_place()


def main() -> None:
    f = flags.FLAGS
    sys.stdin.reconfigure(errors="replace")
    sys.stdout.reconfigure(errors="backslashreplace")
    session = Session(user_path(f.workdir, "--workdir"), f.stage, f.temperature, f.seed, place_of(f))
    try:
        if f.prompt is None:
            session.converse()
        elif not f.prompt.strip() and not session.chat.model.is_base:
            raise UserError("the prompt is empty; ask something")
        elif f.json:
            print(json.dumps(dataclasses.asdict(session.chat.answer(f.prompt))))
        else:
            session.show(f.prompt)
    finally:
        session.chat.model.close()


class Session:
    """A conversation in the terminal. A command is a method that takes what was typed after it; see COMMANDS."""

    def __init__(self, workdir: Path, stage: str, temperature: float, seed: int, search: Place):
        self.workdir, self.search = workdir, search
        self.chat = Chat(load(workdir, stage, search=search), temperature, seed)
        self.system, self.folds, self.terminal = "", False, sys.stdin.isatty()
        self.colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def converse(self) -> None:
        """Takes messages and commands until Ctrl-D, or Ctrl-C twice; an empty line ends where no terminal is."""
        if arrows := self.terminal and readline:
            recall()
        self.greet()
        interrupts = 0
        while interrupts < 2:
            try:
                text = read()
                if text and arrows:
                    remember(text)
            except KeyboardInterrupt:
                interrupts += 1
                print("\nCtrl-C again or Ctrl-D ends" if interrupts == 1 else "")
                continue
            except EOFError:
                break
            interrupts = 0
            if not text and not self.terminal:
                return
            try:
                self.take(text)
            except UserError as error:
                print(visible(str(error)))
            except (EOFError, KeyboardInterrupt):  # /quit; Ctrl-C twice in one answer: the engine's state is lost
                break
        print()

    def greet(self) -> None:
        begin = "Begin a document" if self.chat.model.is_base else "Say something"
        begin += "; Ctrl-D ends" if self.terminal else "; an empty line ends"
        print(f"{self.chat.model.stage} model. {begin}; /help lists the commands.")

    def take(self, text: str) -> None:
        if text.startswith("/") and not text.startswith("//"):
            with contextlib.suppress(KeyboardInterrupt):  # while a stage loads, say: all stays as it was
                self.command(*(text[1:].split(maxsplit=1) + ["", ""])[:2])
        elif text:
            self.show(text[text.startswith("//") :])

    def command(self, name: str, argument: str) -> None:
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            mend = f"did you mean /{near[0]}?" if near else "/help lists those there are"
            raise UserError(f"no command /{name}; {mend} (//{name} is sent as a message)")
        method, takes, _ = COMMANDS[name]
        tells = name in SETTINGS and not argument
        choices = takes.split("|")
        fits = argument in choices if len(choices) > 1 and "TEXT" not in choices else bool(argument) == bool(takes)
        if not fits and not tells:
            raise UserError(f"usage: /{name} {takes}".rstrip())
        if method in FOR_ANSWERS and self.chat.model.is_base:
            raise UserError(f"/{name} is for stages that answer; the base model continues what you begin")
        if not tells:
            method(self, argument)
        if name in SETTINGS:
            print(f"{name}: {visible(SETTINGS[name](self))}")

    def show(self, text: str) -> None:
        """Streams a turn, thoughts and tools in a dim colour, until Ctrl-C; what was said stays in the conversation."""
        plain, dim = (PLAIN, DIM) if self.colour else ("", "")
        last, thought = "", ""
        # Interrupt: a KeyboardInterrupt inside a step of the engine would lose the engine's state.
        with Interrupt(signal.SIGINT) as stop, contextlib.closing(self.chat.say(text)) as stream:
            for kind, piece in itertools.chain(stream, [("end", "")]):
                if stop.wanted:
                    stream.close()
                if kind == "step":
                    continue
                folds = kind == "think" and self.folds
                if kind != last:
                    if last == "think" and self.folds:
                        print(counted(len(thought.split()), "word"), end="")
                    heading, thought = "thought for " if folds else heading_of(kind), ""
                    print((f"{plain}\n" if last else "") + (dim if heading else "") + heading, end="")
                thought += piece
                print("" if folds else visible(piece), end="", flush=True)
                last = kind
        print("[stopped]\n" if stop.wanted else "", end="")

    def read_file(self, file: str) -> None:
        print(f"{file}: {counted(self.chat.read(file), 'token')}, in front of your next message")

    def help(self, _: str) -> None:
        for name, (_, takes, does) in COMMANDS.items():
            print(f"/{name} {takes}".ljust(34), does)
        print("/think, /tools and their like alone say what they are now.")
        print("//TEXT sends a message that begins with a slash; a line that ends with \\ goes on in the next one.")

    def reset(self, _: str) -> None:
        self.chat.reset(self.system)

    def quit(self, _: str) -> None:
        raise EOFError

    def prompt_system(self, text: str) -> None:
        text = "" if text == "none" else text
        self.chat.reset(text)
        self.system = text

    def change_stage(self, name: str) -> None:
        old, self.chat.model = self.chat.model, load(self.workdir, name, search=self.search)
        old.close()
        self.chat.reset(self.system)
        self.greet()

    def think(self, how: str) -> None:
        if how in ("show", "fold"):
            self.folds = how == "fold"
        else:
            self.chat.thinks = how

    def tools(self, how: str) -> None:
        self.chat.tools = how == "on"

    def set_seed(self, number: str) -> None:
        if not re.fullmatch(r"-?\d{1,18}", number):
            raise UserError(f"{number!r} is no whole number")
        self.chat.seed = int(number)

    def set_temperature(self, number: str) -> None:
        if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", number):
            raise UserError(f"{number!r} is no temperature; 0 takes the likeliest token, 1 samples")
        self.chat.temperature = float(number)

    def save(self, file: str) -> None:
        messages = self.chat.conversation.messages
        first = len(messages) % 2  # a system prompt stands before the pairs
        pairs = [messages[i : i + 2] for i in range(first, len(messages), 2)]
        if not (answered := [pair for pair in pairs if any(part["text"] for part in pair[1]["content"])]):
            raise UserError("there is no answer to save yet")
        record = {"id": f"chat-{os.urandom(6).hex()}", "source": "chat"}
        record["messages"] = [*messages[:first], *itertools.chain(*answered)]
        try:
            with Path(os.path.expanduser(file)).open("x", encoding="utf-8") as out:
                out.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(f"{file} cannot be written ({error.strerror}); give another name") from None
        print(f"{file}: {counted(len(answered), 'turn')}")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def heading_of(kind: str) -> str:
    """What stands before a part that is not the answer."""
    return SHOWN.get(kind) or (f"{kind}: " if kind in TOOLS else "")


COMMANDS = {  # name -> (method, what it takes, what it does)
    "help": (Session.help, "", "lists the commands"),
    "reset": (Session.reset, "", "begins anew; the system prompt stays"),
    "system": (Session.prompt_system, "TEXT|none", "begins anew with this system prompt"),
    "stage": (Session.change_stage, "NAME", "begins anew with the checkpoint of another stage of the run"),
    "think": (Session.think, "auto|on|off|show|fold", "whether it thinks first; whether thoughts are shown"),
    "tools": (Session.tools, "on|off", "whether it may call tools"),
    "seed": (Session.set_seed, "N", "of the next answer's samples; each answer adds 1"),
    "temperature": (Session.set_temperature, "T", "0 takes the likeliest token"),
    "read": (Session.read_file, "FILE", "puts a text file in front of your next message"),
    "save": (Session.save, "FILE", "writes the conversation as a record to fine-tune on"),
    "quit": (Session.quit, "", "ends, as Ctrl-D does"),
    "exit": (Session.quit, "", "ends, as Ctrl-D does"),
}
SETTINGS = {  # name -> what it is now
    "system": lambda session: session.system or "none",
    "stage": lambda session: session.chat.model.stage,
    "think": lambda session: f"{session.chat.thinks}; thoughts are {'folded' if session.folds else 'shown'}",
    "tools": lambda session: session.chat.told_of_tools,
    "seed": lambda session: str(session.chat.seed),
    "temperature": lambda session: f"{session.chat.temperature:g}",
}
FOR_ANSWERS = (Session.prompt_system, Session.think, Session.tools, Session.read_file, Session.save)


def recall() -> None:
    """Puts what was typed in earlier conversations under the arrow keys, if its file can be read."""
    readline.set_auto_history(False)
    readline.parse_and_bind("set enable-bracketed-paste on")  # what is pasted is one message
    with contextlib.suppress(OSError):
        for line in HISTORY.read_text(encoding="utf-8", errors="replace").splitlines()[-REMEMBERED:]:
            with contextlib.suppress(ValueError, TypeError):  # a line that was cut short
                readline.add_history(json.loads(line))


def remember(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        readline.add_history(text)
        HISTORY.parent.mkdir(parents=True, exist_ok=True)
        HISTORY.touch(mode=0o600)
        with HISTORY.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(text))


def read() -> str:
    """A message; a line that ends with a backslash goes on in the next one. Raises EOFError."""
    print()
    text = input("> ")
    while text.endswith("\\"):
        text = f"{text[:-1]}\n"
        with contextlib.suppress(EOFError):
            text += input("... ")
    return text.strip()


def visible(text: str) -> str:
    """Text that does nothing to a terminal: control characters are spelled out."""
    return CONTROLS.sub(lambda control: f"\\x{ord(control[0]):02x}", text)


if __name__ == "__main__":
    run_cli(main, define_flags)
