"""Words to vectors, for the models of texts: embedding, recurrent layers, pooling. Written for one sequence."""

from collections.abc import Callable, Sequence
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
from lstmjax.layers import attend, dropout, embed
from lstmjax.sequence import run

Array = jax.Array

CELLS: dict[str, Callable] = {"lstm": init_lstm, "gru": init_gru, "rnn": init_rnn}
POOLINGS = ("last", "mean", "max", "attention")
UNK = 1  # the id that word dropout puts in the place of a word


class Options(NamedTuple):
    """What is not in the weights: how a sequence is pooled, and what is dropped in training (when a key is given)."""

    pooling: str = "max"
    dropout: float = 0.0  # of the embedded words, between layers, and of the pooled vector
    word_dropout: float = 0.0  # of whole words, which become unknown
    smoothing: float = 0.0  # of the labels in the loss


def init_layers(
    keys: Sequence[Array] | Array,
    inputs: int,
    hidden: int | tuple[int, ...],
    *,
    bidirectional: bool = True,
    cell: str = "lstm",
    dtype: DTypeLike = jnp.float32,
) -> tuple[tuple, int]:
    """A stack of recurrent layers, and the features that it gives.

    Args:
      keys: a PRNG key for each layer.
      inputs: features of a step.
      hidden: units of each layer, and of each direction.
      bidirectional: whether each layer is a pair of directions.
      cell: "lstm", "gru" or "rnn".

    Raises:
      TypeError, ValueError: naming the argument.

    >>> layers, features = init_layers(jax.random.split(jax.random.key(0)), 8, (16, 16))
    >>> len(layers), features
    (2, 32)
    """
    checks.one_of("cell", cell, tuple(CELLS))
    layers, features = [], checks.size("inputs", inputs)
    for k, width in zip(keys, widths_of(hidden), strict=True):
        draw: Callable = partial(CELLS[cell], inputs=features, hidden=width, dtype=dtype)
        layers.append(Bidirectional(*map(draw, jax.random.split(k))) if bidirectional else draw(k))
        features = 2 * width if bidirectional else width
    return tuple(layers), features


def widths_of(hidden: int | tuple[int, ...] | list[int]) -> tuple[int, ...]:
    """The units of each layer.

    Raises:
      TypeError, ValueError: no layer, or a width that is no int of at least 1.

    >>> widths_of(8)
    (8,)
    """
    widths = tuple(hidden) if isinstance(hidden, tuple | list) else (hidden,)
    if not widths:
        raise ValueError("hidden should hold the width of at least one layer, got ()")
    return tuple(checks.size("hidden", width) for width in widths)


def states(
    embedding: Array, layers: tuple, ids: Array, length: Array, options: Options, key: Array | None, **how: Any
) -> tuple[Array, Any]:
    """One sequence through a stack.

    Args:
      embedding: [V, E].
      layers: as `init_layers` makes them.
      ids: int [T].
      length: int scalar, the words before padding.
      options: what is dropped, if there is a key.
      key: PRNG key; None is deterministic.
      how: `backend` and `compute_dtype` for `run`.

    Returns:
      The outputs [T, H] of the last layer, 0 at padding, and its final state.

    >>> layers, _ = init_layers([jax.random.key(0)], 4, 16)
    >>> states(jnp.ones((9, 4)), layers, jnp.array([5, 7, 0]), jnp.array(2), Options(), None)[0].shape
    (3, 32)
    """
    k_words, k_in, _, *k_between = _keys(key, layers)
    if key is not None:
        ids = jnp.where(jax.random.bernoulli(k_words, options.word_dropout, ids.shape), UNK, ids)
    xs, state = dropout(k_in, options.dropout, embed(embedding, ids)), None
    for k, layer in enumerate(layers):
        if k > 0:
            xs = dropout(k_between[k], options.dropout, xs)
        state, xs = run(layer, xs, lengths=length, **how)
    return xs, state


def encode(
    embedding: Array,
    layers: tuple,
    query: Array | None,
    ids: Array,
    length: Array,
    options: Options,
    key: Array | None,
    **how: Any,
) -> Array:
    """One sequence as a vector [H]: `states`, pooled, with dropout of that if there is a key."""
    xs, state = states(embedding, layers, ids, length, options, key, **how)
    return dropout(_keys(key, layers)[2], options.dropout, pool(query, options.pooling, xs, state, length))


def _keys(key, layers):
    """Of words, of their features, of the pooled vector, and of what is between layers; all None without a key."""
    n = 3 + len(layers)
    return [None] * n if key is None else jax.random.split(key, n)


def pool(query: Array | None, pooling: str, xs: Array, state: Any, length: Array) -> Array:
    """The outputs [T, H] of the last layer as one vector [H]; zeros for an empty sequence."""
    if pooling == "last":
        ends = (state.forward.h, state.backward.h) if isinstance(state, Bidirectional) else (state.h,)
        return jnp.concatenate(ends).astype(xs.dtype)
    valid = jnp.arange(len(xs), dtype=length.dtype) < length
    if pooling == "attention":
        return attend(query, xs, valid)[0]  # type: ignore[arg-type]
    if pooling == "mean":
        return xs.sum(0) / jnp.maximum(length, 1).astype(xs.dtype)
    highest = jnp.where(valid[:, None], xs, -jnp.inf).max(0, initial=-jnp.inf)
    return jnp.where(length > 0, highest, 0)


def check_options(options: Options, query: Array | None) -> None:
    """Refuse options that make no sense, or that do not fit the weights."""
    checks.one_of("options.pooling", options.pooling, POOLINGS)
    if (options.pooling == "attention") != (query is not None):
        has = "a query" if query is not None else "no query"
        raise ValueError(f"options.pooling is {options.pooling!r}, but params have {has}: give init the same pooling")
    checks.rate("options.dropout", options.dropout)
    checks.rate("options.word_dropout", options.word_dropout)
