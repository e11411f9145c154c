"""The sLSTM of xLSTM: exponential gates, a normaliser, and a stabiliser that keeps both within floats."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks
from lstmjax.cells import cell
from lstmjax.cells.cell import Cell, check_arrays, check_columns, check_square
from lstmjax.cells.draw import draw
from lstmjax.cells.products import biased, dot, matmul_dtype

Array = jax.Array

FORGETS = ("sigmoid", "exp")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class SLSTMForm:
    """What kind of sLSTM the weights belong to. It is a part of the tree, not a leaf.

    Args:
      forget: the forget gate, "sigmoid" or "exp".

    Raises:
      ValueError: another name.

    >>> SLSTMForm("exp").forget
    'exp'
    """

    forget: str = "sigmoid"

    def __post_init__(self):
        checks.one_of("forget", self.forget, FORGETS)


PLAIN = SLSTMForm()


class SLSTMParams(NamedTuple):
    """Weights of one sLSTM layer of N heads. The 4H columns are the gates i, f, g, o in this order, H each, in which
    the heads stand side by side; a head's recurrent weights are [H/N, 4H/N] with the gates in that order."""

    w_x: Array  # [D, 4H]
    w_h: Array  # [N, H/N, 4H/N], or [H, 4H]: one head
    b: Array | None = None  # [4H]; None: no bias
    form: SLSTMForm | None = None  # None: `SLSTMForm()`


class SLSTMState(NamedTuple):
    """State of an sLSTM layer: hidden state, cell, normaliser and stabiliser. All begin at 0; n = 0 says that nothing
    has been seen yet."""

    h: Array  # [*batch, H]
    c: Array  # [*batch, H]
    n: Array  # [*batch, H]
    m: Array  # [*batch, H]


class SLSTMGates(NamedTuple):
    """The gates of a step: input and forget as stabilised, candidate, output."""

    i: Array  # [*batch, H], in (0, 1]
    f: Array  # [*batch, H], in [0, 1]
    g: Array  # [*batch, H], in (-1, 1)
    o: Array  # [*batch, H], in (0, 1)


