"""A sequence classifier: embedding, recurrent layers, pooling, a linear head.

Written for one sequence and batched with `jax.vmap`; the fused backend folds the mapped axis into its batch, so this
costs no more than batching by hand.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks
from lstmjax.layers import Linear, check_ids, init_embedding, init_linear, linear
from lstmjax.losses import binary_cross_entropy, cross_entropy
from lstmjax.models import bag, encoder
from lstmjax.models.bag import Bag
from lstmjax.models.encoder import CELLS as CELLS
from lstmjax.models.encoder import POOLINGS as POOLINGS
from lstmjax.models.encoder import Options as Options

Array = jax.Array


class Params(NamedTuple):
    """Weights of a classifier of V words and K classes."""

    embedding: Array  # [V, E]
    layers: tuple  # layers or Bidirectional pairs, from E features to H
    head: Linear  # [H, K]
    query: Array | None = None  # [H], for attention pooling
    bag: Bag | None = None  # a linear model of the words without their order, beside


class Batch(NamedTuple):
    """A padded batch of labelled sequences."""

    ids: Any  # int [B, T], or [B, T, F] as in `encoder.lookup`; all four jax or NumPy arrays
    lengths: Any  # int [B]
    labels: Any  # int [B]; or float [B, K], 1 for each of the labels that a sequence has, of which it may have several
    weights: Any  # float [B]; 0 leaves a row out, 1 counts it


def init(
    key: Array,
    vocabulary: int,
    classes: int,
    *,
    embedding: int = 64,
    hidden: int | tuple[int, ...] = 64,
    bidirectional: bool = True,
    cell: str = "lstm",
    pooling: str = "max",
    words: int = 0,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Draw the weights.

    Args:
      key: PRNG key.
      vocabulary: V, padding (id 0) included.
      classes: K.
      embedding: E, features of a word.
      hidden: units of each layer, and of each direction.
      bidirectional: whether each layer is a pair of directions.
      cell: "lstm", "gru" or "rnn".
      pooling: as it will be in `Options`: "attention" has weights of its own, and several together a wider head.
      words: if not 0, a linear model of the words without their order stands beside (`apply`), of the ids below this;
        it begins with zeros, and `bag.fit` finds its weights.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> params = init(jax.random.key(0), vocabulary=100, classes=2, embedding=8, hidden=(16, 16))
    >>> params.head.w.shape
    (32, 2)
    """
    parts = encoder.check_pooling("pooling", pooling)
    checks.key("key", key)
    classes, embedding = checks.size("classes", classes), checks.size("embedding", embedding)
    k_embedding, k_head, k_query, *k_layers = jax.random.split(key, 3 + len(encoder.widths_of(hidden)))
    layers, features = encoder.init_layers(
        k_layers, embedding, hidden, bidirectional=bidirectional, cell=cell, dtype=dtype
    )
    return Params(
        init_embedding(k_embedding, vocabulary, embedding, dtype),
        layers,
        init_linear(k_head, encoder.pooled_features(pooling, features, embedding), classes, dtype),
        jax.random.normal(k_query, (features,), dtype) * features**-0.5 if "attention" in parts else None,
        bag.init(words, classes, dtype) if checks.size("words", words, least=0) else None,
    )


def encode(
    params: Params, ids: Array, length: Array, options: Options = Options(), key: Array | None = None, **how: Any
) -> Array:
    """One sequence as a vector.

    Args:
      ids: int [T], or [T, F] as in `encoder.lookup`.
      length: int scalar, the words before padding.
      options: pooling, and dropout if there is a key.
      key: PRNG key; None is deterministic.
      how: `backend` and `compute_dtype` for `run`.

    Returns:
      [H] of the last layer, both directions side by side. An empty sequence gives zeros.

    >>> params = init(jax.random.key(0), 100, 2, hidden=16)
    >>> encode(params, jnp.array([5, 7, 0]), jnp.array(2)).shape
    (32,)
    """
    return encoder.encode(params.embedding, params.layers, params.query, ids, length, options, key, **how)


