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
