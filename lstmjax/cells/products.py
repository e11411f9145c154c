"""What the steps of all cells are made of: matrix products, biases, bounds, and the dtypes they have."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Array = jax.Array


def state_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of the state beside inputs of `dtype`: float32 or wider, since the cell sums over time."""
    return wider(dtype, jnp.float32)


def wider(a: DTypeLike, b: DTypeLike) -> jnp.dtype:
    """The dtype that holds both, whatever the caller has set jax_numpy_dtype_promotion to."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(a, b)


def matmul_dtype(params: Any, x: Array, compute_dtype: DTypeLike | None) -> jnp.dtype:
    """The dtype of the matrix products: as asked, or the wider of `x` and the weights."""
    return jnp.dtype(compute_dtype) if compute_dtype is not None else wider(x.dtype, params.w_x.dtype)


def dot(x: Array, w: Array, dtype: DTypeLike, out_dtype: DTypeLike, precision: Any) -> Array:
    """x w in `dtype`, summed in `out_dtype` or wider."""
    kind = dict(precision=precision, preferred_element_type=wider(dtype, out_dtype))
    return jnp.dot(x.astype(dtype), w.astype(dtype), **kind).astype(out_dtype)


def biased(z: Array, b: Array | None) -> Array:
    """z + b over the last axis; z where there is no bias."""
    return z if b is None else z + along(b, z)


def along(b: Array, z: Array) -> Array:
    """The vector `b` in the dtype of `z`, ready to meet its last axis."""
    return jax.lax.expand_dims(b.astype(z.dtype), range(z.ndim - 1))


def bounded(z: Array, bound: float | None) -> Array:
    """z within +-bound; z where there is no bound."""
    if bound is None:
        return z
    # Comparisons rather than clip: a value that stands at the bound still has a whole derivative, and NaN stays NaN.
    return jnp.where(z > bound, bound, jnp.where(z < -bound, -bound, z))
