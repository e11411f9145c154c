"""A long text as batches: cut into columns that stand side by side, and these into windows one after the other."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lstmjax import checks
from lstmjax.batches import Epoch
from lstmjax.models.language_model import Batch


def cut(ids: np.ndarray, columns: int, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A text as columns that stand side by side: inputs, targets and weights [B, N].

    Every word is a target once, with the word before it as the input, across the columns too; what is filled up at the
    end of the last one has a weight of 0.

    Args:
      ids: int [T].
      columns: B.
      start: the input before the first word.

    Reference: Zaremba et al. 2014, section 4.1.

    >>> [part.tolist() for part in cut(np.array([5, 6, 7]), 2, start=9)]
    [[[9, 5], [6, 0]], [[5, 6], [7, 0]], [[1.0, 1.0], [1.0, 0.0]]]
    """
    width = -(-len(ids) // columns)
    targets, inputs = np.zeros((2, columns * width), np.int32)
    targets[: len(ids)], inputs[: len(ids)] = ids, [start, *ids[:-1]]
    weights = (np.arange(columns * width) < len(ids)).astype(np.float32)
    shape = columns, width
    return inputs.reshape(shape), targets.reshape(shape), weights.reshape(shape)


class Windows:
    """The windows of columns of a text, as `train.fit` wants its batches: the same for the same epoch.

    Args:
      columns: inputs, targets and weights [B, N] (`cut`).
      steps: in a window, of which the last is filled up.
      random: whether windows have lengths drawn anew in each epoch: from N(steps, 5), one time in twenty from
        N(steps / 2, 5), from 5 to steps + 10 (Merity et al. 2018, section 4.1). All are filled up to the longest, so
        that they are one program.
      seed: of the lengths.
    """

    def __init__(self, columns: Sequence[np.ndarray], steps: int, *, random: bool = False, seed: int = 0):
        self.columns, self.steps, self.random, self.seed = columns, checks.size("steps", steps), random, seed

    def __call__(self, epoch: int) -> Epoch:
        width = self.columns[0].shape[1]
        if not self.random:
            cuts = [*range(0, width, self.steps), width]
        else:
            rng, cuts = np.random.default_rng((self.seed, epoch)), [0]
            while cuts[-1] < width:
                mean = self.steps if rng.random() < 0.95 else self.steps / 2
                cuts.append(min(width, cuts[-1] + int(np.clip(rng.normal(mean, 5), 5, self.steps + 10))))
        return Epoch(list(pairwise(cuts)), self._window)  # type: ignore[arg-type]

    def _window(self, span):
        low, high = span
        filled = self.steps + 10 * self.random
        inputs, targets, weights = (
            np.pad(part[:, low:high], ((0, 0), (0, filled - (high - low)))) for part in self.columns
        )
        return Batch(inputs, targets, weights, np.full(len(inputs), high - low, np.int32) if self.random else None)
