"""What the records of data sets are, and how their files are read. Every reader names file and line when it refuses."""

import gzip
import json
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Labelled(NamedTuple):
    """A text and what it is."""

    text: str
    labels: tuple[str, ...]  # one, or several where a set has several


class Tagged(NamedTuple):
    """Words with a tag each (BIO), and a label of the whole."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    label: str

    @property
    def text(self) -> str:
        """The words with blanks between them."""
        return " ".join(self.words)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label, as `Labelled` has it."""
        return (self.label,)


class Pair(NamedTuple):
    """Two texts and how they relate."""

    first: str
    second: str
    label: str  # entailment, neutral or contradiction
    score: float | None = None  # relatedness, 1 to 5


class Translation(NamedTuple):
    """A sentence in two languages, in the order in which the set names them."""

    source: str
    target: str


class Predicate(NamedTuple):
    """A predicate of a sentence and the roles of the others."""

    word: int  # its place in the sentence
    lemma: str
    roleset: str
    tags: tuple[str, ...]  # BIO, one a word; the predicate is B-V


class Roles(NamedTuple):
    """A sentence with its predicates, none or more."""

    words: tuple[str, ...]
    pos: tuple[str, ...]
    predicates: tuple[Predicate, ...]


class Poem(NamedTuple):
    """A lyric to a tune."""

    tune: str
    author: str
    text: str


