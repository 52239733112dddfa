"""Metrics of classification from scores, in numpy: what validation, evaluation and anyone with a Parquet file computes.

``scores``: [N, K], of which the largest is the prediction. ``labels``: class indices int [N].
"""

from collections.abc import Sequence

import numpy as np

_RESAMPLES = 2000
_Z = 1.959964  # of a 95 % interval


def by_source(source_ids: Sequence[str], scores: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Mean scores float32 [S, K] of each source's views and segments, sources in order of first appearance."""
    place: dict[str, int] = {}
    which = np.array([place.setdefault(one, len(place)) for one in source_ids], np.int64)
    sums = np.zeros((len(place), scores.shape[1]), np.float64)
    np.add.at(sums, which, scores)
    return list(place), (sums / np.bincount(which)[:, None]).astype(np.float32)


def ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Place of the true class among all, int [N], 0 the best; of equal scores the lower class index comes first."""
    rows = np.arange(len(labels))
    own = scores[rows, labels][:, None]
    before = np.arange(scores.shape[1])[None, :] < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(1)


def top_k(scores: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """Share of the samples whose class is among the ``k`` best scores."""
    return float((ranks(scores, labels) < k).mean())


def confusion(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts int64 [K, K]: row = true class, column = predicted class."""
    classes = scores.shape[1]
    counts = np.bincount(labels * classes + scores.argmax(1), minlength=classes * classes)
    return counts.reshape(classes, classes)


def mean_class_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur of the share of their samples that is right (balanced accuracy)."""
    counts = confusion(scores, labels)
    seen = counts.sum(1) > 0
    return float((counts.diagonal()[seen] / counts.sum(1)[seen]).mean())


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative logarithm of the true class' probability, which counts as at least 1e-12."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(own, 1e-12)).mean())


def summarise(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """top1, top5 (of more than five classes), mean_class_accuracy, loss."""
    top5 = {"top5": top_k(probabilities, labels, 5)} if probabilities.shape[1] > 5 else {}
    return {
        "top1": top_k(probabilities, labels),
        **top5,
        "mean_class_accuracy": mean_class_accuracy(probabilities, labels),
        "loss": log_loss(probabilities, labels),
    }


def wilson(correct: int, total: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): right also for few samples and shares near 0 and 1."""
    share, z2 = correct / total, _Z**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * np.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def bootstrap_class_accuracy(scores: np.ndarray, labels: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of `mean_class_accuracy` from resamples; a class that one of them misses is left out of it."""
    right = (scores.argmax(1) == labels).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(_RESAMPLES)
    for number in range(_RESAMPLES):
        drawn = rng.integers(len(labels), size=len(labels))
        totals = np.bincount(labels[drawn], minlength=scores.shape[1])
        hits = np.bincount(labels[drawn], weights=right[drawn], minlength=scores.shape[1])
        means[number] = (hits[totals > 0] / totals[totals > 0]).mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def intervals(scores: np.ndarray, labels: np.ndarray) -> dict[str, tuple[float, float]]:
    """95 % intervals: Wilson's for top1 and top5, a bootstrap's for the mean over classes."""
    order, total = ranks(scores, labels), len(labels)
    top5 = {"top5": wilson(int((order < 5).sum()), total)} if scores.shape[1] > 5 else {}
    return {
        "top1": wilson(int((order < 1).sum()), total),
        **top5,
        "mean_class_accuracy": bootstrap_class_accuracy(scores, labels),
    }
