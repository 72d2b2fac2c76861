"""The whole path on a laptop's CPU: base model, assistant, thinking model.

make speedrun
python -m llm_jax.main --config=experiments/speedrun.py --workdir=runs/speedrun
"""

from llm_jax.config import default


def get_config():
    c = default()
    c.data.python_docs_bytes = 120_000
    c.abstain.arm, c.control.arm = "probe", "random"
    c.abstain.wordings, c.abstain.epochs, c.abstain.replay = 6, 1, 0.75
    c.rl.tasks = {
        "arithmetic/3 numbers": 0.5,
        "arithmetic/4 numbers": 0.3,
        "calculator/3 digits": 0.1,
        "calculator/4 digits": 0.1,
    }
    return c
