"""Measures of predictions, after the fact, in NumPy."""

import numpy as np
from numpy.typing import ArrayLike


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """The share of predictions that are right.

    Raises:
      ValueError: counts that differ, or no examples.

    >>> accuracy([0, 1, 1, 0], [0, 1, 0, 0])
    0.75
    """
    found, right = _pair(predicted, labels)
    return float(np.mean(found == right))


def confusion(predicted: ArrayLike, labels: ArrayLike, classes: int) -> np.ndarray:
    """Counts [K, K]: the row is the label, the column the prediction.

    >>> confusion([0, 1, 1, 0], [0, 1, 0, 0], classes=2).tolist()
    [[2, 1], [0, 1]]
    """
    found, right = _pair(predicted, labels)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (right, found), 1)
    return counts


def f1_by_class(predicted: ArrayLike, labels: ArrayLike, classes: int) -> np.ndarray:
    """F1 of each class [K], 2 TP / (2 TP + FP + FN); 0 for a class that neither occurs nor is predicted.

    >>> f1_by_class([0, 1, 1, 0], [0, 1, 0, 0], classes=2).round(3).tolist()
    [0.8, 0.667]
    """
    counts = confusion(predicted, labels, classes)
    return 2 * np.diag(counts) / np.maximum(counts.sum(0) + counts.sum(1), 1)


def majority(labels: ArrayLike) -> float:
    """The accuracy of always saying the most frequent label.

    >>> majority([1, 1, 0])
    0.6666666666666666
    """
    right, _ = _pair(labels, labels)
    return float(np.bincount(right).max() / len(right))


def _pair(predicted: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    found, right = np.asarray(predicted), np.asarray(labels)
    if found.shape != right.shape or found.ndim != 1:
        raise ValueError(f"predicted and labels should be of one length, got {found.shape} and {right.shape}")
    if not len(right):
        raise ValueError("predicted and labels should hold at least one example, got none")
    return found, right


def f1_of_labels(predicted: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """F1 of each of K labels of which an example may have several, [K]: 2 TP / (2 TP + FP + FN), 0 for one that neither
    occurs nor is predicted. Its mean is the macro F1.

    Args:
      predicted, labels: bool [N, K].

    Raises:
      TypeError, ValueError: no bools, shapes that differ, or no examples.

    >>> f1_of_labels([[True, False], [True, True]], [[True, False], [False, True]]).round(3).tolist()
    [0.667, 1.0]
    """
    found, right = np.asarray(predicted), np.asarray(labels)
    if found.dtype != bool or right.dtype != bool:
        raise TypeError(f"predicted and labels should be bools, got {found.dtype} and {right.dtype}")
    if found.shape != right.shape or found.ndim != 2 or not len(found):
        raise ValueError(f"predicted and labels should be [N, K] with N > 0, got {found.shape} and {right.shape}")
    return 2 * (found & right).sum(0) / np.maximum(found.sum(0) + right.sum(0), 1)


def best_thresholds(scores: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """For each of K labels, the threshold [K] at which `scores > threshold` has the best F1.

    Between two scores it lies in the middle; of equal ones the highest is taken. A label that does not occur gets
    infinity, so that it is never predicted.

    Args:
      scores: [N, K], finite.
      labels: bool [N, K].

    Raises:
      ValueError: shapes that differ, no examples, a score that is not finite.

    >>> best_thresholds([[0.1], [0.4], [0.8]], [[False], [True], [True]]).tolist()
    [0.25]
    """
    found, right = np.asarray(scores, float), np.asarray(labels, bool)
    if found.shape != right.shape or found.ndim != 2 or not len(found):
        raise ValueError(f"scores and labels should be [N, K] with N > 0, got {found.shape} and {right.shape}")
    if not np.isfinite(found).all():
        raise ValueError("scores should be finite")
    thresholds = np.full(found.shape[1], np.inf)
    for k in np.flatnonzero(right.any(0)):
        order = np.argsort(-found[:, k], kind="stable")
        sorted_scores, hits = found[order, k], np.cumsum(right[order, k])
        f1 = 2 * hits / (np.arange(1, len(order) + 1) + hits[-1])
        ends = np.append(sorted_scores[:-1] > sorted_scores[1:], True)  # the last of equal scores
        best = np.flatnonzero(ends)[f1[ends].argmax()]
        below = sorted_scores[best + 1] if best + 1 < len(order) else sorted_scores[best] - 1
        thresholds[k] = (sorted_scores[best] + below) / 2
    return thresholds


def pearson(found: ArrayLike, right: ArrayLike) -> float:
    """The linear correlation of two lists of numbers, in [-1, 1]; NaN if one of them is constant.

    >>> round(pearson([1.0, 2.0, 4.0], [2.0, 4.0, 8.0]), 6)
    1.0
    """
    a, b = (np.asarray(x, float) - np.mean(np.asarray(x, float)) for x in _pair(found, right))
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale > 0 else float("nan")


def spearman(found: ArrayLike, right: ArrayLike) -> float:
    """The correlation of their ranks; equal numbers share the mean of theirs.

    >>> round(spearman([1.0, 2.0, 40.0], [5.0, 6.0, 7.0]), 6)
    1.0
    """
    return pearson(*map(_ranks, _pair(found, right)))


def _ranks(x):
    _, where, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[where]
