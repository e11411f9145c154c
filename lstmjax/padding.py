"""Steps that do not count: where they are, and what stands in the outputs there."""

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

PADDINGS = ("zero", "hold")


def hold(ys: Array, h: Array, lengths: Array | None, mask: Array | None, reverse: bool) -> Array:
    """`ys` [T, *batch, H] with the output that the state holds at each step that is not valid: the last one in the
    order of processing, or the initial `h` [*batch, H] before the first."""
    T, t = len(ys), lax.broadcasted_iota(jnp.int32, ys.shape[:-1], 0)
    if lengths is not None:
        mask = t < lengths[None]
    if mask is None:
        return ys
    if reverse:
        last = lax.cummin(jnp.where(mask, t, T), axis=0, reverse=True)
    else:
        last = lax.cummax(jnp.where(mask, t, -1), axis=0)
    found = (last >= 0) & (last < T)
    rows = jnp.take_along_axis(ys, jnp.where(found, last, 0)[..., None], axis=0)
    return jnp.where(found[..., None], rows, h[None].astype(ys.dtype))
