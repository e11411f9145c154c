"""A language model: embedding, recurrent layers, a softmax over the words.

Written for a batch, time first, and not for one sequence mapped over by `vmap`: all columns share the words that are
dropped, the weights that are dropped and the sample of the softmax, and the state goes on from window to window.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks
from lstmjax.containers import init_state
from lstmjax.layers import check_ids, dropout, embed, init_embedding
from lstmjax.losses import activation_penalty, temporal_activation_penalty
from lstmjax.models.encoder import init_layers, widths_of
from lstmjax.regularise import Regularisers
from lstmjax.sequence import run
from lstmjax.sequence import step as layers_step
from lstmjax.softmax import (
    Adaptive,
    adaptive_log_p,
    adaptive_surprisal,
    draw_negatives,
    init_adaptive,
    sampled_surprisal,
    surprisal,
)

Array = jax.Array


class Head(NamedTuple):
    """Weights of a softmax over V words."""

    w: Array | None  # [V, H]; None: those of the embedding (Press and Wolf 2017; Inan et al. 2017)
    b: Array  # [V]


class Params(NamedTuple):
    """Weights of a language model of V words."""

    embedding: Array  # [V, E]
    layers: tuple  # from E features to H
    head: Head | Adaptive
    projection: Array | None = None  # [H, E], where the head's weights are the embedding and H is not E


class Options(NamedTuple):
    """What is not in the weights, all of it for training (when a key is given).

    References: Gal and Ghahramani 2016, section 4 (`variational`, `recurrent`, `words`); Zaremba et al. 2014 (dropout
    that is not); Merity et al. 2018, section 4 (`weights`, `ar`, `tar`); Jean et al. 2015 (`samples`).
    """

    dropout: float = 0.0  # of the features of words, of what goes from layer to layer, and of the last outputs
    variational: bool = True  # whether that is the same at every step of a window
    recurrent: float = 0.0  # of h where it meets w_h, the same features at every step of a window
    weights: float = 0.0  # of entries of w_h, the same ones for the whole batch (DropConnect)
    words: float = 0.0  # of whole words of the vocabulary, wherever they are read in the batch
    ar: float = 0.0  # what the square of the last outputs adds to the loss, after dropout
    tar: float = 0.0  # what the square of their change from step to step adds, before dropout
    samples: int = 0  # words that stand for all others in the loss (`draw_negatives`); 0: all


NOTHING = Options()  # is dropped


class Batch(NamedTuple):
    """A window of B columns of text."""

    inputs: Any  # int [T, B]; all four jax or NumPy arrays
    targets: Any  # int [T, B], the words that come next
    weights: Any  # float [T, B]; 0 leaves a step out, 1 counts it
    lengths: Any = None  # int [B], where a window is filled up: the state is the one after so many steps


def init(
    key: Array,
    vocabulary: int,
    *,
    embedding: int = 64,
    hidden: int | tuple[int, ...] = 256,
    cell: str = "lstm",
    tied: bool = True,
    cutoffs: Sequence[int] = (),
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Draw the weights.

    Args:
      key: PRNG key.
      vocabulary: V, with padding and unknown words; numbered by falling frequency.
      embedding: E.
      hidden: H of each layer.
      cell: "lstm", "gru" or "rnn".
      tied: whether the weights of the softmax are the embedding; not with cutoffs.
      cutoffs: of an adaptive softmax (`softmax.init_adaptive`); none: a plain one.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> params = init(jax.random.key(0), 100, embedding=8, hidden=(16, 16))
    >>> len(params.layers), params.projection.shape
    (2, (16, 8))
    """
    checks.key("key", key)
    size, width = checks.size("vocabulary", vocabulary), checks.size("embedding", embedding)
    if checks.flag("tied", tied) and len(cutoffs):
        raise ValueError("tied should be False with cutoffs: an adaptive softmax has tables of its own")
    k_words, k_head, k_projection, k_layers = jax.random.split(key, 4)
    keys = jax.random.split(k_layers, len(widths_of(hidden)))
    layers, features = init_layers(keys, width, hidden, bidirectional=False, cell=cell, dtype=dtype)
    table = init_embedding(k_words, size, width, dtype)
    if len(cutoffs):
        return Params(table, layers, init_adaptive(k_head, features, size, cutoffs, dtype))
    zeros = jnp.zeros(size, dtype)
    if not tied:
        return Params(table, layers, Head(init_embedding(k_head, size, features, dtype), zeros))
    projection = None
    if features != width:
        projection = jax.nn.initializers.glorot_uniform()(k_projection, (features, width), table.dtype)
    return Params(table, layers, Head(None, zeros), projection)


