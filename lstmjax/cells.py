"""One step of time: the LSTM, the GRU and the plain RNN, each as params, state, init, step and gates.

The letters of the axes, here and everywhere: B batch, T time, D input, H hidden. `*batch` is any number of batch
axes, none included. A step is a scan body, `(params, state, x) -> (state, y)`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks

Array = jax.Array


class LSTMParams(NamedTuple):
    """Weights of one LSTM layer. The 4H columns are the gates i, f, g, o in this order, H each."""

    w_x: Array  # [D, 4H]
    w_h: Array  # [H, 4H]
    b: Array | None = None  # [4H]; None: no bias


class LSTMState(NamedTuple):
    """State of an LSTM layer: the hidden state, which is also the output, and the cell."""

    h: Array  # [*batch, H]
    c: Array  # [*batch, H]


class LSTMGates(NamedTuple):
    """The activated gates of a step: input, forget, candidate, output."""

    i: Array  # [*batch, H], in (0, 1)
    f: Array  # [*batch, H], in (0, 1)
    g: Array  # [*batch, H], in (-1, 1)
    o: Array  # [*batch, H], in (0, 1)


class GRUParams(NamedTuple):
    """Weights of one GRU layer. The 3H columns are the gates r, z, n in this order, H each."""

    w_x: Array  # [D, 3H]
    w_h: Array  # [H, 3H]
    b: Array | None = None  # [3H]; None: no bias
    b_n: Array | None = None  # [H], the recurrent bias of n, inside the reset; None: no bias


class GRUState(NamedTuple):
    """State of a GRU layer."""

    h: Array  # [*batch, H]


class GRUGates(NamedTuple):
    """The activated gates of a step: reset, update, candidate."""

    r: Array  # [*batch, H], in (0, 1)
    z: Array  # [*batch, H], in (0, 1)
    n: Array  # [*batch, H], in (-1, 1)


class RNNParams(NamedTuple):
    """Weights of one plain tanh layer (Elman)."""

    w_x: Array  # [D, H]
    w_h: Array  # [H, H]
    b: Array | None = None  # [H]; None: no bias


class RNNState(NamedTuple):
    """State of a plain RNN layer."""

    h: Array  # [*batch, H]


class RNNGates(NamedTuple):
    """A plain RNN has no gates: nothing to look at beside its state."""


Params = LSTMParams | GRUParams | RNNParams
State = LSTMState | GRUState | RNNState
Gates = LSTMGates | GRUGates | RNNGates

INITS = ("glorot", "keras", "torch")


def init_lstm(
    key: Array,
    inputs: int,
    hidden: int,
    *,
    init: str = "glorot",
    forget_bias: float = 1.0,
    bias: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> LSTMParams:
    """Draw the weights of one LSTM layer.

    Args:
      key: PRNG key.
      inputs: D, features of an input step.
      hidden: H, units of the layer.
      init: "glorot" draws each gate of `w_x` Glorot-uniform and each gate of `w_h` orthogonal; "keras" is
        `keras.layers.LSTM` (Glorot over all 4H columns, one orthogonal [H, 4H]); "torch" is `torch.nn.LSTM`
        (all uniform in +-H**-0.5, the bias the sum of torch's two, no forget bias).
      forget_bias: the bias of the forget gate; it is stored in `b`, nothing is added at run time. Not used by "torch".
      bias: False leaves `b` as None.
      dtype: of the weights.

    Returns:
      `LSTMParams` with `w_x` [D, 4H], `w_h` [H, 4H], `b` [4H].

    Raises:
      TypeError, ValueError: a size that is no positive int, an unknown `init`, a dtype that is not floating.

    References: Glorot and Bengio 2010, eq. 16; Saxe et al. 2014, section 3 (orthogonal); Jozefowicz et al. 2015,
    section 2.2 (forget bias 1).

    >>> params = init_lstm(jax.random.key(0), inputs=3, hidden=5)
    >>> params.w_x.shape, params.w_h.shape, params.b.shape
    ((3, 20), (5, 20), (20,))
    """
    checks.number("forget_bias", forget_bias)
    w_x, w_h, b = _draw(key, inputs, hidden, 4, init, bias, dtype)
    if b is not None and init != "torch":
        b = b.at[hidden : 2 * hidden].set(forget_bias)
    return LSTMParams(w_x, w_h, b)


def lstm_step(
    params: LSTMParams,
    state: LSTMState,
    x: Array,
    *,
    compute_dtype: DTypeLike | None = None,
    precision: Any = None,
) -> tuple[LSTMState, Array]:
    """One step of an LSTM layer.

        i, f, g, o = split(x W_x + h W_h + b)
        c' = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')

    Args:
      params: `LSTMParams` of D inputs and H units.
      state: `LSTMState` of [*batch, H], float32 or wider (see `init_state`).
      x: [*batch, D].
      compute_dtype: dtype of the two matrix products, which sum in float32 or wider; None: that of x and the weights.
      precision: as in `jax.lax.dot`; None leaves it to the device (TF32 on NVIDIA, bfloat16 passes on TPU).

    Returns:
      The next state, [*batch, H] each, and the output y = h', [*batch, H], in the dtype of `x`.

    Raises:
      TypeError, ValueError: params, state or x of another kind, dtype or shape; the message names which.

    References: Hochreiter and Schmidhuber 1997; Gers et al. 2000 (forget gate); Graves 2013, eqs. 7 to 11 without
    peepholes.

    >>> params = init_lstm(jax.random.key(0), 3, 5)
    >>> state, y = lstm_step(params, init_state(params), jnp.ones(3))
    >>> y.shape
    (5,)
    """
    params, state, x = _check_step("lstm_step", LSTMParams, params, state, x, precision)
    return lstm_cell(params, state, x, compute_dtype, precision)


def lstm_gates(params: LSTMParams, state: LSTMState, x: Array) -> LSTMGates:
    """The four activated gates of the step that `lstm_step` would take: `LSTMGates`, [*batch, H] each.

    The arguments and the errors are those of `lstm_step`.

    >>> params = init_lstm(jax.random.key(0), 3, 5)
    >>> bool((lstm_gates(params, init_state(params), jnp.zeros(3)).f > 0.7).all())
    True
    """
    params, state, x = _check_step("lstm_gates", LSTMParams, params, state, x)
    return _lstm_gates(params, state, x, None, None)


def lstm_cell(params, state, x, compute_dtype, precision):
    """`lstm_step` without its checks: the body of a scan."""
    i, f, g, o = _lstm_gates(params, state, x, compute_dtype, precision)
    c = f * state.c + i * g
    h = o * jnp.tanh(c)
    return LSTMState(h, c), h.astype(x.dtype)


def init_gru(
    key: Array,
    inputs: int,
    hidden: int,
    *,
    init: str = "glorot",
    bias: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> GRUParams:
    """Draw the weights of one GRU layer; the arguments are those of `init_lstm`.

    Returns:
      `GRUParams` with `w_x` [D, 3H], `w_h` [H, 3H], `b` [3H] and `b_n` [H].

    >>> init_gru(jax.random.key(0), 3, 5).w_x.shape
    (3, 15)
    """
    w_x, w_h, b = _draw(key, inputs, hidden, 3, init, bias, dtype)
    if b is None:
        return GRUParams(w_x, w_h)
    if init != "torch":
        return GRUParams(w_x, w_h, b, jnp.zeros(hidden, dtype))
    # torch has two biases a gate. Their sum serves r and z, but n needs the recurrent one apart: the same draw again.
    bound = hidden**-0.5
    b_x, b_h = jax.random.uniform(jax.random.split(key, 3)[2], (2, 3 * hidden), state_dtype(dtype), -bound, bound)
    return GRUParams(w_x, w_h, b.at[2 * hidden :].set(b_x[2 * hidden :].astype(dtype)), b_h[2 * hidden :].astype(dtype))


def gru_step(
    params: GRUParams,
    state: GRUState,
    x: Array,
    *,
    compute_dtype: DTypeLike | None = None,
    precision: Any = None,
) -> tuple[GRUState, Array]:
    """One step of a GRU layer, the reset applied after the product, as cuDNN, torch and Keras have it.

        r, z = sigmoid(x W_rz + h U_rz + b_rz)
        n = tanh(x W_n + b_n + r (h U_n + b_hn))
        h' = (1 - z) n + z h

    Args, Returns and Raises are those of `lstm_step`, with `GRUParams` and `GRUState`.

    References: Cho et al. 2014, section 2.3; the reset after the product: cuDNN, `CUDNN_GRU`.

    >>> params = init_gru(jax.random.key(0), 3, 5)
    >>> gru_step(params, init_state(params), jnp.ones(3))[1].shape
    (5,)
    """
    params, state, x = _check_step("gru_step", GRUParams, params, state, x, precision)
    return gru_cell(params, state, x, compute_dtype, precision)


def gru_gates(params: GRUParams, state: GRUState, x: Array) -> GRUGates:
    """The three activated gates of the step that `gru_step` would take: `GRUGates`, [*batch, H] each.

    >>> params = init_gru(jax.random.key(0), 3, 5)
    >>> gru_gates(params, init_state(params), jnp.ones(3)).z.shape
    (5,)
    """
    params, state, x = _check_step("gru_gates", GRUParams, params, state, x)
    return _gru_gates(params, state, x, None, None)


def gru_cell(params, state, x, compute_dtype, precision):
    """`gru_step` without its checks: the body of a scan."""
    _, z, n = _gru_gates(params, state, x, compute_dtype, precision)
    h = (1 - z) * n + z * state.h
    return GRUState(h), h.astype(x.dtype)


def init_rnn(
    key: Array,
    inputs: int,
    hidden: int,
    *,
    init: str = "glorot",
    bias: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> RNNParams:
    """Draw the weights of one plain RNN layer; the arguments are those of `init_lstm`.

    Returns:
      `RNNParams` with `w_x` [D, H], `w_h` [H, H], `b` [H].

    >>> init_rnn(jax.random.key(0), 3, 5).w_h.shape
    (5, 5)
    """
    return RNNParams(*_draw(key, inputs, hidden, 1, init, bias, dtype))


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
    >>> rnn_step(params, init_state(params), jnp.ones(3))[1].shape
    (5,)
    """
    params, state, x = _check_step("rnn_step", RNNParams, params, state, x, precision)
    return rnn_cell(params, state, x, compute_dtype, precision)


