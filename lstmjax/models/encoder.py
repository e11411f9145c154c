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
from lstmjax.regularise import Regularisers
from lstmjax.sequence import run

Array = jax.Array

CELLS: dict[str, Callable] = {"lstm": init_lstm, "gru": init_gru, "rnn": init_rnn}
POOLINGS = ("last", "mean", "max", "attention", "words")
UNK = 1  # the id that word dropout puts in the place of a word


class Options(NamedTuple):
    """What is not in the weights: how a sequence is pooled, and what is dropped in training (when a key is given)."""

    pooling: str = "max"  # of `POOLINGS`, or several side by side, with + between: "max+words"
    dropout: float = 0.0  # of the embedded words, between layers, and of the pooled vector
    word_dropout: float = 0.0  # of whole words, which become unknown
    smoothing: float = 0.0  # of the labels in the loss
    recurrent: float = 0.0  # of h where it meets w_h, the same features at every step
    variational: bool = False  # whether dropout of words and between layers is the same at every step of a sequence


def init_layers(
    keys: Sequence[Array] | Array,
    inputs: int,
    hidden: int | tuple[int, ...],
    *,
    bidirectional: bool = True,
    cell: str = "lstm",
    dtype: DTypeLike = jnp.float32,
    **how: Any,
) -> tuple[tuple, int]:
    """A stack of recurrent layers, and the features that it gives.

    Args:
      keys: a PRNG key for each layer.
      inputs: features of a step.
      hidden: units of each layer, and of each direction.
      bidirectional: whether each layer is a pair of directions.
      cell: "lstm", "gru" or "rnn".
      how: for the init of the cell.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> layers, features = init_layers(jax.random.split(jax.random.key(0)), 8, (16, 16))
    >>> len(layers), features
    (2, 32)
    """
    checks.one_of("cell", cell, tuple(CELLS))
    layers, features = [], checks.size("inputs", inputs)
    for k, width in zip(keys, widths_of(hidden), strict=True):
        draw: Callable = partial(CELLS[cell], inputs=features, hidden=width, dtype=dtype, **how)
        layers.append(Bidirectional(*map(draw, jax.random.split(k))) if bidirectional else draw(k))
        features = 2 * width if bidirectional else width
    return tuple(layers), features


def widths_of(hidden: int | tuple[int, ...] | list[int], name: str = "hidden") -> tuple[int, ...]:
    """The units of each layer, of an argument of that name.

    Raises:
      TypeError, ValueError: no layer, or a width that is no int of at least 1.

    >>> widths_of(8)
    (8,)
    """
    widths = tuple(hidden) if isinstance(hidden, tuple | list) else (hidden,)
    if not widths:
        raise ValueError(f"{name} should hold the width of at least one layer, got ()")
    return tuple(checks.size(name, width) for width in widths)


def lookup(table: Array, ids: Array) -> Array:
    """The vectors of the steps of a sequence.

    Args:
      table: [V, E].
      ids: int [T]; or [T, F], of F things that hold of a step, such as a word and the pieces it is made of:

        x_t = 1 / sqrt(n_t) sum over f of table[ids_tf],   n_t how many of them are not 0, which stands for nothing

    Returns:
      [T, E].

    Raises:
      TypeError, ValueError: as `layers.embed`.

    Reference: Bojanowski et al. 2017, section 3.2 (pieces; there all are added without the root).

    >>> lookup(jnp.array([[9.0], [1], [2]]), jnp.array([[1, 0], [1, 2]])).round(2).tolist()[0]
    [1.0]
    """
    if jnp.ndim(ids) < 2:
        return embed(table, ids)
    there = ids != 0
    rows = jnp.where(there[..., None], embed(table, ids), 0)  # so that row 0 is not trained
    n = jnp.maximum(there.sum(-1, keepdims=True), 1).astype(rows.dtype)
    return rows.sum(-2) * jax.lax.rsqrt(n)


