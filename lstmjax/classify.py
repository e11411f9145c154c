"""Text in, label out: records, vocabulary, model and training put together. A text has one label, or several."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lstmjax import checkpoint, checks, language, members, metrics, reader, train, vectors
from lstmjax import recipe as recipes
from lstmjax.batches import Batches
from lstmjax.containers import Bidirectional
from lstmjax.labelled import Record as Record
from lstmjax.labelled import labels_of as labels_of
from lstmjax.labelled import read as read
from lstmjax.labelled import sample as sample
from lstmjax.labelled import split as split
from lstmjax.leaves import kind
from lstmjax.models import bag, classifier
from lstmjax.reader import Reader
from lstmjax.recipe import Recipe as Recipe
from lstmjax.recipe import checked


class Model(NamedTuple):
    """A trained text classifier."""

    params: classifier.Params  # each weight with a leading axis of the recipe's members
    recipe: Recipe
    reader: Reader
    labels: tuple[str, ...]
    thresholds: tuple[float, ...] = ()  # several: of each label's probability; outside: of the highest; else none


def fit(
    training: Sequence[Record],
    dev: Sequence[Record],
    recipe: Recipe | None = None,
    *,
    watch: train.Watch | None = None,
    snapshots: train.Snapshots | None = None,
    save_every: int | None = None,
    resume: bool = False,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Model, train.Fitted]:
    """Train a classifier; the epoch that is best on dev is kept: by accuracy, or by macro F1 where texts have several
    labels. Thresholds are tuned on dev.

    Args:
      training, dev: records.
      recipe: see `Recipe`; None is `Recipe()`.
      watch, snapshots, save_every, resume, mesh: as in `train.fit`. A run goes on only with the recipe and the records
        that it began with.

    Returns:
      The model and the history.

    Raises:
      ValueError: no records, fewer than two classes in `training`, a label of `dev` that `training` lacks, or a
        recipe that makes no sense; it names what. What `train.fit` raises.
    """
    data = _Data(training, dev, checked(recipe or Recipe()))
    fitted = members.fit(data.task, watch=watch, snapshots=snapshots, save_every=save_every, resume=resume, mesh=mesh)
    return data.finish(fitted.params, data.task.recipe), fitted


def sweep(
    training: Sequence[Record],
    dev: Sequence[Record],
    settings: dict[str, Sequence[float | int]],
    recipe: Recipe | None = None,
    *,
    watch: train.Watch | None = None,
    snapshots: train.Snapshots | None = None,
    resume: bool = False,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[list[Model], train.Swept]:
    """Train k classifiers side by side, each as `fit` would train it alone but for early stopping: all epochs are run.

    Args:
      training, dev: records.
      settings: of the names in `recipe.SWEPT`, the k values of each (`train.parse_sweep`), in the place of the
        recipe's.
      recipe: of all that is not in `settings`.
      watch, snapshots, resume, mesh: as in `train.sweep`.

    Returns:
      The models, each at its best epoch, and what `train.sweep` found.

    Raises:
      ValueError: naming the setting or the record. What `train.sweep` raises.
    """
    each = members.recipes_of(recipe or Recipe(), settings)
    data = _Data(training, dev, checked(recipe or Recipe()))
    swept = members.sweep(data.task, settings, watch=watch, snapshots=snapshots, resume=resume, mesh=mesh)
    embedding = data.task.recipe.embedding
    models = [
        data.finish(jax.tree.map(lambda a, k=k: a[k], swept.params), one._replace(embedding=embedding))
        for k, one in enumerate(each)
    ]
    return models, swept


class _Data:
    """Records made ready for training."""

    def __init__(self, training, dev, recipe):
        inside, labels = _inside(training, recipe)
        words = dict(size=recipe.vocabulary, min_count=recipe.min_count, pieces=recipe.pieces)
        read, sequences = reader.learn((record[0] for record in inside), tokens=recipe.tokens, **words)
        recipe, known = members.known_vectors(recipe, read)
        layers: tuple = ()
        if recipe.pretrained:
            recipe, known, layers = _pretrained(recipe, read)
        self.model = Model(None, recipe, read, labels)  # type: ignore[arg-type]
        self.dev = dev
        targets = _targets(self.model, inside, "the training data")
        weights = _weights(targets, recipe.balance)
        within = _targets(self.model, dev, "the dev data")
        kept = np.flatnonzero(within >= 0) if within.ndim == 1 else np.arange(len(within))
        if not len(kept):
            raise ValueError(f"the dev data should hold a record that is not {recipe.outside!r}")
        dev_sequences, dev_targets = [read.read(dev[n][0]) for n in kept], within[kept]

        def batch(bucket):
            ids, lengths = members.padded(sequences, bucket, recipe.batch_size)
            of_rows = (members.filled(values, bucket, recipe.batch_size) for values in (targets, weights))
            return classifier.Batch(ids, lengths, *of_rows)

        part = None
        if recipe.linear_part:
            part = bag.fit(sequences, targets, len(read.vocabulary), len(labels), weights=weights)
        self.part = part
        self.task = members.Task(
            recipe,
            Batches(
                [len(s) for s in sequences],
                batch,
                batch_size=recipe.batch_size,
                buckets=recipe.buckets,
                seed=recipe.order,
            ),
            partial(_init, recipe=recipe, vocabulary=read.size, classes=len(labels), layers=layers),
            _loss,
            lambda params: _measures(
                _probabilities(members.beside(params, part), dev_sequences, recipe, len(labels)), dev_targets
            ),
            "dev_f1" if recipe.several else "dev_accuracy",
            lambda batch: int(batch.lengths.sum()),
            known,
            members.fingerprint(training, dev),
        )

    def finish(self, params, recipe):
        """The model with these params, and thresholds where it needs some."""
        model = self.model._replace(params=members.beside(params, self.part), recipe=recipe)
        targets = _targets(model, self.dev, "the dev data")
        if recipe.several:
            found = predict(model, [record[0] for record in self.dev])
            return model._replace(thresholds=tuple(metrics.best_thresholds(found, targets > 0).tolist()))
        if recipe.outside and (targets < 0).any():
            found = predict(model, [record[0] for record in self.dev])
            return model._replace(thresholds=(_best_bound(found, targets),))
        return model


def _measures(found, targets):
    """Loss, and accuracy or macro F1, of the probabilities [k, N, K] of k models: [k] each."""
    found = np.clip(found, 1e-12, 1 - 1e-7)
    if targets.ndim == 2:
        losses = -(targets * np.log(found) + (1 - targets) * np.log(1 - found)).sum(-1).mean(-1)
        f1 = []
        for scores in found:
            chosen = scores > metrics.best_thresholds(scores, targets > 0)
            f1.append(metrics.f1_of_labels(chosen, targets > 0).mean())
        return {"dev_loss": losses, "dev_f1": np.array(f1)}
    return {
        "dev_loss": -np.log(found)[:, np.arange(len(targets)), targets].mean(-1),
        "dev_accuracy": (found.argmax(-1) == targets).mean(-1),
    }


def _best_bound(found, targets):
    """The bound on the highest probability that does best on the mean of two shares: of texts inside that are labelled
    rightly, and of texts outside that are told."""
    highest, right = found.max(-1), found.argmax(-1) == targets
    inside = targets >= 0
    bounds = np.unique(highest)
    accuracy = np.array([(right & (highest >= bound))[inside].mean() for bound in bounds])
    recall = np.array([(highest < bound)[~inside].mean() for bound in bounds])
    return float(bounds[(accuracy + recall).argmax()])


def predict(model: Model, texts: Sequence[str]) -> np.ndarray:
    """The probability of each of `model.labels` for each text: [N, K]; those of a text sum to 1, but if it may have
    several labels.

    Raises:
      TypeError: texts that are no sequence of strings.
    """
    sequences = [model.reader.read(words) for words in checks.strings("texts", texts)]
    return _probabilities(members.Alone(model.params), sequences, model.recipe, len(model.labels))[0]


def decide(model: Model, probabilities: np.ndarray) -> list[tuple[str, ...]]:
    """The labels that probabilities [N, K] come to: the likeliest; all above their thresholds where there may be
    several; the label for what is outside where the likeliest is below the threshold."""
    if model.recipe.several:
        chosen = probabilities > np.array(model.thresholds)
        return [tuple(model.labels[k] for k in np.flatnonzero(row)) for row in chosen]
    bound = model.thresholds[0] if model.thresholds else -1.0
    return [(model.labels[row.argmax()] if row.max() >= bound else model.recipe.outside,) for row in probabilities]


def evaluate(model: Model, records: Sequence[Record]) -> dict[str, Any]:
    """How good a model is on records.

    One label each: accuracy, macro F1, F1 by label and the confusion matrix (row: label, column: prediction). Records
    with the label for what is outside do not count in these; beside them stand `accepted_accuracy`, of the others with
    the threshold at work, and `outside_recall`, the share of those outside that are told. Several labels: macro F1,
    micro F1, F1 by label, and the share of records with all labels right.

    Raises:
      ValueError: no records, or a label that the model does not know.
    """
    targets = _targets(model, records, "the data")
    found = predict(model, [record[0] for record in records])
    if model.recipe.several:
        chosen, right = found > np.array(model.thresholds), targets > 0
        f1 = metrics.f1_of_labels(chosen, right)
        both = 2 * (chosen & right).sum() / max(1, chosen.sum() + right.sum())
        return {
            "records": len(records),
            "macro_f1": float(f1.mean()),
            "micro_f1": float(both),
            "all_right": float((chosen == right).all(-1).mean()),
            "f1": dict(zip(model.labels, f1.tolist(), strict=True)),
        }
    inside = targets >= 0
    if not inside.any():
        raise ValueError(f"the data should hold a record that is not {model.recipe.outside!r}")
    best = found.argmax(-1)
    f1 = metrics.f1_by_class(best[inside], targets[inside], len(model.labels))
    measured = {
        "records": len(records),
        "accuracy": metrics.accuracy(best[inside], targets[inside]),
        "macro_f1": float(f1.mean()),
    }
    if model.thresholds and not inside.all():
        kept = found.max(-1) >= model.thresholds[0]
        measured |= {
            "accepted_accuracy": float(((best == targets) & kept)[inside].mean()),
            "outside_recall": float((~kept)[~inside].mean()),
        }
    return measured | {
        "f1": dict(zip(model.labels, f1.tolist(), strict=True)),
        "confusion": metrics.confusion(best[inside], targets[inside], len(model.labels)).tolist(),
    }


def check_test(training: Sequence[Record], test: Sequence[Record], recipe: Recipe) -> None:
    """Refuse test records that a model of these training records could not be measured on, before it is trained.

    Raises:
      ValueError: as `evaluate`, and as `fit` for the training records.
    """
    _targets(Model(None, recipe, None, _inside(training, recipe)[1]), test, "the test data")  # type: ignore[arg-type]


def measure(model: Model) -> str:
    """The key of `evaluate` that a model is compared by."""
    return "macro_f1" if model.recipe.several else "accuracy"


def save(model: Model, folder: str | Path) -> Path:
    """Write the model as a folder (see `checkpoint.save`)."""
    about = {
        "task": "classify",
        "labels": model.labels,
        "thresholds": [None if t == float("inf") else t for t in model.thresholds],  # JSON has no infinity
        "recipe": model.recipe._asdict(),
        "reader": model.reader.to_json(),
    }
    return checkpoint.save(folder, model.params, about)


def load(folder: str | Path) -> Model:
    """Read what `save` wrote; what it refuses is that of `checkpoint.load_model`."""

    def describe(about: dict[str, Any]) -> tuple[Model, Any]:
        recipe, read = recipes.from_json(about["recipe"]), Reader.from_json(about["reader"])
        labels = tuple(about["labels"])
        thresholds = tuple(float("inf") if t is None else float(t) for t in about["thresholds"])
        words = len(read.vocabulary) if recipe.linear_part else 0
        init = partial(_init, recipe=recipe, vocabulary=read.size, classes=len(labels), words=words)
        return Model(None, recipe, read, labels, thresholds), members.shapes(init, recipe)  # type: ignore[arg-type]

    return checkpoint.load_model(folder, "text classifier", ("classify",), describe)


def _probabilities(params, sequences, recipe, classes):
    """Of k models, whose leaves have a leading axis: [k, N, K]."""

    def of(bucket, size):
        how = dict(options=recipes.options(recipe), several=recipe.several)
        return _predict(params, *members.padded(sequences, bucket, size), **how)

    return members.in_batches([len(s) for s in sequences], of, (members.count(params), classes))


@partial(jax.jit, static_argnames=("options", "several"))
def _predict(params, ids, lengths, options, several):
    """The mean of the members' probabilities, of each of k models."""
    return members.mean_over(
        lambda params, ids, lengths: classifier.predict(params, ids, lengths, options, several=several),
        params,
        ids,
        lengths,
    )


