"""The frame of every command: flags, exit codes, one-line errors.

0 done, also after SIGTERM or Ctrl-C that saved; 1 a failure of the run; 2 a user's mistake.
"""

import os
import re
import sys
import traceback
from collections.abc import Callable

from absl import flags
from rich.console import Console

from llm_jax import processes
from llm_jax.config import UserError

console = Console(highlight=False)


def run_cli(main: Callable[[], None], define_flags: Callable[[], None]) -> None:
    """Defines and parses flags, runs `main`, exits."""
    try:
        code = exit_code(main, define_flags)
    except (Exception, KeyboardInterrupt):
        if processes.first_to_fail(1):
            traceback.print_exc()
        code = 1
    processes.leave()
    sys.exit(code)


def exit_code(main: Callable[[], None], define_flags: Callable[[], None]) -> int:
    try:
        define_flags()
        rest = flags.FLAGS(sys.argv)[1:]
        if "config" in flags.FLAGS:
            hasattr(flags.FLAGS.config, "items")  # a config file that did not load says so only when it is read
        if rest:
            raise UserError(f"unexpected argument {rest[0]!r}; every option is a --flag")
    except (flags.Error, UserError, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        return complain(first_line(error), 2)
    try:
        main()
    except UserError as error:
        return complain(str(error), 2)
    except KeyboardInterrupt:
        return complain("interrupted; the same command begins this stage again", 1)
    except Exception as error:
        if "No space left on device" in str(error):
            return complain(
                "the disk is full; nothing was overwritten: free some space and run the same command again", 1
            )
        raise
    return 0


def first_line(error: Exception) -> str:
    """The error in one line; for a mistyped config key, the whole key and the nearest one."""
    text = " ".join(str(error).split())
    typo = re.search(r'Did you mean \\?"(\w+)\\?" instead of \\?"(\w+)\\?"', text)
    if not typo:
        return text
    flags_given = [arg.partition("=")[0].removeprefix("--config.") for arg in sys.argv if f".{typo[2]}" in arg]
    return f"unknown config key {(flags_given or [typo[2]])[0]!r}; did you mean {typo[1]!r}?"


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
