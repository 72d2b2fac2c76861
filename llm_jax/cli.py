"""The frame of every command: flags, exit codes, one-line errors.

0 done, also after SIGTERM or Ctrl-C that saved; 1 a failure of the run; 2 a user's mistake.
"""

import os
import sys
from collections.abc import Callable

from absl import flags

from llm_jax.config import UserError


def run_cli(main: Callable[[], None], define_flags: Callable[[], None]) -> None:
    """Defines and parses flags, runs `main`, exits."""
    sys.exit(exit_code(main, define_flags))


def exit_code(main: Callable[[], None], define_flags: Callable[[], None]) -> int:
    try:
        define_flags()
        rest = flags.FLAGS(sys.argv)[1:]
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
    text = str(error.args[0]) if isinstance(error, KeyError | AttributeError) and error.args else str(error)
    return " ".join(text.split())


def complain(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
    return code


def quiet_logs() -> None:
    """Silences what libraries print at start-up; call before jax is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