def _loss(params, batch, key, recipe):
    return classifier.loss(params, batch, key, options=recipes.options(recipe))


def _pretrained(recipe, read):
    """The recipe with the width of a language model's words, those that it knows, and its layers (Dai and Le 2015)."""
    given = language.load(recipe.pretrained)
    words = given.reader.vocabulary
    # Without padding, whose row is zero.
    table = vectors.Vectors(tuple(words.decode(range(1, len(words)))), np.asarray(given.params.embedding)[1:])
    rows, known = vectors.rows_of(table, read.vocabulary.decode(range(len(read.vocabulary))))
    if len(rows) < 2:  # all know that there are unknown words
        raise ValueError(f"{recipe.pretrained} knows none of the {len(read.vocabulary) - 2} words of the data")
    return recipe._replace(embedding=known.shape[1]), (rows, known), given.params.layers


def _begun(layers, given):
    """Layers, of which the first forward ones are those given, as far as their kinds and shapes agree."""
    found = list(layers)
    for k, (own, one) in enumerate(zip(layers, given, strict=False)):
        forward = own.forward if type(own) is Bidirectional else own
        if type(forward) is not type(one) or jax.tree.map(kind, forward) != jax.tree.map(kind, one):
            break
        found[k] = own._replace(forward=one) if type(own) is Bidirectional else one
    return tuple(found)


