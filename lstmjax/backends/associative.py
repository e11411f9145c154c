"""All steps at once: a recurrence h' = a h + b, whose a and b do not see h, by an associative scan over time."""

import jax.numpy as jnp
from jax import lax

from lstmjax.backends import scan
from lstmjax.cells.cell import How
from lstmjax.cells.minlstm import MinLSTMParams, MinLSTMState, gates_of
from lstmjax.regularise import QUIET


def supports(params, xs, *, residuals=None, chunk=None, remat=False, noise=QUIET, **_):
    """Why associative cannot do this, or None."""
    if type(params) is not MinLSTMParams:
        return f"it knows MinLSTMParams only, not {type(params).__name__}, whose gates see the state"
    if residuals is not None or chunk is not None:
        return "it has all steps at once, so there are no residuals and no chunk to choose"
    if remat is not False:
        return "it has all steps at once, so there is nothing to keep less of"
    if noise.zoneout or noise.expected:
        return "it has no zoneout"
    return None


def run(params, xs, state, *, lengths, mask, reset, reverse, compute_dtype, precision, **_):
    """A layer over time; arguments and results are those of `scan.run`."""
    if xs.size == 0:
        options = dict(lengths=lengths, mask=mask, reset=reset, reverse=reverse)
        return scan.run(params, xs, state, **options, compute_dtype=compute_dtype, precision=precision)
    valid = mask
    if lengths is not None:
        valid = lax.broadcasted_iota(jnp.int32, xs.shape[:-1], 0) < lengths[None]
    if valid is not None:
        valid = valid[..., None]
        xs = jnp.where(valid, xs, 0)
    f, i, g = gates_of(params, xs, state.h.dtype, How(compute_dtype, precision))
    a, b = f, i * g
    if reset is not None:
        restart = reset[..., None]
        a, b = jnp.where(restart, 0, a), jnp.where(restart, f * state.h[None] + b, b)
    if valid is not None:
        a, b = jnp.where(valid, a, 1), jnp.where(valid, b, 0)
        restart = restart & valid if reset is not None else None
    rows = (a, b) if reset is None else (a, b, jnp.broadcast_to(restart, a.shape))
    a, b, *_ = lax.associative_scan(_after, rows, reverse=reverse)
    h = a * state.h[None] + b
    ys = h if valid is None else jnp.where(valid, h, 0)
    return MinLSTMState(h[0 if reverse else -1]), ys.astype(xs.dtype)


def _after(first, second):
    """Two pieces of time as one. By `where` at a reset: what was before it may be NaN."""
    a, b = first[0] * second[0], first[1] * second[0] + second[1]
    if len(first) == 2:
        return a, b
    restart = second[2]
    return jnp.where(restart, second[0], a), jnp.where(restart, second[1], b), first[2] | restart
