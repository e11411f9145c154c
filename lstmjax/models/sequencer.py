"""Sequences that are not words: recurrent layers over numbers or symbols, and a linear head at the end or at each step.

Four kinds of answers: "number" and "class", of a whole sequence, from the last state; "classes", one at each step; and
"keys", which of K are down at each step, each by itself (the notes of a piece of music).

Batches are written out here, not mapped over: only `run` looks at more than one step, and it takes batches as they are.
At the door they are [B, T, D], so that several devices can share the rows; inside, time comes first.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks
from lstmjax.layers import Linear, check_ids, dropout, init_linear, linear
from lstmjax.losses import binary_cross_entropy, cross_entropy, squared_error
from lstmjax.models import encoder
from lstmjax.regularise import Regularisers
from lstmjax.sequence import run

Array = jax.Array

ANSWERS = ("number", "class", "classes", "keys")
AT_END = ("number", "class")


class Params(NamedTuple):
    """Weights of a model of D inputs and K outputs."""

    layers: tuple  # from D features, or D symbols, to H
    head: Linear  # [H, K]


class Options(NamedTuple):
    """What is not in the weights: what is asked, and what is dropped in training (when a key is given)."""

    answer: str = "class"  # of `ANSWERS`
    dropout: Any = 0.0  # of the inputs, between layers, and of what the head reads
    recurrent: Any = 0.0  # of h where it meets w_h, the same features at every step
    variational: bool = False  # whether dropout is the same at every step of a sequence
    smoothing: Any = 0.0  # of classes in the loss


class Batch(NamedTuple):
    """A padded batch of sequences and of what is to be said of them; jax or NumPy arrays."""

    xs: Any  # float [B, T, D], or symbols int [B, T]
    lengths: Any  # int [B]; None: all T
    targets: Any  # number: float [B]; class: int [B]; classes: int [B, T]; keys: [B, T, K], 1 for those that are down
    weights: Any  # float [B]; 0 leaves a sequence out, 1 counts it


def init(
    key: Array,
    inputs: int,
    outputs: int,
    *,
    hidden: int | tuple[int, ...] = 128,
    cell: str = "lstm",
    forget_bias: float = 1.0,
    chrono: int | None = None,
    input_gain: float = 1.0,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Draw the weights.

    Args:
      key: PRNG key.
      inputs: D, features of a step, or how many symbols there are.
      outputs: K; 1 for a number.
      hidden: units of each layer.
      cell: "lstm", "gru" or "rnn".
      forget_bias: of an LSTM.
      chrono: of an LSTM or GRU, the longest lag to be bridged (`init_lstm`); a plain RNN has no gate to open.
      input_gain: what the first layer's w_x is multiplied by. Its elements are of the size sqrt(2 / (D + H)), small for
        few inputs beside many units: then gates open alike at every step until the weights have grown, however long
        that takes.

    Raises:
      TypeError, ValueError: naming the argument.

    >>> init(jax.random.key(0), inputs=2, outputs=1, hidden=8, chrono=50).head.w.shape
    (8, 1)
    """
    checks.key("key", key)
    checks.one_of("cell", cell, tuple(encoder.CELLS))
    checks.finite("forget_bias", forget_bias)
    input_gain = checks.positive("input_gain", input_gain)
    gates: dict[str, Any] = {"lstm": dict(forget_bias=forget_bias, chrono=chrono), "gru": dict(chrono=chrono)}
    k_head, *k_layers = jax.random.split(key, 1 + len(encoder.widths_of(hidden)))
    layers, features = encoder.init_layers(
        k_layers, inputs, hidden, bidirectional=False, cell=cell, dtype=dtype, **gates.get(cell, {})
    )
    first = layers[0]._replace(w_x=layers[0].w_x * input_gain)
    return Params((first, *layers[1:]), init_linear(k_head, features, checks.size("outputs", outputs), dtype))


