"""Bits per byte of any text files."""

import math

import numpy as np

from llm_jax.config import UserError
from llm_jax.evals.likelihood import of_documents, prefix_of
from llm_jax.evals.statistics import of_ratio
from llm_jax.files import matching, numbered_lines
from llm_jax.runs import Run


def bits_per_byte_of(run: Run, params, pattern: str) -> dict[str, dict]:
    """`bpb` of the documents that a glob names, its interval bootstrapped over them. See `read` for errors."""
    texts, tokenizer = read(pattern), run.tokenizer
    begin = [*tokenizer.begin] or [prefix_of(tokenizer)]
    bits = -np.array(of_documents(run, params, [[*begin, *tokenizer.encode(text)] for text in texts])) / math.log(2)
    table = np.stack([bits, [len(text.encode()) for text in texts]], axis=1)
    total, size = table.sum(axis=0)
    metric = {"value": round(total / size, 4), "n": len(texts), "bytes": int(size)}
    if len(texts) > 1:
        metric["ci95"] = [round(bound, 4) for bound in of_ratio(table)]
    return {"bpb": metric}


def read(pattern: str) -> list[str]:
    """The documents of a glob's files, those without a character left out: of a .jsonl file the `text` of each line,
    of any other the whole. Raises UserError where there is none, or one is no UTF-8."""
    texts: list[str] = []
    for path in matching(pattern):
        if path.suffix == ".jsonl":
            for number, record in numbered_lines(path):
                if not isinstance(record.get("text"), str):
                    raise UserError(f"{path} line {number} has no `text`; a line is a document with one")
                texts.append(record["text"])
            continue
        try:
            texts.append(path.read_bytes().decode())
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is no UTF-8 (byte {error.start}); convert it, or name others") from error
    texts = [text for text in texts if text]
    if not texts:
        raise UserError(f"no text in the files of {pattern!r}; give a glob of text files")
    return texts