class Images(NamedTuple):
    """All images of a split."""

    pixels: np.ndarray  # uint8 [N, 28, 28]
    labels: np.ndarray  # uint8 [N]


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked where its name ends in .gz."""
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is no whole gzip file: {error}") from None


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None


def _lines(path: Path) -> list[str]:
    """Lines, whose ends may be those of Windows."""
    return _text(path).replace("\r\n", "\n").removesuffix("\n").split("\n")


def _fields(path: Path, least: int, header: bool = False) -> Iterator[list[str]]:
    for number, line in enumerate(_lines(path), start=1):
        if header and number == 1:
            continue
        fields = line.split("\t")
        if len(fields) < least:
            raise ValueError(f"{path}, line {number}: expected {least} fields with tabs between, got {line[:60]!r}")
        yield fields


def _parallel(*paths: Path) -> Iterator[tuple[str, ...]]:
    sides = [_lines(path) for path in paths]
    if len({len(side) for side in sides}) > 1:
        counts = ", ".join(f"{path} {len(side)}" for path, side in zip(paths, sides, strict=True))
        raise ValueError(f"parallel files should have a line each for every record, got {counts}")
    yield from zip(*sides, strict=True)


def snips(words: Path, tags: Path, labels: Path) -> list[Tagged]:
    """Parallel lines of words, BIO tags and intents."""
    records = []
    for number, (text, slots, label) in enumerate(_parallel(words, tags, labels), start=1):
        record = Tagged(tuple(text.split()), tuple(slots.split()), label.strip())
        if len(record.words) != len(record.tags):
            raise ValueError(f"{tags}, line {number}: expected {len(record.words)} tags, got {len(record.tags)}")
        records.append(record)
    return records


def clinc150(*parts: str) -> Callable[[Path], list[Labelled]]:
    """A reader of some of the lists of one JSON object."""

    def read(path):
        rows = [row for part in parts for row in _list(path, part)]
        for row in rows:
            if not isinstance(row, list) or len(row) != 2 or not all(isinstance(one, str) for one in row):
                raise ValueError(f"{path} should hold lists of a text and its label, got {str(row)[:60]}")
        return [Labelled(text, (label,)) for text, label in rows]

    return read


def goemotions(path: Path, names: Path) -> list[Labelled]:
    """text TAB label numbers with commas between TAB comment, and a table of what the numbers mean."""
    known = {number: name for number, name, *_ in _fields(names, 2, header=True)}
    records = []
    for line, (text, numbers, *_) in enumerate(_fields(path, 2), start=1):
        unknown = [number for number in numbers.split(",") if number not in known]
        if unknown:
            raise ValueError(f"{path}, line {line}: expected label numbers of {names}, got {unknown[0]!r}")
        records.append(Labelled(text, tuple(known[number] for number in numbers.split(","))))
    return records


def sick(path: Path) -> list[Pair]:
    """pair_ID, sentence_A, sentence_B, relatedness_score, entailment_judgment, after a header."""
    pairs = []
    for line, (_, first, second, score, label, *_) in enumerate(_fields(path, 5, header=True), start=2):
        try:
            pairs.append(Pair(first, second, label.strip().lower(), float(score)))
        except ValueError:
            raise ValueError(f"{path}, line {line}: expected a score in the fourth field, got {score!r}") from None
    return pairs


_SNLI = {"1": "neutral", "2": "contradiction", "3": "entailment"}


def snli_numbered(path: Path) -> list[Pair]:
    """label number TAB label number TAB premise TAB hypothesis."""
    pairs = []
    for line, (number, _, first, second, *_) in enumerate(_fields(path, 4), start=1):
        if number not in _SNLI:
            raise ValueError(f"{path}, line {line}: expected a label number of {', '.join(_SNLI)}, got {number!r}")
        pairs.append(Pair(first, second, _SNLI[number]))
    return pairs


def snli_named(path: Path) -> list[Pair]:
    """number TAB premise TAB hypothesis TAB label in capitals."""
    return [Pair(first, second, label.strip().lower()) for _, first, second, label, *_ in _fields(path, 4)]


def ocnli(path: Path) -> list[Pair]:
    """A JSON object a line; those whose annotators did not agree have the label "-" and are left out."""
    pairs, names = [], ("sentence1", "sentence2", "label")
    for number, line in enumerate(_lines(path), start=1):
        one = _json(path, line, number)
        if not isinstance(one, dict) or not all(isinstance(one.get(name), str) for name in names):
            raise ValueError(f"{path}, line {number}: expected texts named {', '.join(names)}, got {line[:60]!r}")
        if one["label"] != "-":
            pairs.append(Pair(*(one[name] for name in names)))
    return pairs


def translations(path: Path) -> list[Translation]:
    """source TAB target TAB attribution."""
    return [Translation(*fields[:2]) for fields in _fields(path, 2)]


def parallel(source: Path, target: Path) -> list[Translation]:
    """Parallel lines in two files."""
    return [Translation(*lines) for lines in _parallel(source, target)]


def roles(path: Path) -> list[Roles]:
    """Columns as in CoNLL-2005, with blanks or tabs between, and a blank line after each sentence; lines before a
    sentence that begin with # and have no such columns are comments.

    Words, any other columns (the second is the part of speech), the lemmas of predicates with - for other words, and
    one column of roles a predicate, such as (A0* * *) or (V*). Where the words are numbered, from 1, before them, the
    lemmas are followed by rolesets.

    Reference: Carreras and Màrquez 2005, section 3.1.
    """
    found: list[tuple[int, list[list[str]]]] = []  # sentences, and the line that each ends at
    rows: list[list[str]] = []
    doubtful: list[list[str]] = []  # before a sentence: comments, or rows of words that begin with #
    for number, line in enumerate([*_lines(path), ""], start=1):
        if line.startswith("#") and not rows:
            doubtful.append(_columns(line))
        elif line.strip():
            row = _columns(line)
            rows += [one for one in doubtful if _layout(one) == _layout(row)] if not rows else []
            rows.append(row)
            doubtful = []
            if len(rows[-1]) != len(rows[0]) or len(rows[-1]) < 2:
                raise ValueError(f"{path}, line {number}: expected {max(len(rows[0]), 2)} columns, got {line[:60]!r}")
        elif rows or doubtful:
            rows = rows or [one for one in doubtful if len(one) > 1 and (one[-1] == "-" or "*" in one[-1])]
            if rows:
                found.append((number, rows))
            rows, doubtful = [], []
    # Of the whole file: in one that is not, the word of a sentence may be 1.
    numbered = all(
        _fixed(rows) >= 5 and [row[0] for row in rows] == [str(n) for n in range(1, len(rows) + 1)] for _, rows in found
    )
    return [_sentence(f"{path}, sentence that ends at line {number}", rows, numbered) for number, rows in found]


def _columns(line):
    return line.split("\t") if "\t" in line else line.split()


def _layout(row):
    """Which columns have roles; where none has, the last says what is no predicate."""
    marked = [("*" in mark) for mark in row]
    return marked, any(marked) or row[-1] == "-" or not row[0].startswith("#")


def _fixed(rows):
    """How many columns stand before those of roles."""
    fixed = len(rows[0])
    while fixed > 2 and all("*" in row[fixed - 1] for row in rows):
        fixed -= 1
    return fixed


def _sentence(where, rows, numbered):
    columns, fixed = list(zip(*rows, strict=True)), _fixed(rows)
    words, pos = columns[1:3] if numbered else (columns[0], columns[1] if fixed > 2 else ("",) * len(rows))
    target = columns[fixed - 1]
    lemmas, rolesets = (columns[fixed - 2], target) if numbered else (target, ("",) * len(rows))
    places, held = [k for k, mark in enumerate(target) if mark != "-"], columns[fixed:]
    if len(places) != len(held):
        raise ValueError(f"{where}: {len(places)} predicates and {len(held)} columns of roles")
    try:
        predicates = [Predicate(k, lemmas[k], rolesets[k], bio(column)) for k, column in zip(places, held, strict=True)]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return Roles(words, pos, tuple(predicates))


def bio(brackets: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Spans in brackets as BIO tags.

    Raises:
      ValueError: brackets that are no spans one after the other; it says which.

    >>> bio(["(A0*", "*)", "(V*)", "*"])
    ('B-A0', 'I-A0', 'B-V', 'O')
    """
    tags, inside = [], None
    for n, mark in enumerate(brackets):
        parts = _BRACKETS.fullmatch(mark)
        if not parts:
            raise ValueError(f"expected brackets such as (A0* or *) for word {n + 1}, got {mark!r}")
        begins, ends = parts.groups()
        if (begins and inside) or (ends and not (begins or inside)):
            raise ValueError(f"expected spans one after the other, got {mark!r} for word {n + 1}, {inside} being open")
        inside = begins or inside
        tags.append(f"{'B' if begins else 'I'}-{inside}" if inside else "O")
        if ends:
            inside = None
    if inside:
        raise ValueError(f"expected each span to end, got {inside} open at the last word")
    return tuple(tags)


