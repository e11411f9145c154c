"""Batches of sequences of which each is asked several things, as a sentence is for the roles of each of its predicates.

A batch has a shape that is known before: so many sequences, and so many questions of all of them together. Sequences of
like length are dealt out so that the batches of a bucket have about as many of both, and little is filled up.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lstmjax import checks, text
from lstmjax.batches import Epoch


class Pack(NamedTuple):
    """A batch: which sequences, and its shape."""

    rows: np.ndarray  # which of the sequences
    length: int  # to pad to
    sequences: int  # to fill up to
    asked: int  # questions, to fill up to


class Packs:
    """The batches of each epoch, as `train.fit` wants them: `batches.Batches` for sequences with several questions.

    Args:
      lengths: of all sequences.
      counts: how many questions there are of each, at most `batch_size`.
      make: `Pack` -> a batch.
      batch_size: questions in a batch, at most.
      buckets: at most so many lengths to pad to, hence shapes to compile for.
      seed: of the order: which sequences come together, and when.
      parts: what the two sizes of a batch should be multiples of, for as many devices.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> packs = Packs([3, 9, 4, 8], [2, 1, 1, 1], lambda pack: (len(pack.rows), *pack[1:]), batch_size=3, buckets=2)
    >>> sorted(packs(0)), len(packs(1))
    ([(1, 3, 1, 2), (3, 9, 3, 3)], 2)
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        counts: Sequence[int] | np.ndarray,
        make: Callable[[Pack], Any],
        *,
        batch_size: int,
        buckets: int = 4,
        seed: int = 0,
        parts: int = 1,
    ):
        lengths, self.counts = np.asarray(lengths), np.asarray(counts)
        self.make, self.seed = make, checks.size("seed", seed, least=0)
        room, parts = checks.size("batch_size", batch_size), checks.size("parts", parts)
        if lengths.shape != self.counts.shape:
            raise ValueError(f"counts should be one a length, {lengths.shape}, got shape {self.counts.shape}")
        if len(lengths) and not 0 < self.counts.min() <= self.counts.max() <= room:
            low, high = self.counts.min(), self.counts.max()
            raise ValueError(f"counts should lie in 1 to batch_size = {room}, got {low} to {high}")
        self.buckets = []  # of each: its rows, the plan, and the shape
        bounds = text.bounds(np.repeat(lengths, self.counts), buckets, room)
        place = np.searchsorted(bounds, lengths)
        for k, length in enumerate(bounds):
            rows = np.flatnonzero(place == k)
            if not len(rows):
                continue
            falling = np.sort(self.counts[rows])[::-1]
            dealt = deal(falling, room)
            shape = (max(map(len, dealt)), max(int(falling[part].sum()) for part in dealt))
            self.buckets.append((rows, dealt, (int(length), *(-(-n // parts) * parts for n in shape))))

    def __call__(self, epoch: int) -> Epoch:
        rng = np.random.default_rng((self.seed, checks.size("epoch", epoch, least=0)))
        packs = []
        for rows, dealt, shape in self.buckets:
            # As many questions as the plan says; which of the sequences with so many is drawn.
            order = rows[np.lexsort((rng.random(len(rows)), -self.counts[rows]))]
            packs += [Pack(order[part], *shape) for part in dealt]
        rng.shuffle(packs)  # type: ignore[arg-type]
        return Epoch(packs, self.make)


def deal(counts: Sequence[int] | np.ndarray, room: int) -> list[np.ndarray]:
    """Things dealt out so that none gets more than `room` in all, and all about as much and as many.

    In falling order each goes to whoever has least so far (Graham 1969, longest processing time first), and there are
    as few as that does for.

    Args:
      counts: of each thing, falling, at most `room`.

    Returns:
      The places in `counts` of what each gets.

    Raises:
      ValueError: a count above `room`.

    >>> [part.tolist() for part in deal([3, 2, 2, 1], room=4)]
    [[0, 3], [1, 2]]
    """
    counts = np.asarray(counts)
    _check_counts(counts, room, "room")
    parts = max(1, -(-int(counts.sum()) // room))
    while True:
        most = -(-len(counts) // parts)
        heap = [(0, k) for k in range(parts)]
        found: list[list[int]] = [[] for _ in range(parts)]
        for place, count in enumerate(counts.tolist()):
            load, k = heapq.heappop(heap)
            if load + count > room:
                break
            found[k].append(place)
            if len(found[k]) < most:
                heapq.heappush(heap, (load + count, k))
        else:
            return [np.array(part, np.intp) for part in found if part]
        parts += 1


def in_order(lengths: Sequence[int], counts: Sequence[int], at_most: int = 64) -> list[Pack]:
    """Batches of any number of sequences, from the longest to the shortest, in few shapes: at most so many questions
    each, in lengths of `text.ladder`, and powers of two.

    Args:
      lengths, counts: as in `Packs`; no count is above `at_most`.

    Raises:
      ValueError: a count above `at_most`.

    >>> in_order([3, 12, 5], [1, 4, 1], at_most=4)
    [Pack(rows=array([1]), length=12, sequences=2, asked=4), Pack(rows=array([2, 0]), length=8, sequences=2, asked=4)]
    """
    if not len(lengths):
        return []
    _check_counts(np.asarray(counts), at_most, "at_most")
    total, bounds = sum(counts), text.ladder(max(lengths))
    asked = min(at_most, _power(total))
    sequences = min(_power(len(lengths)), _power(round(asked * len(lengths) / total)))
    packs: list[Pack] = []
    rows: list[int] = []

    def close():
        length = bounds[np.searchsorted(bounds, lengths[rows[0]])]
        packs.append(Pack(np.array(rows), int(length), sequences, asked))
        rows.clear()

    left = asked
    for row in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        if rows and (counts[row] > left or len(rows) == sequences):
            close()
            left = asked
        rows.append(row)
        left -= counts[row]
    close()
    return packs


def _check_counts(counts, most, name):
    if len(counts) and counts.max() > most:
        raise ValueError(f"counts should be at most {name} = {most}, got up to {counts.max()}")


def _power(n):
    """The least power of two that is not less."""
    return 1 << (max(1, n) - 1).bit_length()
