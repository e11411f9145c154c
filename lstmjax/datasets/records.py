"""What the records of data sets are, and how their files are read. Every reader names file and line when it refuses."""

import gzip
import json
import struct
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
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _lines(path: Path) -> list[str]:
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None
    return text.removesuffix("\n").split("\n")


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
        held = _json(path, read_bytes(path).decode())
        missing = [part for part in parts if part not in held]
        if missing:
            raise ValueError(f"{path} should hold the list {missing[0]!r}, got {', '.join(held)}")
        return [Labelled(text, (label,)) for part in parts for text, label in held[part]]

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
    return [
        Pair(first, second, label.strip().lower(), float(score))
        for _, first, second, score, label, *_ in _fields(path, 5, header=True)
    ]


_SNLI = {"1": "neutral", "2": "contradiction", "3": "entailment"}


def snli_numbered(path: Path) -> list[Pair]:
    """label number TAB label number TAB premise TAB hypothesis."""
    return [Pair(first, second, _SNLI[number]) for number, _, first, second, *_ in _fields(path, 4)]


def snli_named(path: Path) -> list[Pair]:
    """number TAB premise TAB hypothesis TAB label in capitals."""
    return [Pair(first, second, label.strip().lower()) for _, first, second, label, *_ in _fields(path, 4)]


def ocnli(path: Path) -> list[Pair]:
    """A JSON object a line; those whose annotators did not agree have the label "-" and are left out."""
    found = (_json(path, line, number) for number, line in enumerate(_lines(path), start=1))
    return [Pair(one["sentence1"], one["sentence2"], one["label"]) for one in found if one["label"] != "-"]


def translations(path: Path) -> list[Translation]:
    """source TAB target TAB attribution."""
    return [Translation(*fields[:2]) for fields in _fields(path, 2)]


def parallel(source: Path, target: Path) -> list[Translation]:
    """Parallel lines in two files."""
    return [Translation(*lines) for lines in _parallel(source, target)]


def roles(path: Path) -> list[Roles]:
    """Columns as in CoNLL-2005, with blanks or tabs between, and a blank line after each sentence.

    Words, any other columns (the second is the part of speech), the lemmas of predicates with - for other words, and
    one column of roles a predicate, such as (A0* * *) or (V*). Where the words are numbered, from 1, before them, the
    lemmas are followed by rolesets.

    Reference: Carreras and Màrquez 2005, section 3.1.
    """
    records: list[Roles] = []
    rows: list[list[str]] = []
    for number, line in enumerate([*_lines(path), ""], start=1):
        if line.startswith("#"):
            continue
        if line.strip():
            rows.append(line.split("\t") if "\t" in line else line.split())
            if len(rows[-1]) != len(rows[0]) or len(rows[-1]) < 2:
                raise ValueError(f"{path}, line {number}: expected {max(len(rows[0]), 2)} columns, got {line[:60]!r}")
        elif rows:
            records.append(_sentence(path, number, rows))
            rows = []
    return records


def _sentence(path, number, rows):
    columns = list(zip(*rows, strict=True))
    fixed = len(columns)
    while fixed > 2 and all("*" in mark for mark in columns[fixed - 1]):
        fixed -= 1
    numbered = columns[0] == tuple(str(n) for n in range(1, len(rows) + 1)) and fixed >= 5
    words, pos = columns[1:3] if numbered else (columns[0], columns[1] if fixed > 2 else ("",) * len(rows))
    target = columns[fixed - 1]
    lemmas, rolesets = (columns[fixed - 2], target) if numbered else (target, ("",) * len(rows))
    where, held = [k for k, mark in enumerate(target) if mark != "-"], columns[fixed:]
    if len(where) != len(held):
        raise ValueError(
            f"{path}, sentence that ends at line {number}: {len(where)} predicates and {len(held)} columns of roles"
        )
    predicates = (Predicate(k, lemmas[k], rolesets[k], bio(column)) for k, column in zip(where, held, strict=True))
    return Roles(words, pos, tuple(predicates))


def bio(brackets: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Spans in brackets as BIO tags.

    >>> bio(["(A0*", "*)", "(V*)", "*"])
    ('B-A0', 'I-A0', 'B-V', 'O')
    """
    tags, inside = [], None
    for mark in brackets:
        begins = mark.startswith("(")
        if begins:
            inside = mark[1:].split("*")[0]
        tags.append("O" if inside is None else f"{'B' if begins else 'I'}-{inside}")
        if mark.endswith(")"):
            inside = None
    return tuple(tags)


def lines(path: Path) -> list[str]:
    """Each line, blank ones too."""
    return _lines(path)


def poems(path: Path) -> list[Poem]:
    """tune TAB author TAB text."""
    return [Poem(*fields[:3]) for fields in _fields(path, 3)]


def part_of_text(low: float, high: float) -> Callable[[Path], str]:
    """A reader of the characters from one share of a text to another."""

    def read(path):
        text = read_bytes(path).decode("utf-8-sig")
        return text[round(low * len(text)) : round(high * len(text))]

    return read


def part_of_columns(low: float, high: float, columns: int = 100, steps: int = 100) -> Callable[[Path], str]:
    """A reader of the characters from one share to another of each of the columns that a text is cut into, in whole
    windows of so many steps and with lines that end in two characters: the parts of Karpathy et al. 2015, whose program
    dealt windows of columns to training, dev and test, so that all three are from everywhere in the book."""

    def read(path):
        text = read_bytes(path).decode("utf-8-sig").replace("\n", "\r\n")
        windows = len(text) // (columns * steps)
        width, first, end = windows * steps, int(low * windows) * steps, int(high * windows) * steps
        return "".join(text[k * width + first : k * width + end] for k in range(columns))

    return read


def images(pixels: Path, labels: Path) -> Images:
    """Two files in the IDX format: uint8 after a head of big-endian sizes."""
    return Images(_idx(pixels, 3), _idx(labels, 1))


def _idx(path, axes):
    content = read_bytes(path)
    head = struct.unpack(f">HBB{axes}I", content[: 4 + 4 * axes])
    if head[:3] != (0, 8, axes):
        raise ValueError(f"{path} should be an IDX file of bytes with {axes} axes, got the head {head[:3]}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(head[3:])


def chorales(split: str) -> Callable[[Path], list[list[list[int]]]]:
    """A reader of one split of a JSON object: pieces of frames of MIDI pitches."""
    return lambda path: _json(path, read_bytes(path).decode())[split]


def _json(path: Path, text: str, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        where = path if line is None else f"{path}, line {line}"
        raise ValueError(f"{where} is no JSON: {error}") from None
