"""Wall seconds of each stage of a run and the machine's speed."""

import json
import time
from pathlib import Path

import jax

from llm_jax.config import UserError
from llm_jax.files import read_json, replace
from llm_jax.frame.calibrate import machine_gflops

BEGIN_ANEW = ("evaluate", "report")  # what they did before an interruption is done again; others go on


class Times:
    """Kept in the workdir over restarts. Of several processes, the first reads and writes it."""

    def __init__(self, workdir: Path):
        self.path, self.writes = workdir / "times.json", jax.process_index() == 0
        self._stage, self._started = "", 0.0

    def of(self, stage: str) -> "Times":
        """`with times.of(stage):` adds the seconds of what is inside."""
        self._stage = stage
        return self

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_) -> None:
        self.add(self._stage, time.monotonic() - self._started)

    def read(self) -> dict:
        """{"seconds": {stage: so many}, "gflops": [of each measurement]}; nothing yet where the file is damaged."""
        try:
            found = read_json(self.path)
            return {"seconds": dict(found["seconds"]), "gflops": list(found["gflops"])}
        except (UserError, KeyError, TypeError, ValueError):
            return {"seconds": {}, "gflops": []}

    def add(self, stage: str, seconds: float) -> None:
        if self.writes:
            data = self.read()
            before = 0.0 if stage in BEGIN_ANEW else data["seconds"].get(stage, 0.0)
            data["seconds"][stage] = before + seconds
            replace(self.path, json.dumps(data, indent=1))

    def calibrate(self) -> None:
        if self.writes:
            speed, data = machine_gflops(), self.read()
            data["gflops"].append(speed)
            replace(self.path, json.dumps(data, indent=1))
