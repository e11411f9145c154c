"""What is asked of a sequence, read off its records, of (x, target) each; what is refused, and what an answer is worth.

x         float, bool or uint8 [T, D], features of steps (uint8 stands for n / 255); or int [T], symbols from 0 on
target    a float: a number;  an int: a class;  int [T]: a class at each step;  bool [T, K]: which keys are down
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lstmjax import checks
from lstmjax.batches import check_sequences

Record = tuple[np.ndarray, Any]

MEASURES = {"number": "squared_error", "class": "accuracy", "classes": "recall", "keys": "nll"}  # what to compare by
TINY = 1e-7  # about the least that a float32 tells from 0 beside 1


class Kind(NamedTuple):
    """What goes in, and what comes out."""

    symbols: bool  # whether steps are symbols
    inputs: int  # D, or how many symbols
    answer: str  # of `sequencer.ANSWERS`
    outputs: int  # K

    def say(self) -> str:
        """It in words."""
        return f"{self.inputs} {'symbols' if self.symbols else 'features'} with {self.answer} for a target"


def kind_of(records: Sequence[Record]) -> Kind:
    """The kind of all records of the training data together.

    Raises:
      TypeError, ValueError: no records, records of several kinds, what is not finite in one; it names the record.

    >>> kind_of([(np.array([3, 0, 1]), 1), (np.array([2, 5]), 0)])
    Kind(symbols=True, inputs=6, answer='class', outputs=2)
    """
    if not len(records):
        raise ValueError("the training data should hold at least one record, got none")
    kind, each = _kind(records[0]), [_kind(record) for record in records]
    if kind.symbols:
        kind = kind._replace(inputs=max(one.inputs for one in each))
    if kind.answer in ("class", "classes"):
        kind = kind._replace(outputs=max(one.outputs for one in each))
    check(records, kind, "the training data")
    return kind


def check(records: Sequence[Record], kind: Kind, where: str) -> None:
    """Refuse records that are not of this kind.

    Raises:
      TypeError, ValueError: naming the record of `where`.
    """
    if not len(records):
        raise ValueError(f"{where} should hold at least one record, got none")
    for row, record in enumerate(records):
        found = _kind(record)
        x, target = map(np.asarray, record)
        if not len(x):
            raise ValueError(f"{where}, record {row}: x should have at least one step, got none")
        if (found.symbols, found.answer) != (kind.symbols, kind.answer):
            raise ValueError(f"{where}, record {row}: expected {kind.say()}, got {found.say()}")
        if target.ndim and len(target) != len(x):
            raise ValueError(f"{where}, record {row}: x has {len(x)} steps and its target {len(target)}")
        if kind.answer == "keys" and found.outputs != kind.outputs:
            raise ValueError(f"{where}, record {row}: expected {kind.outputs} keys, got {found.outputs}")
        if kind.answer in ("class", "classes"):
            low, high = int(target.min()), int(target.max())
            if low < 0 or high >= kind.outputs:
                raise ValueError(
                    f"{where}, record {row}: classes should lie in [0, {kind.outputs}), got {low} to {high}"
                )
        if kind.answer == "number" and not np.isfinite(target):
            raise ValueError(f"{where}, record {row}: the target should be a finite number, got {target}")
    check_xs([x for x, _ in records], kind, where)


def check_xs(xs: Sequence[np.ndarray], kind: Kind, where: str) -> None:
    """Refuse sequences that are not of this kind.

    Raises:
      TypeError, ValueError: naming the record of `where`.
    """
    for row, x in enumerate(xs):
        x = np.asarray(x)
        if x.ndim != (1 if kind.symbols else 2) or (not kind.symbols and x.shape[1] != kind.inputs) or not len(x):
            wanted = "symbols int [T]" if kind.symbols else f"features [T, {kind.inputs}]"
            raise ValueError(f"{where}, record {row}: x should be {wanted} with T at least 1, got {checks.show(x)}")
    try:
        check_sequences(xs, kind.inputs if kind.symbols else None)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from None


def measured(kind: Kind, answers: Sequence[np.ndarray], targets: Sequence[Any]) -> dict[str, np.ndarray]:
    """What the answers of k models are worth, [k] each.

    A number: `squared_error`, its mean. Classes: `accuracy` and the mean `nll` in nats, and of a class at each step the
    `recall`, the share that is right of the steps whose class is not 0. Keys: the `nll` of a frame (`nll_of_keys`).

    Args:
      answers: to each sequence a number [k], probabilities [k, K] or [k, T, K].

    >>> measured(Kind(False, 2, "number", 1), [np.array([1.0]), np.array([3.0])], [1.0, 2.0])["squared_error"].tolist()
    [0.5]
    """
    if kind.answer == "number":
        found = np.stack(answers, -1).astype(np.float64)
        return {"squared_error": ((found - np.asarray(targets, np.float64)) ** 2).mean(-1)}
    if kind.answer == "keys":
        p, y = np.concatenate(answers, 1), np.concatenate(targets)
        return {"nll": np.array([nll_of_keys(one, y) for one in p])}
    p = np.stack(answers, 1) if kind.answer == "class" else np.concatenate(answers, 1)
    y = np.asarray(targets) if kind.answer == "class" else np.concatenate(targets)
    right, said = p.argmax(-1) == y, np.take_along_axis(p, y[None, :, None].astype(int), -1)[..., 0]
    worth = {"accuracy": right.mean(-1), "nll": -np.log(np.maximum(said.astype(np.float64), TINY)).mean(-1)}
    if kind.answer == "classes" and (y != 0).any():
        worth["recall"] = right[:, y != 0].mean(-1)
    return worth


def nll_of_keys(p: np.ndarray, y: np.ndarray) -> float:
    """The mean over frames of -log p of the keys y [N, K], each by itself with probability p [N, K] or [1, K].

    >>> round(nll_of_keys(np.array([[0.5, 0.5]]), np.array([[True, False]])), 4)
    1.3863
    """
    p = np.clip(p.astype(np.float64), TINY, 1 - TINY)
    return float(-np.where(y, np.log(p), np.log1p(-p)).sum(-1).mean())


def _kind(record):
    """What kind of record this is.

    Raises:
      TypeError: none.
    """
    x, target = map(np.asarray, record)
    answer = {
        (0, "f"): "number",
        (0, "i"): "class",
        (0, "u"): "class",
        (1, "i"): "classes",
        (1, "u"): "classes",
        (2, "b"): "keys",
    }.get((target.ndim, target.dtype.kind))
    if x.ndim not in (1, 2) or (x.ndim == 1 and x.dtype.kind not in "iu") or x.dtype.kind not in "fbiu":
        raise TypeError(f"x should be features [T, D] or symbols int [T], got {checks.show(x)}")
    if answer is None:
        raise TypeError(
            f"a target should be a float, an int, int [T] or bool [T, K], got {checks.show(target)} for an x of "
            f"{checks.show(x)}"
        )
    outputs = 1 if answer == "number" else target.shape[1] if answer == "keys" else _count(target)
    return Kind(x.ndim == 1, _count(x) if x.ndim == 1 else x.shape[1], answer, outputs)


def _count(ids):
    """How many there are from 0 to the greatest."""
    return int(ids.max()) + 1 if ids.size else 0
