"""How a text becomes ids: cut into words, looked up, and beside each word the pieces it is made of. NumPy only."""

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstmjax import checks, text
from lstmjax.text import BPE, Vocabulary

TOKENS = ("words", "blanks", "characters", "bpe")  # what a text is cut into; "blanks": what stands between blanks
MOST = 16  # pieces of a word; of longer ones the later are left out
SIZES = (3, 4)  # characters of a piece


class Reader(NamedTuple):
    """Reads texts as ids int [T], or [T, 1 + `MOST`] if there are pieces: that of the word, then those of its pieces.

    A piece is a run of 3 or 4 characters of a word with its two ends marked, or, for a character that is a word (as in
    Chinese), it and its neighbour. Its id is that of the word's table, past the vocabulary, at a hash of it.

    Reference: Bojanowski et al. 2017, section 3.2.
    """

    vocabulary: Vocabulary
    bpe: BPE | None = None
    pieces: int = 0  # ids that pieces are hashed to; 0: none
    cut: str = "words"  # one of `TOKENS`

    @property
    def size(self) -> int:
        """V, rows of the table of vectors."""
        return len(self.vocabulary) + self.pieces

    def tokenise(self, words: str) -> list[str]:
        """The words of a text."""
        cuts: dict[str, Callable] = {"words": text.tokenise, "blanks": str.split, "characters": list}
        return self.bpe.tokenise(words) if self.bpe else cuts[self.cut](words)

    def write(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids of words.

        >>> Reader(Vocabulary(["it", "works", "."])).write([2, 3, 4])
        'it works.'
        """
        tokens = self.vocabulary.decode([int(n) for n in ids])
        joins: dict[str, Callable] = {"words": text.join, "blanks": " ".join, "characters": "".join}
        return self.bpe.join(tokens) if self.bpe else joins[self.cut](tokens)

    def read(self, words: str) -> np.ndarray:
        """The ids of a text.

        >>> Reader(Vocabulary(["it", "works"])).read("It works well")
        array([2, 3, 1], dtype=int32)
        """
        return self.encode(self.tokenise(words))

    def encode(self, tokens: Sequence[str]) -> np.ndarray:
        """The ids of words that are cut already.

        Of "words", a word is looked up in its normal form (`text.normalise`); its pieces are those of the word as it is
        written, so that a capital tells something.

        >>> Reader(Vocabulary(["it", "works"])).encode(["It", "works", "well"])
        array([2, 3, 1], dtype=int32)
        """
        plain = [text.normalise(token) for token in tokens] if self.cut == "words" else tokens
        ids = self.vocabulary.encode(plain)
        if not self.pieces:
            return ids
        table = np.zeros((len(tokens), 1 + MOST), np.int32)
        table[:, 0] = ids
        first = len(self.vocabulary)
        for n, row in enumerate(table):
            found = pieces_of(tokens, n)
            row[1 : 1 + len(found)] = [first + code % self.pieces for code in found]
        return table

    def to_json(self) -> dict[str, Any]:
        """All of it, as what JSON can hold."""
        return {
            "vocabulary": json.loads(self.vocabulary.to_json()),
            "bpe": json.loads(self.bpe.to_json()) if self.bpe else None,
            "pieces": self.pieces,
            "cut": self.cut,
        }

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> "Reader":
        """What `to_json` gave.

        Raises:
          KeyError, TypeError, ValueError: something else.
        """
        bpe = BPE.from_json(json.dumps(held["bpe"])) if held["bpe"] else None
        cut = held.get("cut", "bpe" if bpe else "words")  # models of before have none
        checks.one_of("cut", cut, TOKENS)
        return cls(Vocabulary(held["vocabulary"]["words"]), bpe, checks.size("pieces", held["pieces"], least=0), cut)


def learn(
    texts: Iterable[str], *, tokens: str = "words", size: int = 20000, min_count: int = 1, pieces: int = 0
) -> tuple[Reader, list[np.ndarray]]:
    """A reader with the words of these texts, and these texts read by it.

    Args:
      texts: those for training.
      tokens: "words" (`text.tokenise`), "blanks", "characters", or "bpe", subwords by byte-pair encoding.
      size, min_count: of the vocabulary, as in `Vocabulary.count`.
      pieces: ids that pieces of words are hashed to; 0: none.

    Raises:
      TypeError, ValueError: naming the argument. ImportError: "bpe" without the package tokenizers.

    >>> reader, ids = learn(["to be", "or not to be"])
    >>> reader.size, ids[0].tolist()
    (6, [3, 2])
    """
    texts = list(texts)
    checks.one_of("tokens", tokens, TOKENS)
    bpe = BPE.train(texts, size) if tokens == "bpe" else None
    reader = Reader(Vocabulary(()), bpe, checks.size("pieces", pieces, least=0), tokens)
    cut = [reader.tokenise(words) for words in texts]
    reader = reader._replace(vocabulary=Vocabulary.count(cut, size=size, min_count=min_count))
    return reader, [reader.encode(tokens) for tokens in cut]


def lines_of(path: str | Path, what: str) -> list[tuple[int, str]]:
    """The lines of a UTF-8 file that are not blank, each with its number.

    Args:
      path: of the file.
      what: what a line should be, for the message where there is none.

    Raises:
      FileNotFoundError: no such file. ValueError: no UTF-8, or no line.
    """
    found = [(number, line) for number, line in enumerate(text_of(path).split("\n"), start=1) if line.strip()]
    if not found:
        raise ValueError(f"{path} holds no records: expected lines of {what}")
    return found


def text_of(path: str | Path) -> str:
    """What is in a UTF-8 file.

    Raises:
      FileNotFoundError: no such file. ValueError: no UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None


def pieces_of(tokens: Sequence[str], n: int) -> tuple[int, ...]:
    """Hashes of the pieces of word n, at most `MOST`.

    >>> len(pieces_of(["seeing"], 0)), pieces_of(["好", "吃"], 0) == pieces_of(["好", "吃", "!"], 0)
    (11, True)
    """
    word = tokens[n]
    if len(word) > 1:
        return _inside(word)
    if not word.isalpha():
        return ()
    after = tokens[n + 1] if n + 1 < len(tokens) else ""
    before = tokens[n - 1] if n else ""
    return tuple(_hash(pair) for pair in (f"{word}{after}", f"{before} {word}") if len(pair) > 1)


@lru_cache(100_000)
def _inside(word):
    marked = f"<{word}>"
    cut = (marked[n : n + size] for size in SIZES for n in range(len(marked) - size + 1))
    return tuple(_hash(piece) for piece, _ in zip(cut, range(MOST), strict=False))


def _hash(piece):
    """The same in every process and on every machine."""
    return zlib.crc32(piece.encode())
