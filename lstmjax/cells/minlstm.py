"""The minLSTM: gates that see the input only, so that time is an associative scan."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks
from lstmjax.activations import Activation, activation, check_activation
from lstmjax.cells import cell
from lstmjax.cells.cell import Cell, How, check_arrays, check_columns
from lstmjax.cells.draw import draw
from lstmjax.cells.products import biased, dot, matmul_dtype

Array = jax.Array


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class MinLSTMForm:
    """What kind of minLSTM the weights belong to. It is a part of the tree, not a leaf.

    Args:
      candidate: activation of the candidate (see `activation`).

    Raises:
      TypeError, ValueError: naming the argument.

    >>> MinLSTMForm("tanh").candidate
    'tanh'
    """

    candidate: Activation = "identity"

    def __post_init__(self):
        check_activation("candidate", self.candidate)


PLAIN = MinLSTMForm()


class MinLSTMParams(NamedTuple):
    """Weights of one minLSTM layer. The 3H columns are the gates f, i, g in this order, H each."""

    w_x: Array  # [D, 3H]
    b: Array | None = None  # [3H]; None: no bias
    form: MinLSTMForm | None = None  # None: `MinLSTMForm()`


class MinLSTMState(NamedTuple):
    """State of a minLSTM layer."""

    h: Array  # [*batch, H]


class MinLSTMGates(NamedTuple):
    """The gates of a step: forget and input, which sum to 1, and the candidate."""

    f: Array  # [*batch, H], in (0, 1)
    i: Array  # [*batch, H], in (0, 1)
    g: Array  # [*batch, H]


def init_minlstm(
    key: Array,
    inputs: int,
    hidden: int,
    *,
    init: str = "glorot",
    forget_bias: float = 1.0,
    bias: bool = True,
    dtype: DTypeLike = jnp.float32,
    candidate: Activation = "identity",
) -> MinLSTMParams:
    """Draw the weights of one minLSTM layer; the arguments are those of `init_lstm`, and `MinLSTMForm`'s.

    Returns:
      `MinLSTMParams` with `w_x` [D, 3H] and `b` [3H].

    >>> init_minlstm(jax.random.key(0), 3, 5).w_x.shape
    (3, 15)
    """
    checks.finite("forget_bias", forget_bias)
    form = MinLSTMForm(candidate)
    w_x, _, b = draw(key, inputs, hidden, 3, init, bias, dtype)
    if b is not None and init != "torch":
        b = b.at[:hidden].set(forget_bias)
    return MinLSTMParams(w_x, b, form=None if form == PLAIN else form)


def minlstm_step(
    params: MinLSTMParams,
    state: MinLSTMState,
    x: Array,
    *,
    compute_dtype: DTypeLike | None = None,
    precision: Any = None,
) -> tuple[MinLSTMState, Array]:
    """One step of a minLSTM layer.

        f, i, g = split(x W_x + b)
        f' = sigmoid(f) / (sigmoid(f) + sigmoid(i)),  i' = 1 - f'
        h' = f' h + i' g

    Args, Returns and Raises are those of `lstm_step`, with `MinLSTMParams` and `MinLSTMState`.

    Reference: Feng et al. 2024, section 3.2.

    >>> params = init_minlstm(jax.random.key(0), 3, 5)
    >>> minlstm_step(params, MinLSTMState(jnp.zeros(5)), jnp.ones(3))[1].shape
    (5,)
    """
    return cell.step(MINLSTM, "minlstm_step", params, state, x, compute_dtype, precision)


def minlstm_gates(params: MinLSTMParams, state: MinLSTMState, x: Array) -> MinLSTMGates:
    """The gates of the step that `minlstm_step` would take: `MinLSTMGates`, [*batch, H] each.

    >>> params = init_minlstm(jax.random.key(0), 3, 5)
    >>> minlstm_gates(params, MinLSTMState(jnp.zeros(5)), jnp.ones(3)).f.shape
    (5,)
    """
    return cell.gates(MINLSTM, "minlstm_gates", params, state, x)


def gates_of(params: MinLSTMParams, x: Array, wide: DTypeLike, how: How) -> MinLSTMGates:
    """The gates of any number of steps at once: they do not see the state."""
    dtype = matmul_dtype(params, x, how.compute_dtype)
    z_f, z_i, z_g = jnp.split(biased(dot(x, params.w_x, dtype, wide, how.precision), params.b), 3, axis=-1)
    # f / (f + i) in logarithms: both sigmoids may be too small for a float.
    log_ratio = jax.nn.log_sigmoid(z_f) - jax.nn.log_sigmoid(z_i)
    g = activation((params.form or PLAIN).candidate)(z_g)
    return MinLSTMGates(jax.nn.sigmoid(log_ratio), jax.nn.sigmoid(-log_ratio), g)


def _advance(params, state, x, how):
    gates = gates_of(params, x, state.h.dtype, how)
    return MinLSTMState(gates.f * state.h + gates.i * gates.g), gates


def _check(name, params):
    params = check_arrays(name, params, MinLSTMForm)
    w_x = params.w_x
    if w_x.ndim != 2 or w_x.shape[1] % 3 or 0 in w_x.shape:
        raise ValueError(f"{name}.w_x should have shape [D, 3H] with D and H at least 1, got {w_x.shape}")
    check_columns(name, params, w_x.shape[1], f"w_x {w_x.shape}")
    return params


MINLSTM = Cell(
    "minlstm",
    MinLSTMParams,
    MinLSTMState,
    _advance,
    _check,
    lambda params: (params.w_x.shape[-1] // 3,),
    recurrent=False,
)
