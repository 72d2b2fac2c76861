"""The slots on the device: weights, cache and state, and the compiled calls that move them."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from llm_jax import sharding
from llm_jax.model import kv_cache, transformer
from llm_jax.sampling import decode
from llm_jax.sampling.requests import Request
from llm_jax.tokenizer import Marker, Tokenizer

CACHE_BUCKET = 64  # the cache's length is this, doubled as often as the longest row needs
PIECES = (32, 64, 128, 256)  # a prompt is read in pieces, the last one padded to one of these lengths
TOGETHER = (4, 8)  # prompts are read together for a quarter of the slots, an eighth, or one alone

Piece = tuple[tuple[int, ...], int, int, int]  # ids, the slot they go to, the one that holds what is before, how much


def bucket(size: int, sizes: tuple[int, ...]) -> int:
    """The smallest of the sizes that holds it, or the largest."""
    return next((s for s in sizes if s >= size), sizes[-1])


def cache_lengths(longest: int) -> tuple[int, ...]:
    """Those that the cache goes through; the last one holds `longest` tokens."""
    longest = -(-longest // 8) * 8
    out = [min(CACHE_BUCKET, longest)]
    while out[-1] < longest:
        out.append(min(2 * out[-1], longest))
    return tuple(out)


class Slots:
    """`count` slots for rows of at most `length` tokens; `closings` are the markers that make a row wait for a tool."""

    def __init__(
        self,
        model,
        tokenizer: Tokenizer,
        mesh: Mesh,
        count: int,
        length: int,
        closings: list[Marker],
        int8_weights: bool = False,
        int8_cache: bool = False,
        drafts: int = 0,
    ):
        self.tokenizer, self.mesh, self.count = tokenizer, mesh, count
        self.int8_weights, self.drafts = int8_weights, drafts
        self.static = (model.to_json(), tokenizer.vocab_size, self.drafts)
        # A query's sums run over the whole cache: where they are to be the same, so is its length.
        self.lengths = cache_lengths(length)[-1 if transformer.is_exact(model) else 0 :]
        shards = sharding.shards(mesh, "batch")
        self.together = tuple(sorted({shards, *(max(1, count // (part * shards)) * shards for part in TOGETHER)}))
        self._by_rank = {n: sharding.named(mesh, "batch", *(None,) * (n - 1)) for n in (1, 2)}
        self._closings = jax.device_put(decode.padded(closings), sharding.named(mesh, None, None))
        self.nothing = decode.empty_resumed(tokenizer.vocab_size, count)
        self._weights = None
        cache, state = makers(self.static, count, self.lengths[-1], int8_cache)
        cache = functools.partial(cache, self.lengths[0])
        self._cache, self._state = (jax.jit(make, out_shardings=placed(mesh, make))() for make in (cache, state))

    def weights_of(self, params):
        """Parameters as `use` takes them."""
        return decoding_weights(self.static, self.int8_weights, params)

    def use(self, weights) -> None:
        """Decodes with these weights from now on."""
        self._weights = weights

    @property
    def length(self) -> int:
        """Of the cache, now."""
        return kv_cache.length_of(self._cache)

    def make_room(self, needed: int, shrink: bool = False) -> None:
        """Lengthens the cache to the bucket that holds `needed` positions; with `shrink`, also shortens it to that."""
        length = bucket(needed, self.lengths)
        if length > self.length or (shrink and length < self.length):
            self._cache = decode.resized(self._cache, length)

    def read(
        self,
        pieces: list[Piece],
        after: list[int] | None = None,
        together: tuple[int, ...] = (),
        lengths: tuple[int, ...] = PIECES,
    ) -> tuple[jax.Array, decode.State]:
        """Reads a piece of each of a few prompts into the cache: the hidden state of each one's last token, and
        `decode.scores`, which are zeros without the ids that come `after` the pieces. Padded to one of the numbers
        `together`, and one of the lengths.
        """
        R = bucket(len(pieces), together or self.together)
        P = bucket(max((len(ids) for ids, *_ in pieces), default=1), lengths)
        tokens = np.full((R, P), self.tokenizer.pad, np.int32)
        prompts = {"length": np.ones(R, np.int32), "slot": np.full(R, self.count, np.int32)}  # past the last: nowhere
        prompts |= {name: np.zeros(R, np.int32) for name in ("origin", "start")}
        prompts |= {"next": np.zeros((R, P), np.int32), "scored": np.full(R, after is not None)}
        for r, (ids, slot, origin, start) in enumerate(pieces):
            tokens[r, : len(ids)] = ids
            if after:
                prompts["next"][r, : len(ids)] = [*ids[1:], after[r]]
            for name, value in (("length", len(ids)), ("slot", slot), ("origin", origin), ("start", start)):
                prompts[name][r] = value
        prompts = self._put({"tokens": tokens, **prompts})
        hidden_RD, self._cache, told = decode.read(self.static, self._weights, self._cache, prompts)
        return hidden_RD, told

    def share(self, origins: dict[int, int]) -> None:
        """Gives slots the cache of another."""
        origin = np.arange(self.count, dtype=np.int32)
        origin[list(origins)] = list(origins.values())
        self._cache = decode.shared(self._cache, self._put(origin))

    def begin(
        self,
        requests: dict[int, Request],
        hidden_RD: jax.Array,
        sources: dict[int, int],
        limits: dict[int, int],
        allowed_BW: np.ndarray | None = None,
    ):
        """Begins requests, slot -> request; `sources` says whose hidden state is which, `allowed_BW` what each may
        sample first if it has a grammar.
        """
        for slot, request in requests.items():
            self._put_row(slot, request)
        rows = {name: np.zeros((self.count, *shape), dtype) for name, (shape, dtype) in decode.ROW_FIELDS.items()}
        rows["stops"][:] = -1
        for slot, request in requests.items():
            for name, value in fields(request, limits[slot]).items():
                rows[name][slot] = value
            ends = (*self.tokenizer.ends, *request.stop_ids)
            rows["stops"][slot, : len(ends)] = ends
            rows["forced"][slot, : len(request.forced)] = request.forced
        source = np.zeros(self.count, np.int32)
        source[list(sources)] = list(sources.values())
        allowed_BW = self.nothing["allowed"] if allowed_BW is None else allowed_BW
        rows, source, admitted, allowed_BW = self._put((rows, source, self._mask(requests), allowed_BW))
        numbers = source, admitted, self._closings, allowed_BW
        self._state = decode.begin(self.static, self._weights, self._state, rows, hidden_RD, *numbers)

    def _put_row(self, slot: int, request: Request) -> None:
        """What only some requests have, and is as large as the vocabulary, or the context."""
        V = transformer.padded_vocab(self.tokenizer.vocab_size)
        if adjusts(request):
            bias, read = np.zeros(V, np.float32), np.zeros(V, bool)
            bias[list(request.bias)] = list(request.bias.values())
            bias[list(request.suppress)] = -1e30
            read[request.prompt] = True
            self._state = decode.put_row(self._state, np.int32(slot), {"bias": bias, "read": read})
        if self.drafts:
            history = np.zeros(self.lengths[-1], np.int32)
            history[: len(request.prompt)] = request.prompt
            self._state = decode.put_row(self._state, np.int32(slot), {"history": history})

    def chunk(
        self, steps: int, patience: int, resumed: dict[int, list[int]], allowed_BW: np.ndarray | None = None
    ) -> decode.State:
        """Up to `steps` steps, until `patience` slots are stuck: what was written.

        `resumed`: slots that have waited and go on -> ids that are put into their mouths.
        """
        changed = dict(self.nothing)
        if resumed:
            changed |= {name: self.nothing[name].copy() for name in ("rows", "forced", "length")}
            changed["rows"][list(resumed)] = True
            for slot, ids in resumed.items():
                changed["forced"][slot, : len(ids)], changed["length"][slot] = ids, len(ids)
        if allowed_BW is not None:
            changed["allowed"] = allowed_BW
        numbers = np.int32(steps), np.int32(patience), self._closings, self._put(changed)
        self._cache, self._state, out = decode.decode_chunk(
            self.static, self._weights, self._cache, self._state, *numbers
        )
        return out

    def stop(self, slots: list[int]) -> None:
        self._state = decode.stopped(self._state, self._put(self._mask(slots)))

    def _mask(self, slots) -> np.ndarray:
        mask = np.zeros(self.count, bool)
        mask[list(slots)] = True
        return mask

    def _put(self, arrays):
        """Puts arrays with an entry for each slot, or prompt, where those are; all in one call, which is quicker."""
        if self.mesh.size == 1:
            return arrays  # the program's own call puts them there, ten times as fast
        return jax.device_put(arrays, jax.tree.map(lambda x: self._by_rank[x.ndim], arrays))

    def warm_up(self, backwards: bool) -> None:
        """Compiles every program that any mixture of requests can need; backwards, those of the longest cache first."""
        nobody = Request([self.tokenizer.pad], bias={0: 0.0})
        self._put_row(0, nobody)
        self.stop([])
        for length in self.lengths[:: -1 if backwards else 1]:
            for other in self.lengths:
                self.make_room(other, shrink=True)
                self.make_room(length, shrink=True)
            for R in self.together:
                for P in PIECES[: 1 + PIECES.index(bucket(length, PIECES))]:  # a longer piece needs a longer cache
                    hidden_RD, _ = self.read([((0,) * P, self.count, 0, 0)] * R)
                self.begin({}, hidden_RD, {}, {})
            self.share({})
            self.chunk(1, self.count, {})


def adjusts(request: Request) -> bool:
    penalties = request.repetition_penalty != 1 or request.presence_penalty or request.frequency_penalty
    return bool(request.suppress or request.bias or penalties)


def fields(request: Request, limit: int) -> dict[str, float]:
    """The numbers of `decode.ROW_FIELDS`."""
    return {
        "limit": limit,
        "seed": request.seed % 2**32,
        "temperature": request.temperature,
        "top_k": request.top_k,
        "top_p": request.top_p,
        "min_p": request.min_p,
        "repetition": request.repetition_penalty,
        "presence": request.presence_penalty,
        "frequency": request.frequency_penalty,
        "adjusts": adjusts(request),
        "guided": request.grammar is not None,
        "wants_top": request.top > 0,
        "forced_length": len(request.forced),
        "position": len(request.prompt) - 1,
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def decoding_weights(static: decode.Static, int8: bool, params):
    return transformer.for_decoding(decode.model_of(static[0]), params, int8)


def makers(static: decode.Static, slots: int, longest: int, int8_cache: bool = False) -> tuple[Callable, Callable]:
    """(length -> an empty cache, () -> the empty state)"""
    cache = functools.partial(transformer.empty_cache, decode.model_of(static[0]), slots, int8=int8_cache)
    return cache, functools.partial(decode.empty_state, static[1], slots, longest, static[2])


def placed(mesh: Mesh, make: Callable):
    """The shardings of what a maker makes: slots over the batch axes; the cache's heads, a bias's ids over `tensor`."""
    others = dict.fromkeys(("bias", "read", "written"), ("vocab",))
    others |= dict.fromkeys(kv_cache.LENGTH_AXIS, ("kv_heads", None, None))

    def place(path, leaf):
        return sharding.named(mesh, "batch", *others.get(path[0].key, (None,) * (leaf.ndim - 1)))

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(make))
