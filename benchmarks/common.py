"""What the comparisons share. Nothing here imports JAX or PyTorch, since a worker must start with its own side only."""

import importlib.util
import sys
from collections.abc import Iterator

import numpy as np

from llm_jax.frame.cli import complain


def need_torch() -> None:
    """Exits with one line where the peer is missing."""
    if importlib.util.find_spec("torch") is None:
        sys.exit(complain("PyTorch, the peer of this comparison, is not installed; try: pip install torch", 2))


def spread(values: list[float]) -> dict[str, float]:
    """The median, the middle half and the extremes."""
    names = ("median", "lower_quarter", "upper_quarter", "least", "greatest")
    return dict(zip(names, np.percentile(values, (50, 25, 75, 0, 100)).tolist(), strict=True))


def shown(s: dict[str, float], digits: int = 2) -> str:
    low, high, least, greatest = (
        f"{s[name]:.{digits}f}" for name in ("lower_quarter", "upper_quarter", "least", "greatest")
    )
    return f"{s['median']:.{digits}f} (middle half {low} to {high}, all {least} to {greatest})"


def random_batches(vocab_size: int, batch: int, length: int, documents: int = 1) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches in the form of `loader.targets`, each row cut into about equal documents."""
    rng = np.random.default_rng(0)
    place_T = np.arange(length)
    segment_T = 1 + place_T * documents // length
    starts_T = np.searchsorted(segment_T, segment_T)  # where each token's document begins
    weights_T = np.append(segment_T[1:] == segment_T[:-1], True)
    rows = lambda x_T, dtype: np.tile(x_T.astype(dtype), (batch, 1))  # noqa: E731
    while True:
        tokens = rng.integers(0, vocab_size, (batch, length + 1), np.int32)
        yield {
            "tokens": tokens[:, :-1],
            "positions": rows(place_T - starts_T, np.int32),
            "segments": rows(segment_T, np.int32),
            "targets": tokens[:, 1:],
            "weights": rows(weights_T, np.float32),
        }
