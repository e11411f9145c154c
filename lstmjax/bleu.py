"""How good translations are: BLEU and chrF, by sacrebleu."""

from collections.abc import Sequence
from typing import Any

from lstmjax import checks

CUTS = ("13a", "none", "zh", "char")  # how BLEU cuts a text into words: sacrebleu's names


def score(found: Sequence[str], targets: Sequence[str], cut: str = "13a") -> dict[str, float]:
    """BLEU and chrF of translations, of the corpus and without regard to case, of 100.

    Args:
      found, targets: N texts each.
      cut: one of `CUTS`; with "none", for texts that are cut already, BLEU is that of multi-bleu.pl -lc.

    Raises:
      TypeError: what are no texts. ValueError: none, not equally many, or another cut. ImportError: sacrebleu is not
        there.

    >>> score(["it is not so bad ."], ["It is not so bad ."], "none")["bleu"]
    100.0
    """
    found, targets = checks.strings("found", found), checks.strings("targets", targets)
    if not found or len(found) != len(targets):
        raise ValueError(
            f"found and targets should be equally many, and at least one, got {len(found)} and {len(targets)}"
        )
    checks.one_of("cut", cut, CUTS)
    metrics = library()
    measures = {"bleu": metrics.BLEU(lowercase=True, tokenize=cut, force=True), "chrf": metrics.CHRF(lowercase=True)}
    values = {name: measure.corpus_score(found, [targets]).score for name, measure in measures.items()}
    return {name: round(float(value), 6) for name, value in values.items()}


def library() -> Any:
    """The metrics of sacrebleu.

    Raises:
      ImportError: it is not there.
    """
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise ImportError("BLEU and chrF need the sacrebleu package: pip install 'lstmjax[translate]'") from error
    return metrics
