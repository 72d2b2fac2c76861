"""The thread that drives a stage's engine, and the jobs that clients give it.

The engine belongs to that thread. Orders reach it through a queue, and what it writes goes back to the event loop,
where it waits for its client: one that reads slowly holds up nobody. Everything else here belongs to the event loop.
"""

import asyncio
import dataclasses
import itertools
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from llm_jax.checkpoint import written
from llm_jax.config import UserError
from llm_jax.runs import Run
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.loaded import Loaded, load
from llm_jax.sampling.requests import Completion, Request
from llm_jax.serve.bodies import ApiError
from llm_jax.stage_table import writing
from llm_jax.tools.search import Place
from llm_jax.tools.table import present

CHUNKS = (1, 4, 16)  # steps between looks at what was written
CHUNK_SECONDS = 0.03  # of a chunk, so that streams flow
STUCK_SECONDS = 0.005  # between looks while all rows wait for their tools


class News(NamedTuple):
    """What is new of one row of a job; `finish` comes with its last tokens."""

    row: int
    ids: list[int]
    sampled: list[int]
    logprobs: list[float]
    top: list[list[tuple[int, float]]]
    reused: int
    finish: str | None
    prompt: Sequence[tuple[float | None, list[tuple[int, float]]]] = ()  # (log-probability, likeliest) of its tokens


class Job:
    """One client's requests. What is new of their rows waits here; of a row that moves on meanwhile, as one News."""

    def __init__(self, requests: list[Request]):
        self.requests, self.left = requests, len(requests)
        self._news: dict[int, News] = {}
        self._failure: Exception | None = None
        self._there = asyncio.Event()

    def tell(self, news: News) -> None:
        if before := self._news.get(news.row):
            lists = (old + new for old, new in zip(before[1:5], news[1:5], strict=True))
            news = News(news.row, *lists, news.reused, news.finish, before.prompt)
        self._news[news.row] = news
        self._there.set()

    def fail(self, failure: Exception) -> None:
        """`next` raises this from now on."""
        self._failure = self._failure or failure
        self._there.set()

    async def next(self) -> News:
        await self._there.wait()
        if self._failure:
            raise self._failure
        news = self._news.pop(next(iter(self._news)))
        if not self._news:
            self._there.clear()
        return news


@dataclasses.dataclass
class Row:
    job: Job
    number: int
    completion: Completion
    told: int = 0
    told_prompt: bool = False

    def news(self) -> News:
        c, new = self.completion, slice(self.told, None)
        self.told = len(c.ids)
        lists = (values[new] for values in (c.ids, c.sampled_mask, c.logprob, c.top or []))
        first, self.told_prompt = not self.told_prompt, True
        tops = c.prompt_top or itertools.repeat([])
        prompt = list(zip(c.prompt_logprob, tops, strict=False)) if first and c.prompt_logprob else ()
        return News(self.number, *lists, c.reused, c.finish, prompt)


