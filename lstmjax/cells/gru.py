"""The GRU: params, state, init, step and gates, with the reset on either side of the product."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks
from lstmjax.activations import Activation, activation, check_activation
from lstmjax.cells import cell
from lstmjax.cells.cell import Cell, check_arrays, check_shape, check_square
from lstmjax.cells.draw import chrono as draw_chrono
from lstmjax.cells.draw import chrono_key, draw
from lstmjax.cells.products import biased, dot, matmul_dtype, state_dtype

Array = jax.Array

RESETS = ("after", "before")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class GRUForm:
    """What kind of GRU the weights belong to. It is a part of the tree, not a leaf.

    Args:
      reset: "after" the recurrent product (cuDNN, torch, Keras), or "before" it (Cho et al. 2014; ONNX's default, Keras
        with `reset_after=False`).
      activations: of the gates r and z, and of the candidate n (see `activation`).

    Raises:
      TypeError, ValueError: naming the argument.

    >>> GRUForm("before").activations
    ('sigmoid', 'tanh')
    """

    reset: str = "after"
    activations: tuple[Activation, Activation] = ("sigmoid", "tanh")

    def __post_init__(self):
        checks.one_of("reset", self.reset, RESETS)
        if not isinstance(self.activations, tuple) or len(self.activations) != 2:
            raise TypeError(
                f"activations should be a tuple of two, of the gates and the candidate, got {self.activations!r}"
            )
        for n, given in enumerate(self.activations):
            check_activation(f"activations[{n}]", given)


PLAIN = GRUForm()


class GRUParams(NamedTuple):
    """Weights of one GRU layer. The 3H columns are the gates r, z, n in this order, H each."""

    w_x: Array  # [D, 3H]
    w_h: Array  # [H, 3H]
    b: Array | None = None  # [3H]; None: no bias
    b_n: Array | None = None  # [H], the recurrent bias of n, inside the reset; None: no bias
    form: GRUForm | None = None  # None: `GRUForm()`


class GRUState(NamedTuple):
    """State of a GRU layer."""

    h: Array  # [*batch, H]


class GRUGates(NamedTuple):
    """The activated gates of a step: reset, update, candidate."""

    r: Array  # [*batch, H], in (0, 1)
    z: Array  # [*batch, H], in (0, 1)
    n: Array  # [*batch, H], in (-1, 1)


def init_gru(
    key: Array,
    inputs: int,
    hidden: int,
    *,
    init: str = "glorot",
    chrono: int | None = None,
    bias: bool = True,
    dtype: DTypeLike = jnp.float32,
    reset: str = "after",
    activations: tuple[Activation, Activation] = ("sigmoid", "tanh"),
) -> GRUParams:
    """Draw the weights of one GRU layer; `reset` and `activations` as in `GRUForm`, the rest as in `init_lstm`; with
    `chrono` the bias of z is log u.

    Returns:
      `GRUParams` with `w_x` [D, 3H], `w_h` [H, 3H], `b` [3H] and, with the reset after the product, `b_n` [H].

    >>> init_gru(jax.random.key(0), 3, 5).w_x.shape
    (3, 15)
    """
    form = GRUForm(reset, activations)
    w_x, w_h, b = draw(key, inputs, hidden, 3, init, bias, dtype)
    if chrono is not None:
        b = draw_chrono(chrono_key(key, init), b, hidden, chrono, {1: 1})
    params = GRUParams(w_x, w_h, b, form=None if form == PLAIN else form)
    if b is None or reset == "before":
        return params
    if init != "torch":
        return params._replace(b_n=jnp.zeros(hidden, dtype))
    # torch has two biases a gate. Their sum serves r and z, but n needs the recurrent one apart: the same draw again.
    bound = hidden**-0.5
    b_x, b_h = jax.random.uniform(jax.random.split(key, 3)[2], (2, 3 * hidden), state_dtype(dtype), -bound, bound)
    b_x, b_h = (part[2 * hidden :].astype(dtype) for part in (b_x, b_h))
    return params._replace(b=b.at[2 * hidden :].set(b_x), b_n=b_h)


def gru_step(
    params: GRUParams,
    state: GRUState,
    x: Array,
    *,
    compute_dtype: DTypeLike | None = None,
    precision: Any = None,
) -> tuple[GRUState, Array]:
    """One step of a GRU layer.

        r, z = sigmoid(x W_rz + h U_rz + b_rz)
        n = tanh(x W_n + b_n + r (h U_n + b_hn))     reset "after" the product
        n = tanh(x W_n + b_n + (r h) U_n)            reset "before" it
        h' = (1 - z) n + z h

    Args, Returns and Raises are those of `lstm_step`, with `GRUParams` and `GRUState`.

    References: Cho et al. 2014, section 2.3; the reset after the product: cuDNN, `CUDNN_GRU`.

    >>> params = init_gru(jax.random.key(0), 3, 5)
    >>> gru_step(params, GRUState(jnp.zeros(5)), jnp.ones(3))[1].shape
    (5,)
    """
    return cell.step(GRU, "gru_step", params, state, x, compute_dtype, precision)


def gru_gates(params: GRUParams, state: GRUState, x: Array) -> GRUGates:
    """The three activated gates of the step that `gru_step` would take: `GRUGates`, [*batch, H] each.

    >>> params = init_gru(jax.random.key(0), 3, 5)
    >>> gru_gates(params, GRUState(jnp.zeros(5)), jnp.ones(3)).z.shape
    (5,)
    """
    return cell.gates(GRU, "gru_gates", params, state, x)


def _advance(params, state, x, how):
    form = params.form or PLAIN
    act, act_n = map(activation, form.activations)
    hidden, wide = params.w_h.shape[-2], state.h.dtype
    dtype = matmul_dtype(params, x, how.compute_dtype)
    h = cell.recurrent(state, how)
    from_x = dot(x, params.w_x, dtype, wide, how.precision)
    w_h = params.w_h if form.reset == "after" else params.w_h[:, : 2 * hidden]
    from_h = dot(h, w_h, dtype, wide, how.precision)
    from_x = biased(from_x, params.b)
    rz = act(from_x[..., : 2 * hidden] + from_h[..., : 2 * hidden])
    r, z = jnp.split(rz, 2, axis=-1)
    if form.reset == "after":
        inner = biased(from_h[..., 2 * hidden :], params.b_n)
        n = act_n(from_x[..., 2 * hidden :] + r * inner)
    else:
        inner = dot(r * h, params.w_h[:, 2 * hidden :], dtype, wide, how.precision)
        n = act_n(from_x[..., 2 * hidden :] + inner)
    return GRUState((1 - z) * n + z * state.h), GRUGates(r, z, n)


def _check(name, params):
    params = check_arrays(name, params, GRUForm)
    check_square(name, params, 3)
    if params.b_n is not None and (params.form or PLAIN).reset == "before":
        raise ValueError(
            f"{name}.b_n is given, but {name}.form.reset is 'before': the bias of n is the last third of {name}.b"
        )
    check_shape(f"{name}.b_n", params.b_n, params.w_h.shape[:1], f"w_h {params.w_h.shape}")
    return params


GRU = Cell("gru", GRUParams, GRUState, _advance, _check, lambda params: params.w_h.shape[-2:-1])
