"""Sequences that are not words in; a number, a class, a class at each step or the next notes out.

What is asked is read off the records, of (x, target) each: see `asked`.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lstmjax import checkpoint, checks, datasets, members, metrics, text, train
from lstmjax import recipe as recipes
from lstmjax import standardise as standard
from lstmjax.asked import MEASURES, Kind, Record, check, check_xs, kind_of, measured, nll_of_keys
from lstmjax.batches import Batches, Epoch
from lstmjax.datasets import Drawn
from lstmjax.models import sequencer
from lstmjax.recipe import Recipe as Recipe
from lstmjax.recipe import checked
from lstmjax.standardise import Moments

DEFAULT = Recipe(members=1, hidden=(128,), bidirectional=False, dropout=0.0, weight_decay=0.0, learning_rate=1e-3)
GENERATED = ("adding", "copy")
SETS = (*GENERATED, "mnist", "jsb_chorales")
HELD = 1000  # generated sequences to choose by, and to measure on
DEV = 5000  # pictures at the end of the training split of mnist
LOWEST, KEYS = 21, 88  # MIDI pitch of the first key of a piano, and how many there are


class Model(NamedTuple):
    """A trained model of sequences."""

    params: sequencer.Params  # each weight with a leading axis of the recipe's members
    recipe: Recipe
    kind: Kind
    moments: Moments | None = None  # of the features of the training data, where the recipe standardises


def records(name: str, recipe: Recipe, *splits: str) -> list[Sequence[Record] | Drawn]:
    """The records of the splits of a set.

    Args:
      name: "adding" or "copy", whose training split is `Drawn`; "mnist", whose last 5,000 pictures for training are
        "dev"; or "jsb_chorales", where the target is the next frame.
      recipe: `steps`, `drawn` and `order` of what is drawn; `chunk` and `permute` of pictures.
      splits: of "train", "dev", "test".

    Raises:
      ValueError: no such set, or pixels that `chunk` does not divide. What `datasets.load` raises.

    >>> [len(part) for part in records("adding", DEFAULT, "train", "dev")]
    [10000, 1000]
    """
    checks.one_of("name", name, SETS)
    if name in GENERATED:
        drawn = Drawn(name, recipe.steps, recipe.drawn, seed=recipe.order)
        return [drawn if split == "train" else _pairs(drawn.held(split, HELD)) for split in splits]
    if name == "mnist":
        held = {split: "train" if split == "dev" else split for split in splits}
        images = datasets.load("mnist", *dict.fromkeys(held.values()))
        digits = {split: _digits(part, recipe) for split, part in images.items()}
        cut = {"train": slice(-DEV), "dev": slice(-DEV, None), "test": slice(None)}
        return [digits[held[split]][cut[split]] for split in splits]
    return [[_next_frames(piece) for piece in part] for part in datasets.load(name, *splits).values()]


def fit(
    training: Sequence[Record] | Drawn,
    dev: Sequence[Record],
    recipe: Recipe = DEFAULT,
    *,
    watch: train.Watch | None = None,
    snapshots: train.Snapshots | None = None,
    save_every: int | None = None,
    resume: bool = False,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Model, train.Fitted]:
    """Train a model; the epoch that is best on dev is kept: by the accuracy if a class is asked for, else by the loss.

    Args:
      training, dev: records of one kind, or for training a set that is drawn anew in every epoch.
      recipe: see `Recipe`.
      watch, snapshots, save_every, resume, mesh: as in `train.fit`. A run goes on only with the recipe and the records
        that it began with.

    Returns:
      The model and the history.

    Raises:
      TypeError, ValueError: no records, records of several kinds, what is not finite in one, or a recipe that makes no
        sense; it names what. What `train.fit` raises.
    """
    model, task = _task(training, dev, checked(recipe))
    fitted = members.fit(task, watch=watch, snapshots=snapshots, save_every=save_every, resume=resume, mesh=mesh)
    return model._replace(params=fitted.params), fitted


def sweep(
    training: Sequence[Record] | Drawn,
    dev: Sequence[Record],
    settings: dict[str, Sequence[float | int]],
    recipe: Recipe = DEFAULT,
    *,
    watch: train.Watch | None = None,
    snapshots: train.Snapshots | None = None,
    resume: bool = False,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[list[Model], train.Swept]:
    """Train k models side by side, as `classify.sweep` does classifiers."""
    each = members.recipes_of(recipe, settings)
    model, task = _task(training, dev, checked(recipe))
    swept = members.sweep(task, settings, watch=watch, snapshots=snapshots, resume=resume, mesh=mesh)
    return members.models_of(model, task, swept, each), swept


def predict(model: Model, xs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The answer to each sequence: a number [], probabilities of classes [K] or [T, K], or of keys [T, K].

    Raises:
      TypeError, ValueError: a sequence of another kind than those that the model learnt from.
    """
    check_xs(xs, model.kind, "xs")
    return [found[0] for found in _answers(members.Alone(model.params), xs, model)]


