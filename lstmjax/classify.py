"""Text in, label out: records, vocabulary, model and training put together."""

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.console import Console

from lstmjax import checkpoint, checks, metrics, text, train
from lstmjax.models import classifier

Record = tuple[str, str]  # text, label


class Recipe(NamedTuple):
    """Everything that decides a training run, beside the data."""

    members: int = 5  # models trained side by side by vmap, whose probabilities are averaged
    tokens: str = "words"  # or "bpe"
    vocabulary: int = 20000
    min_count: int = 1
    cell: str = "lstm"
    embedding: int = 64
    hidden: tuple[int, ...] = (64,)
    bidirectional: bool = True
    pooling: str = "mean"
    dropout: float = 0.5
    word_dropout: float = 0.1
    smoothing: float = 0.0
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    clip: float = 1.0  # global norm of the gradient
    batch_size: int = 32
    buckets: int = 4
    epochs: int = 30
    patience: int = 6
    seed: int = 0


class Model(NamedTuple):
    """A trained text classifier."""

    params: classifier.Params  # each weight with a leading axis of the recipe's members
    recipe: Recipe
    vocabulary: text.Vocabulary
    bpe: text.BPE | None
    labels: tuple[str, ...]


def sample(split: str) -> list[Record]:
    """The embedded sample, "train", "dev" or "test": short reviews, half English half Chinese, positive or negative.

    >>> len(sample("test"))
    240
    """
    checks.one_of("split", split, ("train", "dev", "test"))
    with resources.as_file(resources.files("lstmjax") / "sample" / f"{split}.tsv") as path:
        return read(path)