def apply(
    params: Params, ids: Array, lengths: Array, options: Options = Options(), key: Array | None = None, **how: Any
) -> Array:
    """The logits of a batch of sequences.

        W encode(ids) + b;   with a linear part the mean of that and of `bag.logits` of the words

    Args:
      ids: int [B, T], padded with anything in [0, V); or [B, T, F].
      lengths: int [B].
      options, key, how: as in `encode`.

    Returns:
      [B, K].

    Raises:
      TypeError, ValueError: ids or lengths of another shape, dtype or range; a rate or pooling that is none.

    >>> params = init(jax.random.key(0), 100, 2)
    >>> apply(params, jnp.array([[5, 7, 0], [8, 0, 0]]), jnp.array([2, 1])).shape
    (2, 2)
    """
    parts = _logits(params, ids, lengths, options, key, **how)
    return parts[0] if len(parts) == 1 else (parts[0] + parts[1]) / 2


def loss(params: Params, batch: Batch, key: Array | None = None, *, options: Options = Options(), **how: Any) -> Array:
    """The mean cross-entropy of a batch, by its weights; dropout if there is a key.

    With a linear part it is the mean of that of each part, so that neither leans on the other: they are two models
    whose logits are averaged, and not one as in Cheng et al. 2016, section 3.

    Where a sequence may have several labels, the sum over the K labels of the cross-entropy of each, without smoothing.

    >>> params = init(jax.random.key(0), 100, 2)
    >>> batch = Batch(jnp.array([[5, 7]]), jnp.array([2]), jnp.array([1]), jnp.ones(1))
    >>> loss(params, batch).shape
    ()
    """
    parts = _logits(params, batch.ids, batch.lengths, options, key, **how)
    losses = [_cross_entropy(logits, batch, options.smoothing) for logits in parts]
    return losses[0] if len(losses) == 1 else (losses[0] + losses[1]) / 2


def predict(
    params: Params, ids: Array, lengths: Array, options: Options = Options(), *, several: bool = False, **how: Any
) -> Array:
    """The probabilities of the classes, [B, K]; they sum to 1, but if `several` may hold at once.

    >>> params = init(jax.random.key(0), 100, 2)
    >>> float(predict(params, jnp.array([[5, 7]]), jnp.array([2])).sum().round(3))
    1.0
    """
    logits = apply(params, ids, lengths, options, **how)
    return jax.nn.sigmoid(logits) if several else jax.nn.softmax(logits)


def _logits(params, ids, lengths, options, key, **how):
    """[B, K] of the LSTM and, if there is one, of the linear part."""
    _check(params, ids, lengths, options)
    if key is not None:
        checks.key("key", key)

    def one(ids, length, key):
        return encode(params, ids, length, options, key, **how)

    # Time first before the words are looked up, so that the core has its layout without moving [B, T, E] about.
    if key is None:
        encoded = jax.vmap(partial(one, key=None), (1, 0))(jnp.swapaxes(ids, 0, 1), lengths)
    else:
        encoded = jax.vmap(one, (1, 0, 0))(jnp.swapaxes(ids, 0, 1), lengths, jax.random.split(key, len(ids)))
    logits = linear(params.head, encoded)
    if params.bag is None:
        return (logits,)
    words = ids if ids.ndim == 2 else ids[..., 0]
    return logits, jax.vmap(partial(bag.logits, params.bag))(words, lengths)


def _cross_entropy(logits, batch, smoothing):
    if jnp.ndim(batch.labels) == 2:
        weights = jnp.broadcast_to(jnp.asarray(batch.weights)[:, None], logits.shape)
        return binary_cross_entropy(logits, batch.labels, weights) * logits.shape[1]
    return cross_entropy(logits, batch.labels, batch.weights, smoothing=smoothing)


def _check(params, ids, lengths, options):
    encoder.check_options(options, params.query)
    check_ids("ids", ids, len(params.embedding))
    if ids.ndim not in (2, 3):
        raise ValueError(f"ids should be [B, T] or [B, T, F], got shape {ids.shape}")
    checks.lengths("lengths", lengths, ids.shape[:1], ids.shape[1])
