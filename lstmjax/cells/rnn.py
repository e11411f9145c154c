"""The plain RNN (Elman): params, state, init and step."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax.activations import Activation, activation, check_activation
from lstmjax.cells import cell
from lstmjax.cells.cell import Cell, check_arrays, check_square
from lstmjax.cells.draw import draw
from lstmjax.cells.products import biased, dot, matmul_dtype

Array = jax.Array


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class RNNForm:
    """What kind of RNN the weights belong to. It is a part of the tree, not a leaf.

    Args:
      activation: of the state (see `activation`); torch's other `nonlinearity` is "relu".

    Raises:
      TypeError, ValueError: naming the argument.

    >>> RNNForm("relu").activation
    'relu'
    """

    activation: Activation = "tanh"

    def __post_init__(self):
        check_activation("activation", self.activation)


PLAIN = RNNForm()


class RNNParams(NamedTuple):
    """Weights of one plain layer."""

    w_x: Array  # [D, H]
    w_h: Array  # [H, H]
    b: Array | None = None  # [H]; None: no bias
    form: RNNForm | None = None  # None: `RNNForm()`


class RNNState(NamedTuple):
    """State of a plain RNN layer."""

    h: Array  # [*batch, H]


class RNNGates(NamedTuple):
    """A plain RNN has no gates: nothing to look at beside its state."""


def init_rnn(
    key: Array,
    inputs: int,
    hidden: int,
    *,
    init: str = "glorot",
    bias: bool = True,
    dtype: DTypeLike = jnp.float32,
    activation: Activation = "tanh",
) -> RNNParams:
    """Draw the weights of one plain RNN layer; the arguments are those of `init_lstm`, and `RNNForm`'s.

    Returns:
      `RNNParams` with `w_x` [D, H], `w_h` [H, H], `b` [H].

    >>> init_rnn(jax.random.key(0), 3, 5).w_h.shape
    (5, 5)
    """
    form = RNNForm(activation)
    return RNNParams(*draw(key, inputs, hidden, 1, init, bias, dtype), form=None if form == PLAIN else form)


def rnn_step(
    params: RNNParams,
    state: RNNState,
    x: Array,
    *,
    compute_dtype: DTypeLike | None = None,
    precision: Any = None,
) -> tuple[RNNState, Array]:
    """One step of a plain RNN layer.

        h' = tanh(x W_x + h W_h + b)

    Args, Returns and Raises are those of `lstm_step`, with `RNNParams` and `RNNState`.

    Reference: Elman 1990.

    >>> params = init_rnn(jax.random.key(0), 3, 5)
    >>> rnn_step(params, RNNState(jnp.zeros(5)), jnp.ones(3))[1].shape
    (5,)
    """
    return cell.step(RNN, "rnn_step", params, state, x, compute_dtype, precision)


def _advance(params, state, x, how):
    dtype, wide = matmul_dtype(params, x, how.compute_dtype), state.h.dtype
    from_x = dot(x, params.w_x, dtype, wide, how.precision)
    z = from_x + dot(cell.recurrent(state, how), params.w_h, dtype, wide, how.precision)
    h = activation((params.form or PLAIN).activation)(biased(z, params.b))
    return RNNState(h), RNNGates()


def _check(name, params):
    params = check_arrays(name, params, RNNForm)
    check_square(name, params, 1)
    return params


RNN = Cell("rnn", RNNParams, RNNState, _advance, _check, lambda params: params.w_h.shape[-2:-1])
