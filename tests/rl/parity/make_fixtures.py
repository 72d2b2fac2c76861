"""What TRL's and verl's own code computes, in float64: `python tests/rl/parity/make_fixtures.py` writes it anew.

It needs an environment of its own, with torch, transformers, accelerate and datasets, and of trl 1.16.0 and verl 0.9.1
the packages alone (`pip install --no-deps trl==1.16.0 verl==0.9.1`); made with torch 2.13. From TRL the real
`GRPOTrainer._compute_loss` is called on an object that has the given log-probabilities, and the statements of
`_generate_and_score_completions` that make advantages and the sampler's weights are run as they stand there. From verl
the functions are taken out of their file, whose imports need a cluster. What neither has (MaxRL, prompt mean, KL by k1
and k2 with the policy's ratio, k3 beside a sequence's ratio) tests/rl derives a second time.
"""

import ast
import importlib.metadata
import inspect
import json
import math
import textwrap
import types
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from trl.rewards import get_soft_overlong_punishment
from trl.trainer import grpo_trainer

FOLDER = Path(__file__).parents[1] / "fixtures"
ROLLOUTS, GROUP, TOKENS, MOST = 6, 3, 8, 11
LOW, HIGH, DELTA, CISPO, BETA, SAMPLER = 0.1, 0.15, 1.3, 1.2, 0.04, 1.25
VERL = importlib.metadata.distribution("verl").locate_file("verl")


def inputs() -> dict[str, np.ndarray]:
    """Rollouts of two prompts: log-probabilities, also where nothing was sampled; masks with holes; rewards."""
    rng = np.random.default_rng(17)
    shape = (ROLLOUTS, TOKENS)
    logp = np.log(rng.uniform(0.02, 0.95, shape))
    off = lambda size: np.minimum(logp + rng.normal(scale=size, size=shape), -0.01)  # noqa: E731
    mask = (np.arange(TOKENS) < np.array([8, 5, 6, 3, 8, 7])[:, None]).astype(np.float64)
    mask[0, 2:4], mask[4, 5] = 0, 0  # what a tool wrote
    old, ref = off(0.35), off(0.3)
    sampler = np.minimum(old + rng.normal(scale=0.12, size=shape), -0.01)
    rewards = np.array([1.0, 0.0, 0.25, 0.5, 0.0, 1.0])
    advantages = np.array([0.9, -1.1, 0.2, 0.7, -0.8, 0.1])
    values, old_values, returns, token_rewards = rng.normal(size=(4, *shape))
    return {
        "logp": logp, "old": old, "ref": ref, "sampler": sampler, "mask": mask, "rewards": rewards,
        "advantages": advantages, "values": values, "old_values": old_values, "returns": returns,
        "token_rewards": token_rewards,
    }  # fmt: skip


def cases() -> list[dict]:
    """Every kind of loss with every level, cap and KL that TRL has for it, and with every correction of the sampler."""
    found = []
    for loss in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo"):
        for level in ("token", "sequence"):
            for delta in (None,) if loss == "cispo" else (None, DELTA):
                for beta in (0.0, BETA) if level == "token" else (0.0,):
                    found.append({"loss": loss, "level": level, "delta": delta, "beta": beta, "correct": None})
            for correct in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"):
                found.append({"loss": loss, "level": level, "delta": None, "beta": 0.0, "correct": correct})
    return found


def statement_of(function, condition: str, makes: str):
    """The compiled `if` statement of a function that has this condition and assigns to this name."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    makers = [
        node
        for node in ast.walk(tree)  # from the outside in
        if isinstance(node, ast.If) and condition in ast.unparse(node.test) and f"{makes} = " in ast.unparse(node)
    ]
    return compile(ast.fix_missing_locations(ast.Module(makers[-1:], [])), "trl", "exec")


SCORING = grpo_trainer.GRPOTrainer._generate_and_score_completions
CORRECTION = statement_of(SCORING, "vllm_importance_sampling_correction", "per_token_logps_diff")
ADVANTAGES = statement_of(SCORING, "sum_then_normalize", "is_std_zero")


def correction(given: dict[str, torch.Tensor], mode: str) -> torch.Tensor:
    trainer = types.SimpleNamespace(
        use_vllm=True, vllm_importance_sampling_correction=True, vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_max=SAMPLER, vllm_importance_sampling_clip_min=None,
    )  # fmt: skip
    names = {
        "self": trainer, "torch": torch, "math": math, "completion_mask": given["mask"], "tool_mask": None,
        "old_per_token_logps": given["old"], "sampling_per_token_logps": given["sampler"],
    }  # fmt: skip
    exec(CORRECTION, names)
    return names["vllm_importance_sampling_ratio"]


def trl_advantages(rewards: torch.Tensor, scale: str) -> np.ndarray:
    trainer = types.SimpleNamespace(
        multi_objective_aggregation="sum_then_normalize", scale_rewards=scale, reward_weights=torch.ones(1).double()
    )
    names = vars(grpo_trainer) | {
        "self": trainer, "rewards_per_func": rewards[:, None], "num_generations": GROUP, "device": "cpu",
        "unscorable_mask": torch.zeros(ROLLOUTS, dtype=torch.bool),
    }  # fmt: skip
    exec(ADVANTAGES, names)
    return names["advantages"].numpy()


def trl_loss(given: dict[str, torch.Tensor], case: dict) -> tuple[float, np.ndarray]:
    """(value, gradient in the log-probabilities) of the trainer's own `_compute_loss`."""
    logp = given["logp"].clone().requires_grad_()
    trainer = types.SimpleNamespace(
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, beta=case["beta"],
        importance_sampling_level=case["level"], loss_type=case["loss"], epsilon_low=LOW, use_adaptive_entropy=False,
        epsilon_high=CISPO if case["loss"] == "cispo" else HIGH, _entropy_bonus_enabled=False,
        use_vllm=bool(case["correct"]), vllm_importance_sampling_correction=bool(case["correct"]),
        model=types.SimpleNamespace(training=True), current_gradient_accumulation_steps=1, max_completion_length=MOST,
        args=types.SimpleNamespace(delta=case["delta"], use_bias_correction_kl=True, steps_per_generation=1),
        accelerator=types.SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *a, **k: (logp, torch.zeros_like(logp), None),
    )  # fmt: skip
    ids = torch.zeros(ROLLOUTS, TOKENS, dtype=torch.long)
    batch = {
        "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids, "completion_mask": given["mask"],
        "advantages": given["advantages"], "old_per_token_logps": given["old"], "ref_per_token_logps": given["ref"],
        "num_items_in_batch": given["mask"].sum(),
    }  # fmt: skip
    if case["correct"]:
        batch["importance_sampling_ratio"] = correction(given, case["correct"])
    loss = grpo_trainer.GRPOTrainer._compute_loss(trainer, None, batch)
    loss.backward()
    return loss.item(), logp.grad.numpy()


