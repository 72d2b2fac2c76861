"""The decoding engine: requests in, completions out, from a fixed number of slots that are kept busy.

The slots lie in lanes, each with a cache and a queue of its own. On an accelerator one lane has them all. A CPU
computes a step of a few rows on one core for the most part: there, each core has a lane, and lanes run side by side.
The forward is the trainer's own.
"""

import collections
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import jax
from jax.sharding import Mesh

from llm_jax.sampling import memory
from llm_jax.sampling.decode import MOST_STEPS
from llm_jax.sampling.lane import Lane
from llm_jax.sampling.requests import Completion, Request, Tool
from llm_jax.sampling.scoring import Pair, Score, by_context
from llm_jax.sampling.slots import Slots
from llm_jax.tokenizer import Tokenizer

LANE_SLOTS = 16  # the fewest of a lane, where there are several
TOOL_THREADS = 4


def lanes_for(mesh: Mesh, slots: int) -> int:
    """How many lanes: on one CPU device as many as it has cores, of equal size and no fewer slots than LANE_SLOTS."""
    if mesh.size > 1 or mesh.devices.flat[0].platform != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max((n for n in range(1, min(cores, slots // LANE_SLOTS) + 1) if slots % n == 0), default=1)


class Engine:
    """Decodes with one set of parameters after another; `length` is the longest prompt and completion together.

    `generate` answers a list of requests. For requests that come and go: `submit`, then `step` until it is done.
    Options: `int8_weights`, `int8_cache`; `drafts`, the tokens guessed ahead at each step, which are kept where the
    row would have written them itself, so that completions stay as they are.

    Raises UserError, which names slots x length, where the cache has no room in memory.
    """

    def __init__(
        self,
        model,
        tokenizer: Tokenizer,
        mesh: Mesh,
        slots: int,
        length: int,
        tools: dict[str, Tool] | None = None,
        **options,
    ):
        self.tokenizer, self.mesh, self.slots, self.length = tokenizer, mesh, slots, length
        self.tools = tools or {}
        memory.tell(model, tokenizer.vocab_size, mesh, slots, length, **options)
        lanes, closings = lanes_for(mesh, slots), [tokenizer.close[name] for name in self.tools]
        make = lambda: Slots(model, tokenizer, mesh, slots // lanes, length, closings, **options)  # noqa: E731
        self._pool, self._threads = ThreadPoolExecutor(TOOL_THREADS), ThreadPoolExecutor(lanes)
        self._lanes = [Lane(make(), tokenizer, length, self.tools, self._pool) for _ in range(lanes)]
        self._at_work: dict[Lane, Future] = {}
        self._params = None

    # Requests

    def generate(self, params, requests: list[Request]) -> list[Completion]:
        """Completions in the order of the requests. Raises UserError for a request that `Request.check` refuses."""
        for request in requests:
            request.check(self.tokenizer.vocab_size, self.length)
        self.use(params)
        completions = self.submit_all(requests)
        try:
            while self.busy:
                self.step()
        finally:  # where it is interrupted, nothing goes on
            for completion in completions:
                self.cancel(completion)
        return completions

    def stream(self, params, request: Request) -> Iterator[list[int]]:
        """The new ids of one request, as they come. Closing the iterator ends the request."""
        self.use(params)
        completion, shown, over = self.submit(request), 0, False
        try:
            while not over:
                # Its lane may be at work, and it is looked at only when that is done: a stop text takes ids back.
                # Where nothing is at work any more, another stream has been given what this one waits for.
                if any(moved is completion for moved in self.step(1)) or not self.busy:
                    over = completion.finish is not None
                    yield completion.ids[shown:]
                    shown = len(completion.ids)
        finally:
            self.cancel(completion)

    def score(self, params, pairs: list[Pair]) -> list[Score]:
        """Of each (context, what follows it), neither empty: (log p of what follows, whether greedy decoding would have
        written it). Together they have at most one token more than the engine's length. Nothing else may be at work.
        """
        self.use(params)
        order = [number for numbers in by_context(pairs).values() for number in numbers]
        share = max(1, -(-len(order) // len(self._lanes)))
        cut = [order[start : start + share] for start in range(0, len(order), share)]
        work = [
            self._threads.submit(self._on_mesh, lane.score, [pairs[number] for number in numbers])
            for lane, numbers in zip(self._lanes, cut, strict=False)
        ]
        told: dict[int, Score] = {}
        for part, numbers in zip(work, cut, strict=True):
            told.update(zip(numbers, part.result(), strict=True))
        return [told[number] for number in range(len(pairs))]

    def use(self, params) -> None:
        """Decodes with these parameters from now on. What was read with others is forgotten."""
        if params is self._params:
            return
        wait(self._at_work.values())
        self._params, weights = params, self._lanes[0].weights_of(params)
        for lane in self._lanes:
            lane.use(weights)

    def forget(self) -> None:
        """Lets free slots be as if they had read nothing: what comes next does not depend on what was before."""
        wait(self._at_work.values())
        for lane in self._lanes:
            lane.forget()

    def submit(self, request: Request) -> Completion:
        """Queues a request; its completion grows with every `step`. Raises UserError as `generate` does.

        Of the lanes with a free slot it goes to the one that has read the most of its prompt, then to the one with the
        most room; where no slot is free, to the lane with the least to do.
        """
        roomy = [lane for lane in self._lanes if lane.room > 0]
        return self._give(request, max(roomy, key=lambda lane: (lane.known(request.prompt), lane.room), default=None))

    def submit_all(self, requests: list[Request]) -> list[Completion]:
        """Queues them in the order that is answered quickest; gives their completions in their own order.

        Those that may run longest begin first, and fill one lane after another: rows that grow alike need no longer a
        cache than each other. Prompts of like length are read together, for little padding; those of a group stand
        side by side. No lane gets more than its share while others have room.
        """
        key = lambda i: (-requests[i].max_new_tokens, len(requests[i].prompt), requests[i].prompt)  # noqa: E731
        share, given, made = -(-len(requests) // len(self._lanes)), collections.Counter(), {}
        for i in sorted(range(len(requests)), key=key):
            roomy = [(lane.known(requests[i].prompt), lane) for lane in self._lanes if lane.room > 0]
            _, lane = max((one for one in roomy if given[one[1]] < share), key=lambda one: one[0], default=(0, None))
            given[lane] += 1
            made[i] = self._give(requests[i], lane)
        return [made[i] for i in range(len(requests))]

    def _give(self, request: Request, lane: Lane | None) -> Completion:
        """Queues it in this lane; None: in the one with the least to do."""
        request.check(self.tokenizer.vocab_size, self.length)
        completion = Completion(top=[] if request.top else None)
        (lane or min(self._lanes, key=lambda lane: lane.load)).submit(request, completion)
        return completion

    def cancel(self, completion: Completion) -> None:
        """Frees the slot of a completion that is not done; what it has so far stays."""
        if completion.finish is None:
            wait(self._at_work.values())
            for lane in self._lanes:
                self._on_mesh(lane.cancel, completion)
        completion.finish = completion.finish or "cancelled"

    def warm_up(self, params) -> None:
        """Compiles every program that any mixture of requests can need.

        Lanes share their programs. Of two, one begins with the first and one with the last, so that both cores compile.
        """
        self.use(params)
        wait(self._at_work.values())
        parts = [self._threads.submit(self._on_mesh, lane.warm_up, i % 2 == 1) for i, lane in enumerate(self._lanes)]
        for part in parts:
            part.result()

    def close(self) -> None:
        for threads in (self._threads, self._pool):
            threads.shutdown(wait=False, cancel_futures=True)

    # The loop

    def step(self, steps: int = MOST_STEPS, wait_for_tools: bool = True) -> list[Completion]:
        """Every lane admits what it can and runs a chunk of at most `steps` steps; gives the completions that moved in
        the first lanes to be done. The others are left at work, and a later call has what they did.

        Rows whose tools are at work stand still; with `wait_for_tools` all rows of their lane do, so that what is
        computed together does not depend on how long a tool takes.
        """
        for lane in self._lanes:
            if lane.busy and lane not in self._at_work:
                self._at_work[lane] = self._threads.submit(self._on_mesh, lane.step, steps, wait_for_tools)
        done, _ = wait(self._at_work.values(), return_when=FIRST_COMPLETED)
        chunks = [self._at_work.pop(lane) for lane, chunk in list(self._at_work.items()) if chunk in done]
        return [completion for chunk in chunks for completion in chunk.result() if completion.finish != "cancelled"]

    def _on_mesh(self, function, *args):
        """Programs are compiled for a mesh in force, which each thread has of its own."""
        with jax.set_mesh(self.mesh):
            return function(*args)

    # Figures

    @property
    def busy(self) -> bool:
        return bool(self._at_work) or any(lane.busy for lane in self._lanes)

    @property
    def queued(self) -> int:
        return sum(lane.queued for lane in self._lanes)

    @property
    def running(self) -> int:
        return sum(lane.running for lane in self._lanes)

    @property
    def slot_steps(self) -> int:
        """Decoding steps done, of each slot."""
        return sum(lane.steps * lane.count for lane in self._lanes)

    @property
    def worked(self) -> int:
        """Those in which the slot wrote."""
        return sum(lane.worked for lane in self._lanes)

    @property
    def occupancy(self) -> float:
        """The share of all slots' steps in which they wrote."""
        return self.worked / max(1, self.slot_steps)
