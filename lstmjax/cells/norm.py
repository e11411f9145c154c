"""Layer norm inside a cell: which vectors are normed shows in which fields there are."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lstmjax import checks
from lstmjax.cells.cell import check_shape
from lstmjax.cells.products import along

Array = jax.Array


class Norm(NamedTuple):
    """Scale and shift of one layer norm over N features."""

    scale: Array  # [N]
    shift: Array | None = None  # [N]; None: no shift


class LayerNorm(NamedTuple):
    """What is normed in an LSTM of k blocks of columns, 4 or, with coupled gates, 3.

    The three published forms: `gates` with a scale, and the layer's bias after it (TensorFlow Lite); `gates` and `cell`
    with scale and shift (TensorFlow's LayerNormBasicLSTMCell); `x`, `h` and `cell` (TensorFlow Addons; haste and Ba et
    al. 2016, section 3.1, with `normed_cell="output"`).
    """

    gates: Norm | None = None  # [kH]: each gate by itself, over H, of x W_x + h W_h + peepholes; the bias comes after
    x: Norm | None = None  # [kH]: the whole of x W_x
    h: Norm | None = None  # [kH]: the whole of h W_h
    cell: Norm | None = None  # [H]: the cell


def normed(norm: Norm, z: Array, epsilon: float) -> Array:
    """scale (z - mean) / sqrt(variance + epsilon) + shift over the last axis.

    Finite, with finite derivatives, for a constant vector and for entries up to 1e37: squares are formed of z in the
    unit of its greatest entry, and sums of what is left of z without its first, so that equal entries, however large,
    have no mean to be rounded. Neither is a part of the derivative, since the result does not depend on it.
    """
    z = z - lax.stop_gradient(z[..., :1])
    z = z - z.mean(-1, keepdims=True)
    unit = lax.stop_gradient(jnp.maximum(jnp.abs(z).max(-1, keepdims=True), 1))
    z = z / unit
    z = z / jnp.sqrt((z * z).mean(-1, keepdims=True) + (epsilon / unit) / unit)
    z = z * along(norm.scale, z)
    return z if norm.shift is None else z + along(norm.shift, z)


def check_norm(name: str, given: Any) -> LayerNorm:
    """A `LayerNorm` with its weights as jax arrays, or an error that names the one that is none."""
    if type(given) is not LayerNorm:
        raise TypeError(f"{name} should be LayerNorm or None, got {checks.show(given)}")
    if all(part is None for part in given):
        raise ValueError(f"{name} should norm something, got a LayerNorm without weights: None is no layer norm")

    def one(field, norm):
        if norm is None:
            return None
        if type(norm) is not Norm:
            raise TypeError(f"{name}.{field} should be Norm(scale, shift) or None, got {checks.show(norm)}")
        scale = checks.as_float_array(f"{name}.{field}.scale", norm.scale)
        return Norm(scale, None if norm.shift is None else checks.as_float_array(f"{name}.{field}.shift", norm.shift))

    return LayerNorm(*(one(field, norm) for field, norm in zip(given._fields, given, strict=True)))


def check_norm_shapes(name: str, norm: LayerNorm, columns: int, hidden: int, fit: str) -> None:
    """Refuse scales and shifts of other sizes."""
    for field, part in zip(norm._fields, norm, strict=True):
        if part is not None:
            want = (hidden if field == "cell" else columns,)
            check_shape(f"{name}.{field}.scale", part.scale, want, fit)
            check_shape(f"{name}.{field}.shift", part.shift, want, fit)


def init_norm(features: int, dtype: Any, shift: bool = True) -> Norm:
    """A norm that changes neither scale nor place."""
    return Norm(jnp.ones(features, dtype), jnp.zeros(features, dtype) if shift else None)
