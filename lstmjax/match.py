"""Pairs of texts in, how they relate out: a label such as entailment, or a score such as relatedness; and search."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstmjax import checkpoint, checks, members, metrics, reader, train
from lstmjax import recipe as recipes
from lstmjax.batches import Batches
from lstmjax.models import bag, matcher
from lstmjax.reader import Reader
from lstmjax.recipe import Recipe as Recipe
from lstmjax.recipe import checked

Record = tuple[str, str, str | float]  # two texts, and their label or score
WIDEST = 50  # whole numbers that scores may span


class Model(NamedTuple):
    """A trained matcher."""

    params: matcher.Params  # each weight with a leading axis of the recipe's members
    recipe: Recipe
    reader: Reader
    labels: tuple[str, ...]  # none where pairs have scores
    span: tuple[int, int]  # the lowest and the highest whole number that scores lie between; of labels (0, 0)


def read(path: str | Path, *, target: str = "label") -> list[Record]:
    """The records of a UTF-8 file with `text TAB text TAB label`, or score, on each line; blank lines are passed over.

    Raises:
      FileNotFoundError: no such file. ValueError: a line with a part missing, or a score that is no number; it names
        the line.
    """
    records: list[Record] = []
    for number, line in reader.lines_of(path, f"text TAB text TAB {target}"):
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 3 or not all(parts):
            raise ValueError(f"{path}, line {number}: expected text TAB text TAB {target}, got {line[:60]!r}")
        given: str | float = parts[2]
        if target == "score":
            try:
                given = float(parts[2])
            except ValueError:
                raise ValueError(f"{path}, line {number}: expected a score, got {parts[2]!r}") from None
        records.append((parts[0], parts[1], given))
    return records


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
    """Train a matcher; the epoch that is best on dev is kept: by accuracy, or by Pearson's correlation of scores.

    Args:
      training, dev: records.
      recipe: see `Recipe`; None is `Recipe()`.
      watch, snapshots, save_every, resume, mesh: as in `train.fit`. A run goes on only with the recipe and the records
        that it began with.

    Returns:
      The model and the history.

    Raises:
      ValueError: no records, fewer than two labels or scores in `training`, a label of `dev` that `training` lacks, or
        a recipe that makes no sense; it names what. What `train.fit` raises.
    """
    model, task, beside = _task(training, dev, checked(recipe or Recipe()))
    fitted = members.fit(task, watch=watch, snapshots=snapshots, save_every=save_every, resume=resume, mesh=mesh)
    return model._replace(params=beside(fitted.params)), fitted


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
    """Train k matchers side by side, as `classify.sweep` does classifiers."""
    each = members.recipes_of(recipe or Recipe(), settings)
    model, task, beside = _task(training, dev, checked(recipe or Recipe()))
    swept = members.sweep(task, settings, watch=watch, snapshots=snapshots, resume=resume, mesh=mesh)
    models = members.models_of(model, task, swept, each)
    return [one._replace(params=beside(one.params)) for one in models], swept


def predict(model: Model, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """The probability of each of `model.labels` for each pair, [N, K]; or its score, [N].

    Raises:
      TypeError: pairs that are no sequence of two strings each.
    """
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(words, str) for words in pair):
            raise TypeError(f"pairs should hold two strings each, got {pair!r}"[:200])
    found = _outputs(members.Alone(model.params), [ids_of(model, *pair) for pair in pairs], model)[0]
    return _scores(found, model.span) if model.recipe.target == "score" else found


def decide(model: Model, found: np.ndarray) -> list[str] | list[float]:
    """The labels that probabilities [N, K] come to, or scores [N] as they are."""
    if model.recipe.target == "score":
        return [float(score) for score in found]
    return [model.labels[k] for k in found.argmax(-1)]


def evaluate(model: Model, records: Sequence[Record]) -> dict[str, Any]:
    """How good a model is on records. Labels: accuracy, macro F1, F1 by label and the confusion matrix (row: label,
    column: prediction). Scores: Pearson's and Spearman's correlation, and the mean squared error.

    Raises:
      ValueError: no records, or a label that the model does not know.
    """
    targets = _targets(model, records, "the data")
    found = predict(model, [record[:2] for record in records])
    if model.recipe.target == "score":
        return {
            "records": len(records),
            "pearson": metrics.pearson(found, targets),
            "spearman": metrics.spearman(found, targets),
            "squared_error": float(np.mean((found - targets) ** 2)),
        }
    best = found.argmax(-1)
    f1 = metrics.f1_by_class(best, targets, len(model.labels))
    return {
        "records": len(records),
        "accuracy": metrics.accuracy(best, targets),
        "macro_f1": float(f1.mean()),
        "f1": dict(zip(model.labels, f1.tolist(), strict=True)),
        "confusion": metrics.confusion(best, targets, len(model.labels)).tolist(),
    }


def check_test(training: Sequence[Record], test: Sequence[Record], recipe: Recipe) -> None:
    """Refuse test records that a model of these training records could not be measured on, before it is trained.

    Raises:
      ValueError: as `evaluate`, and as `fit` for the training records.
    """
    _targets(Model(None, recipe, None, *_outcomes(training, recipe)), test, "the test data")  # type: ignore[arg-type]


def measure(model: Model) -> str:
    """The key of `evaluate` that a model is compared by."""
    return "pearson" if model.recipe.target == "score" else "accuracy"


def encode(model: Model, texts: Sequence[str]) -> np.ndarray:
    """Texts as vectors [N, H], those of the members side by side, each of length 1; for "manhattan" as they are.

    Raises:
      TypeError: texts that are no sequence of strings.
    """
    sequences = [_column(model, model.reader.read(words)) for words in checks.strings("texts", texts)]

    def of(bucket, size):
        found = _encode(
            model.params, matcher.Text(*members.padded(sequences, bucket, size)), recipes.options(model.recipe)
        )
        return np.asarray(found)[None]

    width = jax.eval_shape(
        lambda params: _encode(params, matcher.Text(*_nothing(model)), recipes.options(model.recipe)), model.params
    ).shape[-1]
    return members.in_batches([len(s) for s in sequences], of, (1, width))[0]


def search(model: Model, corpus: np.ndarray, query: str) -> np.ndarray:
    """How near each text of a corpus is to a query, [N]: the similarity that "manhattan" was trained for, of the other
    heads the cosine of the encodings.

    Args:
      corpus: [N, H], its encodings (`encode`).
    """
    vector = encode(model, [query])[0]
    if model.recipe.head == "manhattan":
        apart = np.abs(corpus - vector).reshape(len(corpus), model.recipe.members, -1).sum(-1)
        return np.exp(-apart).mean(-1)
    return corpus @ vector


def save(model: Model, folder: str | Path) -> Path:
    """Write the model as a folder (see `checkpoint.save`)."""
    about = {
        "task": "match",
        "labels": model.labels,
        "span": model.span,
        "recipe": model.recipe._asdict(),
        "reader": model.reader.to_json(),
    }
    return checkpoint.save(folder, model.params, about)


def load(folder: str | Path) -> Model:
    """Read what `save` wrote; what it refuses is that of `checkpoint.load_model`."""

    def describe(about: dict[str, Any]) -> tuple[Model, Any]:
        recipe, read = recipes.from_json(about["recipe"]), Reader.from_json(about["reader"])
        low, high = about["span"]
        model = Model(None, recipe, read, tuple(about["labels"]), (low, high))  # type: ignore[arg-type]
        init = partial(_init, model=model, words=read.size if recipe.linear_part else 0)
        return model, members.shapes(init, recipe)

    return checkpoint.load_model(folder, "matcher", ("match",), describe)


def _task(training, dev, recipe):
    """A model without params, its records made ready for training, and what adds the linear part to params."""
    labels, span = _outcomes(training, recipe)
    words = dict(size=recipe.vocabulary, min_count=recipe.min_count, pieces=recipe.pieces)
    texts = [words for record in training for words in record[:2]]
    read, _ = reader.learn(texts, tokens=recipe.tokens, **words)
    recipe, known = members.known_vectors(recipe, read)
    model = Model(None, recipe, read, labels, span)  # type: ignore[arg-type]
    pairs, dev_pairs = ([ids_of(model, *record[:2]) for record in part] for part in (training, dev))
    targets = _targets(model, training, "the training data")
    dev_targets = _targets(model, dev, "the dev data")
    if recipe.target == "score" and recipe.best == "measure" and len(np.unique(dev_targets)) < 2:
        raise ValueError(
            "the dev data should hold scores that differ, since the epoch is chosen by correlation, got "
            f'{len(dev)} records of one score: give it more, or best = "loss"'
        )
    trained = targets
    if recipe.target == "score":
        low, high = span
        trained = (targets - low) / (high - low)
        if recipe.head != "manhattan":
            trained = np.asarray(matcher.spread_score(targets, high - low + 1, low))
        trained = trained.astype(np.float32)
    part = None
    if recipe.linear_part:
        if recipe.head == "manhattan":
            raise ValueError('linear_part = True is for the heads that have logits, and head = "manhattan" has none')
        part = bag.fit_pairs(pairs, trained, read.size, _classes(model))  # type: ignore[arg-type]
    beside = partial(members.beside, part=part)

    def batch(bucket):
        both = _texts(pairs, bucket, recipe.batch_size)
        ones = np.ones(len(pairs), np.float32)
        return matcher.Batch(*both, *(members.filled(values, bucket, recipe.batch_size) for values in (trained, ones)))

    def evaluate(params):
        found = _outputs(beside(params), dev_pairs, model)
        if recipe.target == "score":
            scores = [_scores(one, span) for one in found]
            return {
                "dev_loss": np.array([np.mean((one - dev_targets) ** 2) for one in scores]),
                "dev_pearson": np.array([metrics.pearson(one, dev_targets) for one in scores]),
            }
        logits = np.log(found + 1e-12)
        return {
            "dev_loss": -logits[:, np.arange(len(dev_targets)), dev_targets].mean(-1),
            "dev_accuracy": (logits.argmax(-1) == dev_targets).mean(-1),
        }

    lengths = [max(map(len, pair)) for pair in pairs]
    task = members.Task(
        recipe,
        Batches(lengths, batch, batch_size=recipe.batch_size, buckets=recipe.buckets, seed=recipe.order),
        partial(_init, model=model),
        lambda params, batch, key, recipe: matcher.loss(params, batch, key, options=recipes.options(recipe)),
        evaluate,
        "dev_pearson" if recipe.target == "score" else "dev_accuracy",
        lambda batch: int(batch.first.lengths.sum() + batch.second.lengths.sum()),
        known,
        members.fingerprint(training, dev),
    )
    return model, task, beside


def _outcomes(training, recipe):
    """The labels, or the whole numbers that scores lie between."""
    if recipe.target == "label":
        labels = tuple(sorted({record[2] for record in training}))
        if len(labels) < 2:
            raise ValueError(
                f"the training data should hold at least two labels, got {', '.join(labels) or 'no records'}"
            )
        return labels, (0, 0)
    scores = [record[2] for record in training]
    if not all(isinstance(score, int | float) and math.isfinite(score) for score in scores) or len(set(scores)) < 2:
        raise ValueError("the training data should hold at least two scores, all of them finite numbers")
    low, high = math.floor(min(scores)), math.ceil(max(scores))
    if high - low >= WIDEST and recipe.head != "manhattan":
        raise ValueError(f"scores should span at most {WIDEST} whole numbers, got {low} to {high}: scale them")
    return (), (low, high)


def _targets(model, records, where):
    """Of records: the number of the label, int [N]; or the score, float [N]."""
    if not len(records):
        raise ValueError(f"{where} should hold at least one record, got none")
    if model.recipe.target == "score":
        # Those past what training has seen are measured like all others.
        for first, _, score in records:
            if not isinstance(score, int | float) or not math.isfinite(score):
                raise ValueError(f"{where} has the score {score!r}, no finite number (text: {first[:60]!r})")
        return np.array([score for *_, score in records], np.float64)
    index = {label: k for k, label in enumerate(model.labels)}
    for first, _, label in records:
        if label not in index:
            known = ", ".join(model.labels)
            raise ValueError(f"{where} has the label {label!r}, which is not among {known} (text: {first[:60]!r})")
    return np.array([index[label] for *_, label in records], np.int32)


def ids_of(model: Model, first: str, second: str) -> list[np.ndarray]:
    """The ids of the two texts of a pair, [T] or [T, F] each: with a column more where words say whether they stand in
    the other text."""
    pair = [model.reader.read(words) for words in (first, second)]
    if not model.recipe.overlap:
        return pair
    one, two = (model.reader.tokenise(words) for words in (first, second))
    return [
        _column(model, pair[0], [word in two for word in one]),
        _column(model, pair[1], [word in one for word in two]),
    ]


def _column(model, ids, shared=None):
    """Ids with the column that says which words are shared: none if None."""
    if not model.recipe.overlap:
        return ids
    flags = np.zeros((len(ids), 1), np.int32)
    if shared:
        flags[:, 0] = np.where(shared, model.reader.size, 0)  # a row of its own, past all words and pieces
    return np.concatenate([ids[:, None] if ids.ndim == 1 else ids, flags], 1)


def _nothing(model):
    return np.zeros((1, 8, *_column(model, model.reader.read("")).shape[1:]), np.int32), np.zeros(1, np.int32)


def _texts(pairs, bucket, size):
    """The two texts of the pairs of a bucket."""
    return (matcher.Text(*members.padded([pair[side] for pair in pairs], bucket, size)) for side in (0, 1))


def outputs_of(model: Model, first: matcher.Text, second: matcher.Text) -> np.ndarray:
    """The probabilities [B, K] or the scores [B] of a batch of pairs."""
    params = members.Alone(model.params)
    found = np.asarray(_predict(params, first, second, options=recipes.options(model.recipe)))[0]
    return _scores(found, model.span) if model.recipe.target == "score" else found


def _outputs(params, pairs, model):
    """Of k models like this one: probabilities [k, N, K], or for "manhattan" similarities [k, N, 1]."""
    lengths = [max(map(len, pair)) for pair in pairs]

    def of(bucket, size):
        return _predict(params, *_texts(pairs, bucket, size), options=recipes.options(model.recipe))

    return members.in_batches(lengths, of, (members.count(params), _classes(model)))


@partial(jax.jit, static_argnames="options")
def _predict(params, first, second, options):
    """The mean of the members' probabilities or similarities, of each of k models."""

    def one(params, first, second):
        found = matcher.apply(params, first, second, options)
        return found if params.head is None else jax.nn.softmax(found)

    return members.mean_over(one, params, first, second)