def init_slstm(
    key: Array,
    inputs: int,
    hidden: int,
    *,
    init: str = "glorot",
    forget_bias: float = 1.0,
    bias: bool = True,
    dtype: DTypeLike = jnp.float32,
    heads: int = 1,
    forget: str = "sigmoid",
) -> SLSTMParams:
    """Draw the weights of one sLSTM layer; the other arguments are those of `init_lstm`.

    Args:
      heads: N, which divides `hidden`; units of different heads meet in `w_x` only.
      forget: see `SLSTMForm`.

    Returns:
      `SLSTMParams` with `w_x` [D, 4H], `w_h` [N, H/N, 4H/N] and `b` [4H].

    >>> init_slstm(jax.random.key(0), 3, 6, heads=2).w_h.shape
    (2, 3, 12)
    """
    checks.finite("forget_bias", forget_bias)
    form = SLSTMForm(forget)
    hidden, heads = checks.size("hidden", hidden), checks.size("heads", heads)
    if hidden % heads:
        raise ValueError(f"heads should divide hidden = {hidden}, got {heads}")
    checks.key("key", key)
    keys = jax.random.split(key, heads)
    # The inputs are drawn once, as for one head; recurrent weights for each head apart.
    w_x, _, b = draw(key, inputs, hidden, 4, init, bias, dtype)
    w_h = jnp.stack([draw(k, inputs, hidden // heads, 4, init, False, dtype)[1] for k in keys])
    if b is not None and init != "torch":
        b = b.at[hidden : 2 * hidden].set(forget_bias)
    return SLSTMParams(w_x, w_h, b, form=None if form == PLAIN else form)


def slstm_step(
    params: SLSTMParams,
    state: SLSTMState,
    x: Array,
    *,
    compute_dtype: DTypeLike | None = None,
    precision: Any = None,
) -> tuple[SLSTMState, Array]:
    """One step of an sLSTM layer.

        i, f, g, o = split(x W_x + h W_h + b)
        log f = log sigmoid(f), or f itself if the forget gate is exponential
        m' = max(log f + m, i)                       the stabiliser; i, where nothing was seen before (n = 0)
        i' = exp(i - m'),  f' = exp(log f + m - m')
        c' = f' c + i' tanh(g)
        n' = f' n + i'
        h' = sigmoid(o) c' / n'

    m cancels in h: it keeps the exponentials at 1 or below.

    Args, Returns and Raises are those of `lstm_step`, with `SLSTMParams` and `SLSTMState`.

    Reference: Beck et al. 2024 (xLSTM), section 2.2 and appendix A.2.

    >>> params = init_slstm(jax.random.key(0), 3, 5)
    >>> slstm_step(params, SLSTMState(*jnp.zeros((4, 5))), jnp.ones(3))[1].shape
    (5,)
    """
    return cell.step(SLSTM, "slstm_step", params, state, x, compute_dtype, precision)


def slstm_gates(params: SLSTMParams, state: SLSTMState, x: Array) -> SLSTMGates:
    """The gates of the step that `slstm_step` would take: `SLSTMGates`, [*batch, H] each.

    >>> params = init_slstm(jax.random.key(0), 3, 5)
    >>> slstm_gates(params, SLSTMState(*jnp.zeros((4, 5))), jnp.ones(3)).o.shape
    (5,)
    """
    return cell.gates(SLSTM, "slstm_gates", params, state, x)


def _advance(params, state, x, how):
    dtype, wide = matmul_dtype(params, x, how.compute_dtype), state.c.dtype
    from_x = dot(x, params.w_x, dtype, wide, how.precision)
    z = biased(from_x + _from_h(params.w_h, cell.recurrent(state, how), dtype, wide, how.precision), params.b)
    z_i, z_f, z_g, z_o = jnp.split(z, 4, axis=-1)
    log_f = jax.nn.log_sigmoid(z_f) if (params.form or PLAIN).forget == "sigmoid" else z_f
    fresh = state.n == 0
    before = log_f + state.m
    m = jnp.where(fresh, z_i, jnp.maximum(before, z_i))
    i = jnp.exp(z_i - m)
    # The inner where: an exponent that is not taken must not overflow, or its derivative would be 0 times infinity.
    f = jnp.where(fresh, 0, jnp.exp(jnp.where(fresh, 0, before - m)))
    g, o = jnp.tanh(z_g), jax.nn.sigmoid(z_o)
    c, n = f * state.c + i * g, f * state.n + i
    return SLSTMState(o * c / n, c, n, m), SLSTMGates(i, f, g, o)


def _from_h(w_h, h, dtype, wide, precision):
    """h W_h [*batch, 4H], head by head."""
    if w_h.ndim == 2:
        return dot(h, w_h, dtype, wide, precision)
    heads, size, _ = w_h.shape
    split = h.reshape(*h.shape[:-1], heads, size)
    products = [dot(split[..., k, :], w_h[k], dtype, wide, precision) for k in range(heads)]
    gates = jnp.stack([p.reshape(*p.shape[:-1], 4, size) for p in products], axis=-2)  # [*batch, 4, N, H/N]
    return gates.reshape(*h.shape[:-1], 4 * h.shape[-1])


def _check(name, params):
    params = check_arrays(name, params, SLSTMForm)
    w_h = params.w_h
    if w_h.ndim != 3:
        check_square(name, params, 4)
    elif w_h.shape[2] != 4 * w_h.shape[1] or 0 in w_h.shape:
        raise ValueError(f"{name}.w_h should have shape [N, H/N, 4H/N] or [H, 4H], got {w_h.shape}")
    else:
        check_columns(name, params, w_h.shape[0] * w_h.shape[2], f"w_h {w_h.shape}")
    return params


SLSTM = Cell("slstm", SLSTMParams, SLSTMState, _advance, _check, lambda params: (params.w_x.shape[-1] // 4,) * 4)
