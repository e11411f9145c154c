"""Texts with a label each, or several: read from files, split in parts, and a sample that comes along."""

from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from lstmjax import checks, reader

Record = tuple[str, str | tuple[str, ...]]  # text, and its label or labels


def sample(split: str) -> list[Record]:
    """The embedded sample, "train", "dev" or "test": short reviews, half English half Chinese, positive or negative.

    >>> len(sample("test"))
    240
    """
    checks.one_of("split", split, ("train", "dev", "test"))
    with resources.as_file(resources.files("lstmjax") / "sample" / f"{split}.tsv") as path:
        return read(path)


def read(path: str | Path, *, several: bool = False) -> list[Record]:
    """The records of a UTF-8 file with `text TAB label` on each line; blank lines are passed over.

    Args:
      path: of the file.
      several: whether a line may have several labels, with commas between.

    Raises:
      FileNotFoundError: no such file. ValueError: a line without text or label, or no line at all; it names the line.
    """
    records = []
    for number, line in reader.lines_of(path, "text TAB label"):
        words, tab, label = line.rpartition("\t")
        if not tab or not words.strip() or not label.strip():
            raise ValueError(f"{path}, line {number}: expected text TAB label, got {line[:60]!r}")
        labels = tuple(one.strip() for one in label.split(",")) if several else label.strip()
        if several and not all(labels):
            raise ValueError(f"{path}, line {number}: expected labels with commas between, got {label[:60]!r}")
        records.append((words.strip(), labels))
    return records


def split(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record], list[Record]]:
    """Records as train, dev and test, 80 / 10 / 10 in each class (of several labels, the first), drawn at random.

    Raises:
      ValueError: a class with fewer than 3 records.
    """
    rng, parts = np.random.default_rng(seed), ([], [], [])  # type: ignore[var-annotated]
    for label, count in sorted(Counter(labels_of(record)[0] for record in records).items()):
        if count < 3:
            raise ValueError(f"label {label!r} has {count} records, at least 3 are needed to split off dev and test")
        rows = [r for r in records if labels_of(r)[0] == label]
        rng.shuffle(rows)  # type: ignore[arg-type]
        held = max(1, round(count / 10))
        for part, chosen in zip(parts, (rows[2 * held :], rows[:held], rows[held : 2 * held]), strict=True):
            part.extend(tuple(r) for r in chosen)
    return parts


def labels_of(record: Record) -> tuple[str, ...]:
    """The labels of a record, one or several.

    >>> labels_of(("it works", "good")), labels_of(("it works", ("good", "calm")))
    (('good',), ('good', 'calm'))
    """
    given = (record[1],) if isinstance(record[1], str) else record[1]
    if not isinstance(given, tuple | list) or not all(isinstance(label, str) for label in given):
        raise TypeError(f"a record should have a label, or a tuple of labels, got {record[1]!r:.60}")
    return tuple(given)
