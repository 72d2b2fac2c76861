"""Tokenize and pack into fixed-length rows: documents back to back, cut at row ends; conversations whole, best fit.

python -m data_pipelines.pack --input='texts/*.jsonl' --tokenizer=FILE --output=DIR --sequence_length=256

`--packing=best_fit` keeps documents whole too, as long as they fit a row. Both print what they waste.
"""

import bisect
import dataclasses
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from absl import flags

from data_pipelines.documents import read_documents
from llm_jax.cli import run_cli
from llm_jax.rows import Row, write_rows
from llm_jax.tokenizer import Rendered, Tokenizer


@dataclasses.dataclass(frozen=True)
class Segment:
    """A run of tokens that is never cut."""

    ids: list[int]
    loss_mask: list[int]


def back_to_back(documents: Iterable[list[int]], length: int) -> Iterator[list[Segment]]:
    """Fills rows with documents in order. One that does not fit goes on in the next row, where it starts again with
    the last token of its first piece: so each token but the first is a target exactly once."""
    row: list[Segment] = []
    room = length + 1
    for ids in documents:
        start = 0
        while start < len(ids) - 1:
            if room < 2:
                yield row
                row, room = [], length + 1
            piece = ids[start : start + room]
            row.append(Segment(piece, [0] + [1] * (len(piece) - 1)))
            room -= len(piece)
            start += len(piece) - 1
    if row:
        yield row


def conversation_segment(messages: list[dict], tokenizer: Tokenizer, length: int) -> tuple[Segment | None, bool]:
    """(segment, whether it was truncated). Too long a conversation is cut after the last turn that fits.

    None when not even the first exchange fits: a row without targets would train nothing.
    """
    kept = list(messages)
    while kept:
        rendered: Rendered = tokenizer.render(kept)
        if len(rendered.ids) <= length + 1 and any(rendered.loss_mask):
            return Segment(rendered.ids, rendered.loss_mask), len(kept) < len(messages)
        kept.pop()
    return None, True


def best_fit(segments: Iterable[Segment], length: int) -> list[list[Segment]]:
    """Best-fit decreasing: each segment, longest first, goes to the row with the least room that still holds it."""
    room: dict[int, list[list[Segment]]] = {}  # free tokens -> rows
    sizes: list[int] = []  # the keys of `room`, sorted
    rows: list[list[Segment]] = []
    for segment in sorted(segments, key=lambda s: -len(s.ids)):
        need = len(segment.ids)
        at = bisect.bisect_left(sizes, need)
        if at == len(sizes):
            row, free = [], length + 1
            rows.append(row)
        else:
            free = sizes[at]
            row = room[free].pop()
            if not room[free]:
                del room[free], sizes[at]
        row.append(segment)
        if free > need:
            if free - need not in room:
                bisect.insort(sizes, free - need)
                room[free - need] = []
            room[free - need].append(row)
    return rows


def pieces(documents: Iterable[list[int]], length: int) -> Iterator[Segment]:
    """Documents as segments that fit a row: each as few as can be, begun with the last token of the one before."""
    for ids in documents:
        for start in range(0, max(1, len(ids) - 1), length):
            piece = ids[start : start + length + 1]
            yield Segment(piece, [0] + [1] * (len(piece) - 1))


def to_row(segments: list[Segment], length: int, pad: int) -> Row:
    row = Row(*(np.zeros(length + 1, np.int32) for _ in range(4)))
    row.tokens[:] = pad
    at = 0
    for number, segment in enumerate(segments, 1):
        here = slice(at, at + len(segment.ids))
        row.tokens[here], row.loss_mask[here] = segment.ids, segment.loss_mask
        row.segment_ids[here] = number
        row.positions[here] = np.arange(len(segment.ids))
        at += len(segment.ids)
    return row


def write(path: Path, rows: list[list[Segment]], length: int, pad: int, facts: dict) -> dict:
    """Writes the rows -> what was noted: tokens, targets, rows, padding share, and `facts`."""
    tokens = sum(len(segment.ids) for row in rows for segment in row)
    noted = {
        **facts,
        "tokens": tokens,
        "targets": sum(sum(segment.loss_mask) for row in rows for segment in row),
        "padding": 1 - tokens / max(1, len(rows) * (length + 1)),
    }
    write_rows(path, (to_row(row, length, pad) for row in rows), noted)
    return {**noted, "rows": len(rows)}


def pack_documents(
    path: Path,
    documents: list[dict],
    tokenizer: Tokenizer,
    length: int,
    epochs: dict[str, int],
    seed: int = 0,
    packing: str = "back_to_back",
) -> dict:
    """Rows of all documents as bos text end, those of a source repeated `epochs[source]` times, in a seeded order.

    Notes among other things into how many pieces a document was cut on average.
    """
    all_ids = tokenizer.encode_batch([d["text"] for d in documents], threads=2)
    stream = []
    for document, ids in zip(documents, all_ids, strict=True):
        stream += [[tokenizer.bos, *ids, tokenizer.end]] * epochs.get(document["source"], 1)
    order = random.Random(seed)
    order.shuffle(stream)
    if packing == "best_fit":
        rows = best_fit(pieces(stream, length), length)
        order.shuffle(rows)  # they come sorted by the length of what is in them
    else:
        rows = list(back_to_back(stream, length))
    segments = sum(map(len, rows))
    bytes_ = sum(len(d["text"].encode()) for d in documents)
    facts = {"documents": len(documents), "bytes": bytes_, "bytes_per_token": bytes_ / max(1, sum(map(len, all_ids)))}
    return write(path, rows, length, tokenizer.pad, {**facts, "pieces_per_document": segments / max(1, len(stream))})


def pack_conversations(path: Path, conversations: list[dict], tokenizer: Tokenizer, length: int) -> dict:
    """Rows of all conversations; counts the truncated and the dropped ones."""
    made = [conversation_segment(c["messages"], tokenizer, length) for c in conversations]
    counts = {
        "conversations": len(conversations),
        "truncated": sum(cut and segment is not None for segment, cut in made),
        "dropped": sum(segment is None for segment, _ in made),
    }
    rows = best_fit([segment for segment, _ in made if segment], length)
    return write(path, rows, length, tokenizer.pad, counts)


def define_flags() -> None:
    flags.DEFINE_string("input", None, "Glob of .txt or .jsonl documents.", required=True)
    flags.DEFINE_string("tokenizer", None, "SentencePiece model.", required=True)
    flags.DEFINE_string("output", None, "Folder for rows.array_record and rows.json.", required=True)
    flags.DEFINE_enum("packing", "back_to_back", ["back_to_back", "best_fit"], "How documents fill rows.")
    flags.DEFINE_integer("sequence_length", 256, "Tokens in a row.", lower_bound=8)


def main() -> None:
    f = flags.FLAGS
    documents = list(read_documents(f.input))
    path, tokenizer = Path(f.output) / "rows.array_record", Tokenizer.load(f.tokenizer)
    noted = pack_documents(path, documents, tokenizer, f.sequence_length, {}, packing=f.packing)
    print(
        f"{noted['documents']} documents, {noted['tokens']} tokens -> {noted['rows']} rows, "
        f"{noted['padding']:.2%} padding, {noted['pieces_per_document']:.2f} pieces a document"
    )


if __name__ == "__main__":
    run_cli(main, define_flags)