def evaluate(model: Model, records: Sequence[Record]) -> dict[str, Any]:
    """How good a model is on records. A number: the mean squared error. Classes: the accuracy and the mean negative log
    likelihood in nats, and of a class at each step the recall, the share that is right of the steps whose class is not
    0. Keys: the negative log likelihood of a frame, summed over the keys.

    Raises:
      TypeError, ValueError: no records, or records of another kind.
    """
    check(records, model.kind, "the data")
    answers = _answers(members.Alone(model.params), [x for x, _ in records], model)
    found = measured(model.kind, answers, [target for _, target in records])
    return {"records": len(records)} | {name: float(value[0]) for name, value in found.items()}


def baseline(model: Model, training: Sequence[Record] | Drawn, test: Sequence[Record]) -> dict[str, float]:
    """What a model has to beat, on the measure that it is compared by: an answer that looks at no sequence."""
    targets, right = ([np.asarray(target) for _, target in part] for part in (_known(training), test))
    if model.kind.answer == "number":
        return {"always the mean": float(np.mean((np.mean(targets) - np.stack(right)) ** 2))}
    if model.kind.answer == "keys":
        down = np.concatenate(targets)
        p = (down.sum(0) + 1) / (len(down) + 2)
        return {"each key as often as it is down": nll_of_keys(p[None], np.concatenate(right))}
    y, right_y = (np.concatenate([np.atleast_1d(target) for target in part]) for part in (targets, right))
    if model.kind.answer == "classes":
        y, right_y = y[y != 0], right_y[right_y != 0]
    return {"always the most frequent": metrics.accuracy(np.full(len(right_y), np.bincount(y).argmax()), right_y)}


def measure(model: Model) -> str:
    """The key of `evaluate` that a model is compared by."""
    return MEASURES[model.kind.answer]


def save(model: Model, folder: str | Path) -> Path:
    """Write the model as a folder (see `checkpoint.save`)."""
    about = {"task": "sequence", "kind": model.kind._asdict(), "recipe": model.recipe._asdict()}
    if model.moments is not None:
        about["moments"] = standard.to_json(model.moments)
    return checkpoint.save(folder, model.params, about)


def load(folder: str | Path) -> Model:
    """Read what `save` wrote; what it refuses is that of `checkpoint.load_model`."""

    def describe(about: dict[str, Any]) -> tuple[Model, Any]:
        recipe, kind = recipes.from_json(about["recipe"]), Kind(**about["kind"])
        checks.one_of("answer", kind.answer, sequencer.ANSWERS)
        moments = standard.from_json(about["moments"]) if recipe.standardise else None
        if moments is not None and len(moments.mean) != kind.inputs:
            raise ValueError(f"moments of {len(moments.mean)} features, and {kind.inputs} inputs")
        shapes = members.shapes(partial(_init, recipe=recipe, kind=kind), recipe)
        return Model(None, recipe, kind, moments), shapes  # type: ignore[arg-type]

    return checkpoint.load_model(folder, "model of sequences", ("sequence",), describe)


