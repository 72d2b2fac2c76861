"""The decoding engine: a fixed number of slots, kept busy until every request is answered.

The host admits requests into free slots, runs jitted chunks of decoding steps, and takes out what was written. Every
slot has a queue of forced tokens: an opening put into the model's mouth, and what a tool returned. A row that closes a
tool's span waits, while the host runs the tool and fills its queue. A slot keeps its cache after it is done: a prompt
that begins with what some slot has read continues from there, so the next turn of a conversation reads only what is
new. The forward is the trainer's own.
"""

import collections
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import jax
import numpy as np
from jax.sharding import Mesh

from llm_jax.sampling import decode
from llm_jax.sampling.decode import FORCED_ROOM, MOST_STEPS
from llm_jax.sampling.requests import Completion, Request, Tool
from llm_jax.sampling.slots import PIECES, Piece, Slots
from llm_jax.tokenizer import Tokenizer

CHUNKS = (1, 4, 16, MOST_STEPS)  # steps between looks at what was written
REFILLED = 8  # slots are refilled when one in so many is free
SHARED = 16  # tokens that a prompt must have in common with a slot for its cache to be worth a look
TOOL_THREADS = 4

Row = tuple[Request, Completion]


class Engine:
    """Decodes with one set of parameters after another; `length` is the longest prompt and completion together.

    `generate` answers a list of requests. For requests that come and go: `submit`, then `step` until it is done.
    Options: `int8_weights`, `int8_cache`; `drafts`, the tokens guessed ahead at each step, which are kept where the
    row would have written them itself, so that completions stay as they are.
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
        self.tokenizer, self.length, self.tools = tokenizer, length, tools or {}
        self._closing = {tokenizer.close[name]: name for name in self.tools}
        self._slots = Slots(model, tokenizer, mesh, slots, length, list(self._closing), **options)
        self._refill = max(1, slots // REFILLED)
        self._queue: collections.deque[Row] = collections.deque()
        self._rows: list[Row | None] = [None] * slots
        self._kept: list[list[int]] = [[] for _ in range(slots)]  # what a free slot's cache holds
        self._free = list(range(slots))  # the one that was used last at the end
        self._calls: dict[int, Future] = {}  # slot -> its tool at work
        self._pool = ThreadPoolExecutor(TOOL_THREADS)
        self.steps = self.worked = 0  # decoding steps done; those of each slot in which it wrote, over all slots

    # Requests

    def generate(self, params, requests: list[Request]) -> list[Completion]:
        """Completions in the order of the requests. Raises UserError for a request that `Request.check` refuses."""
        for request in requests:
            request.check(self.tokenizer.vocab_size, self.length)
        self.use(params)
        # Those that may run longest begin first. Prompts of like length are read together, for little padding; those
        # of a group stand side by side.
        key = lambda i: (-requests[i].max_new_tokens, len(requests[i].prompt), requests[i].prompt)  # noqa: E731
        done = {i: self.submit(requests[i]) for i in sorted(range(len(requests)), key=key)}
        while self.busy:
            self.step()
        return [done[i] for i in range(len(requests))]

    def stream(self, params, request: Request) -> Iterator[list[int]]:
        """The new ids of one request, as they come. Closing the iterator ends the request."""
        self.use(params)
        completion, shown = self.submit(request), 0
        try:
            while completion.finish is None:
                self.step(CHUNKS[0])
                yield completion.ids[shown:]
                shown = len(completion.ids)
        finally:
            self.cancel(completion)

    def use(self, params) -> None:
        """Decodes with these parameters from now on. What was read with others is forgotten."""
        if self._slots.use(params):
            self.forget()

    def forget(self) -> None:
        """Lets free slots be as if they had read nothing: what comes next does not depend on what was before."""
        self._kept = [[] for _ in self._rows]
        self._free.sort()

    def submit(self, request: Request) -> Completion:
        """Queues a request; its completion grows with every `step`. Raises UserError as `generate` does."""
        request.check(self.tokenizer.vocab_size, self.length)
        completion = Completion(top=[] if request.top else None)
        self._queue.append((request, completion))
        return completion

    def cancel(self, completion: Completion) -> None:
        """Frees the slot of a completion that is not done; what it has so far stays."""
        self._queue = collections.deque(row for row in self._queue if row[1] is not completion)
        for slot, row in enumerate(self._rows):
            if row and row[1] is completion:
                self._slots.stop([slot])
                self._finish(slot, "cancelled")
        completion.finish = completion.finish or "cancelled"

    def warm_up(self, params) -> None:
        """Compiles every program that any mixture of requests can need."""
        self.use(params)
        self._slots.warm_up()
        self.forget()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def busy(self) -> bool:
        return bool(self._queue) or any(self._rows)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        return len(self._rows) - len(self._free)

    @property
    def slots(self) -> int:
        return len(self._rows)

    @property
    def occupancy(self) -> float:
        """The share of all slots' steps in which they wrote."""
        return self.worked / max(1, self.steps * self.slots)

    # The loop

    def step(self, steps: int = MOST_STEPS, wait_for_tools: bool = True) -> list[Completion]:
        """Admits what it can and runs one chunk of at most `steps` steps; gives the completions that moved.

        Rows whose tools are at work stand still; with `wait_for_tools` all rows do, so that what is computed together
        does not depend on how long a tool takes.
        """
        self._take_answers(wait_for_tools)
        while self._queue and len(self._free) >= min(self._refill, len(self._queue)):
            self._admit(self._next_prompts())
        live = [slot for slot, row in enumerate(self._rows) if row and slot not in self._calls]
        if not live:
            return []
        steps = min(steps, MOST_STEPS)
        ahead = steps * (1 + self._slots.drafts)
        self._make_room(max(min(self._position(slot) + ahead, self._end(self._rows[slot][0])) for slot in live))
        stuck = self.slots - len(live)
        # Where rows wait for slots, or may wait for tools, the chunk ends when a few slots are stuck.
        patience = stuck + self._refill if self._queue or self._closing else self.slots
        return self._take(self._slots.chunk(steps, min(patience, self.slots)), live)

    def _take(self, out: decode.State, live: list[int]) -> list[Completion]:
        """Hands what was written to its completions, frees slots that are done, starts the tools of those that wait."""
        wanted = any(self._rows[slot][0].top for slot in live)
        out = jax.device_get({k: v for k, v in out.items() if wanted or not k.startswith("out_top")})
        self.steps, self.worked = self.steps + int(out["steps"]), self.worked + int(out["worked"])
        moved = []
        for slot in live:
            request, completion = self._rows[slot]
            moved.append(completion)
            append(completion, request.top, out, slot)
            if request.stop and self._ends(completion, request.stop):
                self._slots.stop([slot])
                self._finish(slot, "stop")
            elif out["done"][slot]:
                ends = (self.tokenizer.end, *request.stop_ids)
                self._finish(slot, "stop" if completion.ids and completion.ids[-1] in ends else "length")
            elif out["waiting"][slot]:
                completion.tool_calls += 1
                self._calls[slot] = self._pool.submit(self._call, list(completion.ids))
        return moved

    def _ends(self, completion: Completion, texts: tuple[str, ...]) -> bool:
        """Whether it contains a text that ends it; what was written after that is taken back."""
        says = lambda n: any(text in self.tokenizer.decode(completion.ids[:n]) for text in texts)  # noqa: E731
        if not says(len(completion.ids)):
            return False
        completion.keep(next(n for n in range(len(completion.ids) + 1) if says(n)))
        return True

    def _finish(self, slot: int, why: str) -> None:
        request, completion = self._rows[slot]
        completion.finish = why
        self._kept[slot] = [*request.prompt, *completion.ids][:-1]  # the last token has not been read
        self._rows[slot] = None
        self._calls.pop(slot, None)
        self._free.append(slot)

    def _position(self, slot: int) -> int:
        request, completion = self._rows[slot]
        return len(request.prompt) + max(1, len(completion.ids))

    def _end(self, request: Request) -> int:
        """The length of prompt and completion at which a row ends."""
        return min(len(request.prompt) + request.max_new_tokens, self.length)

    def _make_room(self, needed: int, shrink: bool = False) -> None:
        self._slots.make_room(needed, shrink)
        self._kept = [ids[: self._slots.length] for ids in self._kept]

    # Admission

    def _next_prompts(self) -> dict[tuple[int, ...], list[Row]]:
        """The next of the queue that fit into free slots and one call, by prompt. One of several pieces goes alone."""
        taken: dict[tuple[int, ...], list[Row]] = {}
        while self._queue and sum(map(len, taken.values())) < len(self._free):
            prompt = tuple(self._queue[0][0].prompt)
            is_long = any(len(other) > PIECES[-1] for other in (prompt, *taken))
            if taken and prompt not in taken and (is_long or len(taken) == self._slots.together[-1]):
                break
            taken.setdefault(prompt, []).append(self._queue.popleft())
        fits = max((n for n in self._slots.together if n <= len(taken)), default=0)
        while len(taken) > fits >= self._refill:  # no more than a program reads without padding
            _, rows = taken.popitem()
            self._queue.extendleft(reversed(rows))
        return taken

    def _admit(self, prompts: dict[tuple[int, ...], list[Row]]) -> None:
        """Puts rows into free slots; each prompt is read once, beyond what some slot has read of it."""
        needed = max(max(map(len, prompts)) + 2, *(self._position(s) for s, row in enumerate(self._rows) if row), 0)
        self._make_room(needed, shrink=not any(self._rows) or 4 * needed <= self._slots.length)
        pieces: list[Piece] = []
        rows: dict[int, Row] = {}
        sources: dict[int, int] = {}  # slot -> the number of its prompt
        for number, (prompt, group) in enumerate(prompts.items()):
            origin, known = self._longest_prefix(prompt)
            own = origin if known and origin in self._free else self._free[0]
            pieces.append((prompt[known:], own, origin, known))
            for row in group:
                slot = own if row is group[0] else self._free[0]
                self._free.remove(slot)
                row[1].reused = known if row is group[0] else len(prompt)
                rows[slot], sources[slot] = row, number
        hidden_RD = self._read(pieces)
        if len(rows) > len(pieces):
            self._slots.share({slot: pieces[number][1] for slot, number in sources.items()})
        limits = {slot: self._end(request) - len(request.prompt) for slot, (request, _) in rows.items()}
        self._slots.begin({slot: request for slot, (request, _) in rows.items()}, hidden_RD, sources, limits)
        for slot, row in rows.items():
            self._rows[slot], self._kept[slot] = row, []

    def _read(self, pieces: list[Piece]) -> jax.Array:
        """Reads prompts; one that is longer than a piece, in several."""
        (ids, slot, origin, known), most = pieces[0], PIECES[-1]
        while len(ids) > most:
            self._slots.read([(ids[:most], slot, origin, known)])
            ids, origin, known = ids[most:], slot, known + most
            pieces = [(ids, slot, origin, known)]
        return self._slots.read(pieces)

    def _longest_prefix(self, prompt: tuple[int, ...]) -> tuple[int, int]:
        """(slot, tokens): where the most of a prompt's beginning has been read; its last token is always read anew."""
        best, known, length = 0, 0, self._slots.length
        if len(prompt) <= SHARED:
            return best, known
        beginning = list(prompt[:SHARED])
        for slot, row in enumerate(self._rows):
            if (row[0].prompt if row else self._kept[slot])[:SHARED] != beginning:
                continue
            read = [*row[0].prompt, *row[1].ids][:-1] if row else self._kept[slot]
            most = min(len(read), len(prompt) - 1, length)
            differ = np.flatnonzero(np.not_equal(read[:most], prompt[:most]))
            same = int(differ[0]) if len(differ) else most
            best, known = (slot, same) if same > known else (best, known)
        return best, known

    # Tools

    def _call(self, ids: list[int]) -> str:
        """Runs the call that the last id closes; a closing without its opening calls nothing."""
        name = self._closing[ids[-1]]
        spans = {*self.tokenizer.open.values(), *self.tokenizer.close.values()}
        opening = max((i for i, t in enumerate(ids[:-1]) if t in spans), default=-1)
        if opening < 0 or ids[opening] != self.tokenizer.open[name]:
            return "error: no call was opened"
        return self.tools[name](self.tokenizer.decode(ids[opening + 1 : -1]))

    def _take_answers(self, wait_for_all: bool) -> None:
        """Queues the output spans of the tools that are done."""
        if wait_for_all:
            wait(self._calls.values())
        queues = {}
        for slot in [slot for slot, call in self._calls.items() if call.done()]:
            body = self.tokenizer.encode(self._calls.pop(slot).result())[: FORCED_ROOM - 2]
            queues[slot] = [self.tokenizer.open["output"], *body, self.tokenizer.close["output"]]
        if queues:
            self._slots.force(queues)


def append(completion: Completion, top: int, out: dict[str, np.ndarray], slot: int) -> None:
    """Adds what a slot wrote in a chunk."""
    n = int(out["fresh"][slot])
    for name, values in zip(decode.OUTPUTS, completion.columns, strict=True):
        values += out[f"out_{name}"][slot, :n].tolist()
    if top:
        ids, values = out["out_top_ids"][slot, :n, :top].tolist(), out["out_top"][slot, :n, :top].tolist()
        completion.top += [list(zip(*pair, strict=True)) for pair in zip(ids, values, strict=True)]
