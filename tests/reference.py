"""What is right: every cell in NumPy, one sample, one step and one gate at a time.

Slow on purpose, and written from the equations, not from the library, of which it borrows only the names of params
and states. Everything is float64; where an array is complex everything is complex, and a derivative is read off the
imaginary part (complex step: exact to rounding, no difference is ever taken). Whoever compares numbers here, in a
bound, a maximum or an activation with a corner, compares their real parts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from lstmjax import (
    Bidirectional,
    GRUForm,
    GRUGates,
    GRUParams,
    GRUState,
    LayerNorm,
    LSTMForm,
    LSTMGates,
    LSTMParams,
    LSTMState,
    MinLSTMForm,
    MinLSTMGates,
    MinLSTMParams,
    MinLSTMState,
    RNNForm,
    RNNGates,
    RNNParams,
    RNNState,
    SLSTMForm,
    SLSTMGates,
    SLSTMParams,
    SLSTMState,
)

# --- one step of one sample: x [D], state [H] ------------------------------------------------------------------------


def step(params: Any, state: Any, x: np.ndarray) -> Any:
    """The next state of a layer of any kind."""
    return CELLS[type(params)].advance(params, state, x, 1.0)[0]


def gates(params: Any, state: Any, x: np.ndarray) -> Any:
    """The gates of that step."""
    return CELLS[type(params)].advance(params, state, x, 1.0)[1]


lstm_step = gru_step = rnn_step = minlstm_step = slstm_step = step
lstm_gates = gru_gates = minlstm_gates = slstm_gates = gates


# Of each cell: (params, state, x, kept) -> (state, gates), where `kept` is what h is multiplied by where it meets w_h.


def _lstm(params, state, x, kept):
    form, norm = params.form or LSTMForm(), params.norm or LayerNorm()
    of_gates, of_candidate, of_output = (activation(given) for given in form.activations)
    H = len(state.c)
    there = {None: "ifgo", "f=1-i": "igo", "i=1-f": "fgo"}[form.coupling]  # the blocks of columns
    peeping = there.replace("g", "")
    from_x, from_h = x @ params.w_x, (state.h * kept) @ params.w_h
    if norm.x is not None:
        from_x = _normed(from_x, *norm.x, form.epsilon)
    if norm.h is not None:
        from_h = _normed(from_h, *norm.h, form.epsilon)

    def gate(name, activated, c):
        block = _block(there.index(name), H)
        z = from_x[block] + from_h[block]
        if params.peephole is not None and name in peeping:
            z = z + params.peephole[_block(peeping.index(name), H)] * c
        if norm.gates is not None:
            scale, shift = norm.gates
            z = _normed(z, scale[block], None if shift is None else shift[block], form.epsilon)
        if params.b is not None:
            z = z + params.b[block]
        return activated(_clipped(z, form.clip))

    i = gate("i", of_gates, state.c) if "i" in there else None
    f = gate("f", of_gates, state.c) if "f" in there else 1 - i
    i = 1 - f if i is None else i
    g = gate("g", of_candidate, None)
    c = _clipped(f * state.c + i * g, form.clip_cell)
    o = gate("o", of_gates, c)
    normed = c if norm.cell is None else _normed(c, *norm.cell, form.epsilon)
    h = o * of_output(_clipped(normed, form.clip))
    if params.projection is not None:
        h = h @ params.projection
        if params.projection_b is not None:
            h = h + params.projection_b
        h = _clipped(h, form.clip_projection)
    return LSTMState(h, normed if form.normed_cell == "state" else c), LSTMGates(i, f, g, o)


def _gru(params, state, x, kept):
    form = params.form or GRUForm()
    of_gates, of_candidate = (activation(given) for given in form.activations)
    H, h = len(state.h), state.h * kept
    r, z = (of_gates(_columns(params, k, h, x)) for k in range(2))
    block = _block(2, H)
    from_x = x @ params.w_x[:, block]
    if params.b is not None:
        from_x = from_x + params.b[block]
    if form.reset == "before":
        n = of_candidate(from_x + (r * h) @ params.w_h[:, block])
    else:
        from_h = h @ params.w_h[:, block]
        if params.b_n is not None:
            from_h = from_h + params.b_n
        n = of_candidate(from_x + r * from_h)
    return GRUState((1 - z) * n + z * state.h), GRUGates(r, z, n)


def _rnn(params, state, x, kept):
    form = params.form or RNNForm()
    return RNNState(activation(form.activation)(_columns(params, 0, state.h * kept, x))), RNNGates()


def _minlstm(params, state, x, kept):
    form = params.form or MinLSTMForm()
    z = x @ params.w_x if params.b is None else x @ params.w_x + params.b
    f, i, g = np.split(z, 3)
    f, i, g = sigmoid(f), sigmoid(i), activation(form.candidate)(g)
    f, i = f / (f + i), i / (f + i)
    return MinLSTMState(f * state.h + i * g), MinLSTMGates(f, i, g)


def _slstm(params, state, x, kept):
    form = params.form or SLSTMForm()
    (h, c, n, m), H = state, len(state.h)
    h = h * kept
    heads = params.w_h if params.w_h.ndim == 3 else params.w_h[None]
    size = H // len(heads)

    def before_activation(k):
        """Gate k, to which a head contributes as many numbers as it has units."""
        of_heads = [h[_block(j, size)] @ heads[j][:, _block(k, size)] for j in range(len(heads))]
        z = x @ params.w_x[:, _block(k, H)] + np.concatenate(of_heads)
        return z if params.b is None else z + params.b[_block(k, H)]

    log_i, z_f, z_g, z_o = (before_activation(k) for k in range(4))
    log_f = z_f if form.forget == "exp" else -np.log(1 + np.exp(-z_f))
    g, o = np.tanh(z_g), sigmoid(z_o)
    empty = n.real == 0
    m_next = np.where(empty, log_i, _greater(log_f + m, log_i))
    i = np.exp(log_i - m_next)
    f = np.where(empty, 0, np.exp(log_f + m - m_next))
    c, n = f * c + i * g, f * n + i
    return SLSTMState(o * c / n, c, n, m_next), SLSTMGates(i, f, g, o)


def _columns(params, k, h, x):
    """x W + h U + b of gate k."""
    block = _block(k, len(h))
    z = x @ params.w_x[:, block] + h @ params.w_h[:, block]
    return z if params.b is None else z + params.b[block]


def _block(k, size):
    return slice(k * size, (k + 1) * size)


def _normed(z, scale, shift, epsilon):
    away = z - z.sum() / z.size
    z = scale * away / np.sqrt((away * away).sum() / z.size + epsilon)
    return z if shift is None else z + shift


class Cell(NamedTuple):
    state: Any  # the NamedTuple
    gates: Any  # the NamedTuple
    advance: Callable
    widths: Callable  # params -> the features of each field of the state


def _lstm_widths(params):
    coupled = params.form is not None and params.form.coupling is not None
    return params.w_h.shape[0], params.w_h.shape[1] // (3 if coupled else 4)


CELLS = {
    LSTMParams: Cell(LSTMState, LSTMGates, _lstm, _lstm_widths),
    GRUParams: Cell(GRUState, GRUGates, _gru, lambda params: (params.w_x.shape[1] // 3,)),
    RNNParams: Cell(RNNState, RNNGates, _rnn, lambda params: (params.w_x.shape[1],)),
    MinLSTMParams: Cell(MinLSTMState, MinLSTMGates, _minlstm, lambda params: (params.w_x.shape[1] // 3,)),
    SLSTMParams: Cell(SLSTMState, SLSTMGates, _slstm, lambda params: (params.w_x.shape[1] // 4,) * 4),
}

# --- numbers ---------------------------------------------------------------------------------------------------------


def activation(given: Any) -> Callable:
    """The function of a name, of (name, alpha), of (name, alpha, beta), or of itself."""
    if callable(given):
        return given
    name, *constants = (given,) if isinstance(given, str) else given
    alpha, beta = (*constants, *(DEFAULTS.get(name, ()))[len(constants) :], None, None)[:2]
    return {
        "sigmoid": sigmoid,
        "tanh": np.tanh,
        "identity": lambda z: z,
        "relu": lambda z: np.where(z.real > 0, z, 0),
        "hard_sigmoid": lambda z: _bounded(alpha * z + beta, 0, 1),
        "softsign": lambda z: z / (1 + np.where(z.real < 0, -z, z)),
        "softplus": lambda z: np.log(1 + np.exp(z)),
        "elu": lambda z: np.where(z.real >= 0, z, alpha * (np.exp(z) - 1)),
        "leaky_relu": lambda z: np.where(z.real >= 0, z, alpha * z),
        "thresholded_relu": lambda z: np.where(z.real > alpha, z, 0),
        "scaled_tanh": lambda z: alpha * np.tanh(beta * z),
        "affine": lambda z: alpha * z + beta,
    }[name]


# alpha and beta where nothing else is said.
DEFAULTS = {
    "hard_sigmoid": (0.2, 0.5),
    "elu": (1.0,),
    "leaky_relu": (0.01,),
    "thresholded_relu": (1.0,),
    "scaled_tanh": (1.0, 1.0),
    "affine": (1.0, 0.0),
}


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _clipped(z, bound):
    return z if bound is None else _bounded(z, -bound, bound)


def _bounded(z, low, high):
    return np.where(z.real > high, high, np.where(z.real < low, low, z))


def _greater(a, b):
    return np.where(a.real >= b.real, a, b)


# --- over time -------------------------------------------------------------------------------------------------------


class Noise(NamedTuple):
    """What was drawn for a layer; of a stack a tuple of these, of a pair a pair.

    A multiplier is 0 where a number is dropped, and where it is kept what makes up for the dropped ones.
    """

    inputs: Any = 1.0  # multiplies xs: broadcasts against [T, *batch, D]
    recurrent: Any = 1.0  # multiplies h where it meets w_h: [*batch, P]
    weights: Any = 1.0  # multiplies w_h
    zoneout_h: Any = 0.0  # how much is left of the old h: 0 or 1 where drawn, the rate where expected; [T, *batch, P]
    zoneout_c: Any = 0.0  # the same of c: [T, *batch, H]
    outputs: Any = 1.0  # multiplies ys on the way to the next layer


def run(params: Any, xs: np.ndarray, state: Any = None, *, noise: Any = None, **options: Any) -> tuple:
    """The arguments and results of `lstmjax.run`; the noise is handed in, not drawn."""
    return _walk(lambda *args: _layer(*args)[:2], params, xs, state, noise, **options)


def trace(params: Any, xs: np.ndarray, state: Any = None, *, noise: Any = None, **options: Any) -> Any:
    """The arguments and results of `lstmjax.trace`."""

    def layer(*args):
        _, ys, states, gates = _layer(*args)
        return (states, gates), ys

    return _walk(layer, params, xs, state, noise, **options)[0]


def _walk(layer, params, xs, state, noise, **options):
    """`layer(params, xs, state, noise, options) -> (result, ys)` through pairs and stacks."""
    if type(params) is Bidirectional:
        states, noises = state or (None, None), noise or (None, None)
        (forward, ys_forward), (backward, ys_backward) = (
            _walk(layer, params[j], xs, states[j], noises[j], **options | {"reverse": bool(j)}) for j in range(2)
        )
        return Bidirectional(forward, backward), np.concatenate([ys_forward, ys_backward], -1)
    if type(params) is tuple:
        results = []
        for k, part in enumerate(params):
            result, xs = _walk(layer, part, xs, state and state[k], noise and noise[k], **options)
            results.append(result)
        return tuple(results), xs
    return layer(params, xs, state, noise or Noise(), options)


def _layer(params, xs, state, noise, options):
    """The final state, and over time: outputs, states, gates."""
    cell = CELLS[type(params)]
    params, xs, state, noise = _one_kind(params, xs, state, noise)
    if hasattr(params, "w_h"):
        params = params._replace(w_h=params.w_h * noise.weights)
    xs = xs * noise.inputs
    (T, *batch, _), dtype = xs.shape, xs.dtype
    widths = cell.widths(params)
    if state is None:
        state = cell.state(*(np.zeros((*batch, width), dtype) for width in widths))
    kept = np.broadcast_to(noise.recurrent, state.h.shape)
    fields = [name for name in ("h", "c") if name in cell.state._fields]
    old = {
        name: np.broadcast_to(getattr(noise, f"zoneout_{name}"), (T, *getattr(state, name).shape)) for name in fields
    }
    final = cell.state(*(s.copy() for s in state))
    ys = np.zeros((T, *state.h.shape), dtype)
    states = cell.state(*(np.zeros((T, *batch, width), dtype) for width in widths))
    gates = cell.gates(*(np.zeros((T, *batch, widths[-1]), dtype) for _ in cell.gates._fields))
    for n in np.ndindex(*batch):
        initial = now = cell.state(*(s[n] for s in state))
        for t, valid, restart, hold in _steps(T, n, **options):
            at = (t, *n)
            if valid:
                before = initial if restart else now
                now, of_step = cell.advance(params, before, xs[at], kept[n])
                left = {name: (old[name][at], getattr(before, name), getattr(now, name)) for name in fields}
                now = now._replace(**{name: p * a + (1 - p) * b for name, (p, a, b) in left.items()})
                for array, value in zip([*states, *gates], [*now, *of_step], strict=True):
                    array[at] = value
            if valid or hold:
                ys[at] = now.h
        for array, value in zip(final, now, strict=True):
            array[n] = value
    return final, ys * noise.outputs, states, gates


def _steps(T, n, *, lengths=None, mask=None, reset=None, reverse=False, padding="zero"):
    """What there is to say about the steps of sample n, in the order of processing."""
    for t in reversed(range(T)) if reverse else range(T):
        valid = (mask is None or mask[(t, *n)]) and (lengths is None or t < np.asarray(lengths)[n])
        yield t, valid, reset is not None and reset[(t, *n)], padding == "hold"


def _one_kind(*trees):
    """All arrays float64, or all complex if one is."""
    kind = np.result_type(np.float64, *(np.asarray(leaf).dtype for leaf in jax.tree.leaves(trees)))
    return jax.tree.map(lambda leaf: np.asarray(leaf, kind), trees)


# --- losses and gradients --------------------------------------------------------------------------------------------


def scalar(state: Any, ys: Any) -> Any:
    """A loss in which every number of a run's result has its own weight; for NumPy and for JAX arrays."""
    sums = [(weights(a, k) * a).sum() for k, a in enumerate([ys, *jax.tree.leaves(state)])]
    return sum(total.astype(np.promote_types(total.dtype, np.float32)) for total in sums)


def weights(a: Any, k: int) -> np.ndarray:
    """The weights of the k-th array in `scalar`: 0 for ys, then the state's in order."""
    return np.cos(0.7 * np.arange(a.size) + 0.3 + k).reshape(a.shape).astype(a.dtype)


def gradients(loss: Callable, *args: Any, step: float = 1e-30) -> tuple:
    """Derivatives of `loss(*args)` with respect to every number in `args`, by complex step."""
    leaves, tree = jax.tree.flatten(args)

    def of_leaf(k):
        base = np.array(leaves[k], np.float64)
        gradient = np.zeros(base.size)
        for n in range(base.size):
            moved = base.astype(np.complex128).reshape(-1)
            moved[n] += 1j * step
            moved_leaves = [*leaves[:k], moved.reshape(base.shape), *leaves[k + 1 :]]
            gradient[n] = np.imag(loss(*jax.tree.unflatten(tree, moved_leaves))) / step
        return gradient.reshape(base.shape)

    return jax.tree.unflatten(tree, [of_leaf(k) for k in range(len(leaves))])
