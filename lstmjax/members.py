"""Models trained side by side by `vmap`, whose predictions are averaged: what the tasks have in common."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from lstmjax import checks, text, train, vectors
from lstmjax.reader import Reader
from lstmjax.recipe import SWEPT, Recipe, checked


class Task(NamedTuple):
    """Records made ready for training, and the model that learns them."""

    recipe: Recipe
    batches: Callable[[int], Sequence[Any]]  # of an epoch, as `train.fit` wants them
    init: Callable[[jax.Array], Any]  # key -> params of one member; with a leaf `embedding` [V, E] if there is `known`
    loss: Callable[[Any, Any, jax.Array, Recipe], jax.Array]  # of one member: params, batch, key, recipe
    evaluate: Callable[[Any], dict[str, np.ndarray]]  # params of k models -> measures on the dev data, [k] each
    measure: str  # the one on the dev data that says which epoch is best
    tokens: Callable[[Any], int]  # words in a batch
    known: tuple[np.ndarray, np.ndarray] | None  # words that begin with vectors from a file: their ids and vectors
    records: str  # what tells these records from others
    apart: bool = False  # whether members are run one after the other, since a batch of models costs the model more


def known_vectors(recipe: Recipe, reader: Reader) -> tuple[Recipe, tuple[np.ndarray, np.ndarray] | None]:
    """The recipe with the width of its file of word vectors, and what that file knows of the reader's words.

    Raises:
      ValueError: a file that knows none of them. What `vectors.read` raises.
    """
    if not recipe.vectors:
        return recipe, None
    vocabulary = reader.vocabulary
    found = vectors.read(recipe.vectors, wanted=vocabulary.words)
    rows, known = vectors.rows_of(found, vocabulary.decode(range(len(vocabulary))))
    if not len(rows):
        raise ValueError(f"{recipe.vectors} has a vector for none of the {len(vocabulary) - 2} words of the data")
    return recipe._replace(embedding=found.array.shape[1]), (rows, known)


def fit(
    task: Task,
    *,
    watch: train.Watch | None = None,
    snapshots: train.Snapshots | None = None,
    save_every: int | None = None,
    resume: bool = False,
    mesh: jax.sharding.Mesh | None = None,
) -> train.Fitted:
    """Train the members of a task as one model; the epoch that is best on the dev data is kept. The devices of `mesh`
    share the members where they divide them, else each batch.

    Raises:
      ValueError: a batch that the devices of `mesh` do not divide, nor the members. What `train.fit` raises.
    """
    recipe = task.recipe
    shared = _shared(recipe, mesh)
    if recipe.batch_size % parts(recipe, mesh):
        raise ValueError(f"batch_size should be one that {parts(recipe, mesh)} devices divide, got {recipe.batch_size}")
    params, key = _begin(task, recipe)

    def evaluate(params):
        if shared is not None:  # a device each would answer all that is asked, with the members of the others
            params = jax.device_put(params, shared.devices.flat[0])
        return {name: value[0] for name, value in task.evaluate(jax.tree.map(lambda a: a[None], params)).items()}

    fitted = train.fit(
        partial(_loss, loss=task.loss, recipe=recipe, apart=task.apart, mesh=shared),
        params,
        _optimizer(task, recipe),
        task.batches,
        key=key,
        epochs=recipe.epochs,
        evaluate=evaluate,
        metric=_metric(task),
        patience=recipe.patience,
        average=recipe.average or None,
        average_after=recipe.average_after or None,
        mesh=mesh,
        models=shared is not None,
        snapshots=snapshots,
        save_every=save_every,
        resume=resume,
        about=_about(task, recipe),
        count=task.tokens,
        watch=watch,
    )
    if shared is None:
        return fitted
    return fitted._replace(params=jax.device_put(fitted.params, shared.devices.flat[0]))


def parts(recipe: Recipe, mesh: jax.sharding.Mesh | None) -> int:
    """Into how many parts, one a device, each batch of a run is split: 1 where the devices share the members."""
    return 1 if mesh is None or _shared(recipe, mesh) is not None else mesh.size


def _shared(recipe, mesh):
    """The mesh, if its devices share the members. Those of several processes never do, since none of these could look
    at all of the members."""
    shares = mesh is not None and mesh.size > 1 and recipe.members % mesh.size == 0 and not mesh.is_multi_process
    return mesh if shares else None


def recipes_of(recipe: Recipe, settings: dict[str, Sequence[float | int]]) -> list[Recipe]:
    """The recipe of each model of a sweep.

    Raises:
      ValueError: a setting that is not in `recipe.SWEPT`, or a value that makes no sense.
    """
    for name in settings:
        checks.one_of("a setting of the sweep", name, SWEPT)
    if recipe.average_after:
        raise ValueError("average_after is of one run, which looks at how it goes: a sweep has average")
    rows = zip(*settings.values(), strict=True)
    return [checked(recipe._replace(**dict(zip(settings, row, strict=True)))) for row in rows]


def sweep(
    task: Task,
    settings: dict[str, Sequence[float | int]],
    *,
    watch: train.Watch | None = None,
    snapshots: train.Snapshots | None = None,
    resume: bool = False,
    mesh: jax.sharding.Mesh | None = None,
) -> train.Swept:
    """Train k models of a task side by side, each as `fit` would but for early stopping; arguments as in
    `train.sweep`."""
    # 0 is a rate, too, and no int as it would be of a seed.
    settings = {
        name: [float(value) for value in values] if isinstance(getattr(task.recipe, name), float) else values
        for name, values in settings.items()
    }

    def of(varied: dict[str, Any]) -> Recipe:
        return task.recipe._replace(**varied)

    return train.sweep(
        lambda params, batch, key, varied: _loss(
            params, batch, key, loss=task.loss, recipe=of(varied), apart=task.apart
        ),
        lambda varied: _begin(task, of(varied)),
        lambda varied: _optimizer(task, of(varied)),
        task.batches,
        settings,
        epochs=task.recipe.epochs,
        evaluate=task.evaluate,
        metric=_metric(task),
        average=task.recipe.average or None,
        mesh=mesh,
        snapshots=snapshots,
        resume=resume,
        about=_about(task, task.recipe),
        count=task.tokens,
        watch=watch,
    )


def models_of(model: Any, task: Task, swept: train.Swept, each: Sequence[Recipe]) -> list[Any]:
    """The models of a sweep, each with its params at its best epoch and its recipe."""
    return [
        model._replace(
            params=jax.tree.map(lambda a, k=k: a[k], swept.params),
            recipe=one._replace(embedding=task.recipe.embedding),  # that of a file of vectors, if there is one
        )
        for k, one in enumerate(each)
    ]


def shapes(init: Callable[[jax.Array], Any], recipe: Recipe) -> Any:
    """The shapes and dtypes of the params of a recipe's members, where `init` makes those of one from a key."""
    return jax.eval_shape(lambda: _draw(init, recipe, jax.random.key(0)))