def _init(key, *, recipe, vocabulary, classes, words=0, layers=()):
    params = classifier.init(
        key,
        vocabulary=vocabulary,
        classes=classes,
        embedding=recipe.embedding,
        hidden=recipe.hidden,
        bidirectional=recipe.bidirectional,
        cell=recipe.cell,
        pooling=recipe.pooling,
        words=words,
    )
    return params._replace(layers=_begun(params.layers, layers))


def _inside(training, recipe):
    """The records that are not outside, and their labels."""
    inside = [record for record in training if labels_of(record) != (recipe.outside,)]
    labels = tuple(sorted({label for record in inside for label in labels_of(record)}))
    if len(labels) < 2:
        raise ValueError(f"the training data should hold at least two labels, got {', '.join(labels) or 'no records'}")
    return inside, labels


def _targets(model, records, where):
    """Of records: the number of the label, -1 for what is outside, int [N]; or which labels, float [N, K]."""
    if not len(records):
        raise ValueError(f"{where} should hold at least one record, got none")
    several, outside = model.recipe.several, model.recipe.outside
    index = {label: k for k, label in enumerate(model.labels)}
    if outside:
        index[outside] = -1
    targets = np.zeros((len(records), len(model.labels)), np.float32) if several else np.zeros(len(records), np.int32)
    for row, record in enumerate(records):
        labels = labels_of(record)
        if not several and len(labels) != 1:
            raise ValueError(
                f"{where} has {len(labels)} labels for one text, and the recipe has several = False (text: "
                f"{record[0][:60]!r})"
            )
        for label in labels:
            if label not in index:
                known = ", ".join(model.labels)
                raise ValueError(
                    f"{where} has the label {label!r}, which is not among {known} (text: {record[0][:60]!r})"
                )
            if several:
                targets[row, index[label]] = 1
            else:
                targets[row] = index[label]
    return targets


def _weights(targets, balance):
    """What each record counts, 1 in the mean: the mean over its labels of n**-balance, n how many have that label."""
    if targets.ndim == 1:
        targets = np.eye(targets.max() + 1, dtype=np.float32)[targets]
    of_labels = np.maximum(targets.sum(0), 1) ** -balance
    weights = (targets @ of_labels) / np.maximum(targets.sum(-1), 1)
    weights[targets.sum(-1) == 0] = of_labels.mean()
    return (weights / weights.mean()).astype(np.float32)