def verl_functions() -> types.SimpleNamespace:
    """verl's functions by name, each compiled from its own text."""
    found = {"torch": torch, "np": np, "defaultdict": defaultdict, "AlgoConfig": type("AlgoConfig", (), {})}
    wanted = {
        "utils/torch_functional.py": ("masked_sum", "masked_mean", "masked_var", "masked_whiten", "clip_by_value"),
        "trainer/ppo/core_algos.py": (
            "agg_loss", "compute_gae_advantage_return", "compute_value_loss", "compute_policy_loss_dppo_tv",
            "compute_policy_loss_vanilla", "compute_rloo_outcome_advantage", "kl_penalty_forward",
        ),
    }  # fmt: skip
    for path, names in wanted.items():
        for node in ast.parse((VERL / path).read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name in names:
                node.decorator_list = []
                for arg in (*node.args.args, *node.args.kwonlyargs):
                    arg.annotation = None
                node.returns = None
                exec(compile(ast.fix_missing_locations(ast.Module([node], [])), path, "exec"), found)
        found["verl_F"] = types.SimpleNamespace(**found)
    return types.SimpleNamespace(**found)


def verl_results(given: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    verl, out, mask = verl_functions(), {}, given["mask"]

    class Config(types.SimpleNamespace):
        def get(self, name, default):
            return getattr(self, name, default)

    def graded(name: str, loss, at: torch.Tensor):
        loss.backward()
        out[f"{name}.value"], out[f"{name}.gradient"] = np.float64(loss.item()), at.grad.numpy()

    per_token = given["advantages"][:, None].expand_as(mask)
    base = {"clip_ratio": 0.1, "clip_ratio_low": 0.05, "clip_ratio_high": 0.08, "global_batch_info": {}}
    logp = given["logp"].clone().requires_grad_()
    graded(
        "shift", verl.compute_policy_loss_dppo_tv(given["old"], logp, per_token, mask, config=Config(**base))[0], logp
    )
    logp = given["logp"].clone().requires_grad_()
    dual = Config(clip_ratio=LOW, clip_ratio_low=LOW, clip_ratio_high=HIGH, clip_ratio_c=DELTA, global_batch_info={})
    loss, _ = verl.compute_policy_loss_vanilla(given["old"], logp, per_token, mask, config=dual)
    graded("two_sided", loss, logp)
    values = given["values"].clone().requires_grad_()
    graded("values", verl.compute_value_loss(values, given["returns"], given["old_values"], mask, 0.2)[0], values)
    whitened, returns = verl.compute_gae_advantage_return(given["token_rewards"], given["values"], mask, 0.98, 0.9)
    out["gae.whitened"], out["gae.returns"] = (whitened * mask).numpy(), (returns * mask).numpy()
    last = torch.zeros_like(mask)
    last[:, 0] = given["rewards"]
    index = np.repeat(np.arange(ROLLOUTS // GROUP), GROUP)
    out["rloo"] = verl.compute_rloo_outcome_advantage(last, torch.ones_like(mask), index)[0][:, 0].numpy()
    for kind, name in (("k1", "kl"), ("k2", "mse"), ("k3", "low_var_kl")):
        out[kind] = verl.kl_penalty_forward(given["logp"], given["ref"], name).numpy()
    return out


def main() -> None:
    arrays = inputs()
    given = {name: torch.tensor(value) for name, value in arrays.items()}
    made = [trl_loss(given, case) for case in cases()]
    lengths = [0, 15, 16, 17, 20, 25]
    settings = {
        "versions": {name: importlib.metadata.version(name) for name in ("trl", "verl", "torch")},
        "cases": cases(), "low": LOW, "high": HIGH, "delta": DELTA, "cispo": CISPO, "beta": BETA, "sampler": SAMPLER,
        "group": GROUP, "most": MOST,
    }  # fmt: skip
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(
        FOLDER / "losses.npz",
        settings=json.dumps(settings),
        lengths=lengths,
        overlong=get_soft_overlong_punishment(20, 4)([[0] * n for n in lengths]),
        values=[value for value, _ in made],
        gradients=np.stack([gradient for _, gradient in made]),
        **{f"in.{name}": value for name, value in arrays.items()},
        **{f"trl.{kind}": trl_advantages(given["rewards"], scale) for kind, scale in
           (("mean", "none"), ("std", "group"), ("batch", "batch"))},
        **{f"verl.{name}": value for name, value in verl_results(given).items()},
    )  # fmt: skip


if __name__ == "__main__":
    main()
