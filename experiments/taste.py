"""An assistant with every sort of manners, a reward model of a taste that is known exactly, and training for it.

python -m llm_jax.main --config=experiments/taste.py --workdir=runs/taste
python -m llm_jax.chat --workdir=runs/taste --stage=preference --prompt='What is a fox?'

RL is held to its parent with --config.rl.parts.kl=k1 --config.rl.parts.kl_in=reward --config.rl.parts.kl_weight=0.05.
`:tiny` has every size as small as it goes, to see that it runs.
"""

from experiments import speedrun


def get_config(size="small"):
    c = speedrun.get_config()
    c.abstain.arm = c.control.arm = "none"
    c.model.layers = 4
    c.tokenizer.vocab_size = 1024
    c.data.scale, c.data.lessons, c.data.python_docs_bytes = 0.1, 0.2, 20_000
    c.data.pairs, c.data.sequence_length = 8000, 256
    c.pretrain.steps, c.sft.epochs = 250, 4
    c.reward.loss, c.preference.loss = "bradley_terry", "dpo"
    c.eval.best_of, c.eval.map_items, c.eval.problems = 64, 0, 64
    c.rl.tasks, c.rl.steps, c.rl.batch, c.rl.max_new_tokens = {"taste": 1.0}, 48, 128, 80
    c.rl.reward, c.rl.eval_every = "model", 0  # no answer is graded
    if size == "tiny":
        c.model.dim, c.model.layers, c.model.head_dim, c.model.ff_dim = 32, 1, 16, 48
        c.data.scale, c.data.pairs = 0.02, 60
        c.pretrain.steps = c.sft.steps = c.rl.steps = 2
        c.rl.batch, c.rl.slots, c.eval.slots, c.rl.max_new_tokens = 16, 16, 16, 16
    return c