def rnn_cell(params, state, x, compute_dtype, precision):
    """`rnn_step` without its checks: the body of a scan."""
    h = jnp.tanh(_project(params, state.h, x, compute_dtype, precision))
    return RNNState(h), h.astype(x.dtype)


def init_state(params: Any, batch: tuple[int, ...] | int = (), dtype: DTypeLike = jnp.float32) -> Any:
    """The zero state of a layer, or of a stack: the containers of `params`, with a state in the place of each layer.

    Args:
      params: the params of a layer, a `Bidirectional` pair, or a tuple of these.
      batch: the batch shape, `()` for one sequence; an int is one axis.
      dtype: of the inputs; the state itself is float32 or wider.

    Returns:
      `LSTMState`, `GRUState` or `RNNState` of [*batch, H], in the containers of `params`.

    Raises:
      TypeError: `params` that hold no known layer.

    >>> init_state(init_lstm(jax.random.key(0), 3, 5), batch=2).h.shape
    (2, 5)
    """
    batch = checks.batch_shape("batch", batch)
    wide = state_dtype(checks.float_dtype("dtype", dtype))

    def zeros(layer):
        cell = cell_of(layer)
        check_params("params", layer)
        shape = (*batch, hidden_size(layer))
        return cell.state(*(jnp.zeros(shape, wide) for _ in cell.state._fields))

    return jax.tree.map(zeros, params, is_leaf=is_layer)


