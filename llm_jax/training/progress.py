"""What a person sees of a stage: a rich progress line, metrics.jsonl and TensorBoard events."""

import json
import math
import time
from pathlib import Path
from typing import Any

import jax
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event

from llm_jax.checkpoint import to_host
from llm_jax.files import replace, whole_lines
from llm_jax.frame.cli import console

EVENTS = "events.out.tfevents.*"


class StageLog:
    """Of several processes, the first writes.

    `tokens` and `flops` are of one step over all devices; `peak` is what MFU divides by, over all devices; `parts` are
    the names of the gradient's leaves.
    """

    def __init__(self, workdir: Path, stage: str, steps: int, tokens: int, flops: float, peak: float, parts: list[str]):
        self.stage, self.steps, self.tokens_per_step = stage, steps, tokens
        self.flops, self.peak, self.parts = flops, peak, parts
        self.writes = jax.process_index() == 0
        self.folder = Path(workdir) / stage
        self.folder.mkdir(parents=True, exist_ok=True)
        self._started = self._last = time.monotonic()
        self._resumed, self._seconds_before, self._tokens, self._first = 0, 0.0, 0, None
        self._bar = Progress(
            TextColumn("[bold]{task.description:9}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self.writes,
        )
        self._task = self._bar.add_task(stage, total=steps, note="compiling")

    def state(self) -> dict[str, Any]:
        """For the checkpoint: so that times add up over restarts."""
        return {"seconds": self.seconds(), "tokens": self._tokens, "first_step_seconds": self._first}

    def seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def begin(self) -> None:
        """A run from step 0: lines of an earlier one that was killed before its first checkpoint go."""
        if self.writes:
            for path in (self.folder / "metrics.jsonl", *self.folder.glob(EVENTS)):
                path.unlink(missing_ok=True)

    def __enter__(self) -> None:
        suffix = f".{self._resumed}"  # the name has the second, and a run may go on in the one that it began in
        self._tensorboard = SummaryWriter(str(self.folder), write_to_disk=self.writes, filename_suffix=suffix)
        self._bar.start()

    def __exit__(self, *_) -> None:
        self._bar.stop()
        self._tensorboard.close()

    def resume(self, step: int, state: dict[str, Any]) -> None:
        """Continues after `step`: drops the lines of steps that will be run again."""
        self._resumed = step
        self._seconds_before, self._tokens, self._first = state["seconds"], state["tokens"], state["first_step_seconds"]
        if not self.writes:
            return
        path = self.folder / "metrics.jsonl"
        kept = [line for line in whole_lines(path) if line["step"] <= step]
        replace(path, "".join(json.dumps(line) + "\n" for line in kept))
        for events in self.folder.glob(EVENTS):
            replace(events, events_until(events.read_bytes(), step))
        self._bar.update(self._task, completed=step)
        console.print(f"{self.stage}: continuing after step {step}")

    def step(self, step: int, metrics: dict, figures: dict[str, float], waited: float) -> dict[str, float]:
        """One training step: `metrics` are on the device, `figures` on the host; `waited` are the seconds for batches
        since the last call. A figure `tokens` is how many the step had, where that varies. Gives what it has logged.

        Raises FloatingPointError when the loss or a gradient is not finite.
        """
        squares = metrics["grad_squares"]
        values = {**to_host({k: v for k, v in metrics.items() if k != "grad_squares"}), **figures}
        now = time.monotonic()
        seconds, self._last = max(now - self._last, 1e-9), now
        tokens = values.get("tokens", self.tokens_per_step)
        self._tokens += tokens
        if self._first is None:
            self._first = self.seconds()
        if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
            bad = [name for name, x in zip(self.parts, jax.device_get(squares), strict=True) if not math.isfinite(x)]
            where = f"the gradient of {bad[0]}" if bad else "the loss"
            raise FloatingPointError(
                f"{self.stage}: step {step} has a loss of {values['loss']}, and {where} is the first part that is not "
                "finite; the last checkpoint is kept"
            )
        rate = tokens / seconds
        speed = {"tokens_per_second": rate, "input_wait": waited / seconds}
        if self.flops and self.peak:
            speed["mfu"] = self.flops / seconds / self.peak
        if memory := (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use"):
            speed["hbm_peak_gib"] = memory / 2**30
        self._write({"step": step, **values, **speed})
        note = f"loss {values['loss']:.3f}" + (f"  reward {values['reward']:.2f}" if "reward" in values else "")
        self._bar.update(self._task, completed=step, note=f"{note}  {rate / 1e3:.1f}k tok/s")
        return values

    def restart_clock(self) -> None:
        """What went before, a validation or a save, is no part of the next step's time."""
        self._last = time.monotonic()

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        self._write({"step": step, **metrics})

    def _write(self, values: dict[str, Any]) -> None:
        if not self.writes:
            return
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}) + "\n")
        for key, value in values.items():
            if key != "step" and isinstance(value, int | float):
                self._tensorboard.add_scalar(f"{self.stage}/{key}", value, values["step"])

    def finish(self) -> None:
        """The stage is done: its totals go to summary.json. A stage that was done before keeps them."""
        path = self.folder / "summary.json"
        if not self.writes or (self._resumed >= self.steps and path.exists()):
            return
        summary = {**self.state(), "steps": self.steps, "tokens_per_second": self._tokens / self.seconds()}
        summary |= {"flops_per_step": self.flops, "peak_flops": self.peak}
        replace(path, json.dumps(summary, indent=1))


def events_until(data: bytes, step: int) -> bytes:
    """A file of TensorBoard events without those after a step, and without half an event at its end.

    TFRecords: the length of an event in 8 bytes, 4 of its checksum, the event, 4 of its checksum.
    """
    at, kept = 0, []
    while (end := at + 16 + int.from_bytes(data[at : at + 8], "little")) <= len(data):
        if Event.FromString(data[at + 12 : end - 4]).step <= step:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)
