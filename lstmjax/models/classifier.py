"""A sequence classifier: embedding, recurrent layers, pooling, a linear head.

Written for one sequence and batched with `jax.vmap`; the fused backend folds the mapped axis into its batch, so this
costs no more than batching by hand.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks
from lstmjax.cells.gru import init_gru
from lstmjax.cells.lstm import init_lstm
from lstmjax.cells.rnn import init_rnn
from lstmjax.containers import Bidirectional
from lstmjax.layers import Linear, attend, check_ids, dropout, embed, init_embedding, init_linear, linear
from lstmjax.losses import cross_entropy
from lstmjax.sequence import run

Array = jax.Array

CELLS: dict[str, Callable] = {"lstm": init_lstm, "gru": init_gru, "rnn": init_rnn}
POOLINGS = ("last", "mean", "max", "attention")
UNK = 1  # the id that word dropout puts in the place of a word


class Params(NamedTuple):
    """Weights of a classifier of V words and K classes."""

    embedding: Array  # [V, E]
    layers: tuple  # layers or Bidirectional pairs, from E features to H
    head: Linear  # [H, K]
    query: Array | None = None  # [H], for attention pooling


class Batch(NamedTuple):
    """A padded batch of labelled sequences."""

    ids: Any  # int [B, T]; all four jax or NumPy arrays
    lengths: Any  # int [B]
    labels: Any  # int [B]
    weights: Any  # float [B]; 0 leaves a row out, 1 counts it


class Options(NamedTuple):
    """What is not in the weights: how a sequence is pooled, and what is dropped in training (when a key is given)."""

    pooling: str = "max"
    dropout: float = 0.0  # of the embedded words, between layers, and of the pooled vector
    word_dropout: float = 0.0  # of whole words, which become unknown
    smoothing: float = 0.0  # of the labels in the loss


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
      pooling: as it will be in `Options`: "attention" has weights of its own.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> params = init(jax.random.key(0), vocabulary=100, classes=2, embedding=8, hidden=(16, 16))
    >>> params.head.w.shape
    (32, 2)
    """
    checks.one_of("cell", cell, tuple(CELLS))
    checks.one_of("pooling", pooling, POOLINGS)
    widths = hidden if isinstance(hidden, tuple | list) else (hidden,)
    if not widths:
        raise ValueError("hidden should hold the width of at least one layer, got ()")
    checks.key("key", key)
    for width in widths:
        checks.size("hidden", width)
    classes = checks.size("classes", classes)
    k_embedding, k_head, k_query, *k_layers = jax.random.split(key, 3 + len(widths))
    layers, features = [], checks.size("embedding", embedding)
    for k, width in zip(k_layers, widths, strict=True):
        draw: Callable = partial(CELLS[cell], inputs=features, hidden=width, dtype=dtype)
        layers.append(Bidirectional(*map(draw, jax.random.split(k))) if bidirectional else draw(k))
        features = 2 * width if bidirectional else width
    return Params(
        init_embedding(k_embedding, vocabulary, embedding, dtype),
        tuple(layers),
        init_linear(k_head, features, classes, dtype),
        jax.random.normal(k_query, (features,), dtype) * features**-0.5 if pooling == "attention" else None,
    )


def encode(
    params: Params, ids: Array, length: Array, options: Options = Options(), key: Array | None = None, **how: Any
) -> Array:
    """One sequence as a vector.

    Args:
      ids: int [T].
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
    k_words, k_in, k_out, *k_between = [None] * (3 + len(params.layers))
    if key is not None:
        k_words, k_in, k_out, *k_between = jax.random.split(key, 3 + len(params.layers))
        ids = jnp.where(jax.random.bernoulli(k_words, options.word_dropout, ids.shape), UNK, ids)
    xs = dropout(k_in, options.dropout, embed(params.embedding, ids))
    for k, layer in enumerate(params.layers):
        if k > 0:
            xs = dropout(k_between[k], options.dropout, xs)
        state, xs = run(layer, xs, lengths=length, **how)
    return dropout(k_out, options.dropout, _pool(params.query, options.pooling, xs, state, length))


def apply(
    params: Params, ids: Array, lengths: Array, options: Options = Options(), key: Array | None = None, **how: Any
) -> Array:
    """The logits of a batch of sequences.

    Args:
      ids: int [B, T], padded with anything in [0, V).
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
    _check(params, ids, lengths, options)
    if key is not None:
        checks.key("key", key)

    def one(ids, length, key):
        return encode(params, ids, length, options, key, **how)

    # Time first before the words are looked up, so that the core has its layout without moving [B, T, E] about.
    if key is None:
        encoded = jax.vmap(partial(one, key=None), (1, 0))(ids.T, lengths)
    else:
        encoded = jax.vmap(one, (1, 0, 0))(ids.T, lengths, jax.random.split(key, len(ids)))
    return linear(params.head, encoded)


def loss(params: Params, batch: Batch, key: Array | None = None, *, options: Options = Options(), **how: Any) -> Array:
    """The mean cross-entropy of a batch, by its weights; dropout if there is a key.

    >>> params = init(jax.random.key(0), 100, 2)
    >>> batch = Batch(jnp.array([[5, 7]]), jnp.array([2]), jnp.array([1]), jnp.ones(1))
    >>> loss(params, batch).shape
    ()
    """
    logits = apply(params, batch.ids, batch.lengths, options, key, **how)
    return cross_entropy(logits, batch.labels, batch.weights, smoothing=options.smoothing)


def predict(params: Params, ids: Array, lengths: Array, options: Options = Options(), **how: Any) -> Array:
    """The probabilities of the classes, [B, K].

    >>> params = init(jax.random.key(0), 100, 2)
    >>> float(predict(params, jnp.array([[5, 7]]), jnp.array([2])).sum().round(3))
    1.0
    """
    return jax.nn.softmax(apply(params, ids, lengths, options, **how))


def _pool(query, pooling, xs, state, length):
    """The outputs [T, H] of the last layer as one vector [H]; zeros for an empty sequence."""
    if pooling == "last":
        ends = (state.forward.h, state.backward.h) if isinstance(state, Bidirectional) else (state.h,)
        return jnp.concatenate(ends).astype(xs.dtype)
    valid = jnp.arange(len(xs), dtype=length.dtype) < length
    if pooling == "attention":
        return attend(query, xs, valid)[0]
    if pooling == "mean":
        return xs.sum(0) / jnp.maximum(length, 1).astype(xs.dtype)
    lowest = jnp.where(valid[:, None], xs, -jnp.inf).max(0, initial=-jnp.inf)
    return jnp.where(length > 0, lowest, 0)


def _check(params, ids, lengths, options):
    checks.one_of("options.pooling", options.pooling, POOLINGS)
    if (options.pooling == "attention") != (params.query is not None):
        has = "a query" if params.query is not None else "no query"
        raise ValueError(f"options.pooling is {options.pooling!r}, but params have {has}: give init the same pooling")
    checks.rate("options.dropout", options.dropout)
    checks.rate("options.word_dropout", options.word_dropout)
    check_ids("ids", ids, len(params.embedding))
    if ids.ndim != 2:
        raise ValueError(f"ids should be [B, T], got shape {ids.shape}")
    checks.lengths("lengths", lengths, ids.shape[:1], ids.shape[1])
