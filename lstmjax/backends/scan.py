"""The plain `lax.scan` over a step: every cell, every device, any order of derivative. It defines what is right."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from lstmjax.cells.cell import How
from lstmjax.cells.kinds import cell_of
from lstmjax.regularise import QUIET, held


def supports(params, xs, *, residuals=None, chunk=None, **_):
    """Why scan cannot do this, or None."""
    if residuals is not None:
        return "it keeps what JAX's own differentiation keeps, so residuals cannot be chosen; remat=True keeps less"
    if chunk is not None:
        return "it goes step by step, so it has no chunk"
    return None


def run(params, xs, state, **options):
    """A layer over time.

    Args:
      params: of a layer.
      xs: [T, *batch, D].
      state: of the layer, [*batch, H] each, in the dtype it is kept in.
      lengths: int32 [*batch] in [0, T], or None.
      mask: bool [T, *batch], or None; never with lengths.
      reset: bool [T, *batch], or None.
      noise: what regularisers have come to for this layer.
      remat: steps between the states that are kept; the rest is computed again in the backward pass. True chooses.

    Returns:
      The state after the last valid step, and ys [T, *batch, H], 0 where a step is not valid.
    """
    known = (*_OPTIONS, "remat")
    return _run(params, xs, state, **{name: options[name] for name in known if name in options})


def trace(params, xs, state, **options):
    """As `run`, but what is stacked over time is (state after the step, gates), 0 at padded steps."""
    return _trace(params, xs, state, **{name: options[name] for name in _OPTIONS if name in options})


_OPTIONS = ("lengths", "mask", "reset", "reverse", "compute_dtype", "precision", "noise")
_STATIC = ("reverse", "compute_dtype", "precision")


# Jitted, since outside of jit a loop over a function that was made just now would be compiled at every call.
@partial(jax.jit, static_argnames=(*_STATIC, "remat"), inline=True)
def _run(params, xs, state, *, lengths, mask, reset, reverse, compute_dtype, precision, noise=QUIET, remat=False):
    cell, how = cell_of(params), How(compute_dtype, precision, noise.recurrent)

    def step(before, x, kept):
        after, _ = cell.advance(params, before, x, how)
        after = held(before, after, kept, noise.expected)
        return after, after.h.astype(x.dtype)

    return _loop(step, xs, state, lengths, mask, reset, reverse, noise, remat)


@partial(jax.jit, static_argnames=_STATIC, inline=True)
def _trace(params, xs, state, *, lengths, mask, reset, reverse, compute_dtype, precision, noise=QUIET):
    cell, how = cell_of(params), How(compute_dtype, precision, noise.recurrent)

    def step(before, x, kept):
        after, gates = cell.advance(params, before, x, how)
        after = held(before, after, kept, noise.expected)
        return after, (after, gates)

    return _loop(step, xs, state, lengths, mask, reset, reverse, noise, False)


def _loop(step, xs, state, lengths, mask, reset, reverse, noise, remat):
    """`step(state, x, kept) -> (state, y)` over time: the last state and the ys."""
    initial = state

    def body(carry, inputs):
        state, t = carry
        x, restart, valid, kept = inputs
        before = state if restart is None else _where(restart, initial, state)
        if lengths is not None:
            valid = t < lengths
        if valid is None:
            after, y = step(before, x, kept)
        else:
            # x is cleaned before the first product: 0 * NaN in the backward pass would spoil every weight.
            after, y = step(before, _where(valid, x, jnp.zeros_like(x)), kept)
            after, y = _where(valid, after, state), _where(valid, y, jax.tree.map(jnp.zeros_like, y))
        return (after, t - 1 if reverse else t + 1), y

    first = jnp.int32(len(xs) - 1 if reverse else 0)
    (state, _), ys = _scan(body, (state, first), (xs, reset, mask, noise.zoneout), reverse, remat)
    return state, ys


def _scan(body, carry, rows, reverse, remat):
    """`lax.scan`; with `remat` in segments, of which the backward pass knows the beginnings only."""
    time = len(rows[0])
    if remat is False or time == 0:
        return jax.lax.scan(body, carry, rows, reverse=reverse)
    size = _segment(time) if remat is True else min(remat, time)
    odd = time % size  # steps that fill no segment: the last ones in the order of processing
    parts = [jax.tree.map(lambda a, part=part: a[part], rows) for part in _cut(time, odd, reverse)]
    parts[0] = jax.tree.map(lambda a: a.reshape(time // size, size, *a.shape[1:]), parts[0])

    def segment(carry, rows):
        return jax.lax.scan(body, carry, rows, reverse=reverse)

    # Inside a loop nothing could be merged across a checkpoint, so it needs no guard against that.
    carry, ys = jax.lax.scan(jax.checkpoint(segment, prevent_cse=False), carry, parts[0], reverse=reverse)
    ys = jax.tree.map(lambda a: a.reshape(time - odd, *a.shape[2:]), ys)
    if odd:
        carry, rest = jax.checkpoint(segment)(carry, parts[1])
        ys = jax.tree.map(lambda *a: jnp.concatenate(a[::-1] if reverse else a), ys, rest)
    return carry, ys


def _cut(time, odd, reverse):
    """Where the whole segments are, and where the odd steps."""
    return (slice(odd, time), slice(0, odd)) if reverse else (slice(0, time - odd), slice(time - odd, time))


def _segment(time):
    """Steps in a segment: about the root of all, so that the beginnings and the steps of one segment take the least
    together; a divisor of T if there is one near."""
    root = math.sqrt(time)
    divisors = [k for k in range(1, time + 1) if time % k == 0 and root / 2 <= k <= 2 * root]
    return min(divisors, key=lambda k: abs(math.log(k / root)), default=math.ceil(root))


def _where(condition, yes, no):
    """`where` over trees of arrays with one more axis, the features, than `condition`."""
    return jax.tree.map(lambda a, b: jnp.where(condition[..., None], a, b), yes, no)
