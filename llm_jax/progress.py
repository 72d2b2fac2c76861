"""What a person sees of a stage: a rich progress line, metrics.jsonl and TensorBoard events."""

import json
import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from llm_jax.checkpoint import to_host

console = Console(highlight=False)


class StageLog:
    def __init__(self, workdir: Path, stage: str, steps: int):
        self.stage, self.steps = stage, steps
        self.folder = Path(workdir) / stage
        self.folder.mkdir(parents=True, exist_ok=True)
        self._started = self._last = time.monotonic()
        self._seconds_before, self._tokens, self._first = 0.0, 0, None
        self._tensorboard = SummaryWriter(str(self.folder))
        self._bar = Progress(
            TextColumn("[bold]{task.description:9}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task(stage, total=steps, note="compiling")

    def state(self) -> dict[str, Any]:
        """For the checkpoint: so that times add up over restarts."""
        return {"seconds": self.seconds(), "tokens": self._tokens, "first_step_seconds": self._first}

    def seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def begin(self) -> None:
        """A run from step 0: lines of an earlier one that was killed before its first checkpoint go."""
        (self.folder / "metrics.jsonl").unlink(missing_ok=True)

    def __enter__(self) -> None:
        self._bar.start()

    def __exit__(self, *_) -> None:
        self._bar.stop()
        self._tensorboard.close()

    def resume(self, step: int, state: dict[str, Any]) -> None:
        """Continues after `step`: drops the lines of steps that will be run again."""
        self._seconds_before, self._tokens, self._first = state["seconds"], state["tokens"], state["first_step_seconds"]
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept))
        self._bar.update(self._task, completed=step)
        console.print(f"{self.stage}: continuing after step {step}")

    def step(self, step: int, metrics: dict, figures: dict[str, float], tokens: int) -> None:
        """One training step: `metrics` are on the device, `figures` on the host. Raises if not finite."""
        values = {**to_host(metrics), **figures}
        now = time.monotonic()
        rate, self._last = tokens / max(now - self._last, 1e-9), now
        self._tokens += tokens
        if self._first is None:
            self._first = self.seconds()
        if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
            raise FloatingPointError(
                f"{self.stage}: the loss of step {step} is {values['loss']}; the last checkpoint is kept"
            )
        self._write({"step": step, **values, "tokens_per_second": rate})
        note = f"loss {values['loss']:.3f}" + (f"  reward {values['reward']:.2f}" if "reward" in values else "")
        self._bar.update(self._task, completed=step, note=f"{note}  {rate / 1e3:.1f}k tok/s")

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        self._write({"step": step, **metrics})

    def _write(self, values: dict[str, Any]) -> None:
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}) + "\n")
        for key, value in values.items():
            if key != "step" and isinstance(value, int | float):
                self._tensorboard.add_scalar(f"{self.stage}/{key}", value, values["step"])

    def finish(self) -> None:
        """The stage is done: its totals go to summary.json."""
        summary = {**self.state(), "steps": self.steps, "tokens_per_second": self._tokens / self.seconds()}
        (self.folder / "summary.json").write_text(json.dumps(summary, indent=1))
