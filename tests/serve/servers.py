"""A run that is made in a second, and servers of it: real processes on free ports."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
from ml_collections import ConfigDict

from llm_jax.checkpoint import FORMAT_VERSION, Checkpoints
from llm_jax.config import flatten
from llm_jax.tokenizer import Tokenizer
from tests.commands import DEADLINE, ENVIRONMENT, ROOT


def make_run(workdir: Path, config: ConfigDict, tokenizer: Tokenizer, stages: dict) -> Path:
    """A workdir as training leaves it, with these parameters of its stages."""
    (workdir / "data").mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps({"format": FORMAT_VERSION, "config": flatten(config)}))
    tokenizer.save(workdir / "data" / "tokenizer.model")
    for stage, params in stages.items():
        store = Checkpoints(workdir, stage)
        store.save(1, params, {"count": params["norm"]["scale"]}, {"tokenizer": tokenizer.sha256})
        store.wait()
        store.close()
    return workdir


class Server:
    """A server's process. `flags` may ask for any; the port is a free one."""

    def __init__(self, workdir: Path, *flags: str, **environment: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llm_jax.serve", f"--workdir={workdir}", "--port=0", "--nowarm_up", *flags],
            cwd=ROOT,
            env={**ENVIRONMENT, **environment},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.http = httpx.Client(timeout=DEADLINE)
        self.errors: list[str] = []
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True).start()
        line = self.process.stdout.readline()
        self.url = re.search(r"http://\S+:\d+", line)[0] if line else ""
        self.port = int(self.url.rpartition(":")[2]) if line else 0

    def wait(self, status: str = "ok") -> "Server":
        """Until /health says so."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.health()["status"] == status:
                return self
            time.sleep(0.1)
        raise AssertionError("".join(self.errors) or "the server did not start")

    def health(self) -> dict:
        return self.http.get(f"{self.url}/health").json()

    def client(self, key: str = "none", **kwargs) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=DEADLINE, **kwargs)

    def post(self, path: str, body, **kwargs) -> httpx.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **kwargs.pop("headers", {})}
        return self.http.post(f"{self.url}{path}", content=data, headers=headers, **kwargs)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        found = 0.0
        for line in self.http.get(f"{self.url}/metrics").text.splitlines():
            sample = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if sample and sample[1] == f"llm_jax_{name}":
                found += float(sample[3]) * all(f'{k}="{v}"' in (sample[2] or "") for k, v in labels.items())
        return found

    def until(self, name: str, value: float, **labels: str) -> None:
        """Waits until a metric has this value."""
        deadline = time.monotonic() + DEADLINE
        while (now := self.metric(name, **labels)) != value:
            assert time.monotonic() < deadline, f"{name} stays {now}"
            time.sleep(0.02)

    def stop(self, how: int = signal.SIGTERM) -> int:
        """The exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout=DEADLINE)


@contextlib.contextmanager
def serving(workdir: Path, *flags: str, **environment: str) -> Iterator[Server]:
    server = Server(workdir, *flags, **environment)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def events(lines) -> Iterator[dict | str]:
    """What a stream of events says."""
    for line in lines:
        if line.startswith("data: "):
            yield line[6:] if line == "data: [DONE]" else json.loads(line[6:])
