"""The decoding engine: `generate(requests)` keeps a fixed number of slots busy until every request is answered.

The host admits requests into free slots, runs jitted chunks of decoding steps, and takes out what is done. Every slot
has a queue of forced tokens: an opening put into the model's mouth, and what a tool returned. A row that closes a
tool's span waits at the end of the chunk, while the host runs the tool and fills its queue; the others go on. The
forward is the trainer's own.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from llm_jax import sharding
from llm_jax.config import UserError
from llm_jax.model import transformer
from llm_jax.sampling import decode
from llm_jax.sampling.decode import FORCED_ROOM
from llm_jax.tokenizer import Tokenizer

CHUNK = 16  # steps between looks at which rows are done
PROMPT_BUCKET = 32  # prompts are padded to a multiple of this, so that few shapes compile
CACHE_BUCKET = 64  # and the cache to a multiple of this; it grows as the longest row does
ADMITTED = 4  # a quarter of the slots is admitted together


@dataclasses.dataclass
class Request:
    prompt: list[int]
    seed: int = 0  # of this row's samples: same seed, prompt and parameters, same completion
    temperature: float = 0.0  # 0: greedy
    max_new_tokens: int = 64
    forced: tuple[int, ...] = ()  # put at the start of the completion
    suppress: tuple[int, ...] = ()  # ids that must not be sampled


@dataclasses.dataclass
class Completion:
    """Tokens after the prompt. `logprob` is of the untempered distribution; a forced token has mask 0."""

    ids: list[int]
    sampled_mask: list[int]
    sampling_logprob: list[float]
    logprob: list[float]
    top: list[list[tuple[int, float]]] | None = None  # most likely (id, log-probability) at each token, when asked
    tool_calls: int = 0


Tool = Callable[[str], str]  # the text inside a span -> the text of the output span


def bucket(size: int, step: int) -> int:
    return -(-size // step) * step


class Engine:
    """Decodes with one set of parameters after another; compiled functions are kept by shape."""

    def __init__(self, model, tokenizer: Tokenizer, mesh: Mesh, slots: int, tools: dict[str, Tool] | None = None):
        self.model, self.tokenizer, self.mesh, self.slots = model, tokenizer, mesh, slots
        self.tools = tools or {}
        self._closing = {tokenizer.close[name]: name for name in self.tools}
        shards = sharding.shards(mesh, "batch")
        self._admitted = max(1, slots // (ADMITTED * shards)) * shards

    def generate(self, params, requests: list[Request], top: int = 0) -> list[Completion]:
        """Completions in the order of the requests, with the `top` most likely ids of each token when asked.

        Raises UserError for an empty prompt, and for more than FORCED_ROOM forced ids.
        """
        done: dict[int, Completion] = {}
        for host, owners, calls in self._chunks(params, requests, top, CHUNK):
            for slot, number in owners.items():
                if host["done"][slot]:
                    done[number] = completion(host, slot, top, calls[number])
        return [done[i] for i in range(len(requests))]

    def stream(self, params, request: Request) -> Iterator[list[int]]:
        """The new ids of one request, as they come."""
        shown = 0
        for host, owners, _ in self._chunks(params, [request], top=0, chunk=1):
            (slot,) = owners
            ids = host["out_ids"][slot, : host["count"][slot]].tolist()
            yield ids[shown:]
            shown = len(ids)

    def _chunks(self, params, requests: list[Request], top: int, chunk: int) -> Iterator[tuple[dict, dict, dict]]:
        """Runs the requests; yields (outputs, slot -> request, request -> its tool calls) after every chunk."""
        if any(len(request.forced) > FORCED_ROOM for request in requests):
            raise UserError(f"an opening has at most {FORCED_ROOM} tokens")
        if any(not request.prompt for request in requests):
            raise UserError("an empty prompt cannot be continued; it needs at least one token")
        # Prompts of like length are admitted together, for little padding.
        queue = collections.deque(sorted(range(len(requests)), key=lambda i: len(requests[i].prompt)))
        if not queue:
            return
        static = (self.model.to_json(), self.tokenizer.vocab_size, top)
        stops = self._put(np.array([self.tokenizer.end, *self._closing], np.int32), split=False)
        owners: dict[int, int] = {}
        calls: dict[int, int] = collections.Counter()
        new = bucket(max(max(r.max_new_tokens for r in requests), 1), CHUNK)
        state = state_maker(static, self.mesh, self.slots, new)()
        length = CACHE_BUCKET
        host = {"count": np.zeros(self.slots, np.int32)}
        while queue or owners:
            free = [slot for slot in range(self.slots) if slot not in owners]
            while queue and len(free) >= min(self._admitted, len(queue)):
                chosen = [queue.popleft() for _ in range(min(self._admitted, len(queue)))]
                slots, free = free[: len(chosen)], free[len(chosen) :]
                rows = self._rows([requests[i] for i in chosen])
                state, length = self._with_room(state, length, rows["prompt"].shape[1])
                state = decode.admit(static, params, state, *self._put_rows(rows, slots), stops)
                owners.update(zip(slots, chosen, strict=True))
                host["count"][slots] = 1
            longest = max(len(requests[i].prompt) + int(host["count"][slot]) for slot, i in owners.items())
            state, length = self._with_room(state, length, longest + chunk)
            state = decode.decode_chunk(static, chunk, params, state, stops)
            host = {k: np.array(v) for k, v in jax.device_get({k: state[k] for k in HOST_FIELDS}).items()}
            if waiting := [slot for slot in owners if host["waiting"][slot]]:
                state = self._answer_tools(state, host, waiting)
                calls.update(owners[slot] for slot in waiting)
            yield host, owners, calls
            owners = {slot: i for slot, i in owners.items() if not host["done"][slot]}

    def _put(self, x: np.ndarray, split: bool = True) -> jax.Array:
        axes = ("batch",) if split else (None,)
        return jax.device_put(x, sharding.named(self.mesh, *axes, *(None,) * (x.ndim - 1)))

    def _with_room(self, state, length: int, wanted: int) -> tuple[decode.State, int]:
        wanted = bucket(wanted, CACHE_BUCKET)
        return (decode.lengthened(state, wanted), wanted) if wanted > length else (state, length)

    def _rows(self, requests: list[Request]) -> dict[str, np.ndarray]:
        """What `decode.admit` wants to know of the requests, padded to the number it admits."""
        R, V = self._admitted, transformer.padded_vocab(self.tokenizer.vocab_size)
        room = bucket(max(len(request.prompt) for request in requests), PROMPT_BUCKET)
        rows = {
            "prompt": np.full((R, room), self.tokenizer.pad, np.int32),
            "length": np.ones(R, np.int32),
            "seed": np.zeros(R, np.uint32),
            "temperature": np.zeros(R, np.float32),
            "limit": np.zeros(R, np.int32),
            "bias": np.zeros((R, V), np.float32),
            "forced": np.zeros((R, FORCED_ROOM), np.int32),
            "forced_length": np.zeros(R, np.int32),
        }
        for i, request in enumerate(requests):
            rows["prompt"][i, : len(request.prompt)] = request.prompt
            rows["length"][i], rows["seed"][i] = len(request.prompt), request.seed % 2**32
            rows["temperature"][i], rows["limit"][i] = request.temperature, request.max_new_tokens
            rows["bias"][i, list(request.suppress)] = -1e30
            rows["forced"][i, : len(request.forced)] = request.forced
            rows["forced_length"][i] = len(request.forced)
        return rows

    def _put_rows(self, rows: dict[str, np.ndarray], slots: list[int]) -> tuple[dict[str, jax.Array], jax.Array]:
        numbers = np.full(self._admitted, self.slots, np.int32)  # beyond the last slot: no request
        numbers[: len(slots)] = slots
        return {k: self._put(v) for k, v in rows.items()}, self._put(numbers)

    def _call(self, ids: list[int]) -> str:
        """Runs the call that the last id closes; a closing without its opening calls nothing."""
        name = self._closing[ids[-1]]
        spans = {*self.tokenizer.open.values(), *self.tokenizer.close.values()}
        opening = max((i for i, t in enumerate(ids[:-1]) if t in spans), default=-1)
        if opening < 0 or ids[opening] != self.tokenizer.open[name]:
            return "error: no call was opened"
        return self.tools[name](self.tokenizer.decode(ids[opening + 1 : -1]))

    def _answer_tools(self, state: decode.State, host: dict, waiting: list[int]) -> decode.State:
        """Runs the call that each waiting slot just closed, and queues its output span."""
        mask = np.zeros(self.slots, bool)
        forced, length = np.zeros((self.slots, FORCED_ROOM), np.int32), np.zeros(self.slots, np.int32)
        for slot in waiting:
            result = self._call(host["out_ids"][slot, : host["count"][slot]].tolist())
            body = self.tokenizer.encode(result)[: FORCED_ROOM - 2]
            queue = [self.tokenizer.open["output"], *body, self.tokenizer.close["output"]]
            mask[slot], forced[slot, : len(queue)], length[slot] = True, queue, len(queue)
        return decode.queue_forced(state, self._put(mask), self._put(forced), self._put(length))


@functools.cache
def state_maker(static: tuple[str, int, int], mesh: Mesh, slots: int, new: int) -> Callable[[], decode.State]:
    """The function that makes the empty state on its shards.

    Slots lie over the batch axes; the cache's heads and the bias's vocabulary over `tensor`.
    """
    model, vocab_size, top = decode.model_of(static)
    make = functools.partial(decode.empty_state, model, vocab_size, slots, CACHE_BUCKET, new, top)

    def place(path, leaf):
        others = {"cache": (None, "kv_heads", None), "bias": ("vocab",)}
        return sharding.named(mesh, "batch", *others.get(path[0].key, (None,) * (leaf.ndim - 1)))

    return jax.jit(make, out_shardings=jax.tree_util.tree_map_with_path(place, jax.eval_shape(make)))


HOST_FIELDS = (
    "out_ids",
    "out_mask",
    "out_sampling",
    "out_logprob",
    "out_top_ids",
    "out_top",
    "count",
    "done",
    "waiting",
)


def completion(host: dict[str, np.ndarray], slot: int, top: int, calls: int) -> Completion:
    n = host["count"][slot]
    tops = None
    if top:
        pairs = zip(host["out_top_ids"][slot, :n].tolist(), host["out_top"][slot, :n].tolist(), strict=True)
        tops = [list(zip(ids, values, strict=True)) for ids, values in pairs]
    fields = (host[k][slot, :n].tolist() for k in ("out_ids", "out_mask", "out_sampling", "out_logprob"))
    return Completion(*fields, top=tops, tool_calls=calls)
