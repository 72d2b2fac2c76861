"""Documents and conversations -> rows: documents back to back and cut at row ends, or whole, best fit; conversations
whole, best fit. Nothing is lost or repeated: what went into each shard is counted from the rows themselves.
"""

import bisect
import hashlib
import itertools
import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.documents import content_of, folder_name
from llm_jax.rows import HASHES, ShardWriter
from llm_jax.tokenizer import Rendered, Tokenizer

WINDOW_CHARACTERS = 32_000_000  # of text, within which documents are shuffled and fitted together
ENCODE_CHARACTERS = 1_000_000  # of text, whose ids exist as Python's integers at a time
FILL_TOKENS = 32_000  # of rows, built at a time: their arrays stay in the cache
PACKINGS = ("back_to_back", "best_fit")


class Piece(NamedTuple):
    """A run of a window's tokens that is never cut."""

    start: int
    size: int
    key: int | None  # the hash of the document that begins here


def back_to_back(documents: Iterable[Piece], length: int, begun: Iterable[Piece] = ()) -> list[list[Piece]]:
    """Fills rows with documents in order, the first one after what it holds already. A document that does not fit goes
    on in the next row, where it starts again with the last token of its first piece: so each token but the first is a
    target exactly once."""
    rows, row = [], list(begun)
    room = length + 1 - sum(piece.size for piece in row)
    for start, size, key in documents:
        done = 0
        while done < size - 1:
            if room < 2:
                rows.append(row)
                row, room = [], length + 1
            taken = min(room, size - done)
            row.append(Piece(start + done, taken, None if done else key))
            room -= taken
            done += taken - 1
    return [*rows, row] if row else rows


def cut(documents: Iterable[Piece], length: int) -> Iterator[Piece]:
    """Documents as pieces that fit a row: each as few as can be, begun with the last token of the one before."""
    for start, size, key in documents:
        for done in range(0, max(1, size - 1), length):
            yield Piece(start + done, min(length + 1, size - done), None if done else key)


def best_fit(pieces: Iterable[Piece], length: int) -> list[list[Piece]]:
    """Best-fit decreasing: each piece, longest first, goes to the row with the least room that still holds it. The
    emptiest row is the last."""
    room: dict[int, list[list[Piece]]] = {}  # free tokens -> rows
    sizes: list[int] = []  # the keys of `room`, sorted
    rows: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda p: -p.size):
        at = bisect.bisect_left(sizes, piece.size)
        if at == len(sizes):
            row, free = [], length + 1
            rows.append(row)
        else:
            free = sizes[at]
            row = room[free].pop()
            if not room[free]:
                del room[free], sizes[at]
        row.append(piece)
        if free := free - piece.size:
            if free not in room:
                bisect.insort(sizes, free)
                room[free] = []
            room[free].append(row)
    if sizes:
        emptiest = room[sizes[-1]][-1]
        rows = [*(row for row in rows if row is not emptiest), emptiest]
    return rows


def fill(rows: list[list[Piece]], tokens: np.ndarray, mask: np.ndarray, length: int, pad: int) -> np.ndarray:
    """Rows int32 [n, 4, T+1] of pieces of a window's tokens; a piece's first token is never a target."""
    pieces = [piece for row in rows for piece in row]
    starts, sizes = (np.array([getattr(piece, name) for piece in pieces]) for name in ("start", "size"))
    counts = np.array([len(row) for row in rows])
    row = np.repeat(np.arange(len(rows)), counts)
    first = (np.cumsum(counts) - counts)[row]  # the first piece of each piece's row
    before = np.cumsum(sizes) - sizes
    position = np.arange(sizes.sum()) - np.repeat(before, sizes)
    to = position + np.repeat(row * (length + 1) + before - before[first], sizes)
    source = position + np.repeat(starts, sizes)
    fields = np.zeros((4, len(rows) * (length + 1)), np.int32)
    fields[0] = pad
    fields[0, to] = tokens[source]
    fields[1, to] = np.repeat(np.arange(len(pieces)) - first + 1, sizes)
    fields[2, to] = position
    fields[3, to] = mask[source] * (position > 0)
    return fields.reshape(4, len(rows), length + 1).swapaxes(0, 1)


