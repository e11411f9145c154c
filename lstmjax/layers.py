"""What stands around a recurrent layer: linear, embedding, dropout, attention. Params first, axes as in `cells`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks

Array = jax.Array


class Linear(NamedTuple):
    """Weights of a linear layer."""

    w: Array  # [D, K]
    b: Array  # [K]


def init_linear(key: Array, inputs: int, outputs: int, dtype: DTypeLike = jnp.float32) -> Linear:
    """Glorot-uniform weights and a bias of zeros.

    >>> init_linear(jax.random.key(0), 3, 2).w.shape
    (3, 2)
    """
    checks.key("key", key)
    shape = checks.size("inputs", inputs), checks.size("outputs", outputs)
    dtype = checks.float_dtype("dtype", dtype)
    return Linear(jax.nn.initializers.glorot_uniform()(key, shape, dtype), jnp.zeros(outputs, dtype))


def linear(params: Linear, x: Array) -> Array:
    """x w + b: [..., D] to [..., K].

    Raises:
      TypeError, ValueError: params that are no `Linear`, an x of another kind or of other features.

    >>> linear(Linear(jnp.ones((3, 2)), jnp.zeros(2)), jnp.ones(3)).tolist()
    [3.0, 3.0]
    """
    if type(params) is not Linear:
        raise TypeError(f"params should be Linear(w, b), got {checks.show(params)}")
    w, b = (checks.as_float_array(f"params.{name}", array) for name, array in params._asdict().items())
    x = checks.as_float_array("x", x)
    if w.ndim != 2 or b.shape != w.shape[1:]:
        raise ValueError(f"params should be w [D, K] and b [K], got shapes {w.shape} and {b.shape}")
    if x.ndim == 0 or x.shape[-1] != w.shape[0]:
        raise ValueError(f"x should be [..., D] with D = {w.shape[0]}, as params.w has it, got shape {x.shape}")
    return x @ w + jax.lax.expand_dims(params.b, range(x.ndim - 1))


def init_embedding(key: Array, vocabulary: int, features: int, dtype: DTypeLike = jnp.float32) -> Array:
    """A table [V, E] of normal entries of variance 1/E; the row of padding, 0, is zero.

    >>> init_embedding(jax.random.key(0), 10, 4)[0].tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    checks.key("key", key)
    shape = checks.size("vocabulary", vocabulary), checks.size("features", features)
    dtype = checks.float_dtype("dtype", dtype)
    table = jax.random.normal(key, shape, dtype) * features**-0.5
    return table.at[0].set(0)


def embed(table: Array, ids: Array) -> Array:
    """The rows of `ids` int [...] in `table` [V, E], as [..., E].

    Raises:
      TypeError, ValueError: a table that is none, ids that are no ints, concrete ids outside [0, V); under tracing
        their rows are NaN.

    >>> embed(jnp.eye(3), jnp.array([2, 0])).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    table = checks.as_float_array("table", table)
    if table.ndim != 2:
        raise ValueError(f"table should be [V, E], got shape {table.shape}")
    check_ids("ids", ids, len(table))
    if ids.dtype.itemsize < 4:  # which may not hold the size of the table
        ids = ids.astype(jnp.int32)
    # Negative ids would count from the end: they are sent past it, where take fills in NaN.
    return jnp.take(table, jnp.where(ids < 0, len(table), ids), axis=0, mode="fill", fill_value=jnp.nan)


def check_ids(name: str, ids: Array, size: int) -> None:
    """Refuse ids that are no ints, or concrete ones outside [0, size)."""
    if not checks.is_array(ids) or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"{name} should be an array of ints, got {checks.show(ids)}")
    checks.within(name, ids, size)


def dropout(key: Array | None, rate: Any, x: Array, *, shared: tuple[int, ...] = ()) -> Array:
    """`x` with entries set to 0 with probability `rate` and the others scaled by 1 / (1 - rate); as it is without key.

    Args:
      key: PRNG key; None drops nothing.
      rate: in [0, 1), a float or an array without axes; no gradient goes to it.
      x: of any shape.
      shared: axes along which the same entries are dropped; (0,) of [T, B, D] is variational dropout.

    Raises:
      TypeError, ValueError: an x that is no array of floats, a key that is none, a rate outside [0, 1); under tracing
        it is clipped to that.

    References: Srivastava et al. 2014, section 4; Gal and Ghahramani 2016, section 4.

    >>> dropout(None, 0.5, jnp.ones(2)).tolist()
    [1.0, 1.0]
    """
    x, rate = checks.as_float_array("x", x), checks.rate("rate", rate)
    if key is None or (isinstance(rate, float) and rate == 0):
        return x
    checks.key("key", key)
    shape = [1 if axis in shared else n for axis, n in enumerate(x.shape)]
    keep = 1 - (rate if isinstance(rate, float) else jax.lax.stop_gradient(rate.astype(x.dtype)))
    # Drawn in float32 whatever x is, so that a key drops the same entries with 64-bit types as without.
    kept = jax.random.bernoulli(key, jnp.asarray(keep, jnp.float32), shape)
    return jnp.where(kept, x * (1 / keep), 0)


def attend(query: Array, xs: Array, valid: Array) -> tuple[Array, Array]:
    """The mean of steps weighted by a learnt query.

        a = softmax_t(tanh(x_t) . query),   y = sum_t a_t x_t

    Args:
      query: [H].
      xs: [T, H].
      valid: bool [T]; the weights of other steps are 0. With no valid step, y is 0.

    Returns:
      y [H] and the weights [T].

    Raises:
      TypeError, ValueError: naming the argument.

    Reference: Zhou et al. 2016, eqs. 9 to 11.

    >>> attend(jnp.zeros(2), jnp.array([[1.0, 0], [3, 0]]), jnp.array([True, True]))[0].tolist()
    [2.0, 0.0]
    """
    query, xs = checks.as_float_array("query", query), checks.as_float_array("xs", xs)
    if xs.ndim != 2:
        raise ValueError(f"xs should be [T, H], got shape {xs.shape}; map over a batch with vmap")
    if query.shape != xs.shape[1:]:
        raise ValueError(f"query should have the shape {xs.shape[1:]} of a step of xs [T, H], got {query.shape}")
    valid = checks.bools("valid", valid, xs.shape[:1], "[T]")
    xs = jnp.where(valid[:, None], xs, 0)  # before the product: 0 * NaN in the backward pass would spoil the query
    scores = jnp.where(valid, jnp.tanh(xs) @ query, -jnp.inf)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, initial=-1e30)))
    weights = weights / jnp.maximum(weights.sum(), jnp.finfo(weights.dtype).tiny)
    return weights @ xs, weights