def read(path: str | Path) -> list[Record]:
    """The records of a UTF-8 file with `text TAB label` on each line; blank lines are passed over.

    Raises:
      FileNotFoundError: no such file. ValueError: a line without text or label, or no line at all; it names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        words, tab, label = line.rpartition("\t")
        if not tab or not words.strip() or not label.strip():
            raise ValueError(f"{path}, line {number}: expected text TAB label, got {line[:60]!r}")
        records.append((words.strip(), label.strip()))
    if not records:
        raise ValueError(f"{path} holds no records: expected lines of text TAB label")
    return records


def split(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record], list[Record]]:
    """Records as train, dev and test, 80 / 10 / 10 in each class, drawn at random.

    Raises:
      ValueError: a class with fewer than 3 records.
    """
    rng, parts = np.random.default_rng(seed), ([], [], [])  # type: ignore[var-annotated]
    for label, count in sorted(Counter(label for _, label in records).items()):
        if count < 3:
            raise ValueError(f"label {label!r} has {count} records, at least 3 are needed to split off dev and test")
        rows = [r for r in records if r[1] == label]
        rng.shuffle(rows)  # type: ignore[arg-type]
        held = max(1, round(count / 10))
        for part, chosen in zip(parts, (rows[2 * held :], rows[:held], rows[held : 2 * held]), strict=True):
            part.extend(tuple(r) for r in chosen)
    return parts


def fit(
    training: Sequence[Record], dev: Sequence[Record], recipe: Recipe | None = None, console: Console | None = None
) -> tuple[Model, train.Fitted]:
    """Train a classifier; the epoch that is best on dev is kept.

    Args:
      training, dev: records.
      recipe: see `Recipe`; None is `Recipe()`.
      console: where progress is shown; None is quiet.

    Returns:
      The model and the history.

    Raises:
      ValueError: no records, fewer than two classes in `training`, a label of `dev` that `training` lacks, or a
        recipe that makes no sense; it names what.
    """
    recipe = recipe or Recipe()
    _check_recipe(recipe)
    labels = tuple(sorted({label for _, label in training}))
    if len(labels) < 2:
        raise ValueError(f"the training data should hold at least two labels, got {', '.join(labels) or 'no records'}")
    bpe = text.BPE.train((t for t, _ in training), recipe.vocabulary) if recipe.tokens == "bpe" else None
    tokenised = [(bpe.tokenise if bpe else text.tokenise)(t) for t, _ in training]
    vocabulary = text.Vocabulary.count(tokenised, size=recipe.vocabulary, min_count=recipe.min_count)
    k_init, k_train = jax.random.split(jax.random.key(recipe.seed))
    model = Model(_init(k_init, recipe, len(vocabulary), len(labels)), recipe, vocabulary, bpe, labels)
    sequences = _encode(model, [t for t, _ in training])
    targets = _targets(model, training, "the training data")
    dev_targets = _targets(model, dev, "the dev data")
    bounds = text.bounds([len(s) for s in sequences], recipe.buckets)

    def batches(epoch):
        rng = np.random.default_rng((recipe.seed, epoch))
        cut = text.bucket([len(s) for s in sequences], recipe.batch_size, bounds, rng)
        return [_batch(sequences, targets, bucket, recipe.batch_size) for bucket in cut]

    def evaluate(params):
        logits = np.log(predict(model._replace(params=params), [t for t, _ in dev]) + 1e-12)
        return {
            "dev_loss": float(-logits[np.arange(len(dev)), dev_targets].mean()),
            "dev_accuracy": metrics.accuracy(logits.argmax(-1), dev_targets),
        }

    fitted = train.fit(
        partial(_loss, options=_options(recipe)),
        model.params,
        _optimizer(recipe, len(batches(0)) * recipe.epochs),
        batches,
        key=k_train,
        epochs=recipe.epochs,
        evaluate=evaluate,
        metric="dev_accuracy",
        patience=recipe.patience,
        count=lambda batch: int(batch.lengths.sum()),
        console=console,
    )
    return model._replace(params=fitted.params), fitted


def predict(model: Model, texts: Sequence[str]) -> np.ndarray:
    """The probability of each of `model.labels` for each text: [N, K].

    Raises:
      TypeError: texts that are no sequence of strings.
    """
    if isinstance(texts, str):
        raise TypeError("texts should be a sequence of strings, got one str: put it in a list")
    sequences = _encode(model, texts)
    probabilities = np.zeros((len(texts), len(model.labels)), np.float32)
    if not len(texts):
        return probabilities
    # Powers of two, so that any number of texts of any length meets few shapes, each compiled once.
    bounds = [8]
    while bounds[-1] < max(map(len, sequences)):
        bounds.append(2 * bounds[-1])
    size = min(256, 2 ** (len(texts) - 1).bit_length())
    for bucket in text.bucket([len(s) for s in sequences], size, bounds):
        batch = _batch(sequences, np.zeros(len(sequences), np.int32), bucket, size)
        found = _predict(model.params, batch.ids, batch.lengths, options=_options(model.recipe))
        probabilities[bucket.rows] = np.asarray(found)[: len(bucket.rows)]
    return probabilities


def evaluate(model: Model, records: Sequence[Record]) -> dict[str, Any]:
    """Accuracy, macro F1, F1 by label and the confusion matrix (row: label, column: prediction).

    Raises:
      ValueError: no records, or a label that the model does not know.
    """
    targets = _targets(model, records, "the data")
    found = predict(model, [t for t, _ in records]).argmax(-1)
    f1 = metrics.f1_by_class(found, targets, len(model.labels))
    return {
        "records": len(records),
        "accuracy": metrics.accuracy(found, targets),
        "macro_f1": float(f1.mean()),
        "f1": dict(zip(model.labels, f1.tolist(), strict=True)),
        "confusion": metrics.confusion(found, targets, len(model.labels)).tolist(),
    }


def save(model: Model, folder: str | Path) -> Path:
    """Write the model as a folder (see `checkpoint.save`)."""
    about = {
        "task": "classify",
        "labels": model.labels,
        "recipe": model.recipe._asdict(),
        "vocabulary": json.loads(model.vocabulary.to_json()),
        "bpe": json.loads(model.bpe.to_json()) if model.bpe else None,
    }
    return checkpoint.save(folder, model.params, about)


def load(folder: str | Path) -> Model:
    """Read what `save` wrote; what it refuses is that of `checkpoint.load`."""
    parts: list[Any] = []

    def template(about):
        try:
            recipe = Recipe(**about["recipe"] | {"hidden": tuple(about["recipe"]["hidden"])})
            vocabulary = text.Vocabulary(about["vocabulary"]["words"])
            bpe = text.BPE.from_json(json.dumps(about["bpe"])) if about["bpe"] else None
            labels = tuple(about["labels"])
            _check_recipe(recipe)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{Path(folder) / checkpoint.ABOUT} describes no text classifier: {error!r}") from None
        parts.extend((recipe, vocabulary, bpe, labels))
        return jax.eval_shape(lambda: _init(jax.random.key(0), recipe, len(vocabulary), len(labels)))

    params, _ = checkpoint.load(folder, template)
    return Model(params, *parts)


@partial(jax.jit, static_argnames="options")
def _predict(params, ids, lengths, options):
    """The mean of the members' probabilities."""
    return jax.vmap(partial(classifier.predict, options=options), (0, None, None))(params, ids, lengths).mean(0)