def states(
    embedding: Array, layers: tuple, ids: Array, length: Array, options: Options, key: Array | None, **how: Any
) -> tuple[Array, Any]:
    """One sequence through a stack.

    Args:
      embedding: [V, E].
      layers: as `init_layers` makes them.
      ids: int [T], or [T, F] as in `lookup`.
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
    return through(layers, words(embedding, ids, options, key), length, options, key, **how)


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
    vectors = words(embedding, ids, options, key)
    xs, state = through(layers, vectors, length, options, key, **how)
    return dropout(_keys(key)[2], options.dropout, pool(query, options.pooling, xs, state, length, vectors))


def words(embedding: Array, ids: Array, options: Options, key: Array | None) -> Array:
    """The vectors [T, E] of a sequence's words, some of them unknown and some features dropped if there is a key."""
    k_words, k_features, *_ = _keys(key)
    if key is not None:
        gone = jax.random.bernoulli(k_words, options.word_dropout, ids.shape[:1])
        unknown = jnp.full_like(ids, UNK) if ids.ndim == 1 else jnp.zeros_like(ids).at[:, 0].set(UNK)
        ids = jnp.where(gone.reshape(gone.shape + (1,) * (ids.ndim - 1)), unknown, ids)
    return dropout(k_features, options.dropout, lookup(embedding, ids), shared=shared(options))


def through(
    layers: tuple,
    xs: Array,
    length: Array | None,
    options: Options,
    key: Array | None,
    begin: tuple | None = None,
    **how: Any,
) -> tuple[Array, Any]:
    """Vectors [T, E] through the layers, with dropout between and within them if there is a key: what `states` gives.

    Args:
      begin: the initial state of each layer; None: zeros.
    """
    state, dropped = None, None if key is None else Regularisers(recurrent=options.recurrent)
    for n, layer in enumerate(layers):
        k_between, k_within = (None, None) if key is None else jax.random.split(jax.random.fold_in(_keys(key)[3], n))
        if n > 0:
            xs = dropout(k_between, options.dropout, xs, shared=shared(options))
        first = None if begin is None else begin[n]
        state, xs = run(layer, xs, first, lengths=length, regularisers=dropped, key=k_within, **how)
    return xs, state


def shared(options: Options) -> tuple[int, ...]:
    """The axes of [T, E] along which the same features are dropped."""
    return (0,) if options.variational else ()


def _keys(key):
    """Of words, of their features, of the pooled vector, and of the layers; all None without a key."""
    return [None] * 4 if key is None else jax.random.split(key, 4)


def pool(query: Array | None, pooling: str, xs: Array, state: Any, length: Array, words: Array | None = None) -> Array:
    """The outputs [T, H] of the last layer as one vector, zeros for an empty sequence; "words" is the mean of what went
    into the first, [T, E]."""
    valid = jnp.arange(len(xs), dtype=length.dtype) < length
    n = jnp.maximum(length, 1).astype(xs.dtype)
    parts = []
    for name in pooling.split("+"):
        if name == "last":
            ends = (state.forward.h, state.backward.h) if isinstance(state, Bidirectional) else (state.h,)
            parts.append(jnp.concatenate(ends).astype(xs.dtype))
        elif name == "attention":
            parts.append(attend(query, xs, valid)[0])  # type: ignore[arg-type]
        elif name == "mean":
            parts.append(xs.sum(0) / n)
        elif name == "words":
            parts.append(jnp.where(valid[:, None], words, 0).sum(0) / n)  # type: ignore[arg-type]
        else:
            highest = jnp.where(valid[:, None], xs, -jnp.inf).max(0, initial=-jnp.inf)
            parts.append(jnp.where(length > 0, highest, 0))
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


def pooled_features(pooling: str, features: int, embedding: int) -> int:
    """How many features `pool` gives, of a last layer and of word vectors with so many.

    >>> pooled_features("max+words", 32, 8)
    40
    """
    return sum(embedding if name == "words" else features for name in check_pooling("pooling", pooling))


def check_pooling(name: str, pooling: str) -> tuple[str, ...]:
    """The parts of a pooling.

    Raises:
      ValueError: one that is none, or twice the same.
    """
    parts = tuple(pooling.split("+")) if isinstance(pooling, str) else (pooling,)
    for part in parts:
        if part not in POOLINGS or parts.count(part) > 1:
            known = ", ".join(map(repr, POOLINGS))
            raise ValueError(f"{name} should be one of {known}, or several of them with + between, got {pooling!r}")
    return parts


def check_options(options: Options, query: Array | None) -> None:
    """Refuse options that make no sense, or that do not fit the weights."""
    parts = check_pooling("options.pooling", options.pooling)
    if ("attention" in parts) != (query is not None):
        has = "a query" if query is not None else "no query"
        raise ValueError(f"options.pooling is {options.pooling!r}, but params have {has}: give init the same pooling")
    checks.rate("options.dropout", options.dropout)
    checks.rate("options.word_dropout", options.word_dropout)
    checks.rate("options.recurrent", options.recurrent)
    checks.flag("options.variational", options.variational)
