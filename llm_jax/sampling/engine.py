"""The decoding engine: a fixed number of slots, kept busy until every request is answered.

The host admits requests into free slots, runs jitted chunks of decoding steps, and takes out what was written. Every
slot has a queue of forced tokens: an opening put into the model's mouth, and what a tool returned. A row that closes a
tool's span waits, while the host runs the tool and fills its queue. A slot keeps its cache after it is done: a prompt
that begins with what some slot has read continues from there, so the next turn of a conversation reads only what is
new. The forward is the trainer's own.
"""

import collections
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import jax
import numpy as np
from jax.sharding import Mesh

from llm_jax import sharding
from llm_jax.model import kv_cache, transformer
from llm_jax.sampling import decode
from llm_jax.sampling.decode import FORCED_ROOM, MOST_STEPS
from llm_jax.sampling.requests import Completion, Request, Tool
from llm_jax.tokenizer import Tokenizer

CHUNKS = (1, 4, 16, MOST_STEPS)  # steps between looks at what was written
CACHE_BUCKET = 64  # the cache's length is this, doubled as often as the longest row needs
PIECES = (32, 64, 128, 256)  # a prompt is read in pieces, the last one padded to one of these lengths
ADMITTED = 4  # a quarter of the slots is admitted together
REFILLED = 16  # slots are refilled when one in so many is free
SHARED = 16  # tokens that a prompt must have in common with a slot for its cache to be worth a look
TOOL_THREADS = 4


def bucket(size: int, sizes: tuple[int, ...]) -> int:
    """The smallest of the sizes that holds it, or the largest."""
    return next((s for s in sizes if s >= size), sizes[-1])