def beside(params: Any, part: Any) -> Any:
    """Params of members, or of models of members, with the linear part `bag` that was fitted by itself beside each; as
    they are if there is None."""
    if part is None:
        return params
    front = params.head.b.shape[:-1]
    return params._replace(bag=jax.tree.map(lambda a: np.broadcast_to(a, (*front, *a.shape)), part))


def linear_alone(params: Any) -> Any:
    """Params whose answers are those of their linear part, whatever the recurrent one says."""
    head = jax.tree.map(np.zeros_like, params.head)
    part = jax.tree.map(lambda a: 2 * a, params.bag)._replace(rarity=params.bag.rarity)  # of a mean with zeros
    return params._replace(head=head, bag=part)


class Alone(NamedTuple):
    """Params of one model where those of k are expected: the axis is put before them in a compiled program, where it
    costs nothing. By itself it is a copy of every array, which took three quarters of the time of an answer."""

    params: Any


def count(params: Any) -> int:
    """How many models these are the params of."""
    return 1 if isinstance(params, Alone) else len(jax.tree.leaves(params)[0])


def apart(params: Any) -> list[Any]:
    """The params of each of k models."""
    if isinstance(params, Alone):
        return [params.params]
    return [jax.tree.map(lambda a, row=row: a[row], params) for row in range(count(params))]


def mean_over(predict: Callable[..., jax.Array], params: Any, *batch: Any) -> jax.Array:
    """What `predict` gives for a batch, averaged over the members, of each of k models: `params` have the axes k and
    members in front, or are `Alone`."""
    if isinstance(params, Alone):
        params = jax.tree.map(lambda a: a[None], params.params)
    one = jax.vmap(predict, (0, *(None,) * len(batch)))
    return jax.vmap(lambda params: one(params, *batch).mean(0))(params)


def in_batches(
    lengths: Sequence[int], predict: Callable[[text.Bucket, int], Any], shape: tuple[int, ...], at_most: int = 64
) -> np.ndarray:
    """What `predict` gives for each of N texts, [k, N, ...] in the shape [k, ...] each.

    Batches are cut from the texts in the order of their length, so that little is padded; one that is not full is that
    of the shortest. Their width is a power of two, their length one or half as much again (8, 12, 16, 24 ...), so that
    any number of texts of any length meets few shapes, each compiled once.

    Args:
      lengths: of the texts, N.
      predict: a bucket and the size to fill it up to -> [k, size, ...].
      shape: (k, ...).
      at_most: texts in a batch. What a step of several members holds then stays in a CPU's cache; of 256 a step took
        twice the time a text.
    """
    k, *rest = shape
    found = np.zeros((k, len(lengths), *rest), np.float32)
    cut = buckets_of(lengths, at_most)
    # None is waited for before all are asked for: the next batch is padded while one is computed.
    for (bucket, _), given in zip(cut, [predict(*one) for one in cut], strict=True):
        found[:, bucket.rows] = np.asarray(given)[:, : len(bucket.rows)]
    return found