def _digits(images, recipe):
    """Pictures as sequences of pixels uint8 [784 / chunk, chunk], and what they show."""
    pixels = images.pixels.reshape(len(images.labels), -1)
    n = pixels.shape[1]
    if n % recipe.chunk:
        raise ValueError(f"chunk should divide the {n} pixels of a picture, got {recipe.chunk}")
    if recipe.permute:
        pixels = pixels[:, np.random.default_rng(recipe.permute).permutation(n)]
    return list(zip(pixels.reshape(len(pixels), -1, recipe.chunk), images.labels.astype(np.int32), strict=True))


def _next_frames(piece):
    """The keys that are down in each frame of a piece but the last, and in the frame after it: bool [T, 88] each."""
    frames = np.zeros((len(piece), KEYS), bool)
    for row, pitches in zip(frames, piece, strict=True):
        keys = np.asarray(pitches, int) - LOWEST
        if ((keys < 0) | (keys >= KEYS)).any():
            raise ValueError(f"pitches should lie in [{LOWEST}, {LOWEST + KEYS}), got {pitches}")
        row[keys] = True
    return frames[:-1], frames[1:]


def _pairs(columns):
    return list(zip(*columns, strict=True))


def _known(training):
    """Records to learn about the data from: all, or some of those that are drawn."""
    return _pairs(training.held("train", HELD)) if isinstance(training, Drawn) else training


def _task(training, dev, recipe):
    """A model without params, and its records made ready for training."""
    if recipe.bidirectional:
        raise ValueError("bidirectional should be False for sequences, which are read as they come")
    kind = kind_of(_known(training))
    check(dev, kind, "the dev data")
    if recipe.transpose and (kind.answer != "keys" or kind.inputs != kind.outputs):
        raise ValueError(f"transpose is for the same keys in x and target, got {kind.say()}")
    model = Model(None, recipe, kind, _moments(training, recipe, kind))  # type: ignore[arg-type]
    xs, targets = zip(*dev, strict=True)

    def evaluate(params):
        found = measured(kind, _answers(params, xs, model), targets)
        loss = found.pop("squared_error" if kind.answer == "number" else "nll")
        return {"dev_loss": loss} | {f"dev_{name}": value for name, value in found.items()}

    task = members.Task(
        recipe,
        _drawn_batches(training, model) if isinstance(training, Drawn) else _batches(training, model),
        partial(_init, recipe=recipe, kind=kind),
        lambda params, batch, key, recipe: sequencer.loss(params, batch, key, options=_options(recipe, kind)),
        evaluate,
        "dev_accuracy" if kind.answer == "class" else "dev_loss",
        lambda batch: int(batch.xs.shape[0] * batch.xs.shape[1] if batch.lengths is None else batch.lengths.sum()),
        None,
        _fingerprint(training, dev),
    )
    return model, task


def _moments(training, recipe, kind):
    """What is known of the features, where the recipe standardises."""
    if not recipe.standardise:
        return None
    if kind.symbols:
        raise ValueError(f"standardise is for features, got {kind.say()}")
    return standard.moments([_plain(x) for x, _ in _known(training)])


def _drawn_batches(training, model):
    """Epoch -> batches that are drawn when they are asked for."""
    recipe = model.recipe
    size, n = recipe.batch_size, len(training) // recipe.batch_size
    if not n:
        raise ValueError(f"an epoch of {len(training)} sequences has no batch of {size}: give more of them (drawn)")
    ones = np.ones(size, np.float32)

    def batch(epoch, k):
        xs, targets = training.batch(epoch, k, size)
        return sequencer.Batch(_features(xs, model), None, targets, ones)

    return lambda epoch: Epoch(range(n), partial(batch, epoch))


