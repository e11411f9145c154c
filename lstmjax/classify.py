"""Text in, label out: records, vocabulary, model and training put together."""

import hashlib
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

from lstmjax import checkpoint, checks, metrics, text, train, vectors
from lstmjax.batches import Batches
from lstmjax.models import classifier

Record = tuple[str, str]  # text, label


class Recipe(NamedTuple):
    """Everything that decides a training run, beside the data."""

    members: int = 5  # models trained side by side by vmap, whose probabilities are averaged
    tokens: str = "words"  # or "bpe"
    vocabulary: int = 20000
    min_count: int = 1
    cell: str = "lstm"
    embedding: int = 64  # features of a word; with vectors, their width
    vectors: str = ""  # file of word vectors to begin with (`vectors.read`)
    tune_vectors: bool = True  # False: the words that were in that file keep their vectors
    hidden: tuple[int, ...] = (64,)
    bidirectional: bool = True
    pooling: str = "mean"
    dropout: float = 0.5
    word_dropout: float = 0.1
    smoothing: float = 0.0
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    clip: float = 1.0  # global norm of the gradient
    average: float = 0.0  # of a running mean of the weights, that is used in their place; 0: none
    batch_size: int = 32
    buckets: int = 4
    epochs: int = 30
    patience: int = 6
    seed: int = 0  # of the weights and of dropout
    order: int = 0  # seed of the order of batches


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
    """Train a classifier; the epoch that is best on dev is kept.

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
    recipe = recipe or Recipe()
    _check_recipe(recipe)
    if mesh is not None and recipe.batch_size % mesh.size:
        raise ValueError(f"batch_size should be one that {mesh.size} devices divide, got {recipe.batch_size}")
    task = _Task(training, dev, recipe)
    recipe = task.model.recipe
    params, key = task.begin(recipe)
    fitted = train.fit(
        partial(_loss, options=_options(recipe)),
        params,
        task.optimizer(recipe),
        task.batches,
        key=key,
        epochs=recipe.epochs,
        evaluate=task.evaluate,
        metric="dev_accuracy",
        patience=recipe.patience,
        average=recipe.average or None,
        mesh=mesh,
        snapshots=snapshots,
        save_every=save_every,
        resume=resume,
        about=task.about,
        count=_tokens,
        watch=watch,
    )
    return task.model._replace(params=fitted.params), fitted


# What a sweep may vary, by the names of the command line: numbers that change no shape.
SWEPT = ("learning_rate", "weight_decay", "clip", "dropout", "word_dropout", "smoothing", "seed")


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
      settings: of the names in `SWEPT`, the k values of each (`train.parse_sweep`), in the place of the recipe's.
      recipe: of all that is not in `settings`.
      watch, snapshots, resume, mesh: as in `train.sweep`.

    Returns:
      The models, each at its best epoch, and what `train.sweep` found.

    Raises:
      ValueError: naming the setting or the record. What `train.sweep` raises.
    """
    recipe = recipe or Recipe()
    for name in settings:
        checks.one_of("a setting of the sweep", name, SWEPT)
    recipes = [recipe._replace(**dict(zip(settings, row, strict=True))) for row in zip(*settings.values(), strict=True)]
    for one in recipes:
        _check_recipe(one)
    task = _Task(training, dev, recipe)
    recipe = task.model.recipe

    def of(varied: dict[str, Any]) -> Recipe:
        return recipe._replace(**varied)

    def loss(params, batch, key, varied):
        return _loss(params, batch, key, _options(of(varied)))

    swept = train.sweep(
        loss,
        lambda varied: task.begin(of(varied)),
        lambda varied: task.optimizer(of(varied)),
        task.batches,
        settings,
        epochs=recipe.epochs,
        evaluate=task.evaluate_each,
        metric="dev_accuracy",
        average=recipe.average or None,
        mesh=mesh,
        snapshots=snapshots,
        resume=resume,
        count=_tokens,
        watch=watch,
    )
    models = [
        task.model._replace(params=jax.tree.map(lambda a, k=k: a[k], swept.params), recipe=one)
        for k, one in enumerate(one._replace(embedding=recipe.embedding) for one in recipes)
    ]
    return models, swept


