"""Words with a tag each: read from files, made of sentences with predicates, and checked."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lstmjax import checks, reader, spans


class Record(NamedTuple):
    """Words with a tag each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]  # BIO
    predicate: int = -1  # the word whose roles the tags are; -1: none


def read(path: str | Path) -> list[Record]:
    """The records of a UTF-8 file of columns: a word first and its BIO tag last on each line, with blanks or tabs
    between, and a blank line after each sequence.

    Raises:
      FileNotFoundError: no such file. ValueError: no record, a line of one column, or tags that are no BIO; it names
        the line.

    Reference: Tjong Kim Sang and De Meulder 2003, section 2.2.
    """
    records: list[Record] = []
    words: list[str] = []
    tags: list[str] = []
    lines = reader.lines_of(path, "word, tag")
    last = 0
    for number, line in [*lines, (lines[-1][0] + 2, "")]:
        if words and number != last + 1:  # a blank line was passed over
            spans.check_bio(tags, f"{path}, sentence that ends at line {last}")
            records.append(Record(tuple(words), tuple(tags)))
            words, tags = [], []
        if not line:
            break
        parts = line.split("\t") if "\t" in line else line.split()
        if len(parts) < 2:
            raise ValueError(f"{path}, line {number}: expected a word and its tag, got {line[:60]!r}")
        words.append(parts[0])
        tags.append(parts[-1].strip())
        last = number
    return records


def frames(sentences: Iterable[Any]) -> list[Record]:
    """The records of sentences with predicates (`datasets.Roles`): one a predicate, and one a sentence in which no
    predicate is marked and all are tagged V.

    >>> from lstmjax.datasets import Predicate, Roles
    >>> [r.tags for r in frames([Roles(("he", "ran"), ("", ""), (Predicate(1, "run", "", ("B-A0", "B-V")),))])]
    [('B-A0', 'B-V'), ('O', 'B-V')]
    """
    records = []
    for words, _, predicates in sentences:
        records += [Record(tuple(words), tuple(one.tags), one.word) for one in predicates]
        there = {one.word for one in predicates}
        records.append(Record(tuple(words), tuple("B-V" if n in there else "O" for n in range(len(words)))))
    return records


def check(records: Sequence[Record], reach: int, where: str) -> None:
    """Refuse records that are no tagged words, or whose predicates are not what a tagger of this reach is about."""
    if not len(records):
        raise ValueError(f"{where} should hold at least one record, got none")
    for n, record in enumerate(records):
        if not isinstance(record, tuple | list) or len(record) != 3:
            raise TypeError(f"{where}, record {n}: expected words, tags and a predicate, got {record!r:.60}")
        words, tags, predicate = record
        checks.whole(f"{where}, record {n}: the predicate", predicate)
        if isinstance(words, str) or not all(isinstance(word, str) and word for word in words):
            raise TypeError(f"{where}, record {n}: expected words that are not empty, got {words!r:.60}")
        if len(words) != len(tags) or not len(words):
            raise ValueError(f"{where}, record {n}: expected a tag a word, got {len(words)} words and {len(tags)} tags")
        if predicate != -1 and not reach:
            raise ValueError(f"{where}, record {n} has a predicate, and the recipe's reach is 0: give it one, 4 say")
        if not -1 <= predicate < len(words):
            raise ValueError(f"{where}, record {n}: expected a predicate among {len(words)} words, got {predicate}")
        spans.check_bio(tags, f"{where}, record {n}")
    if reach and all(predicate < 0 for *_, predicate in records):
        raise ValueError(f"{where} should hold predicates, which a model of roles is about, got none")
