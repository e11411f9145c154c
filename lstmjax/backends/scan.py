"""The plain `lax.scan` over a step: every cell, every device, any order of derivative. It defines what is right."""

import jax
import jax.numpy as jnp

from lstmjax.cells import cell_of


def supports(params, xs, *, residuals=None, chunk=None, **_):
    """Why scan cannot do this, or None."""
    if residuals is not None:
        return "it keeps what JAX's own differentiation keeps, so residuals cannot be chosen"
    if chunk is not None:
        return "it goes step by step, so it has no chunk"
    return None


def run(params, xs, state, *, lengths, reset, reverse, compute_dtype, precision, **_):
    """A layer over time.

    Args:
      params: of a layer.
      xs: [T, *batch, D].
      state: of the layer, [*batch, H] each, in the dtype it is kept in.
      lengths: int32 [*batch] in [0, T], or None.
      reset: bool [T, *batch], or None.

    Returns:
      The state after the last valid step, and ys [T, *batch, H].
    """
    (state, _), ys = _loop(cell_of(params).step, params, xs, state, lengths, reset, reverse, compute_dtype, precision)
    return state, ys


def trace(params, xs, state, *, lengths, reset, reverse, compute_dtype, precision, **_):
    """As `run`, but what is stacked over time is (state after the step, gates), 0 at padded steps."""
    cell = cell_of(params)

    def step(params, state, x, compute_dtype, precision):
        gates = cell.gates(params, state, x, compute_dtype, precision)
        state, _ = cell.step(params, state, x, compute_dtype, precision)
        return state, (state, gates)

    (state, _), traced = _loop(step, params, xs, state, lengths, reset, reverse, compute_dtype, precision)
    return state, traced


def _loop(step, params, xs, state, lengths, reset, reverse, compute_dtype, precision):
    initial = state

    def body(carry, inputs):
        state, t = carry
        x, restart = inputs
        before = state if restart is None else _where(restart, initial, state)
        if lengths is None:
            after, y = step(params, before, x, compute_dtype, precision)
        else:
            valid = t < lengths
            # x is cleaned before the first product: 0 * NaN in the backward pass would spoil every weight.
            after, y = step(params, before, _where(valid, x, jnp.zeros_like(x)), compute_dtype, precision)
            after, y = _where(valid, after, state), _where(valid, y, jax.tree.map(jnp.zeros_like, y))
        return (after, t - 1 if reverse else t + 1), y

    first = jnp.int32(len(xs) - 1 if reverse else 0)
    return jax.lax.scan(body, (state, first), (xs, reset), reverse=reverse)


def _where(condition, yes, no):
    """`where` over trees of arrays with one more axis, the features, than `condition`."""
    return jax.tree.map(lambda a, b: jnp.where(condition[..., None], a, b), yes, no)
