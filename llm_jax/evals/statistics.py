"""Rates with 95 % intervals, and the unbiased pass@k."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import numpy as np

RESAMPLES = 1000
DRAWS = 400  # resamples of a statistic that is no ratio of sums, and takes a thousand times as long


def rate(values: Sequence[float], items: Sequence[Hashable]) -> dict:
    """{"value", "n", "ci95"}: the mean, and a bootstrap over items (people, problems): answers about one item
    stand or fall together, so they are resampled together. All equal values take Wilson's interval."""
    values = np.asarray(values, float)
    if not len(values):
        return {"value": None, "n": 0, "ci95": [None, None]}
    mean = float(values.mean())
    if values.min() == values.max() or len(set(items)) == 1:
        low, high = wilson(mean, len(set(items)))
    else:
        low, high = bootstrap(values, items)
    return {"value": round(mean, 4), "n": len(values), "ci95": [round(low, 4), round(high, 4)]}


def wilson(p: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion p of n (Wilson 1927)."""
    z = 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(values: np.ndarray, items: Sequence[Hashable]) -> tuple[float, float]:
    """Percentile interval over resampled items, seeded."""
    sums: dict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for value, item in zip(values, items, strict=True):
        sums[item][0] += value
        sums[item][1] += 1
    return of_ratio(np.array(list(sums.values())))


def of_ratio(table: np.ndarray) -> tuple[float, float]:
    """Percentile interval of the sum of the first column over that of the second, of resampled rows, seeded."""
    rng = np.random.default_rng(0)
    drawn = table[rng.integers(len(table), size=(RESAMPLES, len(table)))].sum(axis=1)
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return float(low), float(high)


def estimate(statistic: Callable[..., float], columns: Sequence[np.ndarray], items: Sequence[Hashable]) -> dict:
    """{"value", "n", "ci95"} of a statistic that is no mean, as an area under a curve, of columns [N] each. Items are
    resampled whole, seeded. The value is None where the statistic is nan, as of nothing; resamples
    that give nan, as one without a wrong answer to rank, do not count.
    """
    columns = [np.asarray(column, float) for column in columns]
    places: dict[Hashable, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        places[item].append(place)
    value = statistic(*columns) if places else np.nan
    if np.isnan(value):
        return {"value": None, "n": len(items), "ci95": [None, None]}
    groups, rng = [np.array(group) for group in places.values()], np.random.default_rng(0)
    drawn = (np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]) for _ in range(DRAWS))
    found = [statistic(*(column[chosen] for column in columns)) for chosen in drawn]
    low, high = (float(bound) for bound in np.nanpercentile(found, [2.5, 97.5]))
    return {"value": round(float(value), 4), "n": len(items), "ci95": [round(low, 4), round(high, 4)]}


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, 2107.03374)."""
    if n - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - correct + 1, n + 1)))
