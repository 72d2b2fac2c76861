"""What TRL's own code computes of comparisons, in float64: `python tests/stages/preferences_reference.py` writes
preferences_reference.npz anew.

It needs an environment of its own, with torch, transformers, accelerate, datasets and trl 1.16.0. The real
`DPOTrainer._compute_loss` and `RewardTrainer.compute_loss` are called on objects that have the given numbers; the
log-probabilities of a batch are those of better answers, then of worse ones, as TRL has them.
"""

import json
import types
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.reward_trainer import RewardTrainer

PAIRS, TOKENS = 5, 9
CASES = [{"loss": loss, "beta": beta} for loss in ("dpo", "ipo") for beta in (0.1, 0.7)]
ACCELERATOR = types.SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(17)
    lengths = rng.integers(1, TOKENS, 2 * PAIRS)
    begins = rng.integers(0, TOKENS - lengths + 1)
    places = np.arange(TOKENS)
    mask = ((places >= begins[:, None]) & (places < (begins + lengths)[:, None])).astype(np.float64)
    logp, reference = np.log(rng.uniform(0.02, 0.95, (2, 2 * PAIRS, TOKENS))) * mask
    return {"mask": mask, "logp": logp, "reference": reference.sum(axis=1), "rewards": rng.normal(size=2 * PAIRS)}


def trl_preference(given: dict[str, torch.Tensor], case: dict) -> tuple[float, np.ndarray]:
    """(value, gradient in the log-probabilities of the tokens)"""
    logp = given["logp"].clone().requires_grad_()
    nothing = torch.zeros_like(logp)
    outputs = types.SimpleNamespace(log_probs=logp, entropy=nothing, mean_logits=nothing, is_top1=nothing > 0)
    trainer = types.SimpleNamespace(
        accelerator=ACCELERATOR, model=types.SimpleNamespace(training=True),
        aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl",
        loss_types=[{"dpo": "sigmoid"}.get(case["loss"], case["loss"])], loss_weights=[1.0], beta=case["beta"],
        use_weighting=False, _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    mask = torch.nn.functional.pad(given["mask"], (1, 0)).long()  # its first token is no target
    batch = {
        "input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask,
        "ref_chosen_logps": given["reference"][:PAIRS], "ref_rejected_logps": given["reference"][PAIRS:],
    }  # fmt: skip
    loss = DPOTrainer._compute_loss(trainer, lambda **_: outputs, batch, False)
    loss.backward()
    return loss.item(), (logp.grad * given["mask"]).numpy()


def trl_reward(given: dict[str, torch.Tensor]) -> tuple[float, np.ndarray]:
    rewards = given["rewards"].clone().requires_grad_()
    trainer = types.SimpleNamespace(
        model=types.SimpleNamespace(training=True), args=types.SimpleNamespace(center_rewards_coefficient=None),
        accelerator=ACCELERATOR, _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    batch = {"attention_mask": torch.ones(1)}
    outputs = types.SimpleNamespace(logits=rewards[:, None])
    loss = RewardTrainer.compute_loss(trainer, lambda **_: outputs, batch)
    loss.backward()
    return loss.item(), rewards.grad.numpy()


def main() -> None:
    arrays = inputs()
    given = {name: torch.tensor(value) for name, value in arrays.items()}
    made = [trl_preference(given, case) for case in CASES]
    value, gradient = trl_reward(given)
    np.savez_compressed(
        Path(__file__).with_suffix(".npz"),
        cases=json.dumps(CASES),
        values=[value for value, _ in made],
        gradients=np.stack([gradient for _, gradient in made]),
        reward_value=value,
        reward_gradient=gradient,
        **{f"in.{name}": value for name, value in arrays.items()},
    )


if __name__ == "__main__":
    main()