def lengths(longest: int) -> tuple[int, ...]:
    """The cache's possible lengths."""
    out = [min(CACHE_BUCKET, longest)]
    while out[-1] < longest:
        out.append(min(2 * out[-1], longest))
    return tuple(out)


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
        int8_weights: bool = False,
        int8_cache: bool = False,
        drafts: int = 0,
    ):
        self.model, self.tokenizer, self.mesh, self.slots, self.length = model, tokenizer, mesh, slots, length
        self.tools = tools or {}
        self.static = (model.to_json(), tokenizer.vocab_size, drafts)
        self.int8_weights, self.int8_cache, self.drafts = int8_weights, int8_cache, drafts
        shards = sharding.shards(mesh, "batch")
        self._prompts = tuple(sorted({shards, max(1, slots // (ADMITTED * shards)) * shards}))  # admitted together
        self._lengths = lengths(-(-length // 8) * 8)
        self._closing = {tokenizer.close[name]: name for name in self.tools}
        self._closings = self._put(np.array([*self._closing, -1], np.int32), split=False)
        self._params = self._weights = None
        self._state = new_state(self.static, mesh, slots, self._lengths, int8_cache)
        self._queue: collections.deque[tuple[Request, Completion]] = collections.deque()
        self._rows: list[tuple[Request, Completion] | None] = [None] * slots
        self._kept: list[list[int]] = [[] for _ in range(slots)]  # what a free slot's cache holds
        self._freed = list(range(slots))  # free slots, the one that was used last at the end
        self._calls: dict[int, Future] = {}  # slot -> its tool at work
        self._pool = ThreadPoolExecutor(TOOL_THREADS)
        self.steps = self.slot_steps = 0  # decoding steps done; those in which a slot wrote, over all slots

    # Requests

    def generate(self, params, requests: list[Request]) -> list[Completion]:
        """Completions in the order of the requests. Raises UserError for a request that `Request.check` refuses."""
        for request in requests:
            request.check(self.tokenizer.vocab_size, self.length)
        self.use(params)
        # Prompts of like length are admitted together, for little padding; those of a group stand side by side.
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt), requests[i].prompt))
        done = {i: self.submit(requests[i]) for i in order}
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
        if params is not self._params:
            self._params, self._weights = params, decoding_weights(self.static, self.int8_weights, params)
            self._kept = [[] for _ in range(self.slots)]

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
                self._stop([slot])
                self._free(slot, "cancelled")
        completion.finish = completion.finish or "cancelled"

    @property
    def busy(self) -> bool:
        return bool(self._queue) or any(self._rows)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        return self.slots - len(self._freed)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    # The loop

    def step(self, steps: int = MOST_STEPS, wait_for_tools: bool = True) -> list[Completion]:
        """Admits what it can and runs one chunk of at most `steps` steps; gives the completions that moved.

        Rows whose tools are at work stand still; with `wait_for_tools` all rows do, so that what is computed together
        does not depend on how long a tool takes.
        """
        self._take_answers(wait_for_tools)
        self._admit()
        live = [slot for slot, row in enumerate(self._rows) if row and slot not in self._calls]
        if not live:
            return []
        longest = max(self._position(slot) for slot in live)
        self._make_room(min(longest + min(steps, MOST_STEPS) * (1 + self.drafts) + 1, self._lengths[-1]))
        stuck, hurry = self.slots - len(live), self._queue or self._closing
        patience = stuck + max(1, self.slots // REFILLED) if hurry else self.slots
        numbers = np.int32(steps), np.int32(min(patience, self.slots))
        self._state, out = decode.decode_chunk(self.static, self._weights, self._state, *numbers, self._closings)
        return self._take(out, live)

    def _take(self, out: decode.State, live: list[int]) -> list[Completion]:
        """Hands what was written to its completions, frees slots that are done, starts the tools of those that wait."""
        wanted = any(self._rows[slot][0].top for slot in live)
        out = jax.device_get({k: v for k, v in out.items() if wanted or not k.startswith("out_top")})
        self.steps += int(out["steps"])
        moved = []
        for slot in live:
            request, completion = self._rows[slot]
            moved.append(completion)
            n = int(out["fresh"][slot])
            self.slot_steps += n
            lists = (completion.ids, completion.sampled_mask, completion.sampling_logprob, completion.logprob)
            for name, values in zip(decode.OUTPUTS, lists, strict=True):
                values += out[f"out_{name}"][slot, :n].tolist()
            if request.top:
                pairs = zip(out["out_top_ids"][slot, :n], out["out_top"][slot, :n], strict=True)
                completion.top += [
                    list(zip(i[: request.top].tolist(), p[: request.top].tolist(), strict=True)) for i, p in pairs
                ]
            if out["done"][slot]:
                ends = (self.tokenizer.end, *request.stop_ids)
                self._free(slot, "stop" if completion.ids and completion.ids[-1] in ends else "length")
            elif request.stop and self._says(completion.ids, request.stop):
                self._stop([slot])
                self._free(slot, "stop")
            elif out["waiting"][slot]:
                completion.tool_calls += 1
                self._calls[slot] = self._pool.submit(self._call, list(completion.ids))
        return moved

    def _says(self, ids: list[int], texts: tuple[str, ...]) -> bool:
        said = self.tokenizer.decode(ids)
        return any(text in said for text in texts)

    def _free(self, slot: int, finish: str) -> None:
        request, completion = self._rows[slot]
        completion.finish = finish
        self._kept[slot] = [*request.prompt, *completion.ids][:-1]  # the last token has not been read
        self._rows[slot] = None
        self._calls.pop(slot, None)
        self._freed.append(slot)

    def _stop(self, slots: list[int]) -> None:
        self._state = decode.stopped(self._state, self._mask(slots))

    def _position(self, slot: int) -> int:
        request, completion = self._rows[slot]
        return len(request.prompt) + max(1, len(completion.ids))

    # Admission

    def _admit(self) -> None:
        """Puts queued requests into free slots, in their order, as many at a time as share a program."""
        while self._queue and len(self._freed) >= min(max(1, self.slots // REFILLED), len(self._queue)):
            group: dict[tuple[int, ...], list[tuple[Request, Completion]]] = {}
            while self._queue and sum(map(len, group.values())) < len(self._freed):
                prompt = tuple(self._queue[0][0].prompt)
                alone = len(prompt) > PIECES[-1]  # a long prompt goes piece by piece, by itself
                if prompt not in group and (len(group) == self._prompts[-1] or (alone and group)):
                    break
                group.setdefault(prompt, []).append(self._queue.popleft())
                if alone and (not self._queue or tuple(self._queue[0][0].prompt) != prompt):
                    break
            self._admit_together(group)

    def _admit_together(self, group: dict[tuple[int, ...], list[tuple[Request, Completion]]]) -> None:
        places, sources, admitted = (
            [],
            {},
            {},
        )  # (prompt, slot, origin, start) of each prompt; slot -> number of prompt, row
        if not any(self._rows) or self._needed(group) * 4 <= self._length:
            self._make_room(self._needed(group), shrink=True)
        self._make_room(self._needed(group))
        for number, (prompt, rows) in enumerate(group.items()):
            origin, start = self._longest_prefix(prompt)
            for i, (request, completion) in enumerate(rows):
                slot = origin if i == 0 and origin in self._freed else self._freed[0]
                self._freed.remove(slot)
                if i == 0:
                    places.append((prompt, slot, origin, start))
                completion.reused = start if i == 0 else len(prompt)
                sources[slot], admitted[slot] = number, (request, completion)
        for slot, row in admitted.items():
            self._rows[slot], self._kept[slot] = row, []
            self._put_row(slot, row[0])
        R = bucket(len(places), self._prompts)
        starts = self._read_pieces(R, places)
        P = bucket(max(len(prompt) - start for (prompt, *_), start in zip(places, starts, strict=True)), PIECES)
        pieces = [
            (prompt[start:], slot, slot if start > first else origin, start)
            for (prompt, slot, origin, first), start in zip(places, starts, strict=True)
        ]
        prompts = self._pieces(R, P, pieces)
        source = np.zeros(self.slots, np.int32)
        source[list(sources)] = list(sources.values())
        shared = len(admitted) > len(places)
        self._state = decode.admit(
            self.static,
            shared,
            self._weights,
            self._state,
            prompts,
            self._fields(admitted),
            self._mask(list(admitted)),
            self._put(source),
            self._closings,
        )

    def _needed(self, group) -> int:
        """Positions that the prompts of a group and what runs already need."""
        running = [self._position(slot) for slot, row in enumerate(self._rows) if row]
        return max([*running, *(len(prompt) + 2 for prompt in group)])

    def _longest_prefix(self, prompt: tuple[int, ...]) -> tuple[int, int]:
        """(slot, tokens): where the most of a prompt's beginning has been read; its last token is always read anew."""
        best = (0, 0)
        for slot, row in enumerate(self._rows):
            read = [*row[0].prompt, *row[1].ids][:-1] if row else self._kept[slot]
            most = min(len(read), len(prompt) - 1, self._length)
            if most > max(best[1], SHARED - 1):
                differ = np.nonzero(np.not_equal(read[:most], prompt[:most]))[0]
                best = max(best, (slot, int(differ[0]) if len(differ) else most), key=lambda x: x[1])
        return best if best[1] >= SHARED else (0, 0)

    def _read_pieces(self, R: int, places: list) -> list[int]:
        """Reads all but the last piece of a long prompt; gives where each prompt's last piece begins."""
        starts = [start for *_, start in places]
        (prompt, slot, origin, start), most = places[0], PIECES[-1]
        while len(places) == 1 and len(prompt) - start > most:
            piece = (prompt[start : start + most], slot, origin, start)
            prompts = self._pieces(R, most, [piece])
            self._state = decode.read_piece(self.static, self._weights, self._state, prompts)
            origin, start = slot, start + most
            starts = [start]
        return starts

    def _pieces(self, R: int, P: int, pieces: list[tuple[tuple[int, ...], int, int, int]]) -> dict[str, jax.Array]:
        """The `prompts` of `decode.admit`, padded to R pieces of P tokens."""
        tokens = np.full((R, P), self.tokenizer.pad, np.int32)
        numbers = {"length": np.ones(R, np.int32), "slot": np.full(R, self.slots, np.int32)}  # beyond the last: nowhere
        numbers |= {name: np.zeros(R, np.int32) for name in ("origin", "start")}
        for r, (piece, slot, origin, start) in enumerate(pieces):
            tokens[r, : len(piece)] = piece
            for name, value in (("length", len(piece)), ("slot", slot), ("origin", origin), ("start", start)):
                numbers[name][r] = value
        return {name: self._put(x) for name, x in {"tokens": tokens, **numbers}.items()}

    def _fields(self, admitted: dict[int, tuple[Request, Completion]]) -> decode.State:
        """ROW_FIELDS of the admitted slots."""
        rows = {name: np.zeros((self.slots, *shape), dtype) for name, (shape, dtype) in decode.ROW_FIELDS.items()}
        rows["stops"][:] = -1
        for slot, (r, _) in admitted.items():
            numbers = {
                "limit": min(r.max_new_tokens, self.length - len(r.prompt)),
                "seed": r.seed % 2**32,
                "temperature": r.temperature,
                "top_k": r.top_k,
                "top_p": r.top_p,
                "min_p": r.min_p,
                "penalty": r.repetition_penalty,
                "adjusts": bool(r.suppress or r.bias or r.repetition_penalty != 1),
                "wants_top": r.top > 0,
                "forced_length": len(r.forced),
                "position": len(r.prompt) - 1,
            }
            for name, value in numbers.items():
                rows[name][slot] = value
            rows["stops"][slot, : 1 + len(r.stop_ids)] = (self.tokenizer.end, *r.stop_ids)
            rows["forced"][slot, : len(r.forced)] = r.forced
        return {name: self._put(x) for name, x in rows.items()}

    def _put_row(self, slot: int, request: Request) -> None:
        V = transformer.padded_vocab(self.tokenizer.vocab_size)
        row: dict[str, np.ndarray] = {}
        if request.suppress or request.bias or request.repetition_penalty != 1:
            row = {"bias": np.zeros(V, np.float32), "seen": np.zeros(V, bool)}
            for i, b in request.bias.items():
                row["bias"][i] = b
            row["bias"][list(request.suppress)] = -1e30
            row["seen"][request.prompt] = True
            self._state = decode.put_row(self._state, np.int32(slot), row)
        if self.drafts:
            history = np.zeros(self._lengths[-1], np.int32)
            history[: len(request.prompt)] = request.prompt
            self._state = decode.put_row(self._state, np.int32(slot), {"history": history})

    # Room, tools

    @property
    def _length(self) -> int:
        return kv_cache.length_of(self._state["cache"])

    def _make_room(self, needed: int, shrink: bool = False) -> None:
        """Lengthens the cache to the bucket that holds `needed` positions; with `shrink`, also shortens it to that."""
        length = bucket(needed, self._lengths)
        if length > self._length or (shrink and length < self._length):
            self._state["cache"] = decode.resized(self._state["cache"], length)
            self._kept = [ids[:length] for ids in self._kept]

    def _mask(self, slots: list[int]) -> jax.Array:
        mask = np.zeros(self.slots, bool)
        mask[slots] = True
        return self._put(mask)

    def _put(self, x: np.ndarray, split: bool = True) -> jax.Array:
        axes = ("batch",) if split else (None,)
        return jax.device_put(x, sharding.named(self.mesh, *axes, *(None,) * (x.ndim - 1)))

    def _call(self, ids: list[int]) -> str:
        """Runs the call that the last id closes; a closing without its opening calls nothing."""
        name = self._closing[ids[-1]]
        spans = {*self.tokenizer.open.values(), *self.tokenizer.close.values()}
        opening = max((i for i, t in enumerate(ids[:-1]) if t in spans), default=-1)
        if opening < 0 or ids[opening] != self.tokenizer.open[name]:
            return "error: no call was opened"
        return self.tools[name](self.tokenizer.decode(ids[opening + 1 : -1]))

    def _take_answers(self, wait_for_all: bool) -> None:
        """Queues the output spans of the tools that are done, and waits where nothing else can run."""
        if not self._calls:
            return
        idle = self.running == len(self._calls) and not self._queue
        if wait_for_all or idle:
            wait(self._calls.values(), return_when="ALL_COMPLETED" if wait_for_all else FIRST_COMPLETED)
        done = [slot for slot, call in self._calls.items() if call.done()]
        if not done:
            return
        forced, length = np.zeros((self.slots, FORCED_ROOM), np.int32), np.zeros(self.slots, np.int32)
        for slot in done:
            body = self.tokenizer.encode(self._calls.pop(slot).result())[: FORCED_ROOM - 2]
            queue = [self.tokenizer.open["output"], *body, self.tokenizer.close["output"]]
            forced[slot, : len(queue)], length[slot] = queue, len(queue)
        self._state = decode.queue_forced(self._state, self._mask(done), self._put(forced), self._put(length))

    def warm_up(self, params) -> None:
        """Compiles every program that any mixture of requests can need."""
        self.use(params)
        nobody, fields = self._mask([]), self._fields({})
        V = transformer.padded_vocab(self.tokenizer.vocab_size)
        row = {"bias": np.zeros(V, np.float32), "seen": np.zeros(V, bool)}
        self._state = decode.put_row(self._state, np.int32(0), row)
        if self.drafts:
            history = {"history": np.zeros(self._lengths[-1], np.int32)}
            self._state = decode.put_row(self._state, np.int32(0), history)
        self._stop([])
        zeros = self._put(np.zeros(self.slots, np.int32))
        forced = self._put(np.zeros((self.slots, FORCED_ROOM), np.int32))
        self._state = decode.queue_forced(self._state, nobody, forced, zeros)
        for length in self._lengths:
            for other in self._lengths:
                self._make_room(other, shrink=True)
                self._make_room(length, shrink=True)
            for R in self._prompts:
                for P in PIECES:
                    prompts = self._pieces(R, P, [])
                    for shared in (False, True):
                        self._state = decode.admit(
                            self.static,
                            shared,
                            self._weights,
                            self._state,
                            prompts,
                            fields,
                            nobody,
                            zeros,
                            self._closings,
                        )
                    if PIECES[-1] == P and self._prompts[0] == R:
                        self._state = decode.read_piece(self.static, self._weights, self._state, prompts)
            numbers = np.int32(1), np.int32(self.slots)
            self._state, _ = decode.decode_chunk(self.static, self._weights, self._state, *numbers, self._closings)


@functools.partial(jax.jit, static_argnums=(0, 1))
def decoding_weights(static: decode.Static, int8: bool, params):
    return transformer.for_decoding(decode.model_of(static[0]), params, int8)


def state_shardings(static: decode.Static, mesh: Mesh, make: Callable[[], decode.State]):
    """Slots lie over the batch axes; the cache's heads and the bias's vocabulary over `tensor`."""

    def place(path, leaf):
        others = {"cache": ("kv_heads", None, None), "bias": ("vocab",), "seen": ("vocab",)}
        return sharding.named(mesh, "batch", *others.get(path[0].key, (None,) * (leaf.ndim - 1)))

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(make))


def new_state(static: decode.Static, mesh: Mesh, slots: int, cache_lengths: tuple[int, ...], int8_cache: bool):
    """The empty state, made on its shards."""
    model = decode.model_of(static[0])

    def make():
        state = decode.empty_state(model, static[1], slots, cache_lengths[-1], static[2], int8_cache)
        return state | {"cache": transformer.empty_cache(model, slots, cache_lengths[0], int8_cache)}

    return jax.jit(make, out_shardings=state_shardings(static, mesh, make))()