class Cell(NamedTuple):
    """What there is to know about a kind of layer."""

    name: str
    blocks: int  # gates in the columns of w_x and w_h
    params: Any  # the NamedTuple
    state: Any  # the NamedTuple
    step: Callable  # (params, state, x, compute_dtype, precision) -> (state, y), unchecked
    gates: Callable  # the same arguments -> gates


def cell_of(params: Any) -> Cell:
    """The `Cell` whose params these are."""
    cell = _CELLS.get(type(params))
    if cell is None:
        names = ", ".join(kind.__name__ for kind in _CELLS)
        raise TypeError(
            f"params should be one of {names}, a Bidirectional pair or a tuple of them, got {checks.show(params)}"
        )
    return cell


def is_layer(x: Any) -> bool:
    """Whether `x` is the params of one layer, so that a walk over a stack stops there."""
    return type(x) in _CELLS or not isinstance(x, tuple)


def hidden_size(params: Params) -> int:
    """H of a layer."""
    return params.w_h.shape[-2]


def input_size(params: Params) -> int:
    """D of a layer."""
    return params.w_x.shape[-2]


def state_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of the state beside inputs of `dtype`: float32 or wider, since the cell sums over time."""
    return wider(dtype, jnp.float32)


def wider(a: DTypeLike, b: DTypeLike) -> jnp.dtype:
    """The dtype that holds both, whatever the caller has set jax_numpy_dtype_promotion to."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(a, b)


