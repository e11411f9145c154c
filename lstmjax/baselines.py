"""What a sequence model has to beat: the majority class, and TF-IDF with logistic regression (scikit-learn)."""

from collections.abc import Callable, Sequence

from lstmjax.text import tokenise


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
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError("the TF-IDF baseline needs scikit-learn: pip install 'lstmjax[text]'") from error
    vectorizer = TfidfVectorizer(
        tokenizer=tokenise, token_pattern=None, lowercase=False, ngram_range=(1, 2), sublinear_tf=True
    )
    model = LogisticRegression(C=10, max_iter=1000)
    texts, labels = zip(*train, strict=True)
    model.fit(vectorizer.fit_transform(texts), labels)
    texts, labels = zip(*test, strict=True)
    return float(model.score(vectorizer.transform(texts), labels))