class _Task:
    """Records made ready for training: everything about it that the numbers of a recipe do not change."""

    def __init__(self, training, dev, recipe):
        labels = tuple(sorted({label for _, label in training}))
        if len(labels) < 2:
            raise ValueError(
                f"the training data should hold at least two labels, got {', '.join(labels) or 'no records'}"
            )
        bpe = text.BPE.train((t for t, _ in training), recipe.vocabulary) if recipe.tokens == "bpe" else None
        tokenised = [(bpe.tokenise if bpe else text.tokenise)(t) for t, _ in training]
        vocabulary = text.Vocabulary.count(tokenised, size=recipe.vocabulary, min_count=recipe.min_count)
        self.known = None
        if recipe.vectors:
            found = vectors.read(recipe.vectors, wanted=vocabulary.words)
            recipe = recipe._replace(embedding=found.array.shape[1])
            rows, known = vectors.rows_of(found, vocabulary.decode(range(len(vocabulary))))
            if not len(rows):
                raise ValueError(
                    f"{recipe.vectors} has a vector for none of the {len(vocabulary) - 2} words of the data"
                )
            self.known = rows, known
        self.model = Model(None, recipe, vocabulary, bpe, labels)  # type: ignore[arg-type]
        sequences = [vocabulary.encode(tokens) for tokens in tokenised]
        targets = _targets(self.model, training, "the training data")
        self.dev = _encode(self.model, [t for t, _ in dev])
        self.dev_targets = _targets(self.model, dev, "the dev data")
        self.batches = Batches(
            [len(s) for s in sequences],
            lambda bucket: _batch(sequences, targets, bucket, recipe.batch_size),
            batch_size=recipe.batch_size,
            buckets=recipe.buckets,
            seed=recipe.order,
        )
        self.steps = len(self.batches(0)) * recipe.epochs
        self.about = json.loads(json.dumps(recipe._asdict() | {"records": _fingerprint(training, dev)}))

    def begin(self, recipe):
        """Params and key of a model with this recipe."""
        k_init, k_train = jax.random.split(jax.random.key(recipe.seed))
        params = _init(k_init, recipe, len(self.model.vocabulary), len(self.model.labels))
        if self.known is not None:
            rows, known = self.known
            params = params._replace(embedding=params.embedding.at[:, rows].set(known))
        return params, k_train

    def optimizer(self, recipe):
        """Of a model with this recipe."""
        frozen = None if self.known is None or recipe.tune_vectors else self.known[0]
        return _optimizer(recipe, self.steps, frozen)

    def evaluate(self, params):
        """Of one model: loss and accuracy on the dev data."""
        return {name: value[0] for name, value in self.evaluate_each(jax.tree.map(lambda a: a[None], params)).items()}

    def evaluate_each(self, params):
        """The same of k models, whose leaves have a leading axis: [k] each."""
        found = _probabilities(params, self.dev, self.model.recipe, len(self.model.labels))
        logits = np.log(found + 1e-12)
        return {
            "dev_loss": -logits[:, np.arange(len(self.dev)), self.dev_targets].mean(-1),
            "dev_accuracy": (logits.argmax(-1) == self.dev_targets).mean(-1),
        }


def _tokens(batch):
    return int(batch.lengths.sum())


def predict(model: Model, texts: Sequence[str]) -> np.ndarray:
    """The probability of each of `model.labels` for each text: [N, K].

    Raises:
      TypeError: texts that are no sequence of strings.
    """
    if isinstance(texts, str):
        raise TypeError("texts should be a sequence of strings, got one str: put it in a list")
    params = jax.tree.map(lambda a: a[None], model.params)
    return _probabilities(params, _encode(model, texts), model.recipe, len(model.labels))[0]


def _probabilities(params, sequences, recipe, classes):
    """Of k models, whose leaves have a leading axis: [k, N, K]."""
    k = len(params.embedding)
    probabilities = np.zeros((k, len(sequences), classes), np.float32)
    if not sequences:
        return probabilities
    # Powers of two, so that any number of texts of any length meets few shapes, each compiled once.
    bounds = [8]
    while bounds[-1] < max(map(len, sequences)):
        bounds.append(2 * bounds[-1])
    size = min(256, 2 ** (len(sequences) - 1).bit_length())
    for bucket in text.bucket([len(s) for s in sequences], size, bounds):
        batch = _batch(sequences, np.zeros(len(sequences), np.int32), bucket, size)
        found = _predict(params, batch.ids, batch.lengths, options=_options(recipe))
        probabilities[:, bucket.rows] = np.asarray(found)[:, : len(bucket.rows)]
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
    """The mean of the members' probabilities, of each model: params have the axes k and members in front."""
    one = jax.vmap(partial(classifier.predict, options=options), (0, None, None))
    return jax.vmap(lambda params: one(params, ids, lengths).mean(0))(params)


def _loss(params, batch, key, options):
    """The mean of the members' losses, each with dropout of its own."""
    keys = jax.random.split(key, len(params.embedding))
    return jax.vmap(partial(classifier.loss, options=options), (0, None, 0))(params, batch, keys).mean()


def _optimizer(recipe, steps, frozen=None):
    """AdamW for each member by itself. Adam does not feel that the mean of the losses makes gradients smaller, but
    the bound on their norm would: it is made smaller with them. The `frozen` rows of the embedding stay as they are."""
    shape = optax.warmup_cosine_decay_schedule(0, 1, max(1, steps // 20), max(2, steps))
    one = optax.chain(
        optax.clip_by_global_norm(recipe.clip / recipe.members),
        optax.adamw(lambda count: recipe.learning_rate * shape(count), weight_decay=recipe.weight_decay),
    )
    if frozen is not None:

        def still(updates, params):
            return updates._replace(embedding=updates.embedding.at[frozen].set(0))

        one = optax.chain(one, optax.stateless(still))
    return optax.GradientTransformation(jax.vmap(one.init), jax.vmap(one.update))


def _check_recipe(recipe):
    checks.one_of("tokens", recipe.tokens, ("words", "bpe"))
    for name in ("members", "vocabulary", "min_count", "embedding", "batch_size", "buckets", "epochs", "patience"):
        checks.size(name, getattr(recipe, name))
    for name in ("learning_rate", "clip"):
        checks.positive(name, getattr(recipe, name))
    checks.rate("average", recipe.average)
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


def _fingerprint(*parts):
    """What tells one set of records from another."""
    return hashlib.sha256(json.dumps([list(map(list, part)) for part in parts]).encode()).hexdigest()[:16]


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
    empty = size - len(rows)
    ids, lengths = text.pad([sequences[r] for r in rows] + [_NOTHING] * empty, bucket.length)
    labels, weights = np.zeros((2, size), np.int32)
    labels[: len(rows)], weights[: len(rows)] = targets[rows], 1
    return classifier.Batch(ids, lengths, labels, weights.astype(np.float32))


_NOTHING = np.zeros(0, np.int32)
