"""How likely texts are to follow others: what several begin with is read once, then the rest of each context, then what
may follow it from there, many together. Nothing is decoded.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator

import jax

from llm_jax.sampling.slots import PIECES, Slots, bucket

LENGTHS = (8, 16, *PIECES)  # pieces are padded to one of these
TOGETHER = 16  # tokens for each slot that are read in one call
SHARED = 16  # tokens that contexts must have in common for these to be read apart

Ids = tuple[int, ...]
Pair = tuple[list[int], list[int]]  # a context, and what may follow it; neither is empty
Score = tuple[float, bool]  # log p of what follows, in nats; whether greedy decoding would have written it


@dataclasses.dataclass(frozen=True)
class Strand:
    """Ids to be read, the slot that they go to, and the one that holds what stands before them, and how much."""

    ids: Ids
    slot: int
    origin: int
    start: int
    pair: int = -1  # the one to whose score it counts how likely each next id is; -1: none
    after: int = 0  # the id that comes after the last one

    def pieces(self) -> Iterator["Strand"]:
        most = PIECES[-1]
        for at in range(0, max(1, len(self.ids)), most):
            ids, rest = self.ids[at : at + most], self.ids[at + most :]
            origin, after = self.slot if at else self.origin, rest[0] if rest else self.after
            yield dataclasses.replace(self, ids=ids, origin=origin, start=self.start + at, after=after)


def by_context(pairs: list[Pair]) -> dict[Ids, list[int]]:
    """Numbers of the pairs by what stands before the context's last token, sorted, so that neighbours begin alike."""
    groups: dict[Ids, list[int]] = defaultdict(list)
    for number, (context, _) in enumerate(pairs):
        groups[tuple(context[:-1])].append(number)
    return dict(sorted(groups.items()))


def scored(slots: Slots, pairs: list[Pair]) -> list[Score]:
    """Of each pair. What the slots have held is lost; a pair must fit into their length but for its last token."""
    groups, trunk, out = by_context(pairs), (), [(0.0, True)] * len(pairs)
    contexts, room = list(groups), max(1, slots.count - 1)
    for first in range(0, len(contexts), room):
        # Slot -> context; slot 0 has the trunk, unless it is the only one.
        block = dict(enumerate(contexts[first : first + room], slots.count - room))
        numbers = {slot: groups[context] for slot, context in block.items()}
        slots.make_room(max(sum(map(len, pairs[n])) for of_slot in numbers.values() for n in of_slot) - 1)
        trunk = read_trunk(slots, list(block.values()), trunk) if slots.count > 1 else ()
        read(slots, [Strand(ids[len(trunk) :], slot, 0, len(trunk)) for slot, ids in block.items()])
        strands = []
        for slot, number in ((slot, n) for slot, of_slot in numbers.items() for n in of_slot):
            (*before, last), after = pairs[number]
            strands.append(Strand((last, *after[:-1]), slot, slot, len(before), number, after[-1]))
        for number, logprob, is_likeliest in read(slots, strands):
            out[number] = out[number][0] + logprob, out[number][1] and is_likeliest
    return out


def read_trunk(slots: Slots, block: list[Ids], trunk: Ids) -> Ids:
    """Reads what all contexts begin with into slot 0, beyond what of it is there; gives it."""
    wanted = block[0][: same(block[0], block[-1])]
    if len(wanted) < SHARED:
        return ()
    known = same(trunk, wanted)
    read(slots, [Strand(wanted[known:], 0, 0, known)])
    return wanted


def same(a: Ids, b: Ids) -> int:
    """How many ids two begin with."""
    return next((n for n, (i, j) in enumerate(zip(a, b, strict=False)) if i != j), min(len(a), len(b)))


def read(slots: Slots, strands: list[Strand]) -> list[tuple[int, float, bool]]:
    """Reads them; of each piece that counts (pair, log p of its next ids, whether each is the likeliest one).

    What a slot holds beyond the start of a strand is not seen by it: those of one origin may go there, too.
    """
    batches, told = list(batched(slots, strands)), []
    for batch in batches:
        pieces = [(piece.ids, piece.slot, piece.origin, piece.start) for piece in batch]
        after = [piece.after for piece in batch] if batch[0].pair >= 0 else None
        rows = slots.together[0], together(slots, max(len(piece.ids) for piece in batch))
        told.append(slots.read(pieces, after, rows, LENGTHS)[1])
    counted = [(batch, scores) for batch, scores in zip(batches, told, strict=True) if batch[0].pair >= 0]
    return [score for batch, scores in counted for score in of_batch(batch, jax.device_get(scores))]


def batched(slots: Slots, strands: list[Strand]) -> Iterator[list[Strand]]:
    """What is read in one call: those of like length, and each piece of a long one alone."""
    short = sorted((s for s in strands if len(s.ids) <= PIECES[-1]), key=lambda strand: -len(strand.ids))
    yield from ([piece] for strand in strands if len(strand.ids) > PIECES[-1] for piece in strand.pieces())
    while short:
        rows = together(slots, len(short[0].ids))
        yield short[:rows]
        short = short[rows:]


def together(slots: Slots, length: int) -> int:
    """How many strands of this length, or less, are read in one call."""
    shards = slots.together[0]
    return max(1, min(slots.count, TOGETHER * slots.count // bucket(length, LENGTHS)) // shards) * shards


def of_batch(batch: list[Strand], scores) -> Iterator[tuple[int, float, bool]]:
    for row, piece in enumerate(batch):
        size, following = len(piece.ids), [*piece.ids[1:], piece.after]
        likeliest = scores["top_ids"][row, :size, 0].tolist()
        yield piece.pair, float(scores["logprob"][row, :size].sum(dtype="float64")), likeliest == following
