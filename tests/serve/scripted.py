"""A server whose model follows a script: no program is compiled, and every word of an answer is known."""

import asyncio
import contextlib
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from llm_jax.sampling.requests import Completion, Request
from llm_jax.serve import worker
from llm_jax.serve.__main__ import listen
from llm_jax.serve.app import Limits, make_app
from llm_jax.serve.worker import Workers
from llm_jax.tokenizer import Tokenizer
from tests.commands import until

CODE, OUTPUT, THOUGHT, HELLO, RESULT = "6*7", "42", "A greeting.\nI greet back.", "Hello! Ask me.", "It is 42."


class Script:
    """Stands for an engine. It thinks and greets; where tools end an answer, it calls; after an output, it tells it."""

    slots = 4

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.left: list[tuple[Completion, Request, list[int]]] = []

    def submit(self, request: Request) -> Completion:
        t, completion = self.tokenizer, Completion(top=[] if request.top else None)
        if request.prompt[-1] == t.close["output"][0]:
            ids = [t.open["answer"][0], *t.encode(f" {RESULT}"), t.close["answer"][0], t.end]
        elif t.close["python"][0] in request.stop_ids:
            ids = [t.open["python"][0], *t.encode(CODE), t.close["python"][0]]
        else:
            thought = [t.open["think"][0], *t.encode(THOUGHT), t.close["think"][0]]
            ids = [*thought, t.open["answer"][0], *t.encode(f" {HELLO}"), t.close["answer"][0], t.end]
        self.left.append((completion, request, ids))
        return completion

    def step(self, steps: int, wait_for_tools: bool = True) -> list[Completion]:
        """Two tokens of each."""
        moved = [completion for completion, *_ in self.left]
        for completion, request, ids in self.left:
            at = len(completion.ids)
            new = ids[at : at + 2][: request.max_new_tokens - at]
            for values, value in zip(completion.columns, (None, 1, 0.0, -0.5), strict=True):
                values += new if value is None else [value] * len(new)
            if len(completion.ids) == len(ids):
                completion.finish = "stop"
            elif len(completion.ids) == request.max_new_tokens:
                completion.finish = "length"
        self.left = [row for row in self.left if not row[0].finish]
        return moved

    def cancel(self, completion: Completion) -> None:
        self.left = [row for row in self.left if row[0] is not completion]

    def use(self, params) -> None:
        pass

    @property
    def busy(self) -> bool:
        return bool(self.left)

    @property
    def running(self) -> int:
        return len(self.left)


@contextlib.contextmanager
def scripted(workdir: Path, tokenizer: Tokenizer) -> Iterator[str]:
    """The URL of its /v1."""
    engine = Script(tokenizer)
    loaded = types.SimpleNamespace(engine=engine, params=None, close=lambda: None)
    listening = listen("127.0.0.1", 0)
    servers: list[uvicorn.Server] = []

    async def serve() -> None:
        workers = Workers(workdir, "sft", engine.slots, 64)
        workers.get("sft")
        servers.append(uvicorn.Server(uvicorn.Config(make_app(workers, Limits()), log_level="critical")))
        await servers[0].serve(sockets=[listening])
        workers.stop("the test is over")

    load, worker.load = worker.load, lambda *args, **kwargs: loaded
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    try:
        thread.start()
        until(lambda: servers and servers[0].started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        servers[0].should_exit = True
        thread.join(60)
    finally:
        worker.load = load
