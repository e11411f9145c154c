"""The same small problems for every file: params, inputs, states, lengths and resets, drawn in NumPy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstmjax import GRUParams, GRUState, LSTMParams, LSTMState, RNNParams, RNNState

# cell: params, state, and how many times H each weight is wide.
CELLS = {
    "lstm": (LSTMParams, LSTMState, {"w_x": 4, "w_h": 4, "b": 4}),
    "gru": (GRUParams, GRUState, {"w_x": 3, "w_h": 3, "b": 3, "b_n": 1}),
    "rnn": (RNNParams, RNNState, {"w_x": 1, "w_h": 1, "b": 1}),
}

# The ways there are to run a layer. A chunk of 3 does not divide T = 7: several chunks, the last one ragged.
WAYS = {
    "lstm-scan": ("lstm", dict(backend="scan")),
    "lstm-fused": ("lstm", dict(backend="fused", chunk=3)),
    "lstm-fused-outputs": ("lstm", dict(backend="fused", chunk=3, residuals="outputs")),
    "gru-scan": ("gru", dict(backend="scan")),
    "rnn-scan": ("rnn", dict(backend="scan")),
}

T, B, D, H = 7, 4, 3, 5
LENGTHS = np.array([4, 0, T, 1], np.int32)


class Problem(NamedTuple):
    """The arguments of a run, in the order in which the tests hand them on."""

    params: Any
    xs: np.ndarray  # [T, *batch, D]
    state: Any  # [*batch, H]
    lengths: np.ndarray  # [*batch]
    reset: np.ndarray  # [T, *batch]


def problem(cell="lstm", time=T, batch=(B,), inputs=D, hidden=H, dtype=np.float32, seed=0, bias=True) -> Problem:
    rng = np.random.default_rng(seed)
    params = layer(rng, cell, inputs, hidden, dtype, bias)
    kind = CELLS[cell][1]
    xs = rng.normal(size=(time, *batch, inputs)).astype(dtype)
    wide = np.promote_types(dtype, np.float32)
    state = kind(*(rng.normal(size=(*batch, hidden)).astype(wide) for _ in kind._fields))
    lengths = LENGTHS if (time, batch) == (T, (B,)) else rng.integers(0, time + 1, batch).astype(np.int32)
    return Problem(params, xs, state, lengths, rng.random((time, *batch)) < 0.25)


def layer(rng, cell, inputs, hidden, dtype=np.float32, bias=True):
    kind, _, widths = CELLS[cell]
    arrays = {name: rng.normal(size=_shape(name, inputs, hidden, width)) * 0.6 for name, width in widths.items()}
    arrays = {name: a.astype(dtype) for name, a in arrays.items() if bias or name.startswith("w")}
    return kind(**arrays)


def _shape(name, inputs, hidden, width):
    rows = {"w_x": (inputs,), "w_h": (hidden,)}.get(name, ())
    return (*rows, width * hidden)


def cast(tree: Any, dtype: Any) -> Any:
    """The floats of a tree in another dtype."""
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def padding(lengths: np.ndarray, time: int) -> np.ndarray:
    """Where [T, *batch] is padding."""
    return np.arange(time).reshape(time, *(1,) * lengths.ndim) >= lengths[None]
