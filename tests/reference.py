"""What is right: an LSTM, a GRU and an RNN in NumPy, one sample, one step and one gate at a time.

Slow on purpose, and written from the equations, not from the library, of which it borrows only the names of params
and states. Everything is float64; where an array is complex everything is complex, and a derivative is read off the
imaginary part (complex step: exact to rounding, no difference is ever taken).
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lstmjax import Bidirectional, GRUGates, GRUParams, GRUState, LSTMGates, LSTMParams, LSTMState, RNNParams, RNNState

# --- one step of one sample: x [D], state [H] ------------------------------------------------------------------------


def lstm_gates(params: LSTMParams, state: LSTMState, x: np.ndarray) -> LSTMGates:
    i, f, g, o = (_columns(params, k, state.h, x) for k in range(4))
    return LSTMGates(sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o))


def lstm_step(params: LSTMParams, state: LSTMState, x: np.ndarray) -> LSTMState:
    i, f, g, o = lstm_gates(params, state, x)
    c = f * state.c + i * g
    return LSTMState(o * np.tanh(c), c)


def gru_gates(params: GRUParams, state: GRUState, x: np.ndarray) -> GRUGates:
    H = len(state.h)
    r, z = (sigmoid(_columns(params, k, state.h, x)) for k in range(2))
    from_x = x @ params.w_x[:, 2 * H :]
    from_h = state.h @ params.w_h[:, 2 * H :]
    if params.b is not None:
        from_x = from_x + params.b[2 * H :]
    if params.b_n is not None:
        from_h = from_h + params.b_n
    return GRUGates(r, z, np.tanh(from_x + r * from_h))


def gru_step(params: GRUParams, state: GRUState, x: np.ndarray) -> GRUState:
    _, z, n = gru_gates(params, state, x)
    return GRUState((1 - z) * n + z * state.h)


def rnn_step(params: RNNParams, state: RNNState, x: np.ndarray) -> RNNState:
    return RNNState(np.tanh(_columns(params, 0, state.h, x)))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _columns(params, k, h, x):
    """x W + h U + b of gate k."""
    H = len(h)
    columns = slice(k * H, (k + 1) * H)
    z = x @ params.w_x[:, columns] + h @ params.w_h[:, columns]
    return z if params.b is None else z + params.b[columns]


# --- over time -------------------------------------------------------------------------------------------------------

STEPS = {LSTMParams: (lstm_step, LSTMState), GRUParams: (gru_step, GRUState), RNNParams: (rnn_step, RNNState)}


def run(params: Any, xs: np.ndarray, state: Any = None, *, lengths=None, reset=None, reverse=False) -> tuple:
    """The arguments and results of `lstmjax.run`."""
    if type(params) is Bidirectional:
        options = dict(lengths=lengths, reset=reset)
        forward, ys_forward = run(params.forward, xs, state and state.forward, **options)
        backward, ys_backward = run(params.backward, xs, state and state.backward, **options, reverse=True)
        return Bidirectional(forward, backward), np.concatenate([ys_forward, ys_backward], -1)
    if type(params) is tuple:
        states = []
        for k, layer in enumerate(params):
            final, xs = run(layer, xs, state and state[k], lengths=lengths, reset=reset, reverse=reverse)
            states.append(final)
        return tuple(states), xs
    params, xs, state = _one_kind(params, xs, state)
    step, kind = STEPS[type(params)]
    T, *batch, _ = xs.shape
    H = params.w_h.shape[0]
    if state is None:
        state = kind(*(np.zeros((*batch, H), xs.dtype) for _ in kind._fields))
    ys = np.zeros((T, *batch, H), xs.dtype)
    finals = kind(*(s.copy() for s in state))
    for n in np.ndindex(*batch):
        length = T if lengths is None else int(np.asarray(lengths)[n])
        initial = kind(*(s[n] for s in state))
        now = initial
        for t in reversed(range(length)) if reverse else range(length):
            if reset is not None and reset[(t, *n)]:
                now = initial
            now = step(params, now, xs[(t, *n)])
            ys[(t, *n)] = now.h
        for final, value in zip(finals, now, strict=True):
            final[n] = value
    return finals, ys


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