def _loss(params, batch, key, options):
    """The mean of the members' losses, each with dropout of its own."""
    keys = jax.random.split(key, len(params.embedding))
    return jax.vmap(partial(classifier.loss, options=options), (0, None, 0))(params, batch, keys).mean()


def _optimizer(recipe, steps):
    """AdamW for each member by itself. Adam does not feel that the mean of the losses makes gradients smaller, but
    the bound on their norm would: it is made smaller with them."""
    one = optax.chain(
        optax.clip_by_global_norm(recipe.clip / recipe.members),
        optax.adamw(
            optax.warmup_cosine_decay_schedule(0, recipe.learning_rate, max(1, steps // 20), max(2, steps)),
            weight_decay=recipe.weight_decay,
        ),
    )
    return optax.GradientTransformation(jax.vmap(one.init), jax.vmap(one.update))


def _check_recipe(recipe):
    checks.one_of("tokens", recipe.tokens, ("words", "bpe"))
    for name in ("members", "vocabulary", "min_count", "embedding", "batch_size", "buckets", "epochs", "patience"):
        checks.size(name, getattr(recipe, name))
    for name in ("learning_rate", "clip"):
        checks.positive(name, getattr(recipe, name))
    checks.finite("weight_decay", recipe.weight_decay)
    if recipe.weight_decay < 0:
        raise ValueError(f"weight_decay should be a number of at least 0, got {recipe.weight_decay}")


def _init(key, recipe, vocabulary, classes):
    draw = partial(
        classifier.init,
        vocabulary=vocabulary,
        classes=classes,
        embedding=recipe.embedding,
        hidden=recipe.hidden,
        bidirectional=recipe.bidirectional,
        cell=recipe.cell,
        pooling=recipe.pooling,
    )
    return jax.vmap(draw)(jax.random.split(key, recipe.members))


def _options(recipe):
    return classifier.Options(recipe.pooling, recipe.dropout, recipe.word_dropout, recipe.smoothing)


def _encode(model, texts):
    tokenise = model.bpe.tokenise if model.bpe else text.tokenise
    return [model.vocabulary.encode(tokenise(t)) for t in texts]


def _targets(model, records, where):
    if not len(records):
        raise ValueError(f"{where} should hold at least one record, got none")
    index = {label: k for k, label in enumerate(model.labels)}
    for words, label in records:
        if label not in index:
            known = ", ".join(model.labels)
            raise ValueError(f"{where} has the label {label!r}, which is not among {known} (text: {words[:60]!r})")
    return np.array([index[label] for _, label in records], np.int32)


def _batch(sequences, targets, bucket, size):
    """The batch of a bucket, filled up to `size` with rows that count for nothing, so that it has one shape."""
    rows = bucket.rows
    ids, lengths = text.pad([sequences[r] for r in rows], bucket.length)
    empty = size - len(rows)
    return classifier.Batch(
        np.pad(ids, ((0, empty), (0, 0))),
        np.pad(lengths, (0, empty)),
        np.pad(targets[rows], (0, empty)),
        np.pad(np.ones(len(rows), np.float32), (0, empty)),
    )
