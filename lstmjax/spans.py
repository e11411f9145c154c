"""Spans and the BIO tags that stand for them, and how many a tagger gets right."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """Words from `start` up to, not including, `end`."""

    label: str
    start: int
    end: int


class Argument(NamedTuple):
    """A role of a predicate, of one span or of several where others stand between."""

    label: str
    spans: tuple[tuple[int, int], ...]


class Score(NamedTuple):
    """How many of the things to be found were found."""

    precision: float
    recall: float
    f1: float
    right: int
    found: int
    there: int


def spans_of(tags: Sequence[str]) -> list[Span]:
    """The spans of BIO tags, from the left.

    An I-X that follows neither B-X nor I-X begins a span, as in the script of CoNLL-2000.

    Raises:
      ValueError: a tag that is neither "O" nor "B-" or "I-" and a name.

    Reference: Ramshaw and Marcus 1995, section 4; Tjong Kim Sang and Buchholz 2000, section 3.

    >>> spans_of(["B-A", "I-A", "O", "B-B", "B-B"])
    [Span(label='A', start=0, end=2), Span(label='B', start=3, end=4), Span(label='B', start=4, end=5)]
    """
    found: list[Span] = []
    open_label, start = None, 0
    for n, tag in enumerate([*tags, "O"]):
        kind, _, label = tag.partition("-")
        if tag != "O" and (kind not in ("B", "I") or not label):
            raise ValueError(f"tags should be 'O', 'B-NAME' or 'I-NAME', got {tag!r}")
        if open_label is not None and (kind != "I" or label != open_label):
            found.append(Span(open_label, start, n))
            open_label = None
        if tag != "O" and open_label is None:
            open_label, start = label, n
    return found


def check_bio(tags: Sequence[str], where: str) -> None:
    """Refuse tags that are not BIO: another kind of tag, or an I-X after neither B-X nor I-X.

    Args:
      tags: of one sequence.
      where: what to call the sequence.

    Raises:
      ValueError: naming the word.

    >>> check_bio(["O", "I-A"], "sentence 1")
    Traceback (most recent call last):
    ValueError: sentence 1: expected B-A or I-A before the I-A of word 2, got O: write spans as BIO (IOB2)
    """
    before = "O"
    for n, tag in enumerate(tags):
        if tag != "O" and (tag[:2] not in ("B-", "I-") or len(tag) < 3):
            raise ValueError(f"{where}: expected O, B-NAME or I-NAME at word {n + 1}, got {tag!r}")
        if tag[:2] == "I-" and before[2:] != tag[2:]:
            expected = f"expected B-{tag[2:]} or {tag} before the {tag} of word {n + 1}"
            raise ValueError(f"{where}: {expected}, got {before}: write spans as BIO (IOB2)")
        before = tag


def arguments_of(tags: Sequence[str]) -> list[Argument]:
    """The arguments of a predicate, as the script of CoNLL-2005 counts them: without the predicate itself (V), and each
    C-X one with the last X before it; a C-X without one is an X.

    Reference: Carreras and Màrquez 2005, sections 2 and 4; their srl-eval.pl.

    >>> arguments_of(["B-A1", "B-V", "B-C-A1"])
    [Argument(label='A1', spans=((0, 1), (2, 3)))]
    """
    found: list[Argument] = []
    for label, start, end in spans_of(tags):
        label, continued = label.removeprefix("C-"), label.startswith("C-")
        before = [n for n, one in enumerate(found) if one.label == label]
        if continued and before:
            found[before[-1]] = Argument(label, (*found[before[-1]].spans, (start, end)))
        else:
            found.append(Argument(label, ((start, end),)))
    return [one for one in found if one.label != "V"]


def score(found: Iterable[Sequence], right: Iterable[Sequence]) -> dict[str, Score]:
    """Precision, recall and F1 of what was found in each sequence: by label, and of all together under "".

        P = right / found,   R = right / there,   F1 = 2 P R / (P + R),   0 where nothing is there to divide by

    Args:
      found, right: of each sequence, things with a `label` (`Span` or `Argument`); right where they are equal.

    Raises:
      ValueError: not as many sequences.

    Reference: Tjong Kim Sang and Buchholz 2000, section 3.

    >>> round(score([[Span("A", 0, 2)]], [[Span("A", 0, 2), Span("B", 3, 4)]])[""].f1, 3)
    0.667
    """
    hits: Counter = Counter()
    given: Counter = Counter()
    there: Counter = Counter()
    for ours, theirs in zip(found, right, strict=True):
        for counts, things in ((hits, set(ours) & set(theirs)), (given, ours), (there, theirs)):
            counts.update(thing.label for thing in things)
    scores = {label: _score(hits[label], given[label], there[label]) for label in sorted(given | there)}
    return {"": _score(hits.total(), given.total(), there.total()), **scores}


def _score(right, found, there):
    return Score(
        right / found if found else 0.0,
        right / there if there else 0.0,
        2 * right / (found + there) if found + there else 0.0,
        right,
        found,
        there,
    )