_BRACKETS = re.compile(r"(?:\(([^()*\s]+))?\*([^()*\s]*\))?")


def lines(path: Path) -> list[str]:
    """Each line, blank ones too."""
    return _lines(path)


def poems(path: Path) -> list[Poem]:
    """tune TAB author TAB text."""
    return [Poem(*fields[:3]) for fields in _fields(path, 3)]


def part_of_text(low: float, high: float) -> Callable[[Path], str]:
    """A reader of the characters from one share of a text to another."""

    def read(path):
        text = _text(path)
        return text[round(low * len(text)) : round(high * len(text))]

    return read


def part_of_columns(low: float, high: float, columns: int = 100, steps: int = 100) -> Callable[[Path], str]:
    """A reader of the characters from one share to another of each of the columns that a text is cut into, in whole
    windows of so many steps and with lines that end in two characters: the parts of Karpathy et al. 2015, whose program
    dealt windows of columns to training, dev and test, so that all three are from everywhere in the book."""

    def read(path):
        text = _text(path).replace("\n", "\r\n")
        windows = len(text) // (columns * steps)
        width, first, end = windows * steps, int(low * windows) * steps, int(high * windows) * steps
        return "".join(text[k * width + first : k * width + end] for k in range(columns))

    return read


def images(pixels: Path, labels: Path) -> Images:
    """Two files in the IDX format: uint8 after a head of big-endian sizes."""
    return Images(_idx(pixels, 3), _idx(labels, 1))


def _idx(path, axes):
    content = read_bytes(path)
    start = 4 + 4 * axes
    head = struct.unpack(f">HBB{axes}I", content[:start].ljust(start, b"\0"))
    if head[:3] != (0, 8, axes):
        raise ValueError(f"{path} should be an IDX file of bytes with {axes} axes, got the head {head[:3]}")
    if len(content) - start != math.prod(head[3:]):
        raise ValueError(f"{path} should hold {head[3:]} bytes after its head, got {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(head[3:])


def chorales(split: str) -> Callable[[Path], list[list[list[int]]]]:
    """A reader of one split of a JSON object: pieces of frames of MIDI pitches."""
    return lambda path: _list(path, split)


def _list(path: Path, name: str) -> list:
    """A list of a JSON object."""
    held = _json(path, _text(path))
    if not isinstance(held, dict) or not isinstance(held.get(name), list):
        got = ", ".join(held) if isinstance(held, dict) else type(held).__name__
        raise ValueError(f"{path} should hold the list {name!r}, got {got}")
    return held[name]


def _json(path: Path, text: str, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        where = path if line is None else f"{path}, line {line}"
        raise ValueError(f"{where} is no JSON: {error}") from None