def begin(params: Params, batch: int | tuple[int, ...] = ()) -> Any:
    """The state before the first word: zeros, [*batch, H] of each layer.

    >>> begin(init(jax.random.key(0), 100, hidden=16), 3)[0].h.shape
    (3, 16)
    """
    return init_state(params.layers, batch, params.embedding.dtype)


def outputs(
    params: Params,
    ids: Array,
    state: Any = None,
    options: Options = NOTHING,
    key: Array | None = None,
    *,
    lengths: Array | None = None,
    **how: Any,
) -> tuple[Any, Array]:
    """What the layers make of words, before dropout of it.

    Args:
      ids: int [T, B].
      state: after the words before these; None is `begin`.
      options: what is dropped, if there is a key.
      key: PRNG key; None is deterministic.
      lengths: int [B], as in `run`.
      how: `backend`, `compute_dtype` and the like for `run`.

    Returns:
      The state after them and [T, B, H].

    Raises:
      TypeError, ValueError: naming the argument.

    >>> outputs(init(jax.random.key(0), 100, hidden=16), jnp.array([[5], [7]]))[1].shape
    (2, 1, 16)
    """
    check_options(options)
    check_ids("ids", ids, len(params.embedding))
    if ids.ndim != 2:
        raise ValueError(f"ids should be [T, B], got shape {ids.shape}")
    k_words, k_inputs, k_layers, *_ = _keys(key)
    xs = embed(params.embedding, ids)
    if key is not None and options.words:
        kept = dropout(k_words, options.words, jnp.ones(len(params.embedding), xs.dtype))
        xs = xs * kept[ids][..., None]
    rate = options.dropout
    if not options.variational:
        xs = dropout(k_inputs, rate, xs)
    rates = Regularisers(
        inputs=rate if options.variational else 0.0,
        between=0.0 if options.variational else rate,
        recurrent=options.recurrent,
        weights=options.weights,
    )
    state = begin(params, ids.shape[1:]) if state is None else state
    return run(params.layers, xs, state, lengths=lengths, regularisers=rates, key=k_layers, **how)


def logits(params: Params, ys: Array) -> Array:
    """The logits of the next words, of an adaptive softmax their log p: [..., H] to [..., V].

    >>> logits(init(jax.random.key(0), 100, hidden=16), jnp.ones(16)).shape
    (100,)
    """
    if type(params.head) is Adaptive:
        return adaptive_log_p(params.head, ys)
    w, b, h = _softmax(params, ys)
    return h @ w.T + jnp.expand_dims(b, range(h.ndim - 1))


def surprisals(params: Params, ys: Array, targets: Array) -> Array:
    """-log p of the next words, in nats.

    Args:
      ys: [..., H], of `outputs`.
      targets: int [...].

    Returns:
      [...].

    Raises:
      TypeError, ValueError: naming the argument.

    >>> params = init(jax.random.key(0), 100, hidden=16)
    >>> surprisals(params, jnp.zeros((1, 1, 16)), jnp.array([[5]])).round(4)
    Array([[4.6052]], dtype=float32)
    """
    if type(params.head) is Adaptive:
        return adaptive_surprisal(params.head, ys, targets)
    return surprisal(logits(params, ys), targets)


