"""Measures of predictions, after the fact, in NumPy."""

from collections.abc import Sequence

import numpy as np


def accuracy(predicted: Sequence[int], labels: Sequence[int]) -> float:
    """The share of predictions that are right.

    Raises:
      ValueError: counts that differ, or no examples.

    >>> accuracy([0, 1, 1, 0], [0, 1, 0, 0])
    0.75
    """
    predicted, labels = _pair(predicted, labels)
    return float((predicted == labels).mean())


def confusion(predicted: Sequence[int], labels: Sequence[int], classes: int) -> np.ndarray:
    """Counts [K, K]: the row is the label, the column the prediction.

    >>> confusion([0, 1, 1, 0], [0, 1, 0, 0], classes=2).tolist()
    [[2, 1], [0, 1]]
    """
    predicted, labels = _pair(predicted, labels)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def f1_by_class(predicted: Sequence[int], labels: Sequence[int], classes: int) -> np.ndarray:
    """F1 of each class [K], 2 TP / (2 TP + FP + FN); 0 for a class that neither occurs nor is predicted.

    >>> f1_by_class([0, 1, 1, 0], [0, 1, 0, 0], classes=2).round(3).tolist()
    [0.8, 0.667]
    """
    counts = confusion(predicted, labels, classes)
    return 2 * np.diag(counts) / np.maximum(counts.sum(0) + counts.sum(1), 1)


def majority(labels: Sequence[int]) -> float:
    """The accuracy of always saying the most frequent label.

    >>> majority([1, 1, 0])
    0.6666666666666666
    """
    labels, _ = _pair(labels, labels)
    return float(np.bincount(labels).max() / len(labels))


def _pair(predicted, labels):
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.shape != labels.shape or predicted.ndim != 1:
        raise ValueError(f"predicted and labels should be of one length, got {predicted.shape} and {labels.shape}")
    if not len(labels):
        raise ValueError("predicted and labels should hold at least one example, got none")
    return predicted, labels
