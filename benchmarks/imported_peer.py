"""The peer of `benchmarks.imported`: Transformers and PEFT, in a Python of their own, which needs nothing of ours.

Reads one JSON object a line and answers with one: {"train": rows of tokens, "steps"} or {"generate": prompts, "new"}.
"""

import json
import os
import sys
import time
from collections.abc import Iterator

import peft
import torch
import transformers


def clocks() -> list[float]:
    """Seconds: of the wall, and that this process's threads have worked."""
    return [time.perf_counter(), time.process_time()]


def since(started: list[float]) -> list[float]:
    return [now - then for now, then in zip(clocks(), started, strict=True)]


def training(folder: str, rank: int, alpha: float, projections: list[str], rate: float):
    """(rows, steps) -> (`since` the start, losses): PEFT's adapter and the plain loop."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=projections, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config).train()
    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(own, rate, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)

    def run(rows: list[list[int]], steps: int) -> tuple[list[float], list[float]]:
        tokens, losses, started = torch.tensor(rows), [], clocks()
        for _ in range(steps):
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(own, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return since(started), losses

    return run


def generating(folder: str):
    """(prompts of one length, new tokens) -> (`since` the start, the new ids)."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None

    def run(prompts: list[list[int]], new: int) -> tuple[list[float], list[list[int]]]:
        ids, started = torch.tensor(prompts), clocks()
        options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": new, "do_sample": False}
        with torch.inference_mode():
            out = model.generate(ids, **options)
        return since(started), out[:, ids.shape[1] :].tolist()

    return run


def answers(run) -> Iterator[str]:
    for line in sys.stdin:
        yield json.dumps(run(*json.loads(line)))


def main() -> None:
    """The first line says which of the two, with its arguments."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    kind, *options = json.loads(sys.stdin.readline())
    run = {"training": training, "generating": generating}[kind](*options)
    print(json.dumps("ready"), flush=True)
    for answer in answers(run):
        print(answer, flush=True)


if __name__ == "__main__":
    main()
