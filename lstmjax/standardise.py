"""Features brought to a mean of 0 and a standard deviation of 1, by what the training data say.

An LSTM begins with weights that fit features of about unit variance: of pixels in [0, 1], most of them 0, or of prices
in the thousands, it learns late or not at all.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Moments(NamedTuple):
    """What is known of each of D features, in their own units."""

    mean: np.ndarray  # [D]
    deviation: np.ndarray  # [D], 1 where a feature never changes


def moments(sequences: Sequence[np.ndarray]) -> Moments:
    """The mean and the standard deviation of each feature over all steps of all sequences, found in float64.

    Args:
      sequences: [T_k, D] each, of numbers or bools.

    Raises:
      ValueError: no steps, or sequences of other shapes.

    >>> moments([np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[2.0, 5.0]])]).mean
    array([2., 5.])
    """
    widths = {np.shape(x)[1:] for x in sequences}
    n = sum(len(x) for x in sequences)
    if len(widths) != 1 or len(next(iter(widths))) != 1 or not n:
        raise ValueError(
            f"sequences should be [T, D] of one D, with a step at least, got {n} steps of {sorted(widths)}"
        )
    # Twice over the data, since a difference of squares has no digits left where the mean is large.
    mean = np.sum([np.sum(x, 0, dtype=np.float64) for x in sequences], 0) / n
    squares = np.sum([np.square(np.asarray(x, np.float64) - mean).sum(0) for x in sequences], 0)
    deviation = np.sqrt(squares / n)
    # Where all values are the same, the mean may miss them by its rounding.
    return Moments(mean, np.where(deviation > 1e-12 * np.abs(mean), deviation, 1.0))


def standardise(xs: np.ndarray, known: Moments) -> np.ndarray:
    """(x - mean) / deviation, in float64.

    Args:
      xs: [..., D].
      known: from `moments`.

    Raises:
      ValueError: xs of another width.

    >>> standardise(np.array([[1.0, 5.0]]), moments([np.array([[1.0, 5.0], [3.0, 5.0]])]))
    array([[-1.,  0.]])
    """
    if xs.shape[-1:] != known.mean.shape:
        raise ValueError(f"xs should be [..., {len(known.mean)}], got shape {xs.shape}")
    return (xs - known.mean) / known.deviation


def from_json(held: Any) -> Moments:
    """What `{name: list}` of the fields holds.

    Raises:
      TypeError, ValueError: something else; it says what.
    """
    found = Moments(*(np.asarray(held[name], np.float64) for name in Moments._fields))
    if found.mean.ndim != 1 or found.mean.shape != found.deviation.shape or not (found.deviation > 0).all():
        raise ValueError(f"moments should be two lists of one length, deviations above 0, got {held!r}")
    return found


def to_json(known: Moments) -> dict[str, list[float]]:
    """The fields as lists."""
    return {name: values.tolist() for name, values in known._asdict().items()}