def _batches(training, model):
    """Epoch -> batches of sequences of like length; pieces of music are moved up or down, each anew in every epoch."""
    recipe, kind = model.recipe, model.kind
    how = dict(batch_size=recipe.batch_size, buckets=recipe.buckets, seed=recipe.order)
    order = Batches([len(x) for x, _ in training], lambda bucket: bucket, **how)
    whole = len({len(x) for x, _ in training}) == 1

    def batch(epoch, bucket):
        rows = [training[row] for row in bucket.rows]
        if recipe.transpose:
            places = [(recipe.order, epoch, row) for row in bucket.rows]
            rows = [_moved(one, place, recipe.transpose) for one, place in zip(rows, places, strict=True)]
        xs, targets = zip(*rows, strict=True)
        padded, lengths = _filled([_features(x, model) for x in xs], bucket.length, recipe.batch_size)
        weights = (np.arange(recipe.batch_size) < len(rows)).astype(np.float32)
        if kind.answer in sequencer.AT_END:
            dtype = np.float32 if kind.answer == "number" else np.int32
            said = np.zeros(recipe.batch_size, dtype)
            said[: len(rows)] = targets
        else:
            said, _ = _filled(targets, bucket.length, recipe.batch_size)
        return sequencer.Batch(padded, None if whole else lengths, said, weights)

    return lambda epoch: Epoch(order(epoch).cut, partial(batch, epoch))


def _moved(record, place, most):
    """A piece moved by as many semitones as are drawn for its place, as far as the keys go."""
    x, target = record
    down = np.flatnonzero((x != 0).any(0) | target.any(0))
    if not len(down):
        return record
    low, high = max(-most, -int(down[0])), min(most, x.shape[1] - 1 - int(down[-1]))
    by = int(np.random.default_rng(place).integers(low, high + 1))
    return np.roll(x, by, 1), np.roll(target, by, 1)


def _features(x, model):
    """A sequence, or a batch of them, as the recipe wants its features."""
    x = _plain(x)
    return x if model.moments is None else standard.standardise(x, model.moments).astype(np.float32)


def _plain(x):
    """A sequence whose bytes, if they are features, stand for n / 255."""
    x = np.asarray(x)
    return x / np.float32(255) if x.dtype == np.uint8 and x.ndim > 1 else x


def _filled(sequences, length, size):
    """Sequences as one array [size, length, ...], padded with zeros, and their lengths: of symbols and classes int32,
    of all else float32."""
    first = np.asarray(sequences[0])
    dtype = np.int32 if first.ndim == 1 else np.float32
    found, lengths = np.zeros((size, length, *first.shape[1:]), dtype), np.zeros(size, np.int32)
    for row, sequence in enumerate(sequences):
        found[row, : len(sequence)] = sequence
        lengths[row] = len(sequence)
    return found, lengths


def _fingerprint(*parts):
    """What tells one set of records from another."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Drawn):
            digest.update(repr(part).encode())
            continue
        for x, target in part:
            for array in map(np.asarray, (x, target)):
                digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def _answers(params, xs, model):
    """Of k models, the answer to each of N sequences: N arrays [k, ...]."""
    lengths = [len(x) for x in xs]
    size = min(256, 2 ** max(len(xs) - 1, 0).bit_length())
    whole, answers = model.kind.answer in sequencer.AT_END, [np.zeros(0)] * len(xs)
    for bucket in text.bucket(lengths, size, text.bounds(lengths, model.recipe.buckets, size)) if lengths else ():
        batch = _filled([_features(xs[row], model) for row in bucket.rows], bucket.length, size)
        found = np.asarray(_predict(params, *batch, options=_options(model.recipe, model.kind)))
        for n, row in enumerate(bucket.rows):
            answers[row] = found[:, n] if whole else found[:, n, : lengths[row]]
    return answers


@partial(jax.jit, static_argnames="options")
def _predict(params, xs, lengths, options):
    """The mean of the members' answers, of each of k models."""
    return members.mean_over(partial(sequencer.predict, options=options), params, xs, lengths)


def _options(recipe, kind):
    return sequencer.Options(kind.answer, recipe.dropout, recipe.recurrent, recipe.variational, recipe.smoothing)


def _init(key, *, recipe, kind):
    return sequencer.init(
        key,
        kind.inputs,
        kind.outputs,
        hidden=recipe.hidden,
        cell=recipe.cell,
        forget_bias=recipe.forget_bias,
        chrono=recipe.chrono or None,
        input_gain=recipe.input_gain,
    )
