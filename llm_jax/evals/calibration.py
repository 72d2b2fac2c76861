"""How well a model knows what it knows: right, wrong and abstained answers, and how far its confidence can be trusted.

Each function is of arrays [N], an entry a question: 1 or 0 in `right`, `wrong`, `abstained`; `confidence` 0 to 1. What
cannot be said, as of no answer at all, is nan. Intervals: `statistics.estimate`.
"""

from collections.abc import Callable, Sequence

import numpy as np

from llm_jax.evals.statistics import estimate

BINS = 10


def f_score(right: np.ndarray, wrong: np.ndarray) -> float:
    """2c / (N + c + i): the harmonic mean of the share right of all and of the attempted (SimpleQA, 2411.04368)."""
    attempted = right.sum() + wrong.sum()
    return float(2 * right.sum() / (len(right) + attempted)) if len(right) else np.nan


def index(right: np.ndarray, wrong: np.ndarray, penalty: float = 1.0) -> float:
    """(c - penalty i) / N: an answer's worth where a wrong one costs so much, and none costs nothing. Who is right with
    probability above penalty / (1 + penalty) gains by answering (SimpleQA; Kalai et al. 2509.04664)."""
    return float((right - penalty * wrong).mean()) if len(right) else np.nan


def nine(right: np.ndarray, wrong: np.ndarray) -> float:
    """(c - 9i) / N: worth answering from 90 % on."""
    return index(right, wrong, 9.0)


def auroc(right: np.ndarray, confidence: np.ndarray) -> float:
    """The chance that a right answer is more confident than a wrong one, equals counting half: the Mann-Whitney
    statistic from mean ranks (Hanley and McNeil 1982)."""
    _, place, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    ups, downs = right.sum(), len(right) - right.sum()
    if not ups or not downs:
        return np.nan
    return float((ranks[right > 0].sum() - ups * (ups + 1) / 2) / (ups * downs))


def risks(right: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """[N]: the share wrong of the 1, 2, ... N most confident answers; of equals, the mean over every order of them."""
    _, place, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong_each = np.bincount(place, weights=1 - right) / counts
    return np.cumsum(np.repeat(wrong_each, counts)) / np.arange(1, len(right) + 1)


def aurc(right: np.ndarray, confidence: np.ndarray) -> float:
    """The area under the risk-coverage curve, lower is better (Geifman and El-Yaniv, 1705.08500)."""
    return float(risks(right, confidence).mean()) if len(right) else np.nan


def brier(right: np.ndarray, confidence: np.ndarray) -> float:
    """The mean squared distance of confidence from truth (Brier 1950)."""
    return float(((confidence - right) ** 2).mean()) if len(right) else np.nan


def reliability(right: np.ndarray, confidence: np.ndarray, bins: int = BINS) -> list[tuple[float, float, int]]:
    """(mean confidence, share right, answers) of bins of equal size, from the least confident on. Equal confidences are
    never parted, so there may be fewer bins than asked for (adaptive bins: Nguyen and O'Connor, 1508.05154)."""
    order = np.sort(confidence)
    upper = np.unique(order[[-(-len(order) * n // bins) - 1 for n in range(1, bins + 1)]]) if len(order) else order
    place = np.searchsorted(upper, confidence)
    inside = [place == number for number in range(len(upper))]
    return [(float(confidence[m].mean()), float(right[m].mean()), int(m.sum())) for m in inside if m.any()]


def ece(right: np.ndarray, confidence: np.ndarray) -> float:
    """Expected calibration error: the distance of confidence from the share right, weighted by the size of each bin
    (Naeini et al. 2015), with bins of equal size."""
    told = reliability(right, confidence)
    return sum(abs(sure - share) * count for sure, share, count in told) / len(right) if told else np.nan


def refusal_recall(abstained: np.ndarray, wrong_before: np.ndarray) -> float:
    """Of what was answered wrong before, the share that is refused now (R-Tuning, 2311.09677)."""
    return float(abstained[wrong_before > 0].mean()) if wrong_before.any() else np.nan


def over_refusal(abstained: np.ndarray, right_before: np.ndarray) -> float:
    """Of what was answered right before, the share that is refused now."""
    return float(abstained[right_before > 0].mean()) if right_before.any() else np.nan


OF_VERDICTS: dict[str, Callable[..., float]] = {"f": f_score, "index": index, "index_nine": nine}
OF_CONFIDENCE: dict[str, Callable[..., float]] = {"auroc": auroc, "aurc": aurc, "brier": brier, "ece": ece}


def measured(right: Sequence[bool], wrong: Sequence[bool], items: Sequence[str]) -> dict[str, dict]:
    """The metrics of verdicts, bootstrapped over items."""
    return {name: estimate(statistic, (right, wrong), items) for name, statistic in OF_VERDICTS.items()}


def trusted(right: Sequence[bool], confidence: Sequence[float], items: Sequence[str]) -> dict[str, dict]:
    """The metrics of a confidence in answers, bootstrapped over items."""
    return {name: estimate(statistic, (right, confidence), items) for name, statistic in OF_CONFIDENCE.items()}
