"""What a sequence model has to beat: words without their order, and a linear model (scikit-learn).

A text is counts of its words, TF-IDF of its words and word pairs, or the mean of its words' vectors; the model is
logistic regression or a linear support vector machine.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lstmjax import checks
from lstmjax.text import Vocabulary, tokenise

FEATURES = ("counts", "tfidf", "vectors")
MODELS = ("logistic", "svm")


def scores(
    texts: Sequence[str],
    targets: np.ndarray,
    others: Sequence[str],
    *,
    features: str = "tfidf",
    model: str = "logistic",
    table: np.ndarray | None = None,
    vocabulary: Vocabulary | None = None,
    tokenise: Callable[[str], list[str]] = tokenise,
) -> np.ndarray:
    """The scores [M, K] of K classes for other texts, of a linear model fitted to texts. Needs the `text` extra.

    Args:
      texts: to fit, N.
      targets: int [N], a class each; or bool [N, K], which of the classes: a model for each class then.
      others: to be scored, M.
      features: "counts", "tfidf" or "vectors", the mean of the rows of `table` [V, E] (`skipgram.train`) at the
        ids of `vocabulary`.
      model: "logistic", whose scores are probabilities, or "svm", whose scores are distances.
      tokenise: the same cut into words that the sequence model gets.

    Raises:
      ValueError: naming the argument. ImportError: scikit-learn is not installed.
    """
    checks.one_of("features", features, FEATURES)
    checks.one_of("model", model, MODELS)
    if features == "vectors" and (table is None or vocabulary is None):
        raise ValueError('features="vectors" needs table and vocabulary')
    sklearn = scikit_learn()
    if features == "vectors":
        fitted, other = (_means(part, tokenise, table, vocabulary) for part in (texts, others))
    else:
        how: dict[str, Any] = dict(tokenizer=tokenise, token_pattern=None, lowercase=False)
        if features == "counts":
            vectorizer = sklearn.feature_extraction.text.CountVectorizer(**how)
        else:
            vectorizer = sklearn.feature_extraction.text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, **how)
        fitted, other = vectorizer.fit_transform(texts), vectorizer.transform(others)
    if np.ndim(targets) == 1:
        return _linear(sklearn, model, fitted, targets, other, int(np.max(targets)) + 1)
    columns = [_linear(sklearn, model, fitted, column.astype(int), other, 2)[:, 1] for column in np.asarray(targets).T]
    return np.stack(columns, 1)


def tfidf(
    train: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]], tokenise: Callable[[str], list[str]] = tokenise
) -> float:
    """The test accuracy of TF-IDF of words and word pairs with logistic regression. Needs the `text` extra.

    Args:
      train, test: (text, label) each.
      tokenise: the same cut into words that the sequence model gets.

    Raises:
      ImportError: scikit-learn is not installed.
    """
    labels, targets = np.unique([label for _, label in train], return_inverse=True)
    found = scores([text for text, _ in train], targets, [text for text, _ in test], tokenise=tokenise)
    return float(np.mean(labels[found.argmax(1)] == np.array([label for _, label in test])))


def pairs(
    training: Sequence[tuple[str, str]],
    targets: np.ndarray,
    others: Sequence[tuple[str, str]],
    *,
    scores: bool = False,
    tokenise: Callable[[str], list[str]] = tokenise,
) -> np.ndarray:
    """The class, or the score, of other pairs of texts, by a linear model fitted to pairs. Needs the `text` extra.

    Of the TF-IDF u and v of the words of both: |u - v|, u * v, their cosine, and the share of the words of each that
    stand in the other; logistic regression, or ridge regression of scores.

    Raises:
      ImportError: scikit-learn is not installed.
    """
    sklearn = scikit_learn()
    import scipy.sparse

    vectorizer = sklearn.feature_extraction.text.TfidfVectorizer(
        tokenizer=tokenise, token_pattern=None, lowercase=False, sublinear_tf=True
    )
    vectorizer.fit([text for pair in training for text in pair])

    def features(part):
        u, v = (vectorizer.transform([pair[side] for pair in part]) for side in (0, 1))
        both = u.multiply(v)
        words = [tuple(set(tokenise(text)) for text in pair) for pair in part]
        shares = [[len(a & b) / max(1, len(a)), len(a & b) / max(1, len(b))] for a, b in words]
        return scipy.sparse.hstack([abs(u - v), both, both.sum(1), np.array(shares)]).tocsr()

    if scores:
        return sklearn.linear_model.Ridge(alpha=1.0).fit(features(training), targets).predict(features(others))
    machine = sklearn.linear_model.LogisticRegression(C=10, max_iter=1000)
    return machine.fit(features(training), targets).predict(features(others))


def memory(sources: Sequence[str], targets: Sequence[str], others: Sequence[str]) -> list[str]:
    """A translation memory: for each other text the target of the source that is most like it, by the cosine of the
    TF-IDF of runs of 1 to 4 characters. Needs the `text` extra.

    Raises:
      ImportError: scikit-learn is not installed.
    """
    vectorizer = scikit_learn().feature_extraction.text.TfidfVectorizer(
        analyzer="char", ngram_range=(1, 4), sublinear_tf=True
    )
    known = vectorizer.fit_transform(sources).T.tocsc()
    rows = vectorizer.transform(others).tocsr()
    nearest = [int((row @ known).toarray().argmax()) for row in rows]  # row by row: all at once may not fit in memory
    return [targets[n] for n in nearest]


def commonest_tags(
    training: Sequence[tuple[Sequence[str], Sequence[str], int]], others: Sequence[tuple[Sequence[str], int]]
) -> list[tuple[str, ...]]:
    """The tag that each word has most often, of words by their place before, at or after the predicate if there is one.

    Args:
      training: words, a tag each, and the predicate's place or -1.
      others: words and the predicate's place, to be tagged.

    >>> commonest_tags([(("in", "rome"), ("O", "B-city"), -1)], [(("to", "rome"), -1)])
    [('O', 'B-city')]
    """
    counts: dict[tuple[str, int], Counter] = {}
    for words, tags, predicate in training:
        for n, (word, tag) in enumerate(zip(words, tags, strict=True)):
            counts.setdefault((word.lower(), _side(n, predicate)), Counter())[tag] += 1
    best = {key: count.most_common(1)[0][0] for key, count in counts.items()}
    return [
        tuple(best.get((word.lower(), _side(n, predicate)), "O") for n, word in enumerate(words))
        for words, predicate in others
    ]


def tags(
    training: Sequence[tuple[Sequence[str], Sequence[str], int]],
    others: Sequence[tuple[Sequence[str], int]],
    *,
    at_once: int = 200_000,
) -> list[tuple[str, ...]]:
    """The tag of each word by itself, by a perceptron of the words around it and, if there is one, of the predicate and
    how far that is. Needs the `text` extra.

    Args:
      training, others: as `commonest_tags`.
      at_once: words that are fitted together; of more, one such part after the other, in each of five passes.

    Raises:
      ImportError: scikit-learn is not installed.
    """
    sklearn = scikit_learn()
    hasher = sklearn.feature_extraction.FeatureHasher(2**18, input_type="string", alternate_sign=False)
    parts: list[tuple[Any, list[str]]] = []
    rows: list[list[str]] = []
    targets: list[str] = []
    for n, (words, given, predicate) in enumerate(training, start=1):
        rows += _around(words, predicate)
        targets += given
        if len(targets) >= at_once or n == len(training):
            parts.append((hasher.transform(rows), targets))
            rows, targets = [], []
    machine = sklearn.linear_model.SGDClassifier(loss="perceptron", average=True, max_iter=5, tol=None, random_state=0)
    if len(parts) == 1:
        machine.fit(*parts[0])
    else:
        known = sorted({tag for _, given, _ in training for tag in given})
        for _ in range(machine.max_iter):
            for features, of_part in parts:
                machine.partial_fit(features, of_part, classes=known)
    rows = [row for words, predicate in others for row in _around(words, predicate)]
    found = iter(machine.predict(hasher.transform(rows)).tolist())
    return [tuple(next(found) for _ in words) for words, _ in others]


def _side(n, predicate):
    """Before, at or after the predicate; 0 where there is none."""
    return 0 if predicate < 0 else 2 + (n > predicate) - (n < predicate)


def _around(words, predicate):
    """The features of each word."""
    padded = ["<", "<", *(word.lower() for word in words), ">", ">"]
    rows = []
    for n in range(len(words)):
        row = [f"{k}={padded[n + k]}" for k in range(5)]
        row += [f"1,2={padded[n + 1]} {padded[n + 2]}", f"2,3={padded[n + 2]} {padded[n + 3]}"]
        row += [f"begins={padded[n + 2][:3]}", f"ends={padded[n + 2][-3:]}"]
        if predicate >= 0:
            verb, far = padded[predicate + 2], max(-5, min(5, n - predicate))
            row += [f"far={far}", f"verb={verb} {far}", f"pair={verb} {padded[n + 2]} {_side(n, predicate)}"]
            row += [f"word={padded[n + 2]} {far}"]
        rows.append(row)
    return rows


def _linear(sklearn, model, fitted, targets, other, classes):
    """Scores [M, K]; a class that does not occur has the lowest there is."""
    found = np.full((other.shape[0], classes), -np.inf)
    present = np.unique(targets)
    if len(present) == 1:
        found[:, present] = 1
        return found
    if model == "svm":
        machine = sklearn.svm.LinearSVC(C=1.0).fit(fitted, targets)
        distances = machine.decision_function(other)
        found[:, present] = np.stack([-distances, distances], 1) if distances.ndim == 1 else distances
    else:
        regression = sklearn.linear_model.LogisticRegression(C=10, max_iter=1000).fit(fitted, targets)
        found[:, present] = regression.predict_proba(other)
    return found


def _means(texts, tokenise, table, vocabulary):
    """The mean vector of the known words of each text; zeros where none is known."""
    rows = np.zeros((len(texts), table.shape[1]), np.float32)
    for row, text in zip(rows, texts, strict=True):
        ids = vocabulary.encode(tokenise(text))
        if (ids > 1).any():
            row[:] = table[ids[ids > 1]].mean(0)
    return rows


def scikit_learn() -> Any:
    """The package, with its parts that are used here.

    Raises:
      ImportError: it is not installed; it says how.
    """
    try:
        import sklearn
        import sklearn.feature_extraction.text
        import sklearn.linear_model
        import sklearn.svm
    except ImportError as error:
        raise ImportError("linear models need scikit-learn: pip install 'lstmjax[text]'") from error
    return sklearn
