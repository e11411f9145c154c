"""Word vectors that others have trained, from the files of word2vec and GloVe, text or binary."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Vectors(NamedTuple):
    """Words and a vector for each."""

    words: tuple[str, ...]
    array: np.ndarray  # float32 [N, D]


def read(path: str | Path, wanted: Iterable[str] | None = None) -> Vectors:
    """The vectors of a file.

    In text, each line is a word and its numbers, with or without a first line of two counts (word2vec has it, GloVe has
    not). In word2vec's binary form that line is followed by each word, a space, and its float32 numbers. Which of them
    a file is, it shows itself. The first vector of a word counts.

    Args:
      path: of the file.
      wanted: only these words, so that a large file takes little memory; None: all.

    Raises:
      FileNotFoundError: no such file. ValueError: no vectors, a line of another width, a number that is none or not
        finite, or a binary file that ends too early; it names the line or the word.

    References: Mikolov et al. 2013; Pennington et al. 2014.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file")
    keep = None if wanted is None else set(wanted)
    with open(path, "rb") as file:
        counts = _counts(file.readline())
        file.seek(0)
        found = _binary(path, file, keep) if counts and _is_binary(path) else _text(path, file, keep, counts)
    words, rows = list(found), list(found.values())
    width = counts[1] if counts else len(rows[0]) if rows else 0
    return Vectors(tuple(words), np.array(rows, np.float32).reshape(len(rows), width))


def rows_of(vectors: Vectors, words: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Where the known ones of some words stand among these: rows int [n], and their vectors float32 [n, D].

    >>> rows_of(Vectors(("b",), np.ones((1, 2), np.float32)), ["a", "b"])
    (array([1]), array([[1., 1.]], dtype=float32))
    """
    index = {word: k for k, word in enumerate(vectors.words)}
    known = [(row, index[word]) for row, word in enumerate(words) if word in index]
    rows, places = np.array(known, int).reshape(-1, 2).T
    return rows, vectors.array[places]


def _counts(line):
    """The two counts of word2vec's first line, or None."""
    parts = line.split()
    return tuple(map(int, parts)) if len(parts) == 2 and all(p.isdigit() for p in parts) else None


def _is_binary(path):
    """Whether the row after the first line is no word and so many numbers as text, however long it is."""
    with open(path, "rb") as file:
        _, width = _counts(file.readline())  # type: ignore[misc]
        row = file.readline(64 * (width + 16))
        numbers, after = row.rstrip().rsplit(b" ", width)[1:], file.read(4096)
    try:
        [float(number) for number in numbers]
        if len(numbers) < width:  # of text that is not as it should be, or cut by a byte of binary that is a line's end
            after[: after.rfind(b"\n") + 1].decode()
    except ValueError:
        return True
    return b"\0" in row or (len(numbers) < width and b"\0" in after)


def _text(path, file, keep, counts):
    found: dict[str, np.ndarray] = {}
    width = counts[1] if counts else None
    for number, line in enumerate(file, start=1):
        if (number == 1 and counts) or not line.strip():
            continue
        # From the right, since a few words of GloVe hold spaces.
        parts = line.decode("utf-8", "replace").rstrip().split(" ")
        width = len(parts) - 1 if width is None else width
        if len(parts) <= width or width == 0:
            raise ValueError(f"{path}, line {number}: expected a word and {width} numbers, got {len(parts) - 1}")
        word = " ".join(parts[:-width])
        if (keep is not None and word not in keep) or word in found:
            continue
        try:
            row = np.array(parts[-width:], np.float32)
        except ValueError:
            row = np.array([np.nan])
        if not np.isfinite(row).all():
            raise ValueError(f"{path}, line {number}: expected {width} finite numbers after {word[:40]!r}")
        found[word] = row
    if width is None:
        raise ValueError(f"{path} holds no vectors")
    return found


def _binary(path, file, keep):
    count, width = _counts(file.readline())
    if not count or not width:
        raise ValueError(f"{path} holds no vectors: its first line says {count} of {width} numbers")
    found: dict[str, np.ndarray] = {}
    for k in range(count):
        name = bytearray()
        while (letter := file.read(1)) not in (b" ", b""):
            name += letter
        numbers = file.read(4 * width)
        word = name.decode("utf-8", "replace").lstrip("\n")
        if len(numbers) < 4 * width:
            raise ValueError(f"{path} ends within vector {k + 1} of {count} ({word[:40]!r})")
        if (keep is not None and word not in keep) or word in found:
            continue
        found[word] = np.frombuffer(numbers, "<f4")
        if not np.isfinite(found[word]).all():
            raise ValueError(f"{path}: the vector of {word[:40]!r} is not finite")
    return found
