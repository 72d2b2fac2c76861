"""Bits per byte on held-out text, and a real compressor's on the same bytes."""

import lzma
import math
from pathlib import Path

from llm_jax import rows, sharding
from llm_jax.files import json_lines
from llm_jax.runs import Run
from llm_jax.training.nats import jitted_nats, total_nats


def bits_per_byte(run: Run, params, jitted=None) -> dict[str, dict]:
    """`val_bpb` on the held-out pages of the tiny web (or of the user's own), and `val_bpb_SOURCE` for each source.

    `jitted` is a `jitted_nats(run)` that several sets of parameters share."""
    out, total_nats_, total_bytes, jitted = {}, 0.0, 0, jitted or jitted_nats(run)
    shards = sharding.shards(run.mesh, "batch")
    batch = -(-run.config.pretrain.batch // shards) * shards
    for folder in rows.row_sets(run.workdir / "data" / "validation"):
        source, size = folder.name, rows.facts(folder)["bytes"]
        nats, _ = total_nats(run, jitted, folder, batch)(params)
        out[f"val_bpb_{source}"] = {"value": round(nats / math.log(2) / size, 4), "bytes": size}
        if source != "python_docs":
            total_nats_, total_bytes = total_nats_ + nats, total_bytes + size
    if total_bytes:
        out["val_bpb"] = {"value": round(total_nats_ / math.log(2) / total_bytes, 4), "bytes": total_bytes}
    return out


def xz_bits_per_byte(workdir: Path) -> float | None:
    """`xz -9e` on the same held-out text, primed with the training text: the bits that the held-out part adds.

    None when no text is held out.
    """
    texts: dict[str, list[str]] = {"train": [], "val": []}
    for document in json_lines(workdir / "data" / "documents.jsonl"):
        if document["source"] != "python_docs":
            texts[document["split"]].append(document["text"])
    known, held = ("\n".join(texts[split]).encode() for split in ("train", "val"))
    if not held:
        return None
    size = lambda data: len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))  # noqa: E731
    return 8 * (size(known + b"\n" + held) - size(known)) / len(held)
