"""Sequences that a program draws, to measure how far back a network remembers. NumPy only.

The same seed gives the same sequences, in every process and on every machine.
"""

import dataclasses
from typing import Any

import numpy as np

from lstmjax import checks

SPLITS = {"train": 0, "dev": 1, "test": 2}  # each draws from seeds of its own


def adding(seed: int | tuple[int, ...], n: int, T: int) -> tuple[np.ndarray, np.ndarray]:
    """The adding problem: the sum of two marked numbers among T.

        x_t = (u_t, m_t),   u_t uniform in [0, 1),   m_t = 1 at t = a and at t = b, else 0
        y = u_a + u_b,   a uniform in [0, T // 2),   b uniform in [T // 2, T)

    Who always says 1 has a mean squared error of 1/6, the variance of y. The first number lies at least T / 2
    steps before the end.

    Args:
      seed: of `numpy.random.default_rng`.
      n: sequences.
      T: steps, at least 2.

    Returns:
      xs float32 [n, T, 2] and ys float32 [n].

    Raises:
      TypeError, ValueError: naming the argument.

    References: Hochreiter and Schmidhuber 1997, section 5.4 (numbers in [-1, 1], ends marked by -1, a target of
    0.5 + y / 4); in this form Arjovsky et al. 2016, section 5.

    >>> xs, ys = adding(0, 3, 50)
    >>> xs.shape, bool(np.allclose((xs[..., 0] * xs[..., 1]).sum(1), ys))
    ((3, 50, 2), True)
    """
    rng, n, T = np.random.default_rng(seed), checks.size("n", n), checks.size("T", T, least=2)
    xs = np.zeros((n, T, 2), np.float32)
    xs[..., 0] = rng.random((n, T), np.float32)
    rows = np.arange(n)
    first, second = rng.integers(0, T // 2, n), rng.integers(T // 2, T, n)
    xs[rows, first, 1] = xs[rows, second, 1] = 1
    return xs, xs[rows, first, 0] + xs[rows, second, 0]


def copy(
    seed: int | tuple[int, ...], n: int, T: int, *, symbols: int = 8, length: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """The copy problem: S symbols are to be said again, T steps after the last of them.

        x = s_1 ... s_S, T - 1 blanks, the mark, S blanks;   y = T + S blanks, s_1 ... s_S

    The blank is 0, the symbols are 1 to K, each drawn uniformly, and the mark is K + 1. Who remembers nothing, but says
    blanks until it is time and then symbols at random, has a mean cross-entropy of S log K / (T + 2 S).

    Args:
      seed: of `numpy.random.default_rng`.
      n: sequences.
      T: steps between, at least 1.
      symbols: K.
      length: S.

    Returns:
      xs and ys, int32 [n, T + 2 S].

    Raises:
      TypeError, ValueError: naming the argument.

    Reference: Arjovsky et al. 2016, section 5, after Hochreiter and Schmidhuber 1997, section 5.6 (symbols that matter
    far apart).

    >>> xs, ys = copy(0, 1, 3, symbols=2, length=2)
    >>> xs[0].tolist(), ys[0].tolist()
    ([2, 2, 0, 0, 3, 0, 0], [0, 0, 0, 0, 0, 2, 2])
    """
    rng, n, T = np.random.default_rng(seed), checks.size("n", n), checks.size("T", T)
    symbols, length = checks.size("symbols", symbols), checks.size("length", length)
    xs, ys = np.zeros((2, n, T + 2 * length), np.int32)
    xs[:, :length] = ys[:, T + length :] = rng.integers(1, symbols + 1, (n, length))
    xs[:, T + length - 1] = symbols + 1
    return xs, ys


DRAWN = {"adding": adding, "copy": copy}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A set without end: other sequences in every epoch, each batch drawn when it is asked for.

    Args:
      name: of `DRAWN`.
      T: as there.
      n: sequences in an epoch.
      seed: of the training split.
      how: other arguments of the function of that name.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> one = Drawn("copy", T=5, n=100, how={"symbols": 4})
    >>> len(one), one.batch(epoch=0, k=3, size=2)[0].shape, len(one.held("dev", 7)[1])
    (100, (2, 25), 7)
    """

    name: str
    T: int
    n: int
    seed: int = 0
    how: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        checks.one_of("name", self.name, tuple(DRAWN))
        checks.size("n", self.n)
        checks.size("seed", self.seed, least=0)
        self.held("train", 1)  # T and the rest are refused here

    def __len__(self) -> int:
        return self.n

    def batch(self, epoch: int, k: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch k of an epoch: a function of seed, epoch and k alone."""
        return self._draw(("train", self.seed, epoch, k), size)

    def held(self, split: str, n: int) -> tuple[np.ndarray, np.ndarray]:
        """n sequences to measure on; those of "dev" and "test" are the same whatever the seed."""
        checks.one_of("split", split, tuple(SPLITS))
        return self._draw((split, 0, 0, 0), n)

    def _draw(self, place, n):
        # Always four numbers: NumPy takes (1,) and (1, 0) for the same seed.
        return DRAWN[self.name]((SPLITS[place[0]], *place[1:]), n, self.T, **self.how)