def apply(
    params: Params,
    xs: Array,
    lengths: Array | None = None,
    options: Options = Options(),
    key: Array | None = None,
    **how: Any,
) -> Array:
    """What the head says of a batch: a number, or logits.

        h_t = the layers over x_0 ... x_t
        z = h_T W + b, of the last step of each sequence;   or z_t = h_t W + b, of all

    Args:
      xs: float [B, T, D]; or symbols int [B, T] in [0, D), each a vector with a single 1.
      lengths: int [B], the steps before padding; None: all T.
      options: what is asked, and what is dropped if there is a key.
      key: PRNG key; None is deterministic.
      how: `backend`, `compute_dtype`, `remat` for `run`.

    Returns:
      [B, K] of "number" and "class"; [B, T, K] of "classes" and "keys", where padded steps hold nothing of use.

    Raises:
      TypeError, ValueError: xs or lengths of another shape, dtype or range; an answer or rate that is none. Under
        tracing a symbol outside [0, D) gives NaN from its step on.

    >>> params = init(jax.random.key(0), 3, 5, hidden=8)
    >>> apply(params, jnp.ones((2, 7, 3)), jnp.array([7, 4])).shape
    (2, 5)
    """
    xs = _steps(params, xs, options)
    if key is not None:
        checks.key("key", key)
    k_inputs, k_layers, k_head = (None, None, None) if key is None else jax.random.split(key, 3)
    rate, shared = options.dropout, (0,) if options.variational else ()
    # `inputs` are those of every layer; `between` leaves out those of the first, which are dropped here.
    noise = Regularisers(recurrent=options.recurrent)
    noise = noise._replace(inputs=rate) if options.variational else noise._replace(between=rate)
    if not options.variational:
        xs = dropout(k_inputs, rate, xs)
    state, ys = run(params.layers, xs, lengths=lengths, regularisers=noise, key=k_layers, **how)
    if options.answer in AT_END:
        return linear(params.head, dropout(k_head, rate, state[-1].h.astype(ys.dtype)))
    return jnp.swapaxes(linear(params.head, dropout(k_head, rate, ys, shared=shared)), 0, 1)


def loss(params: Params, batch: Batch, key: Array | None = None, *, options: Options = Options(), **how: Any) -> Array:
    """The mean loss of a batch, by its weights; dropout if there is a key.

        number:   mean over b of (z_b - y_b)**2
        class:    mean over b of -log softmax(z_b)_y
        classes:  mean over b, t of -log softmax(z_bt)_y
        keys:     mean over b, t of  sum over k of -y log s - (1 - y) log(1 - s),   s = sigmoid(z_btk)

    where t runs over the steps before padding, each of which counts the same.

    >>> params = init(jax.random.key(0), 3, 5, hidden=8)
    >>> batch = Batch(jnp.ones((2, 7, 3)), None, jnp.array([0, 4]), jnp.ones(2))
    >>> loss(params, batch).shape
    ()
    """
    found = apply(params, batch.xs, batch.lengths, options, key, **how)
    if options.answer == "number":
        return squared_error(found[:, 0], batch.targets, batch.weights)
    if options.answer == "class":
        return cross_entropy(found, batch.targets, batch.weights, smoothing=options.smoothing)
    B, T, K = found.shape
    if jnp.shape(batch.weights) != (B,):
        raise ValueError(f"batch.weights should be [B] with B = {B}, got shape {jnp.shape(batch.weights)}")
    weights = jnp.broadcast_to(jnp.asarray(batch.weights)[:, None], (B, T))
    if batch.lengths is not None:
        weights = jnp.where(jnp.arange(T)[None] < jnp.asarray(batch.lengths)[:, None], weights, 0)
    if options.answer == "classes":
        return cross_entropy(found, batch.targets, weights, smoothing=options.smoothing)
    each = jnp.broadcast_to(weights[..., None], (B, T, K))
    return binary_cross_entropy(found, batch.targets, each) * K


def predict(params: Params, xs: Array, lengths: Array | None = None, options: Options = Options(), **how: Any) -> Array:
    """The answers: numbers [B], probabilities of classes [B, K] or [B, T, K], or of keys [B, T, K], each by itself.

    >>> params = init(jax.random.key(0), 3, 5, hidden=8)
    >>> float(predict(params, jnp.ones((1, 7, 3))).sum().round(3))
    1.0
    """
    found = apply(params, xs, lengths, options, **how)
    if options.answer == "number":
        return found[:, 0]
    return jax.nn.sigmoid(found) if options.answer == "keys" else jax.nn.softmax(found)


def _steps(params, xs, options):
    """The inputs as [T, B, D], with all checked."""
    checks.one_of("options.answer", options.answer, ANSWERS)
    checks.rate("options.dropout", options.dropout)
    checks.rate("options.recurrent", options.recurrent)
    checks.flag("options.variational", options.variational)
    if options.answer == "number" and params.head.w.shape[-1] != 1:
        raise ValueError(f"a number needs a head of one output, got {params.head.w.shape[-1]}")
    inputs = params.layers[0].w_x.shape[0]
    if not checks.is_array(xs) or xs.ndim not in (2, 3):
        raise ValueError(f"xs should be features [B, T, D] or symbols int [B, T], got {checks.show(xs)}")
    if xs.ndim == 2:
        check_ids("xs", xs, inputs)
        symbols = jnp.swapaxes(jnp.asarray(xs, jnp.int32), 0, 1)
        there = (symbols >= 0) & (symbols < inputs)
        return jnp.where(there[..., None], jax.nn.one_hot(symbols, inputs, dtype=params.head.w.dtype), jnp.nan)
    xs = checks.as_float_array("xs", xs)
    if xs.shape[-1] != inputs:
        raise ValueError(f"xs should be [B, T, D] with D = {inputs}, as the params have it, got shape {xs.shape}")
    return jnp.swapaxes(xs, 0, 1)
