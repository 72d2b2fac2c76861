"""The field's harness on our engine: python -m llm_jax.lm_eval --model llm_jax --model_args workdir=DIR,stage=S ARGS

Registers our model class (evals/harness.py) and hands over to lm_eval's own command, whose arguments these are.
"""

import importlib.util
import sys

from llm_jax.config import UserError
from llm_jax.frame.cli import complain, quiet_logs

quiet_logs()


def main() -> int:
    if importlib.util.find_spec("lm_eval") is None:
        return complain("lm_eval, the harness, is not installed; try: pip install 'llm_jax[lm_eval]'", 2)
    from lm_eval.__main__ import cli_evaluate

    from llm_jax.evals import harness  # noqa: F401 (registers the class)

    try:
        cli_evaluate()
    except UserError as error:
        return complain(str(error), 2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
