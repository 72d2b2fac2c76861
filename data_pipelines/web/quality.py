"""A learned quality score: python -m data_pipelines.web.quality --input=labelled.jsonl --output=FILE.npz

Each line is {"text", "label"} with a label from 0 to 1, such as a large model's grade of a page's educational value.
The model is logistic regression on hashed words and pairs of words; `data_pipelines.web --quality_model=FILE.npz` notes
its score and drops what is below `--least_quality`.
"""

import collections
import itertools
import json
import random
from pathlib import Path

import numpy as np
import xxhash
from absl import flags
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from data_pipelines.chats import read_records
from data_pipelines.documents import matching
from data_pipelines.web.words import WORD
from llm_jax.config import UserError
from llm_jax.frame.cli import run_cli

FEATURES = 2**18
WORDS = 1000  # of a text that are looked at
EPOCHS, RATE, DECAY = 5, 0.5, 1e-6  # of Adagrad
HELD_OUT = 0.1


def features(text: str) -> tuple[np.ndarray, np.ndarray]:
    """(indices, values): log of one plus the count of each word and pair, scaled to length 1."""
    words = [match.group().lower() for match in itertools.islice(WORD.finditer(text), WORDS)]
    counts = collections.Counter(words)
    counts.update(f"{a} {b}" for a, b in itertools.pairwise(words))
    sums: dict[int, float] = collections.defaultdict(float)
    for gram, count in counts.items():
        sums[xxhash.xxh64_intdigest(gram.encode("utf-8", "replace")) % FEATURES] += count
    values = np.log1p(np.fromiter(sums.values(), np.float64, len(sums)))
    norm = np.sqrt(np.sum(values**2)) or 1.0
    return np.fromiter(sums.keys(), np.int64, len(sums)), values / norm


class Model:
    """weights[FEATURES], float64, and a bias: the score of a text is the logistic of their sum, between 0 and 1."""

    def __init__(self, weights: np.ndarray, bias: float):
        self.weights, self.bias = weights, bias

    def score(self, text: str) -> float:
        return self.probability(*features(text))

    def probability(self, at: np.ndarray, values: np.ndarray) -> float:
        return float(1 / (1 + np.exp(-np.clip(self.bias + self.weights[at] @ values, -30, 30))))

    def save(self, path: Path) -> None:
        """Only the weights that are not zero."""
        at = np.flatnonzero(self.weights)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, at=at, weights=self.weights[at].astype(np.float32), bias=self.bias)
        partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "Model":
        """Raises UserError when the file is no such model."""
        try:
            with np.load(path) as saved:
                weights = np.zeros(FEATURES)
                weights[saved["at"]] = saved["weights"]
                return cls(weights, float(saved["bias"]))
        except Exception as error:  # NumPy, zip and zlib each have their own
            raise UserError(f"{path} is no quality model; make one with data_pipelines.web.quality") from error


def train(texts: list[str], labels: list[float], seed: int = 0) -> Model:
    """Least log loss by Adagrad, one text at a time."""
    made, model = [features(text) for text in texts], Model(np.zeros(FEATURES), 0.0)
    squares, bias_squares, order = np.full(FEATURES, 1e-8), 1e-8, list(range(len(texts)))
    rng = random.Random(seed)
    for _ in range(EPOCHS):
        rng.shuffle(order)
        for i in order:
            at, values = made[i]
            error = model.probability(at, values) - labels[i]
            slope = error * values + DECAY * model.weights[at]
            squares[at] += slope**2
            model.weights[at] -= RATE * slope / np.sqrt(squares[at])
            bias_squares += error**2
            model.bias -= RATE * error / np.sqrt(bias_squares)
    return model


class Quality(BaseFilter):
    """Notes metadata["quality"] and drops what is below `least`."""

    name = "quality"

    def __init__(self, model: str, least: float):
        super().__init__()
        self.path, self.least, self.model = model, least, None

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        self.model = self.model or Model.load(self.path)
        score = self.model.score(doc.text)
        doc.metadata["quality"] = round(score, 4)
        return score >= self.least or (False, "low_quality")


def labelled(pattern: str) -> tuple[list[str], list[float]]:
    """Raises UserError, naming file, line and field, on what is no labelled text."""
    texts, labels = [], []
    for path in matching(pattern, ".jsonl, .json, or either .gz"):
        for where, record in read_records(path):
            text, label = (record.get(key) if isinstance(record, dict) else None for key in ("text", "label"))
            if not isinstance(text, str):
                raise UserError(f"{where}: text: must be a string")
            if not isinstance(label, (int, float)) or not 0 <= label <= 1:
                raise UserError(f"{where}: label: must be a number from 0 to 1")
            texts.append(text)
            labels.append(float(label))
    return texts, labels


def define_flags() -> None:
    flags.DEFINE_string("input", None, "Glob of labelled texts, .jsonl.", required=True)
    flags.DEFINE_string("output", None, "The .npz to write.", required=True)


def main() -> None:
    f = flags.FLAGS
    texts, labels = labelled(f.input)
    order = sorted(range(len(texts)), key=lambda i: xxhash.xxh64_intdigest(texts[i].encode("utf-8", "replace")))
    held, kept = np.split(np.array(order), [max(1, round(HELD_OUT * len(order)))])
    if not len(kept) or len({labels[i] >= 0.5 for i in kept}) < 2:
        raise UserError(f"{f.input}: needs texts of both kinds, labels below 0.5 and from it on")
    model = train([texts[i] for i in kept], [labels[i] for i in kept])
    Path(f.output).absolute().parent.mkdir(parents=True, exist_ok=True)
    model.save(Path(f.output))
    right = np.mean([(model.score(texts[i]) >= 0.5) == (labels[i] >= 0.5) for i in held])
    margin = 1.96 * np.sqrt(right * (1 - right) / len(held))
    print(f"{f.output}: right on {right:.3f} of {len(held)} texts held out (95 %: +-{margin:.3f})")
    print(json.dumps({"texts": len(kept), "held_out": len(held), "accuracy": float(right)}))


if __name__ == "__main__":
    run_cli(main, define_flags)
