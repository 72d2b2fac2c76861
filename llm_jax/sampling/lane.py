"""A lane of the engine: a fixed number of slots and the requests that run in them.

The host admits requests into free slots, runs jitted chunks of decoding steps, and takes out what was written. Every
slot has a queue of forced tokens: an opening put into the model's mouth, and what a tool returned. A row that closes a
tool's span waits, while the host runs the tool and fills its queue. A slot keeps its cache after it is done: a prompt
that begins with what some slot has read continues from there, so the next turn of a conversation reads only what is
new.
"""

import collections
import dataclasses
from collections.abc import Iterable
from concurrent.futures import Executor, Future, wait

import jax
import numpy as np

from llm_jax.sampling import decode, scoring
from llm_jax.sampling.decode import FORCED_ROOM, MOST_STEPS
from llm_jax.sampling.grammar import Guide, fill
from llm_jax.sampling.requests import Completion, Request, Tool
from llm_jax.sampling.slots import PIECES, Piece, Slots
from llm_jax.sampling.turns import said
from llm_jax.tokenizer import Tokenizer
from llm_jax.tools.table import TOOLS

REFILLED = 8  # slots are refilled when one in so many is free
SHARED = 16  # tokens that a prompt must have in common with a slot for its cache to be worth a look

Row = tuple[Request, Completion]