def buckets_of(lengths: Sequence[int], at_most: int = 64) -> list[tuple[text.Bucket, int]]:
    """Texts of these lengths in batches, each with the size to fill it up to: as `in_batches` has them.

    >>> [(bucket.rows.tolist(), bucket.length, size) for bucket, size in buckets_of([3, 12, 5], 2)]
    [([2, 1], 12, 2), ([0], 8, 2)]
    """
    if not len(lengths):
        return []
    bounds = text.ladder(max(lengths))
    size = min(at_most, 2 ** (len(lengths) - 1).bit_length())
    order = np.argsort(lengths, kind="stable")
    rows = [order[max(0, end - size) : end] for end in range(len(order), 0, -size)]
    return [(text.Bucket(each, bounds[np.searchsorted(bounds, lengths[each[-1]])]), size) for each in rows]


def padded(sequences: Sequence[np.ndarray], bucket: text.Bucket, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and lengths of the rows of a bucket, filled up to `size` with empty rows, so that batches have one shape."""
    rows = [sequences[r] for r in bucket.rows]
    return text.pad(rows + [rows[0][:0]] * (size - len(rows)), bucket.length)


def filled(values: np.ndarray, bucket: text.Bucket, size: int) -> np.ndarray:
    """The values of the rows of a bucket, filled up to `size` with zeros."""
    found = np.zeros((size, *values.shape[1:]), values.dtype)
    found[: len(bucket.rows)] = values[bucket.rows]
    return found


def fingerprint(*parts: Sequence[Any]) -> str:
    """What tells one set of records from another."""
    held = json.dumps([list(map(list, part)) for part in parts], default=lambda number: number.item())  # of NumPy
    return hashlib.sha256(held.encode()).hexdigest()[:16]


def optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    """The optimizer of one model, over so many steps: AdamW, whose rate rises over a twentieth of them and falls as a
    cosine, or plain SGD at one rate; behind a bound on the norm of the gradient."""
    bound = optax.clip_by_global_norm(recipe.clip / recipe.members)
    if recipe.optimizer == "sgd":
        return optax.chain(
            bound,
            optax.scale(recipe.members),  # the gradient is that of the mean over members, which Adam does not feel
            optax.add_decayed_weights(recipe.weight_decay),
            optax.scale_by_learning_rate(recipe.learning_rate),
        )
    shape = optax.warmup_cosine_decay_schedule(0, 1, max(1, steps // 20), max(2, steps))
    return optax.chain(
        bound,
        optax.adamw(lambda count: recipe.learning_rate * shape(count), weight_decay=recipe.weight_decay),
    )


def _about(task, recipe):
    """What decides a run, as JSON gives it back."""
    held = recipe._asdict() | {"records": task.records}
    if task.known is not None:  # of a file, whose name does not say what it holds
        held["known_vectors"] = hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in task.known)).hexdigest()[:16]
    return json.loads(json.dumps(held))


def _metric(task):
    return "dev_loss" if task.recipe.best == "loss" else task.measure


def _begin(task, recipe):
    """Params and key of a model with this recipe."""
    k_init, k_train = jax.random.split(jax.random.key(recipe.seed))
    params = _draw(task.init, recipe, k_init)
    if task.known is not None:
        rows, known = task.known
        params = params._replace(embedding=params.embedding.at[:, rows].set(known))
    return params, k_train


def _draw(init, recipe, key):
    """Params of a recipe's members."""
    return jax.vmap(init)(jax.random.split(key, recipe.members))


def _loss(params, batch, key, *, loss, recipe, apart, mesh=None):
    """The mean of the members' losses, each with dropout of its own; with a mesh, its devices share the members."""
    keys = jax.random.split(key, recipe.members)
    each = partial(_losses, loss=loss, recipe=recipe, apart=apart)
    if mesh is not None:
        lead, whole = PartitionSpec(mesh.axis_names[0]), PartitionSpec()
        each = jax.shard_map(each, mesh=mesh, in_specs=(lead, whole, lead), out_specs=lead)
    return each(params, batch, keys).mean()


def _losses(params, batch, keys, *, loss, recipe, apart):
    """The loss of each of some members."""
    if apart or len(keys) == 1:  # an axis of one is not free: XLA copies for the sake of its layout
        rows = (jax.tree.map(lambda a, m=m: a[m], params) for m in range(len(keys)))
        return jnp.stack([loss(one, batch, keys[m], recipe) for m, one in enumerate(rows)])
    return jax.vmap(lambda params, key: loss(params, batch, key, recipe))(params, keys)


def _optimizer(task, recipe):
    """One for each member by itself. Adam does not feel that the mean of the losses makes gradients smaller, but
    the bound on their norm would: it is made smaller with them. Vectors that are not to be tuned stay as they are."""
    one = optimizer(recipe, len(task.batches(0)) * recipe.epochs)
    if task.known is not None and not recipe.tune_vectors:
        frozen = task.known[0]

        def still(updates, params):
            return updates._replace(embedding=updates.embedding.at[frozen].set(0))

        one = optax.chain(one, optax.stateless(still))
    return optax.GradientTransformation(jax.vmap(one.init), jax.vmap(one.update))