class Worker:
    """Loads a stage at once, in its thread, and answers the jobs that have come meanwhile and those that come.

    `room` is how many rows may be under way or wait. Where loading or decoding fails, all jobs are told, and `failure`
    says why: the worker is then of no more use.
    """

    def __init__(self, stage: str, load: Callable[[], Loaded], room: int, warm_up: bool):
        self.stage, self.room, self.rows = stage, room, 0
        self.written = 0  # tokens
        self.engine: Engine | None = None  # once it is ready
        self.failure: ApiError | None = None
        self._load, self._warm_up = load, warm_up
        self._loop = asyncio.get_running_loop()
        self._jobs: set[Job] = set()
        self._orders: queue.SimpleQueue[tuple[str, Job | None]] = queue.SimpleQueue()
        self._size = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    # The event loop's side

    def submit(self, requests: list[Request]) -> Job:
        """Queues requests that `Request.check` accepts, no more than `room`. Raises ApiError when there is none now."""
        if self.failure:
            raise self.failure
        if self.rows + len(requests) > self.room:
            raise ApiError(429, "the server is busy; try again in a moment", code="queue_full", Retry_After="1")
        job = Job(requests)
        self._jobs.add(job)
        self.rows += len(requests)
        self._orders.put(("submit", job))
        return job

    def cancel(self, job: Job) -> None:
        """Frees what a job holds; of one that is done, nothing."""
        if job in self._jobs:
            self._forget(job)
            self._orders.put(("cancel", job))

    def stop(self, reason: str) -> None:
        """Ends all jobs with this reason."""
        self._fail(ApiError(503, reason))
        self._orders.put(("stop", None))

    def ended(self, timeout: float) -> bool:
        """Whether the thread is over; a program that is being compiled holds it."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def running(self) -> int:
        return self.engine.running if self.engine else 0

    def _forget(self, job: Job) -> None:
        self._jobs.discard(job)
        self.rows -= job.left
        job.left = 0

    def _ready(self, engine: Engine) -> None:
        self.engine = engine
        print(f"{self.stage} is ready", flush=True)

    def _fail(self, failure: ApiError) -> None:
        self.failure = failure
        for job in list(self._jobs):
            self._forget(job)
            job.fail(failure)

    def _deliver(self, told: list[tuple[Job, News]]) -> None:
        for job, news in told:
            self.written += len(news.ids)
            if job in self._jobs:
                job.tell(news)
                if news.finish:
                    job.left -= 1
                    self.rows -= 1
                if not job.left:
                    self._jobs.discard(job)

    # The thread's side

    def _tell(self, function: Callable, *args) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            self._orders.put(("stop", None))

    def _run(self) -> None:
        loaded = None
        try:
            loaded = self._load()
            loaded.engine.use(loaded.params)
            if self._warm_up:
                loaded.engine.warm_up(loaded.params)
            self._tell(self._ready, loaded.engine)
            self._answer(loaded.engine)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            self._tell(self._fail, ApiError(503, f"the model cannot be loaded: {error}"))
        except Exception as error:
            traceback.print_exc()
            self._tell(self._fail, ApiError(500, f"the model failed: {type(error).__name__}"))
        finally:
            if loaded:
                loaded.close()

    def _answer(self, engine: Engine) -> None:
        """Until the order to stop comes."""
        rows: dict[int, Row] = {}  # by the id of their completion
        wait: float | None = None
        while True:
            for kind, job in self._taken(wait):
                if kind == "stop":
                    return
                if kind == "submit":
                    made = [Row(job, i, engine.submit(request)) for i, request in enumerate(job.requests)]
                    rows |= {id(row.completion): row for row in made}
                else:
                    for row in [row for row in rows.values() if row.job is job]:
                        engine.cancel(row.completion)
                        del rows[id(row.completion)]
            moved = self._step(engine) if engine.busy else []
            moved = [completion for completion in moved if id(completion) in rows]  # some may have been cancelled
            news = [(rows[id(completion)].job, rows[id(completion)].news()) for completion in moved]
            for completion in moved:
                if completion.finish:
                    del rows[id(completion)]
            if news:
                self._tell(self._deliver, news)
            wait = None if not engine.busy else 0 if moved else STUCK_SECONDS

    def _taken(self, wait: float | None) -> Iterator[tuple[str, Job | None]]:
        """The orders that are there; waits so many seconds for the first one, None: until it comes."""
        try:
            yield self._orders.get(wait != 0, wait)
            while True:
                yield self._orders.get_nowait()
        except queue.Empty:
            pass

    def _step(self, engine: Engine) -> list[Completion]:
        """A chunk; the next one has more steps where this one was quick, and fewer where it was slow."""
        started = time.monotonic()
        moved = engine.step(CHUNKS[self._size], wait_for_tools=False)
        seconds = time.monotonic() - started
        self._size += (seconds < CHUNK_SECONDS / 2) - (seconds > CHUNK_SECONDS)
        self._size = min(max(self._size, 0), len(CHUNKS) - 1)
        return moved


class Workers:
    """The stages of a run, each loaded when it is first asked for. Raises UserError when the run has none."""

    def __init__(
        self,
        workdir: Path,
        stage: str,
        slots: int,
        max_queue: int,
        warm_up: bool = False,
        search: Place = None,
        **options,
    ):
        self.run, self.workdir = Run.open(workdir), workdir
        self.slots, self.room, self.warm_up = slots, slots + max_queue, warm_up
        self.options = {"search": search, **options}
        self.default = self.run.choose(stage)
        self.tokenizer, self.tools = self.run.tokenizer, present(workdir, search=search)
        self.length = self.run.config.data.sequence_length
        self.loaded: dict[str, Worker] = {}
        self._stopping = ""

    def trained(self) -> dict[str, int]:
        """Stages that can be talked to, in the order of training, and when the newest checkpoint was written."""
        times = {stage: written(self.workdir, stage) for stage in writing()}
        return {stage: int(time) for stage, time in times.items() if time}

    def known(self, name: str) -> str:
        """The stage of that name; of an empty one the default. Raises ApiError when there is none."""
        stage = name or self.default
        if stage not in self.loaded and stage not in self.trained():
            there = ", ".join(self.trained())
            raise ApiError(404, f"model: there is no {stage[:40]!r}, but {there}", "model", "model_not_found")
        return stage

    def get(self, stage: str) -> Worker:
        """The worker of a stage; a new one where there is none, or the last one failed. Raises ApiError at the end."""
        worker = self.loaded.get(stage)
        if self._stopping:
            raise ApiError(503, self._stopping)
        if worker is None or worker.failure:
            options, warm_up = self.options, self.warm_up and stage == self.default  # stages share their programs
            worker = Worker(stage, lambda: load(self.workdir, stage, self.slots, **options), self.room, warm_up)
            self.loaded[stage] = worker
        return worker

    def health(self) -> dict[str, str]:
        """What /health says: `status` ok, loading or failed, of the default stage."""
        worker = self.loaded.get(self.default)
        if worker and worker.failure:
            return {"status": "failed", "model": self.default, "reason": str(worker.failure)}
        return {"status": "ok" if worker and worker.engine else "loading", "model": self.default}

    def stop(self, reason: str) -> None:
        """Ends all that is under way, for good."""
        self._stopping = reason
        for worker in self.loaded.values():
            worker.stop(reason)
