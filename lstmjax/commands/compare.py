"""What a model has to beat: a linear model of words without their order, and always saying the majority."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lstmjax import baselines, classify, language, match, members, metrics, reader, sequences, skipgram, tag, translate
from lstmjax.commands.tasks import Task

LINEAR = {  # by the name it has in a table: features and model
    "TF-IDF + logistic regression": ("tfidf", "logistic"),
    "TF-IDF + SVM": ("tfidf", "svm"),
    "word counts + logistic regression": ("counts", "logistic"),
    "skip-gram vectors + logistic regression": ("vectors", "logistic"),
}
QUICK = ("TF-IDF + logistic regression",)
PART = "its linear part alone"


def baseline_scores(
    task: Task, model: Any, training: Sequence, dev: Sequence, test: Sequence, names: Sequence[str] = QUICK
) -> dict[str, float]:
    """The measure of each baseline of these names on the test records, fitted to the training records; the majority
    class too where pairs or texts have one label. Thresholds of several labels are tuned on dev. Of a model with a
    linear part, that by itself. Of a language model, the perplexity of words without those before them.

    Raises:
      ImportError: scikit-learn is not there.
    """
    if task.module is sequences:
        return sequences.baseline(model, training, test)
    if task.module is language:
        return {"words by their frequency": language.unigram(model, str(training), str(test))}
    if task.module is translate:
        sources, targets, others, right = ([r[side] for r in part] for part in (training, test) for side in (0, 1))
        remembered = baselines.memory(sources, targets, others)
        return {"translation memory": translate.score(remembered, right, model.recipe.bleu)["bleu"]}
    if task.module is match:
        return _of_pairs(model, training, test) | _of_part(task, model, dev, test)
    if task.module is tag:
        return _of_tags(model, training, test, names)
    inside = [[r for r in part if classify.labels_of(r) != (model.recipe.outside,)] for part in (training, dev, test)]
    (texts, targets), (dev_texts, dev_targets), (others, right) = (_columns(model, part) for part in inside)
    found = {}
    for name in names:
        features, kind = LINEAR[name]
        how: dict[str, Any] = dict(features=features, model=kind)
        if features == "vectors":
            read, ids = reader.learn(texts, min_count=2)
            table = skipgram.train(ids, len(read.vocabulary), features=100)
            how |= dict(table=table, vocabulary=read.vocabulary)
        if model.recipe.several:
            scores = baselines.scores(texts, targets > 0, [*dev_texts, *others], **how)
            bounds = metrics.best_thresholds(scores[: len(dev_texts)], dev_targets > 0)
            found[name] = float(metrics.f1_of_labels(scores[len(dev_texts) :] > bounds, right > 0).mean())
        else:
            found[name] = float((baselines.scores(texts, targets, others, **how).argmax(-1) == right).mean())
    if not model.recipe.several:
        found["majority class"] = float((np.bincount(targets).argmax() == right).mean())
    return found | _of_part(task, model, dev, test)


def _of_part(task, model, dev, test):
    """The linear part of a model without the rest."""
    if model.params.bag is None:
        return {}
    alone = model._replace(params=members.linear_alone(model.params))
    if model.recipe.several:
        found, (_, targets) = classify.predict(alone, [r[0] for r in dev]), _columns(model, dev)
        alone = alone._replace(thresholds=tuple(metrics.best_thresholds(found, targets > 0).tolist()))
    return {PART: task.module.evaluate(alone, test)[task.module.measure(alone)]}


def _columns(model, records):
    """Texts, and the numbers of their labels, or which they have."""
    index = {label: k for k, label in enumerate(model.labels)}
    if not model.recipe.several:
        return [r[0] for r in records], np.array([index[classify.labels_of(r)[0]] for r in records], int)
    targets = np.zeros((len(records), len(index)))
    for row, record in enumerate(records):
        targets[row, [index[label] for label in classify.labels_of(record)]] = 1
    return [r[0] for r in records], targets


def _of_tags(model, training, test, names):
    """The commonest tag of each word; and, if not only the quickest are wanted, a word among its neighbours."""
    rows, others = ([r for r in part if r.predicate >= 0 or not model.recipe.reach] for part in (training, test))
    how = {"commonest tag of a word": baselines.commonest_tags}
    if len(names) > len(QUICK):
        how["words around + perceptron"] = baselines.tags
    found = {}
    for name, of in how.items():
        tags = of([tuple(r) for r in rows], [(r.words, r.predicate) for r in others])
        found[name] = tag.measured(tags, others, model.recipe)["span_f1"]
    return found


def _of_pairs(model, training, test):
    """How alike the words of a pair are, and a linear model."""
    score = model.recipe.target == "score"
    index = {label: k for k, label in enumerate(model.labels)}
    targets, right = (
        np.array([record[2] if score else index[record[2]] for record in part]) for part in (training, test)
    )
    found = baselines.pairs([r[:2] for r in training], targets, [r[:2] for r in test], scores=score)
    if score:
        return {"TF-IDF of both + ridge regression": metrics.pearson(found, right)}
    return {
        "TF-IDF of both + logistic regression": float((found == right).mean()),
        "majority class": float((np.bincount(targets).argmax() == right).mean()),
    }