def matmul_dtype(params: Params, x: Array, compute_dtype: DTypeLike | None) -> jnp.dtype:
    """The dtype of the matrix products: as asked, or the wider of `x` and the weights."""
    return jnp.dtype(compute_dtype) if compute_dtype is not None else wider(x.dtype, params.w_x.dtype)


def check_params(name: str, params: Params) -> Params:
    """`params` as jax arrays, or an error that names the one that does not fit the others."""
    cell = cell_of(params)
    params = cell.params(
        *(
            None
            if array is None and field in params._field_defaults
            else checks.as_float_array(f"{name}.{field}", array)
            for field, array in zip(params._fields, params, strict=True)
        )
    )
    w_x, w_h = params.w_x, params.w_h
    if w_h.ndim != 2 or w_h.shape[1] != cell.blocks * w_h.shape[0] or w_h.shape[0] == 0:
        want = "H" if cell.blocks == 1 else f"{cell.blocks}H"
        raise ValueError(f"{name}.w_h should have shape [H, {want}] with H at least 1, got {w_h.shape}")
    hidden, columns = w_h.shape
    if w_x.ndim != 2 or w_x.shape[1] != columns or w_x.shape[0] == 0:
        raise ValueError(f"{name}.w_x should have shape [D, {columns}] to fit w_h {w_h.shape}, got {w_x.shape}")
    if params.b is not None and params.b.shape != (columns,):
        raise ValueError(f"{name}.b should have shape ({columns},) to fit w_h {w_h.shape}, got {params.b.shape}")
    b_n = getattr(params, "b_n", None)
    if b_n is not None and b_n.shape != (hidden,):
        raise ValueError(f"{name}.b_n should have shape ({hidden},) to fit w_h {w_h.shape}, got {b_n.shape}")
    if len({array.dtype for array in params if array is not None}) > 1:
        given = ", ".join(f"{f} {a.dtype}" for f, a in zip(params._fields, params, strict=True) if a is not None)
        raise TypeError(f"{name} should have one dtype for all weights, got {given}")
    return params


def check_state(name: str, params: Params, state: Any, batch: tuple[int, ...], dtype: DTypeLike) -> State:
    """`state` in the dtype it is kept in, or an error that names the field that does not fit."""
    kind = cell_of(params).state
    if type(state) is not kind:
        raise TypeError(f"{name} should be {kind.__name__}({', '.join(kind._fields)}), got {checks.show(state)}")
    want, wide = (*batch, hidden_size(params)), state_dtype(dtype)
    for field, array in zip(kind._fields, state, strict=True):
        array = checks.as_float_array(f"{name}.{field}", array)
        if array.shape != want:
            raise ValueError(f"{name}.{field} should have shape [*batch, H] = {want}, got {array.shape}")
        if wider(array.dtype, wide) != wide:
            raise TypeError(
                f"{name}.{field} is {array.dtype}, which {wide} cannot hold: "
                "the state is float32, or the dtype of the inputs if that is wider"
            )
    return kind(*(jnp.asarray(array).astype(wide) for array in state))