def conversation_ids(messages: list[dict], tokenizer: Tokenizer, length: int) -> tuple[Rendered | None, bool]:
    """(ids and mask, whether it was truncated). Too long a conversation is cut before a question, so that no turn of
    the assistant ends where it waits for a tool, and no question is without its answer.

    None when not even the first exchange fits, or nothing that does is to be learned: that would train nothing.
    """
    roles = [message["role"] for message in messages]
    ends = [at for at in range(1, len(roles)) if roles[at] == "user" != roles[at - 1]]
    for end in [len(roles), *reversed(ends)]:
        rendered = tokenizer.render(messages[:end])
        if len(rendered.ids) <= length + 1 and any(rendered.loss_mask):
            return rendered, end < len(messages)
    return None, True


class SourcePacker:
    """Packs the windows of one source into one shard. A row that is not full waits for the next window."""

    def __init__(self, path: Path, tokenizer: Tokenizer, length: int, packing: str):
        self.tokenizer, self.length, self.packing = tokenizer, length, packing
        self.writer = ShardWriter(path)
        # `dropped` are among the documents: conversations of which not even the first exchange fits.
        names = ("documents", "hash", "bytes", "empty", "tokens", "targets", "places", "pieces", "truncated", "dropped")
        self.counts = dict.fromkeys(names, 0)
        self.wanted = 0  # targets of what came in
        self._wait: list[Piece] = []
        self._tokens, self._mask = np.zeros(0, np.int32), np.zeros(0, np.uint8)  # of what waits

    def add(self, records: list[dict], threads: int) -> None:
        """A window of documents, or of conversations, in this order."""
        tokens, mask, pieces = self._encode(records, threads)
        if self.packing == "back_to_back":
            rows = back_to_back(pieces, self.length, self._wait)
        else:
            rows = best_fit([*self._wait, *cut(pieces, self.length)], self.length)
        waiting = rows.pop() if rows else []
        self._write(rows, tokens, mask)
        parts = [slice(start, start + size) for start, size, _ in waiting]
        self._tokens, self._mask = (np.concatenate([x[:0], *(x[part] for part in parts)]) for x in (tokens, mask))
        starts = itertools.accumulate((piece.size for piece in waiting), initial=0)
        self._wait = [Piece(start, *piece[1:]) for start, piece in zip(starts, waiting, strict=False)]

    def _encode(self, records: list[dict], threads: int) -> tuple[np.ndarray, np.ndarray, list[Piece]]:
        """(tokens and mask of what waits and of the records, a piece for each record)."""
        ids, masks, sizes, keys = [self._tokens], [self._mask], [], []
        for part in by_size(records, ENCODE_CHARACTERS):
            made = self._rendered(part) if "messages" in part[0] else self._framed(part, threads)
            for record, tokens, mask in made:
                keys.append(record["key"])
                sizes.append(len(mask))
                ids += tokens
                masks.append(mask)
        tokens, mask = np.concatenate(ids), np.concatenate(masks)
        starts = len(self._tokens) + np.cumsum([0, *sizes], dtype=np.int64)[:-1]
        self.wanted += int(mask[len(self._tokens) :].sum()) - int(mask[starts].sum())
        return tokens, mask, list(map(Piece, starts.tolist(), sizes, keys))

    def _framed(self, documents: list[dict], threads: int) -> Iterator[tuple[dict, list, np.ndarray]]:
        """(record, parts of its tokens, mask) of documents as bos text end."""
        texts = [document["text"] for document in documents]
        self.counts["bytes"] += sum(len(text.encode()) for text in texts)
        self.counts["empty"] += texts.count("")
        bos, end = np.int32([self.tokenizer.begin]).reshape(-1), np.int32([self.tokenizer.end])
        for document, ids in zip(documents, self.tokenizer.encode_batch(texts, threads), strict=True):
            yield document, [bos, ids, end], np.ones(len(bos) + len(ids) + 1, np.uint8)

    def _rendered(self, conversations: list[dict]) -> Iterator[tuple[dict, list, np.ndarray]]:
        """The same of the conversations that fit a row; the others are counted."""
        for conversation in conversations:
            rendered, truncated = conversation_ids(conversation["messages"], self.tokenizer, self.length)
            if rendered is None:
                self.counts["dropped"] += 1
                self._count(conversation["key"])
                continue
            self.counts["truncated"] += truncated
            yield conversation, [np.int32(rendered.ids)], np.uint8(rendered.loss_mask)

    def _count(self, key: int) -> None:
        self.counts["documents"] += 1
        self.counts["hash"] = (self.counts["hash"] + key) % HASHES

    def _write(self, rows: list[list[Piece]], tokens: np.ndarray, mask: np.ndarray) -> None:
        many = max(1, FILL_TOKENS // (self.length + 1))
        for at in range(0, len(rows), many):
            part = rows[at : at + many]
            fields = fill(part, tokens, mask, self.length, self.tokenizer.pad)
            self.writer.write(fields)
            self.counts["tokens"] += int(np.count_nonzero(fields[:, 1]))
            self.counts["targets"] += int(fields[:, 3].sum())
            self.counts["places"] += fields[:, 0].size
            for piece in itertools.chain.from_iterable(part):
                self.counts["pieces"] += 1
                if piece.key is not None:
                    self._count(piece.key)

    def close(self) -> None:
        """Raises RuntimeError when a target of what came in is not in the rows."""
        self._write([self._wait] if self._wait else [], self._tokens, self._mask)
        if self.counts["targets"] != self.wanted:
            raise RuntimeError(f"{self.writer.path}: {self.wanted} targets became {self.counts['targets']}")
        self.writer.close(self.counts)


def by_size(records: list[dict], size: int) -> Iterator[list[dict]]:
    """Runs of records of about so many characters."""
    part, held = [], 0
    for record in records:
        part.append(record)
        held += record["size"]
        if held >= size:
            yield part
            part, held = [], 0
    if part:
        yield part


def set_of(record: dict) -> str:
    """The row set that a record belongs to, as a path."""
    name = folder_name(record["source"])
    if "messages" in record:
        return f"{'sft' if record['split'] == 'train' else 'sft_validation'}/{name}"
    return f"{'pretrain' if record['split'] == 'train' else 'validation'}/{name}"


def pack_records(
    folder: Path,
    records: Iterable[dict],
    tokenizer: Tokenizer,
    length: int,
    packing: str = "back_to_back",
    shard: int = 0,
    seed: int = 0,
    threads: int = 1,
    whole: Collection[str] = (),
) -> list[int]:
    """Packs documents {text, source, split} and conversations {messages, source, split} into a shard of each row set:
    `folder`/pretrain/SOURCE, validation/SOURCE, sft/SOURCE, sft_validation/SOURCE. -> the hashes of what was read.

    Documents are shuffled within windows; conversations, and the documents of the sources `whole`, are always packed
    best fit.
    """
    packers: dict[str, SourcePacker] = {}
    window: dict[str, list[dict]] = defaultdict(list)
    keys, held, order = [], 0, random.Random(f"{seed}/{shard}")

    def flush() -> None:
        for name, chosen in window.items():
            order.shuffle(chosen)
            if name not in packers:
                is_whole = name.startswith("sft") or name.rpartition("/")[2] in whole
                how = "best_fit" if is_whole else packing
                path = folder / name / f"{shard:05d}.array_record"
                packers[name] = SourcePacker(path, tokenizer, length, how)
            packers[name].add(chosen, threads)
        window.clear()

    for record in records:
        content = content_of(record)
        keys.append(int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "little"))
        window[set_of(record)].append({**record, "key": keys[-1], "size": len(content)})
        held += len(content)
        if held >= WINDOW_CHARACTERS:
            flush()
            held = 0
    flush()
    for packer in packers.values():
        packer.close()
    return keys
