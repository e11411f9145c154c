"""The same small problems for every file: params, inputs, states, lengths and resets, drawn in NumPy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from lstmjax import (
    GRUForm,
    GRUParams,
    LayerNorm,
    LSTMForm,
    LSTMParams,
    MinLSTMForm,
    MinLSTMParams,
    Norm,
    RNNParams,
    SLSTMParams,
    SLSTMState,
)
from tests import reference

# --- the cells: (normal, D, H) -> params, where normal(*shape) draws and H is the width of the output ----------------


def lstm(normal, D, H):
    return LSTMParams(normal(D, 4 * H), normal(H, 4 * H), normal(4 * H))


def lstm_everything(normal, D, H):
    """All at once: the cell has one unit more than the output."""
    C = H + 1
    form = LSTMForm(
        coupling="f=1-i",
        activations=("sigmoid", ("scaled_tanh", 1.7, 0.7), "softsign"),
        clip=2.5,
        clip_cell=1.5,
        clip_projection=1.5,
        epsilon=0.01,
    )

    def norm(features):
        return Norm(1 + normal(features) / 2, normal(features))

    return LSTMParams(
        w_x=normal(D, 3 * C),
        w_h=normal(H, 3 * C),
        b=normal(3 * C),
        peephole=normal(2 * C),
        projection=normal(C, H),
        projection_b=normal(H),
        norm=LayerNorm(h=norm(3 * C), cell=norm(C)),
        form=form,
    )


def gru(normal, D, H):
    return GRUParams(normal(D, 3 * H), normal(H, 3 * H), normal(3 * H), normal(H))


def gru_before(normal, D, H):
    return GRUParams(normal(D, 3 * H), normal(H, 3 * H), normal(3 * H), form=GRUForm(reset="before"))


def rnn(normal, D, H):
    return RNNParams(normal(D, H), normal(H, H), normal(H))


def minlstm(normal, D, H):
    return MinLSTMParams(normal(D, 3 * H), normal(3 * H), MinLSTMForm())


def slstm(normal, D, H):
    """As few heads as divide H, but more than one."""
    heads = next(k for k in range(2, H + 1) if H % k == 0)
    return SLSTMParams(normal(D, 4 * H), normal(heads, H // heads, 4 * H // heads), normal(4 * H))


CELLS = {
    "lstm": lstm,
    "gru": gru,
    "rnn": rnn,
    "lstm-everything": lstm_everything,
    "gru-before": gru_before,
    "minlstm": minlstm,
    "slstm": slstm,
}

# The ways there are to run a layer. A chunk of 3 does not divide T = 7: several chunks, the last one ragged.
WAYS = {
    "lstm-scan": ("lstm", dict(backend="scan")),
    "lstm-fused": ("lstm", dict(backend="fused", chunk=3)),
    "lstm-fused-outputs": ("lstm", dict(backend="fused", chunk=3, residuals="outputs")),
    "lstm-everything-scan": ("lstm-everything", dict(backend="scan")),
    "gru-scan": ("gru", dict(backend="scan")),
    "gru-before-scan": ("gru-before", dict(backend="scan")),
    "rnn-scan": ("rnn", dict(backend="scan")),
    "minlstm-scan": ("minlstm", dict(backend="scan")),
    "minlstm-associative": ("minlstm", dict(backend="associative")),
    "slstm-scan": ("slstm", dict(backend="scan")),
}

# For `jax.jit(..., compiler_options=QUICK)`: a program that runs once, over a few numbers, is not worth making fast.
# `conftest.py` says the same by XLA_FLAGS, which `python -m tests.fuzz` and its like do not see.
QUICK: dict[str, int | bool] = {"xla_backend_optimization_level": 0, "xla_cpu_parallel_codegen_split_count": 1}

# And as it is for users.
FULL: dict[str, int | bool] = {"xla_backend_optimization_level": 3, "xla_cpu_parallel_codegen_split_count": 32}

if jaxlib.__version__.startswith("0.10."):  # XLA has no such option later
    QUICK["xla_cpu_use_fusion_emitters"] = False
    FULL["xla_cpu_use_fusion_emitters"] = True

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
    xs = rng.normal(size=(time, *batch, inputs)).astype(dtype)
    state = state_of(rng, params, batch, np.promote_types(dtype, np.float32))
    lengths = LENGTHS if (time, batch) == (T, (B,)) else rng.integers(0, time + 1, batch).astype(np.int32)
    return Problem(params, xs, state, lengths, rng.random((time, *batch)) < 0.25)


def layer(rng, cell, inputs, hidden, dtype=np.float32, bias=True):
    params = CELLS[cell](lambda *shape: rng.normal(size=shape) * 0.6, inputs, hidden)
    if not bias:
        params = params._replace(**{name: None for name in params._fields if name.startswith("b")})
    return cast(params, np.dtype(dtype))


def state_of(rng, params, batch, dtype=np.float64):
    """A state such as a layer may have: the normaliser of an sLSTM is above 0."""
    cell = reference.CELLS[type(params)]
    state = cell.state(*(rng.normal(size=(*batch, width)) for width in cell.widths(params)))
    if cell.state is SLSTMState:
        state = state._replace(n=0.5 + np.abs(state.n))
    return cast(state, np.dtype(dtype))


def cast(tree: Any, dtype: Any) -> Any:
    """The floats of a tree in another dtype."""
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def padding(lengths: np.ndarray, time: int) -> np.ndarray:
    """Where [T, *batch] is padding."""
    return np.arange(time).reshape(time, *(1,) * lengths.ndim) >= lengths[None]