def _check_step(where, kind, params, state, x, precision=None):
    """The door of a step: params and x as arrays, the state in its dtype."""
    if type(params) is not kind:
        raise TypeError(f"{where}: params should be {kind.__name__}, got {checks.show(params)}")
    params = check_params("params", params)
    checks.precision("precision", precision)
    x = checks.as_float_array("x", x)
    if x.ndim == 0 or x.shape[-1] != input_size(params):
        raise ValueError(f"x has shape {x.shape}, but params expect [*batch, D] with D = {input_size(params)}")
    return params, check_state("state", params, state, x.shape[:-1], x.dtype), x


def _lstm_gates(params, state, x, compute_dtype, precision):
    i, f, g, o = jnp.split(_project(params, state.h, x, compute_dtype, precision), 4, axis=-1)
    return LSTMGates(jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o))


def _gru_gates(params, state, x, compute_dtype, precision):
    hidden, wide = hidden_size(params), state.h.dtype
    dtype = matmul_dtype(params, x, compute_dtype)
    from_x = _dot(x, params.w_x, dtype, wide, precision)
    from_h = _dot(state.h, params.w_h, dtype, wide, precision)
    from_x = _biased(from_x, params.b)
    rz = jax.nn.sigmoid(from_x[..., : 2 * hidden] + from_h[..., : 2 * hidden])
    r, z = jnp.split(rz, 2, axis=-1)
    inner = _biased(from_h[..., 2 * hidden :], params.b_n)
    return GRUGates(r, z, jnp.tanh(from_x[..., 2 * hidden :] + r * inner))


def _rnn_gates(params, state, x, compute_dtype, precision):
    return RNNGates()


def _project(params, h, x, compute_dtype, precision):
    """x W_x + h W_h + b, summed in the dtype of the state."""
    dtype, wide = matmul_dtype(params, x, compute_dtype), h.dtype
    z = _dot(x, params.w_x, dtype, wide, precision) + _dot(h, params.w_h, dtype, wide, precision)
    return _biased(z, params.b)


def _biased(z, b):
    return z if b is None else z + jax.lax.expand_dims(b.astype(z.dtype), range(z.ndim - 1))


def _dot(x, w, dtype, out_dtype, precision):
    kind = dict(precision=precision, preferred_element_type=wider(dtype, out_dtype))
    return jnp.dot(x.astype(dtype), w.astype(dtype), **kind).astype(out_dtype)


def _draw(key, inputs, hidden, blocks, init, bias, dtype):
    """w_x, w_h and b of a layer with `blocks` gates."""
    checks.key("key", key)
    inputs, hidden = checks.size("inputs", inputs), checks.size("hidden", hidden)
    checks.one_of("init", init, INITS)
    dtype = checks.float_dtype("dtype", dtype)
    wide, columns = state_dtype(dtype), blocks * hidden  # LAPACK, behind orthogonal, has no half precision
    k_x, k_h, k_b = jax.random.split(key, 3)
    if init == "torch":
        bound = hidden**-0.5
        w_x = jax.random.uniform(k_x, (inputs, columns), wide, -bound, bound)
        w_h = jax.random.uniform(k_h, (hidden, columns), wide, -bound, bound)
        b = jax.random.uniform(k_b, (2, columns), wide, -bound, bound).sum(0)
    else:
        # The block a variance is computed over is one gate, or in Keras all gates together.
        draws = 1 if init == "keras" else blocks
        width = columns // draws
        glorot, orthogonal = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.orthogonal()
        w_x = jnp.concatenate([glorot(k, (inputs, width), wide) for k in jax.random.split(k_x, draws)], 1)
        w_h = jnp.concatenate([orthogonal(k, (hidden, width), wide) for k in jax.random.split(k_h, draws)], 1)
        b = jnp.zeros(columns, wide)
    return w_x.astype(dtype), w_h.astype(dtype), b.astype(dtype) if checks.flag("bias", bias) else None


_CELLS = {
    LSTMParams: Cell("lstm", 4, LSTMParams, LSTMState, lstm_cell, _lstm_gates),
    GRUParams: Cell("gru", 3, GRUParams, GRUState, gru_cell, _gru_gates),
    RNNParams: Cell("rnn", 1, RNNParams, RNNState, rnn_cell, _rnn_gates),
}