def loss(
    params: Params,
    state: Any,
    batch: Batch,
    key: Array | None = None,
    *,
    options: Options = NOTHING,
    **how: Any,
) -> tuple[Array, Any]:
    """The mean surprisal of a window, and the state after it: what `train.fit` takes with a carry.

        L = mean of -log p(target) + ar mean of (dropped y)**2 + tar mean of (y_{t+1} - y_t)**2

    Args:
      state: after the window before, [B, H] of each layer.
      batch: a window.
      key: PRNG key; None is deterministic, and the softmax is over all words.
      options, how: as in `outputs`.

    Returns:
      A scalar and the state.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> params = init(jax.random.key(0), 100, hidden=16)
    >>> ids = jnp.array([[5], [7]])
    >>> value, state = loss(params, begin(params, 1), Batch(ids, ids, jnp.ones((2, 1))))
    >>> value.shape, state[0].h.shape
    ((), (1, 16))
    """
    if type(batch) is not Batch:
        raise TypeError(f"batch should be Batch(inputs, targets, weights, lengths), got {checks.show(batch)}")
    if not checks.is_array(batch.weights) or batch.weights.shape != jnp.shape(batch.targets):
        raise ValueError(
            f"batch.weights should be an array of the shape {jnp.shape(batch.targets)} of batch.targets, got "
            f"{checks.show(batch.weights)}"
        )
    state, ys = outputs(params, batch.inputs, state, options, key, lengths=batch.lengths, **how)
    *_, k_outputs, k_samples = _keys(key)
    dropped = dropout(k_outputs, options.dropout, ys, shared=(0,) if options.variational else ())
    if key is not None and options.samples:
        if type(params.head) is Adaptive:
            raise ValueError("options.samples should be 0 with an adaptive softmax, which is quick by other means")
        w, b, h = _softmax(params, dropped)
        found = sampled_surprisal(h, w, b, batch.targets, draw_negatives(k_samples, len(w), options.samples))
    else:
        found = surprisals(params, dropped, batch.targets)
    counts = batch.weights > 0
    weights = jnp.where(counts, batch.weights, 0).astype(found.dtype)
    total = weights.sum()
    value = jnp.where(counts, found * weights, 0).sum() / jnp.where(total == 0, 1, total)
    if key is not None and options.ar:
        value = value + options.ar * activation_penalty(dropped, jnp.asarray(counts)).astype(value.dtype)
    if key is not None and options.tar:
        value = value + options.tar * temporal_activation_penalty(ys, jnp.asarray(counts)).astype(value.dtype)
    return value, state


def step(params: Params, state: Any, token: Array) -> tuple[Any, Array]:
    """One word in, the logits of the next one out: a step for `decoding`.

    Args:
      state: from `begin` or an earlier call.
      token: int [*batch].

    Returns:
      The state and [*batch, V].

    >>> params = init(jax.random.key(0), 100, hidden=16)
    >>> state, found = step(params, begin(params), jnp.array(5))
    >>> found.shape
    (100,)
    """
    state, y = layers_step(params.layers, state, embed(params.embedding, token))
    return state, logits(params, y)


def check_options(options: Options) -> None:
    """Refuse options that make no sense."""
    for name in ("dropout", "recurrent", "weights", "words"):
        checks.rate(f"options.{name}", getattr(options, name))
    checks.flag("options.variational", options.variational)
    checks.size("options.samples", options.samples, least=0)
    for name in ("ar", "tar"):
        checks.finite(f"options.{name}", getattr(options, name))
        if getattr(options, name) < 0:
            raise ValueError(f"options.{name} should be a number of at least 0, got {getattr(options, name)}")


def _softmax(params, ys):
    """Weights [V, ...] and bias [V] of a plain softmax, and what they are multiplied by."""
    if params.head.w is not None:
        return params.head.w, params.head.b, ys
    return params.embedding, params.head.b, ys if params.projection is None else ys @ params.projection


def _keys(key):
    """Of whole words, of their features, of the layers, of the outputs, and of the sample; all None without a key."""
    return [None] * 5 if key is None else jax.random.split(key, 5)
