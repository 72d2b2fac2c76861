"""The frame of every command: flags, exit codes, one-line errors.

0 done, also after SIGTERM or Ctrl-C that saved; 1 a failure of the run; 2 a user's mistake.
"""

import errno
import functools
import itertools
import os
import re
import select
import sys
import traceback
from collections.abc import Callable

from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from llm_jax.config import OF_WORDS, OPEN, UserError
from llm_jax.frame import processes

console = Console(highlight=False)
OPEN_FLAG = re.compile(rf"--?config\.({'|'.join(re.escape(s[:-1]) for s in OPEN)})\.([^=]+)(=(.*))?", re.DOTALL)
OF_PATHS = {  # what is wrong with a path that the user has named, or a file of a run that is gone -> the mend
    errno.ENOENT: "name one that is there",
    errno.EACCES: "name one that you may read and write",
    errno.EPERM: "name one that you may read and write",
    errno.EROFS: "name one that can be written",
    errno.EEXIST: "name another",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "name one whose folders are folders",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.ELOOP: "name one whose links end",
}


def run_cli(main: Callable[..., None], define_flags: Callable[[], None], words: tuple[str, ...] = ()) -> None:
    """Defines and parses flags, runs `main`, exits. `words` are what is given without a flag, as `main` gets it."""
    try:
        code = exit_code(main, define_flags, words)
    except (Exception, KeyboardInterrupt):
        if processes.first_to_fail(1):
            traceback.print_exc()
        code = 1
    processes.leave()
    sys.exit(code)


def exit_code(main: Callable[..., None], define_flags: Callable[[], None], words: tuple[str, ...] = ()) -> int:
    try:
        define_flags()
        given = parse(sys.argv, words)
    except Exception as error:  # a config file is a program, and may fail in any way
        return complain(first_line(error), 2)
    try:
        main(*given)
        sys.stdout.flush()
    except UserError as error:
        return complain(str(error), 2)
    except KeyboardInterrupt:
        return complain("interrupted; the same command begins this stage again", 1)
    except FloatingPointError as error:
        return complain(str(error), 1)
    except UnicodeDecodeError as error:
        return complain(f"what was read is no {error.encoding} (byte {error.start}: {error.reason}); convert it", 2)
    except Exception as error:
        if "No space left on device" in str(error):
            return complain(
                "the disk is full; nothing was overwritten: free some space and run the same command again", 1
            )
        if isinstance(error, BrokenPipeError) and nobody_reads():
            return 1
        if isinstance(error, OSError) and error.filename is not None and error.errno in OF_PATHS:
            return complain(f"{error.filename}: {error.strerror}; {OF_PATHS[error.errno]}", 2)
        raise
    return 0


def parse(argv: list[str], words: tuple[str, ...] = ()) -> list[str]:
    """Parses the flags, reads the config file -> what is given without a flag, as many as there are `words`.

    Raises UserError, and whatever the file raises.
    """
    argv, named = opened(argv) if "config" in flags.FLAGS else (argv, {})
    sys.argv = argv  # ml_collections looks there for its flags
    if (file := config_file(argv)) and not os.path.isfile(file):
        raise UserError(f"--config={file} is no file; name an experiment, as experiments/speedrun.py")
    rest = flags.FLAGS(argv)[1:]
    if "config" in flags.FLAGS:
        hasattr(flags.FLAGS.config, "items")  # a config file that did not load says so only when it is read
        if not isinstance(flags.FLAGS.config, ConfigDict):
            raise UserError(f"get_config() of the config gives {flags.FLAGS.config!r}; it must give a ConfigDict")
        with flags.FLAGS.config.unlocked(), flags.FLAGS.config.ignore_type():
            for (section, name), value in named.items():
                functools.reduce(getattr, section.split("."), flags.FLAGS.config)[name] = value
    if len(rest) > len(words):
        raise UserError(f"unexpected argument {rest[len(words)]!r}; every option is a --flag")
    if len(rest) < len(words):
        raise UserError(f"{words[len(rest)]} is missing; give {' '.join(words)}")
    return rest


def opened(argv: list[str]) -> tuple[list[str], dict[tuple[str, str], float | bool | str]]:
    """(what remains of the command line, {(section, name): value}): flags of the sections in which any name is a key.

    ml_collections has a flag only for keys that the config file names, of the type that it gives them.
    """
    kept, named, left = argv[:1], {}, iter(argv[1:])
    for word in left:
        if word == "--":
            kept += [word, *left]
        elif not (found := OPEN_FLAG.fullmatch(word)):
            kept.append(word)
        else:
            section, name, value = found[1], found[2], found[4] if found[3] else next(left, "")
            try:
                named[section, name] = float(value)
            except ValueError:
                if f"{section}." not in OF_WORDS:
                    raise UserError(f"{section}.{name} is {value!r}; it must be a number") from None
                named[section, name] = {"true": True, "false": False}.get(value.lower(), value)
    return kept, named


def first_line(error: Exception) -> str:
    """The error in one line: of a config file's own with the place; of a mistyped key with the nearest one."""
    text = " ".join(str(error).split())
    typo = re.search(r'Did you mean \\?"(\w+)\\?" instead of \\?"(\w+)\\?"', text)
    if typo:
        flags_given = [arg.partition("=")[0].removeprefix("--config.") for arg in sys.argv if f".{typo[2]}" in arg]
        return f"unknown config key {(flags_given or [typo[2]])[0]!r}; did you mean {typo[1]!r}?"
    if isinstance(error, UserError):
        return text
    while "parsing config file" in str(error) and error.__context__:  # the file's own is what the chain begins with
        error = error.__context__
    own = "" if isinstance(error, flags.Error) else f"{place_of(error)}{type(error).__name__}: "
    return own + " ".join(str(error).split())


def place_of(error: BaseException) -> str:
    """The config file, and the line of it where the error came up."""
    if not (file := config_file(sys.argv)):
        return ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(file)]
    lines += [error.lineno] if isinstance(error, SyntaxError) else []
    return f"{file} line {lines[-1]}: " if lines else f"{file}: "


def config_file(argv: list[str]) -> str:
    """What --config names, without the argument that may stand after a colon; empty where it is not given."""
    file = ""
    for word, after in itertools.pairwise([*argv, ""]):
        if found := re.fullmatch("--?config(=(.*))?", word, re.DOTALL):
            file = found[2] if found[1] else after
    return file if os.path.exists(file) else file.partition(":")[0]


def nobody_reads() -> bool:
    """Whether what reads our output has gone, as `head` does; then nothing more is written there, also at the exit."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    if gone := any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def complain(message: str, code: int) -> int:
    """Prints an error; of several processes that failed, the first one does."""
    sys.stdout.flush()
    if processes.first_to_fail(code):
        print(f"error: {message}", file=sys.stderr)
    return code


def quiet_logs() -> None:
    """Silences what libraries print at start-up; call before jax is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
