"""Words in, a tag for each out: slots, names and other spans; or the roles of a predicate, and where predicates are.

Spans are BIO tags. A record whose tags are the roles of one predicate says which word that is. A model of roles
(`Recipe.reach` above 0) learns from the same sentences with no predicate marked, too, where the tags are V at all their
predicates: so it finds these.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstmjax import checkpoint, checks, crf, members, spans, tagged, text, train
from lstmjax import recipe as recipes
from lstmjax.models import tagger
from lstmjax.packing import Packs, in_order
from lstmjax.reader import Reader
from lstmjax.recipe import Recipe as Recipe
from lstmjax.recipe import checked
from lstmjax.spans import Span
from lstmjax.tagged import Record as Record
from lstmjax.tagged import frames as frames
from lstmjax.tagged import read as read

AT_MOST = 64  # sequences of tags that are asked for at once


class Frame(NamedTuple):
    """A predicate of a sentence, and who does what to whom."""

    predicate: int  # its place in the sentence
    roles: tuple[Span, ...]  # without the predicate, from the left


class Model(NamedTuple):
    """A trained tagger."""

    params: tagger.Params  # each weight with a leading axis of the recipe's members
    recipe: Recipe
    reader: Reader
    tags: tuple[str, ...]


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
    """Train a tagger; the epoch that is best on dev is kept: by the F1 of spans, or of the roles of given predicates.

    Args:
      training, dev: records.
      recipe: see `Recipe`; None is `Recipe()`.
      watch, snapshots, save_every, resume, mesh: as in `train.fit`. A run goes on only with the recipe and the records
        that it began with.

    Returns:
      The model and the history.

    Raises:
      ValueError: no records, tags that are no BIO, predicates without `reach` or the other way round, or a recipe that
        makes no sense; it names what. What `train.fit` raises.
    """
    recipe = _checked(recipe or Recipe())
    model, task = _task(training, dev, recipe, members.parts(recipe, mesh))
    fitted = members.fit(task, watch=watch, snapshots=snapshots, save_every=save_every, resume=resume, mesh=mesh)
    return model._replace(params=fitted.params), fitted


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
    """Train k taggers side by side, as `classify.sweep` does classifiers."""
    each = [_checked(one) for one in members.recipes_of(recipe or Recipe(), settings)]
    model, task = _task(training, dev, _checked(recipe or Recipe()))
    swept = members.sweep(task, settings, watch=watch, snapshots=snapshots, resume=resume, mesh=mesh)
    return members.models_of(model, task, swept, each), swept


def predict(
    model: Model, sequences: Sequence[Sequence[str]], predicates: Sequence[int] | None = None
) -> list[tuple[str, ...]]:
    """The tags of each sequence of words.

    Args:
      sequences: of words that are cut already.
      predicates: of a model of roles, the word of each sequence that is its predicate; -1 asks where predicates are.
        None is -1 for all.

    Returns:
      As many tags as words, for each sequence.

    Raises:
      TypeError: sequences of something else. ValueError: a predicate that is no word of its sequence, or predicates for
        a model without.
    """
    for words in sequences:
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise TypeError(f"sequences should hold sequences of words, got {words!r}"[:200])
    if predicates is None:
        predicates = [-1] * len(sequences)
    elif not model.recipe.reach:
        raise ValueError("predicates are for a model of roles, and the reach of this one is 0")
    if len(predicates) != len(sequences):
        raise ValueError(f"predicates should be one a sequence, {len(sequences)}, got {len(predicates)}")
    for words, predicate in zip(sequences, predicates, strict=True):
        checks.whole("predicates", predicate)
        if not -1 <= predicate < len(words):
            raise ValueError(f"predicates should be words of their sequences, or -1, got {predicate} of {len(words)}")
    records = [Record(tuple(words), (), predicate) for words, predicate in zip(sequences, predicates, strict=True)]
    groups = _grouped(records, model.recipe, AT_MOST)
    ids = [model.reader.encode(words) for words in groups.words]
    found = _decode(members.Alone(model.params), ids, groups, len(records), model.recipe, model.tags)[0]
    return [tuple(model.tags[k] for k in row) for row in found]


def roles(model: Model, sequences: Sequence[Sequence[str]]) -> list[list[Frame]]:
    """The predicates of each sequence of words, and their roles.

    Raises:
      TypeError: as `predict`. ValueError: a model without predicates.
    """
    if not model.recipe.reach:
        raise ValueError("roles needs a model that knows predicates, and the reach of this one is 0")
    where = [[one.start for one in spans.spans_of(tags) if one.label == "V"] for tags in predict(model, sequences)]
    asked = [(n, p) for n, places in enumerate(where) for p in places]
    tags = predict(model, [sequences[n] for n, _ in asked], [p for _, p in asked])
    found: list[list[Frame]] = [[] for _ in sequences]
    for (n, p), row in zip(asked, tags, strict=True):
        found[n].append(Frame(p, tuple(one for one in spans.spans_of(row) if one.label != "V")))
    return found


def evaluate(model: Model, records: Sequence[Record]) -> dict[str, Any]:
    """How good a model is on records.

    Precision, recall and F1 of spans, F1 by label, and the share of tags that are right. Of roles, these are of the
    arguments of given predicates as the script of CoNLL-2005 counts them (`spans.arguments_of`), and `predicate_f1` is
    of the predicates themselves, in records in which none is marked, if there are such.

    Raises:
      ValueError: no records, or predicates of a model without.
    """
    tagged.check(records, model.recipe.reach, "the data")
    predicates = [record.predicate for record in records]
    found = predict(model, [record.words for record in records], predicates if model.recipe.reach else None)
    return measured(found, records, model.recipe)


def measured(found: Sequence[Sequence[str]], records: Sequence[Record], recipe: Recipe) -> dict[str, Any]:
    """What `evaluate` says of the tags that were found for records."""
    of_roles = bool(recipe.reach)
    asked = [n for n, record in enumerate(records) if not of_roles or record.predicate >= 0]
    things = spans.arguments_of if of_roles else spans.spans_of
    scores = spans.score((things(found[n]) for n in asked), (things(records[n].tags) for n in asked))
    same = [a == b for n in asked for a, b in zip(found[n], records[n].tags, strict=True)]
    total = scores.pop("")
    values: dict[str, Any] = {
        "records": len(asked),
        "precision": total.precision,
        "recall": total.recall,
        "span_f1": total.f1,
        "tag_accuracy": float(np.mean(same)) if same else 0.0,
    }
    if of_roles:
        rest = [n for n, record in enumerate(records) if record.predicate < 0]
        if rest:
            predicates = spans.score(
                *([spans.spans_of(tags[n]) for n in rest] for tags in (found, [r.tags for r in records]))
            )
            values["predicate_f1"] = predicates[""].f1
    return values | {"f1": {label: one.f1 for label, one in scores.items()}}


def measure(model: Model) -> str:
    """The key of `evaluate` that a model is compared by."""
    return "span_f1"


def save(model: Model, folder: str | Path) -> Path:
    """Write the model as a folder (see `checkpoint.save`)."""
    about = {
        "task": "roles" if model.recipe.reach else "tag",
        "tags": model.tags,
        "recipe": model.recipe._asdict(),
        "reader": model.reader.to_json(),
    }
    return checkpoint.save(folder, model.params, about)


def load(folder: str | Path) -> Model:
    """Read what `save` wrote; what it refuses is that of `checkpoint.load_model`."""

    def describe(about: dict[str, Any]) -> tuple[Model, Any]:
        recipe, read = recipes.from_json(about["recipe"]), Reader.from_json(about["reader"])
        tags = tuple(about["tags"])
        init = partial(_init, recipe=recipe, vocabulary=read.size, tags=len(tags))
        return Model(None, recipe, read, tags), members.shapes(init, recipe)  # type: ignore[arg-type]

    return checkpoint.load_model(folder, "tagger", ("tag", "roles"), describe)


def _checked(recipe):
    """A recipe that makes sense for a tagger."""
    checked(recipe)
    if recipe.best == "loss":
        raise ValueError('best should be "measure": a tagger is chosen by its F1 on dev, and has no loss there')
    if recipe.smoothing:
        raise ValueError(
            f"smoothing should be 0: a chain of tags has no single label to smooth, got {recipe.smoothing}"
        )
    if recipe.tokens != "words":
        raise ValueError(f'tokens should be "words", since every word has a tag, got {recipe.tokens!r}')
    return recipe


def _task(training, dev, recipe, parts=1):
    """A model without params, and its records made ready for training, on so many devices."""
    tagged.check(training, recipe.reach, "the training data")
    tagged.check(dev, recipe.reach, "the dev data")
    tags = tuple(sorted({tag for record in training for tag in record.tags} | {"O"}))
    groups = _grouped(training, recipe, recipe.batch_size)
    normal = ([text.normalise(word) for word in words] for words in dict.fromkeys(groups.words))
    vocabulary = text.Vocabulary.count(normal, size=recipe.vocabulary, min_count=recipe.min_count)
    read = Reader(vocabulary, pieces=recipe.pieces)
    recipe, known = members.known_vectors(recipe, read)
    index = {tag: k for k, tag in enumerate(tags)}
    targets = [np.array([index[tag] for tag in record.tags], np.int32) for record in training]
    ids = [read.encode(words) for words in groups.words]
    held = _grouped(dev, recipe, AT_MOST)
    held_ids = [read.encode(words) for words in held.words]

    def batch(pack):
        shown, rows = _batch(ids, groups, pack)
        weights = np.zeros(pack.asked, np.float32)
        weights[: len(rows)] = 1
        there = text.pad([targets[row] for row in rows] + [targets[0][:0]] * (pack.asked - len(rows)), pack.length)[0]
        return tagger.Batch(shown.ids, shown.lengths, shown.predicates, there, weights, shown.sentences)

    def measures(params):
        found = _decode(params, held_ids, held, len(dev), recipe, tags)
        named = ([tuple(tags[k] for k in row) for row in one] for one in found)
        rows = [measured(one, dev, recipe) for one in named]
        names = ("tag_accuracy", "span_f1", *(("predicate_f1",) if recipe.reach else ()))
        return {f"dev_{name}": np.array([row[name] for row in rows]) for name in names if name in rows[0]}

    task = members.Task(
        recipe,
        Packs(
            [len(words) for words in groups.words],
            [len(rows) for rows in groups.rows],
            batch,
            batch_size=recipe.batch_size,
            buckets=recipe.buckets,
            seed=recipe.order,
            parts=parts,
        ),
        partial(_init, recipe=recipe, vocabulary=read.size, tags=len(tags)),
        partial(_loss, tags=tags),
        measures,
        "dev_span_f1",
        lambda batch: int(tagger.lengths_of(batch.lengths, batch.sentences)[batch.weights > 0].sum()),
        known,
        members.fingerprint(training, dev),
        apart=True,  # under vmap the chain would do each step both ways (`crf.log_partition`)
    )
    return Model(None, recipe, read, tags), task  # type: ignore[arg-type]


class _Grouped(NamedTuple):
    """Sentences, and what is asked of each: the roles of its predicates, and where these are."""

    words: list[tuple[str, ...]]
    rows: list[list[int]]  # records
    predicates: np.ndarray  # int32, of each record
    several: bool  # False: one record each, and no predicates


def _grouped(records, recipe, at_most):
    """Records by their sentences, of each at most so many at once; one by one where there are no predicates."""
    predicates = np.array([record.predicate for record in records], np.int32)
    if not recipe.reach:
        return _Grouped([record.words for record in records], [[n] for n in range(len(records))], predicates, False)
    rows: dict[tuple[str, ...], list[int]] = {}
    for n, record in enumerate(records):
        rows.setdefault(tuple(record.words), []).append(n)
    parts = [(words, of[k : k + at_most]) for words, of in rows.items() for k in range(0, len(of), at_most)]
    return _Grouped([words for words, _ in parts], [of for _, of in parts], predicates, True)


class _Shown(NamedTuple):
    """What a model is shown of a batch."""

    ids: np.ndarray
    lengths: np.ndarray
    predicates: np.ndarray | None
    sentences: np.ndarray | None


def _batch(ids, groups, pack):
    """A batch of sentences as the model wants it, and the records that its rows of tags are of."""
    held = [ids[k] for k in pack.rows]
    shown, lengths = text.pad(held + [held[0][:0]] * (pack.sequences - len(held)), pack.length)
    rows = [row for k in pack.rows for row in groups.rows[k]]
    predicates, sentences = np.full(pack.asked, -1, np.int32), np.zeros(pack.asked, np.int32)
    predicates[: len(rows)] = groups.predicates[rows]
    sentences[: len(rows)] = np.repeat(np.arange(len(pack.rows)), [len(groups.rows[k]) for k in pack.rows])
    return _Shown(shown, lengths, predicates, sentences if groups.several else None), rows


def _decode(params, ids, groups, records, recipe, tags):
    """Of k models, whose leaves have a leading axis: the tags int [T_n] of each of so many records, k lists of them."""
    models = members.apart(params)
    found: list[list] = [[np.zeros(0, np.int32)] * records for _ in models]
    options = _options(recipe)
    for pack in in_order([len(s) for s in ids], [len(rows) for rows in groups.rows], AT_MOST):
        shown, rows = _batch(ids, groups, pack)
        given = shown if groups.several else shown._replace(predicates=None)
        lengths = tagger.lengths_of(shown.lengths, shown.sentences)
        for row, one in enumerate(models):
            best = np.asarray(_best(one, *given, options=options, tags=tags))
            for n, path, length in zip(rows, best, lengths, strict=False):
                found[row][n] = path[:length]
    return found


@partial(jax.jit, static_argnames=("options", "tags"))
def _best(params, ids, lengths, predicates, sentences, options, tags):
    """The likeliest tags [B, T] by the mean of the members' scores, of words and of tags beside each other."""

    def of(one):
        return tagger.emissions(one, ids, lengths, predicates, options, sentences=sentences)

    scores = jax.vmap(of)(params).mean(0)
    chain = tagger.chain(jax.tree.map(lambda a: a.mean(0), params), _allowed(tags))
    return jnp.swapaxes(crf.viterbi(chain, scores, tagger.lengths_of(lengths, sentences))[0], 0, 1)


def _loss(params, batch, key, recipe, *, tags):
    return tagger.loss(params, batch, key, allowed=_allowed(tags), options=_options(recipe))


def _options(recipe):
    directions = "both" if recipe.bidirectional else "alternating"
    return tagger.Options(directions, recipe.dropout, recipe.word_dropout, recipe.recurrent)


@lru_cache(8)
def _allowed(tags):
    return crf.bio(tags)


def _init(key, *, recipe, vocabulary, tags):
    return tagger.init(
        key,
        vocabulary,
        tags,
        embedding=recipe.embedding,
        hidden=recipe.hidden,
        directions=_options(recipe).directions,
        cell=recipe.cell,
        highway=recipe.highway,
        reach=recipe.reach,
        above=recipe.above,
    )