class Lane:
    """Answers its queue; `tools` run in the threads of `pool`. `length` is the longest prompt and completion together.

    `submit`, `room`, `load`, `known` and `running` may be asked from another thread while the lane is at work: what
    they say may then be a moment old.
    """

    def __init__(self, slots: Slots, tokenizer: Tokenizer, length: int, tools: dict[str, Tool], pool: Executor):
        self.tokenizer, self.length, self.tools, self._pool = tokenizer, length, tools, pool
        self._slots, self.count = slots, slots.count
        self._refill = max(1, slots.count // REFILLED)
        self._queue: collections.deque[Row] = collections.deque()
        self._rows: list[Row | None] = [None] * slots.count
        self._kept: list[list[int]] = [[] for _ in self._rows]  # what a free slot's cache holds
        self._free = list(range(slots.count))  # the one that was used last at the end
        self._calls: dict[int, Future] = {}  # slot -> its tool at work
        self._guides: dict[int, Guide] = {}  # slot -> where it is in its grammar
        self._allowed = slots.nothing["allowed"].copy()  # what each guided row may sample next
        self._resumed: dict[int, list[int]] = {}  # slots that go on with the next chunk -> what they are to say first
        self.steps = self.worked = 0  # decoding steps done; those of each slot in which it wrote, over all slots
        self._asked = self._answered = 0  # tokens that requests may take; those of the requests that are done

    # Requests

    def weights_of(self, params):
        """Parameters as `use` takes them; all lanes share them."""
        return self._slots.weights_of(params)

    def use(self, weights) -> None:
        """Decodes with these weights from now on. What was read with others is forgotten."""
        self._slots.use(weights)
        self.forget()

    def forget(self) -> None:
        """Lets free slots be as if they had read nothing."""
        self._kept = [[] for _ in self._rows]
        self._free.sort()

    def submit(self, request: Request, completion: Completion) -> None:
        self._asked += self._most(request)
        self._queue.append((request, completion))

    def cancel(self, completion: Completion) -> None:
        """Takes it out, if it is here; what it has so far stays."""
        for row in [row for row in self._queue if row[1] is completion]:
            self._queue = collections.deque(other for other in self._queue if other is not row)
            self._answered += self._most(row[0])
        for slot, row in enumerate(self._rows):
            if row and row[1] is completion:
                self._slots.stop([slot])
                self._finish(slot, "cancelled")

    def score(self, pairs: list[scoring.Pair]) -> list[scoring.Score]:
        """`scoring.scored`, of a lane that is not at work."""
        told = scoring.scored(self._slots, pairs)
        self.forget()
        return told

    def warm_up(self, backwards: bool) -> None:
        self._slots.warm_up(backwards)
        self.forget()

    @property
    def busy(self) -> bool:
        return bool(self._queue) or any(self._rows)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        return self.count - len(self._free)

    @property
    def room(self) -> int:
        """Slots that nobody has asked for."""
        return len(self._free) - len(self._queue)

    @property
    def load(self) -> int:
        """Tokens that the requests which are not done may take."""
        return self._asked - self._answered

    def known(self, prompt: list[int]) -> int:
        """How much of a prompt some slot has read; all of it where the same one waits, for it is read once."""
        if any(request.prompt == prompt for request, _ in list(self._queue)):
            return len(prompt)
        return self._longest_prefix(tuple(prompt))[1]

    # The loop

    def step(self, steps: int = MOST_STEPS, wait_for_tools: bool = True) -> list[Completion]:
        """Admits what it can and runs at most `steps` steps; gives the completions that moved.

        They are one chunk, or, where rows have grammars, a chunk for every mask that has to be worked out.
        """
        moved: dict[int, Completion] = {}
        last = self.steps + min(steps, MOST_STEPS)
        while self.steps < last:
            self._take_answers(wait_for_tools)
            while self._queue and len(self._free) >= min(self._refill, len(self._queue)):
                self._admit(self._next_prompts())
            live = [slot for slot, row in enumerate(self._rows) if row and slot not in self._calls]
            moved |= {id(completion): completion for completion in self._chunk(last - self.steps, live)}
            if not self._guides:
                break
        return list(moved.values())

    def _chunk(self, steps: int, live: list[int]) -> list[Completion]:
        """Runs one chunk of at most `steps` steps; gives the completions that moved."""
        if not live:
            return []
        ahead = steps * (1 + self._slots.drafts)
        self._make_room(max(min(self._position(slot) + ahead, self._end(slot)) for slot in live))
        stuck = self.count - len(live)
        # Where rows wait for slots, or may wait for tools, the chunk ends when a few slots are stuck.
        patience = stuck + self._refill if self._queue or self.tools else self.count
        if self._guides:  # a row that waits for its mask ends the chunk
            patience = stuck + 1
        resumed, self._resumed = self._resumed, {}
        allowed_BW = self._allowed if self._guides else None
        return self._take(self._slots.chunk(steps, min(patience, self.count), resumed, allowed_BW), live)

    def _take(self, out: decode.State, live: list[int]) -> list[Completion]:
        """Hands what was written to its completions, frees slots that are done, starts the tools of those that wait."""
        wanted = any(self._rows[slot][0].top for slot in live)
        out = jax.device_get({name: values for name, values in out.items() if wanted or not name.startswith("top")})
        steps, worked = out["counts"].tolist()
        self.steps, self.worked = self.steps + steps, self.worked + worked
        fresh, done, waiting = out["rows"].tolist()
        written = out["written"][:, :, : max(fresh)]
        columns = [*written[:2].tolist(), *written[2:].view(np.float32).tolist()]
        moved = []
        for slot in live:
            request, completion = self._rows[slot]
            moved.append(completion)
            before, n = len(completion.ids), fresh[slot]
            for values, new in zip(completion.columns, columns, strict=True):
                values += new[slot][:n]
            if request.top:
                completion.top += likeliest(out, slot, n, request.top)
            if request.stop and self._ends(completion, request, before):
                self._slots.stop([slot])
                self._finish(slot, "stop")
            elif done[slot]:
                ends = (*self.tokenizer.ends, *request.stop_ids)
                self._finish(slot, "stop" if completion.ids and completion.ids[-1] in ends else "length")
            elif slot in self._guides:
                if waiting[slot]:
                    self._resumed[slot] = self._guides[slot].take(completion.ids[-1:], FORCED_ROOM)
            elif waiting[slot]:
                completion.tool_calls += 1
                self._calls[slot] = self._pool.submit(self._call, list(completion.ids))
        self._mask(self._resumed)
        self._cut_failed()
        return moved

    def _mask(self, slots: Iterable[int]) -> None:
        """Works out what those of the slots that have a grammar may sample next."""
        fill(self._allowed, {slot: self._guides[slot] for slot in slots if slot in self._guides})

    def _cut_failed(self) -> None:
        """Ends rows whose grammars have become too much to go on with."""
        for slot in [slot for slot, guide in self._guides.items() if guide.failed]:
            self._slots.stop([slot])
            self._finish(slot, "length")

    def _ends(self, completion: Completion, request: Request, before: int) -> bool:
        """Whether it contains a text that ends it; what was written after that is taken back.

        The first `before` ids were looked at when there were no more.
        """

        def says(n: int) -> bool:
            ids, kinds = completion.ids[:n], request.stop_in
            text = said(self.tokenizer.parse(ids)[0], *kinds) if kinds else self.tokenizer.decode(ids)
            return any(stop in text for stop in request.stop)

        if not says(len(completion.ids)):
            return False
        completion.keep(next(n for n in range(before, len(completion.ids) + 1) if says(n)))
        return True

    def _finish(self, slot: int, why: str) -> None:
        request, completion = self._rows[slot]
        completion.finish = why
        self._answered += self._most(request)
        self._kept[slot] = [*request.prompt, *completion.ids][:-1]  # the last token has not been read
        self._rows[slot] = None
        for of_row in (self._calls, self._guides, self._resumed):
            of_row.pop(slot, None)
        self._free.append(slot)

    def _position(self, slot: int) -> int:
        request, completion = self._rows[slot]
        return len(request.prompt) + max(1, len(completion.ids))

    def _end(self, slot: int) -> int:
        """The length of prompt and completion at which its row ends."""
        request, _ = self._rows[slot]
        return len(request.prompt) + self._most(request)

    def _most(self, request: Request) -> int:
        """Tokens that it may get."""
        return min(request.max_new_tokens, self.length - len(request.prompt))

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
            known = min(known, *(first_scored(request) - 1 for request, _ in group))
            own = origin if known and origin in self._free else self._free[0]
            pieces.append((prompt[known:], own, origin, known))
            for row in group:
                slot = own if row is group[0] else self._free[0]
                self._free.remove(slot)
                row[1].reused = known if row is group[0] else len(prompt)
                rows[slot], sources[slot] = row, number
        scored = [row for group in prompts.values() for row in group if row[0].prompt_logprobs is not None]
        hidden_RD, told = self._read(pieces, bool(scored))
        if len(rows) > len(pieces):
            self._slots.share({slot: pieces[number][1] for slot, number in sources.items()})
        for slot, row in rows.items():
            self._rows[slot], self._kept[slot] = row, []
        limits = {slot: self._most(request) for slot, (request, _) in rows.items()}
        requests = {slot: self._guided(slot, request) for slot, (request, _) in rows.items()}
        for slot, (request, completion) in rows.items():
            if request.prompt_logprobs is not None:
                tell(request, completion, told, sources[slot], pieces[sources[slot]][3])
        self._mask(rows)
        self._slots.begin(requests, hidden_RD, sources, limits, self._allowed)
        self._cut_failed()

    def _guided(self, slot: int, request: Request) -> Request:
        """The request, and what its grammar has come first."""
        if request.grammar is None:
            return request
        guide = self._guides[slot] = request.grammar.begin()
        must = guide.take(request.forced, FORCED_ROOM - len(request.forced))
        return dataclasses.replace(request, forced=(*request.forced, *must))

    def _read(self, pieces: list[Piece], scored: bool) -> tuple[jax.Array, list[dict[str, np.ndarray]]]:
        """Reads prompts; one that is longer than a piece, in several. With the scores of each read, where wanted."""
        (ids, slot, origin, known), most, told = pieces[0], PIECES[-1], []
        while len(ids) > most:
            _, scores = self._slots.read([(ids[:most], slot, origin, known)], [ids[most]] if scored else None)
            told.append(scores)
            ids, origin, known = ids[most:], slot, known + most
            pieces = [(ids, slot, origin, known)]
        hidden_RD, scores = self._slots.read(pieces, [0] * len(pieces) if scored else None)
        return hidden_RD, jax.device_get([*told, scores]) if scored else []

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

    def _call(self, ids: list[int]) -> list[int]:
        """The span of the answer to the call that the last ids close; to one that is none, what is wrong with it."""
        parts, _ = self.tokenizer.parse(ids)
        last = parts[-1] if parts else {"type": "text", "text": ""}
        name, *_ = closed = self.tokenizer.closed_by(ids, self.tools)
        if last["type"] in closed:
            name = last["type"]
            said = self.tools[name](last["text"])
        else:
            said = f"error: {self.tokenizer.wrong_call(last, self.tools)}"
        return self.tokenizer.span(TOOLS[name].returns, said, TOOLS[name].room)

    def _take_answers(self, wait_for_all: bool) -> None:
        """Queues the output spans of the tools that are done."""
        if wait_for_all:
            wait(self._calls.values())
        for slot in [slot for slot, call in self._calls.items() if call.done()]:
            self._resumed[slot] = self._calls.pop(slot).result()


def first_scored(request: Request) -> int:
    """The first token of its prompt whose log-probability must be worked out; the prompt's length where none is."""
    return len(request.prompt) if request.prompt_logprobs is None else max(1, request.prompt_logprobs)


def tell(request: Request, completion: Completion, told: list[dict[str, np.ndarray]], number: int, known: int) -> None:
    """Gives a completion the log-probabilities of its prompt, from the scores of its reads, which began after `known`
    tokens; `number` is that of the prompt among those that were read together.
    """
    first = first_scored(request)
    wanted = slice(first - 1 - known, len(request.prompt) - 1 - known)
    of = lambda name: np.concatenate([scores[name][number] for scores in told])[wanted].tolist()  # noqa: E731
    nobody = 0 if request.prompt_logprobs else 1  # the very first token, before which nothing stands
    completion.prompt_logprob = [*[None] * nobody, *of("logprob")]
    if request.top:
        pairs = zip(of("top_ids"), of("top"), strict=True)
        tops = ([*zip(ids[: request.top], values[: request.top], strict=True)] for ids, values in pairs)
        completion.prompt_top = [*[[]] * nobody, *tops]


def likeliest(out: dict[str, np.ndarray], slot: int, n: int, top: int) -> list[list[tuple[int, float]]]:
    """The likeliest ids of what a slot wrote in a chunk, with their log-probabilities."""
    ids, values = out["top_ids"][slot, :n, :top].tolist(), out["top"][slot, :n, :top].tolist()
    return [list(zip(*pair, strict=True)) for pair in zip(ids, values, strict=True)]
