"""Fine-tuning and reinforcement learning on a model from elsewhere.

python -m llm_jax.main --config=experiments/imported.py:FILE.gguf --workdir=runs/mine
python -m llm_jax.main --config=experiments/imported.py:FOLDER --workdir=runs/mine --stages=imported,data,sft

What stands behind the colon is a Hugging Face folder or a GGUF file; its values of `model.*` are taken from there.
"""

from pathlib import Path

from llm_jax.config import UserError
from llm_jax.hub import import_


def get_config(source=""):
    if not source:
        raise UserError("give the model behind a colon: --config=experiments/imported.py:FOLDER, or :FILE.gguf")
    c = import_.config_for(import_.opened(Path(source).expanduser()), length=512)
    c.data.scale, c.data.python_docs_bytes = 0.2, 0
    c.optimizer.name, c.optimizer.learning_rate, c.sft.learning_rate_scale = "adamw", 1e-4, 1.0
    c.rl.learning_rate = 1e-5
    c.rl.tasks = {"arithmetic/3 numbers": 0.5, "calculator/3 digits": 0.5}
    c.eval.map_items = 0  # hundreds of cells may take it long: evaluate --tasks=map --items=N
    return c