@partial(jax.jit, static_argnames="options")
def _encode(params, texts, options):
    """Encodings [B, members H]; but for "manhattan" of length 1, over all members."""
    found = jax.vmap(lambda params: matcher.encode(params, texts, options))(params)
    if params.head is not None:
        found = found / jnp.maximum(jnp.linalg.norm(found, axis=-1, keepdims=True), 1e-6) * len(found) ** -0.5
    return jnp.moveaxis(found, 0, 1).reshape(found.shape[1], -1)


def _scores(found, span):
    """Scores [N] of outputs [N, K]."""
    low, high = span
    if found.shape[-1] == 1:
        return low + (high - low) * found[:, 0]
    return np.asarray(matcher.expected_score(found, low))


def _classes(model):
    """How many answers the head of a model gives for a pair."""
    low, high = model.span
    if model.recipe.head == "manhattan":
        return 1
    return len(model.labels) if model.recipe.target == "label" else high - low + 1


def _init(key, *, model, words=0):
    recipe = model.recipe
    return matcher.init(
        key,
        vocabulary=model.reader.size + recipe.overlap,
        classes=_classes(model),
        head=recipe.head,
        embedding=recipe.embedding,
        hidden=recipe.hidden,
        width=recipe.width,
        bidirectional=recipe.bidirectional,
        cell=recipe.cell,
        pooling=recipe.pooling,
        words=words,
    )
