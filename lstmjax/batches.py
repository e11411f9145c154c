"""Batches of sequences of like length, in an order that seed and epoch alone decide, and what may be in them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lstmjax import checks
from lstmjax.text import Bucket, bounds, bucket


class Batches:
    """The batches of each epoch: length-bucketed, shuffled, and made when they are asked for.

    Called with an epoch (from 0) it gives something with a length and an index, as `train.fit` wants it. The k-th
    batch of an epoch is a function of seed, epoch and k, so a run that goes on in the middle of one needs to know no
    more than these.

    Args:
      lengths: of all sequences.
      make: `text.Bucket`, which names the rows and the length to pad to -> a batch.
      batch_size: sequences in a batch; the last of each bucket may have fewer.
      buckets: at most so many lengths to pad to, hence shapes to compile for.
      seed: of the order.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> batches = Batches([3, 9, 4, 8], lambda bucket: (len(bucket.rows), bucket.length), batch_size=2, buckets=2)
    >>> sorted(batches(0)), len(batches(1))
    ([(2, 4), (2, 9)], 2)
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        make: Callable[[Bucket], Any],
        *,
        batch_size: int,
        buckets: int = 4,
        seed: int = 0,
    ):
        self.lengths, self.make = np.asarray(lengths), make
        self.batch_size = checks.size("batch_size", batch_size)
        self.bounds = bounds(self.lengths, buckets, self.batch_size)
        self.seed = checks.size("seed", seed, least=0)

    def __call__(self, epoch: int) -> "Epoch":
        rng = np.random.default_rng((self.seed, checks.size("epoch", epoch, least=0)))
        return Epoch(bucket(self.lengths, self.batch_size, self.bounds, rng), self.make)


class Epoch(Sequence):
    """The batches of one epoch, each made when it is indexed."""

    def __init__(self, cut: Sequence[Any], make: Callable[[Any], Any]):
        self.cut, self.make = cut, make

    def __len__(self) -> int:
        return len(self.cut)

    def __getitem__(self, k):
        return self.make(self.cut[k])


def check_sequences(sequences: Sequence[np.ndarray], vocabulary: int | None = None) -> None:
    """Refuse training data that would spoil a model without a word.

    Args:
      sequences: of ids [T_k], or of features [T_k, D].
      vocabulary: ids lie in [0, vocabulary).

    Raises:
      TypeError, ValueError: naming the row: a value that is not finite, an id out of range, another dtype or width.

    >>> check_sequences([np.array([0, 4]), np.array([1, 5])], vocabulary=5)
    Traceback (most recent call last):
    ValueError: sequences[1] should hold ids in [0, 5), got 5 at step 1
    """
    for row, sequence in enumerate(sequences):
        name = f"sequences[{row}]"
        if not checks.is_array(sequence):
            raise TypeError(f"{name} should be an array, got {checks.show(sequence)}")
        sequence = np.asarray(sequence)
        if vocabulary is not None:
            if sequence.dtype.kind not in "iu" or sequence.ndim != 1:
                raise TypeError(f"{name} should be ids int[T], got {checks.show(sequence)}")
            _refuse(name, sequence, (sequence < 0) | (sequence >= vocabulary), f"ids in [0, {vocabulary})")
        else:
            first = np.shape(sequences[0])[1:]
            if sequence.ndim != 2 or sequence.shape[1:] != first:
                raise ValueError(f"{name} should be [T, {', '.join(map(str, first))}], got shape {sequence.shape}")
            # Through float64, since NumPy has no isfinite for bfloat16.
            _refuse(name, sequence, ~np.isfinite(sequence.astype(np.float64)), "finite numbers")


def check_labels(labels: Sequence[int] | np.ndarray, classes: int) -> None:
    """Refuse labels outside [0, classes).

    Raises:
      TypeError, ValueError: naming the row.

    >>> check_labels([0, 2], classes=2)
    Traceback (most recent call last):
    ValueError: labels[1] should lie in [0, 2), got 2
    """
    found = np.asarray(labels)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise TypeError(f"labels should be ints, one a row, got {checks.show(found)}")
    for row in np.flatnonzero((found < 0) | (found >= classes)):
        raise ValueError(f"labels[{row}] should lie in [0, {classes}), got {found[row]}")


def _refuse(name, sequence, wrong, expected):
    for place in np.argwhere(wrong):
        at = f"step {place[0]}" + (f", feature {place[1]}" if len(place) > 1 else "")
        raise ValueError(f"{name} should hold {expected}, got {sequence[tuple(place)]} at {at}")
