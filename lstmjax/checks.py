"""Refusals at the door: every public function asks here before it computes.

Shapes, ranks, dtypes and options are static, so these errors are raised under `jit`, `vmap` and `grad` too.
Values (lengths, ids, labels) are looked at only where the array is concrete; under tracing the caller's docstring
says which safe result stands in for the error.
"""

import sys
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FLOATS = ("float16", "bfloat16", "float32", "float64")
_HUGE = sys.float_info.max


_CHECKIFIED: ContextVar[bool] = ContextVar("checkified", default=False)


def checkify(function: Callable) -> Callable:
    """`function` with the checks of values that tracing would hide: lengths, ids, labels and rates out of range.

    Args:
      function: of arrays, not jitted inside (what was traced before has no checks); jit what comes out instead.

    Returns:
      The same arguments -> (error, results), an error of `jax.experimental.checkify`: `error.throw()` raises if a value
      was out of range, `error.get()` is the message or None.

    >>> import lstmjax
    >>> params = lstmjax.init_lstm(jax.random.key(0), 3, 5)
    >>> run = jax.jit(checkify(lambda xs, lengths: lstmjax.run(params, xs, lengths=lengths)))
    >>> error, (state, ys) = run(jnp.ones((7, 2, 3)), jnp.array([3, 9]))
    >>> error.get().split(" (")[0]
    'lengths should lie in [0, T] with T = 7'
    """
    if not callable(function):
        raise TypeError(f"function should be a function of arrays, got {show(function)}")
    from jax.experimental import checkify

    def checkified(*args, **kwargs):
        token = _CHECKIFIED.set(True)
        try:
            return function(*args, **kwargs)
        finally:
            _CHECKIFIED.reset(token)

    return checkify.checkify(checkified, errors=checkify.user_checks)


def value(ok: jax.Array, message: str) -> None:
    """Where `checkify` is at work, an error at run time if not all is `ok`; elsewhere nothing."""
    if _CHECKIFIED.get():
        from jax.experimental import checkify

        checkify.check(ok.all(), message)


def show(x: Any) -> str:
    """What was given, short enough for a sentence: `float32[3,4]`, or the type of what is no array."""
    if is_array(x):
        return f"{x.dtype}[{','.join(map(str, x.shape))}]"
    return f"{type(x).__name__} {x!r}" if isinstance(x, bool | int | float | str) else type(x).__name__


def is_array(x: Any) -> bool:
    """Whether `x` is a jax or NumPy array, or a tracer; NumPy's masked arrays are not, JAX cannot take them."""
    return isinstance(x, jax.Array | np.ndarray | np.generic) and not isinstance(x, np.ma.MaskedArray)


def is_concrete(x: Any) -> bool:
    """Whether the values of `x` can be looked at now."""
    return isinstance(x, np.ndarray | np.generic | int | float | bool | list | tuple) or (
        isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer) and x.is_fully_addressable
    )


def as_float_array(name: str, x: Any) -> jax.Array:
    """`x` as a jax array if it is an array of real floats, else a TypeError that names it."""
    if not is_array(x):
        raise TypeError(f"{name} should be an array of floats, got {show(x)}")
    if x.dtype.name not in FLOATS:
        raise TypeError(
            f"{name} should be an array of floats ({', '.join(FLOATS)}), got {show(x)}; "
            "convert it first, e.g. x.astype('float32')"
        )
    return jnp.asarray(x)


def size(name: str, n: Any, least: int = 1) -> int:
    """`n` as a size: an integer of at least 1, or `least`."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"{name} should be an int of at least {least}, got {show(n)}")
    if n < least:
        raise ValueError(f"{name} should be an int of at least {least}, got {n}")
    return int(n)


def seed(name: str, n: Any) -> int:
    """`n` as a seed: an integer of 32 bits, of which `jax.random.key` would drop the others."""
    if size(name, n, least=0) >= 2**32:
        raise ValueError(f"{name} should be an int below 2**32, got {n}")
    return int(n)


def whole(name: str, n: Any) -> None:
    """Refuse what is no integer."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"{name} should be an int, got {show(n)}")


def number(name: str, x: Any) -> None:
    """Refuse what is no real number."""
    if isinstance(x, bool) or not isinstance(x, int | float | np.integer | np.floating):
        raise TypeError(f"{name} should be a number, got {show(x)}")


def finite(name: str, x: Any) -> None:
    """Refuse what is no finite number."""
    number(name, x)
    if not abs(x) <= _HUGE:
        raise ValueError(f"{name} should be a finite number, got {_figure(x)}")


def positive(name: str, x: Any) -> float:
    """`x` as a float, if it is a finite number above 0."""
    number(name, x)
    if not 0 < x <= _HUGE:
        raise ValueError(f"{name} should be a number above 0 and finite, got {_figure(x)}")
    return float(x)


def _figure(x):
    return "an int too great for a float" if isinstance(x, int) and abs(x) > _HUGE else x


def rate(name: str, given: Any) -> Any:
    """A probability below 1: a number, or an array of no axes, so that rates can be mapped over.

    A concrete one outside [0, 1) is refused; under tracing it is clipped to that.
    """
    if is_array(given) and jnp.issubdtype(given.dtype, jnp.floating):
        if given.shape != ():
            raise ValueError(f"{name} should be one rate in [0, 1), got {show(given)}")
    elif isinstance(given, bool) or not isinstance(given, int | float):
        raise TypeError(f"{name} should be a float in [0, 1), got {show(given)}")
    if not is_concrete(given):
        value((given >= 0) & (given < 1), f"{name} should be in [0, 1)")
        return jnp.clip(given, 0, 1 - jnp.finfo(given.dtype).eps)
    # By way of NumPy: what a jitted function closes over is concrete, but JAX would trace what is done with it.
    given = float(np.asarray(given))
    if not 0 <= given < 1:
        raise ValueError(f"{name} should be a float in [0, 1), got {given}")
    return given


def batch_shape(name: str, given: Any) -> tuple[int, ...]:
    """`given` as the sizes of batch axes: an int, or a tuple of ints, none negative."""
    sizes = tuple(given) if isinstance(given, tuple | list) else (given,)
    for n in sizes:
        if isinstance(n, bool) or not isinstance(n, int | np.integer):
            raise TypeError(f"{name} should be an int or a tuple of ints, got {given!r}")
        if n < 0:
            raise ValueError(f"{name} should hold no negative size, got {given}")
    return sizes


def precision(name: str, given: Any) -> None:
    """Refuse what `jax.lax.dot` does not know as a precision."""
    if given is None:
        return
    one = jax.ShapeDtypeStruct((1,), jnp.float32)
    try:
        jax.eval_shape(lambda a: jnp.dot(a, a, precision=given), one)
    except (TypeError, ValueError):
        known = "None, 'default', 'high', 'highest' or what else jax.lax.dot takes"
        raise ValueError(f"{name} should be {known}, got {show(given)}") from None


def one_of(name: str, given: Any, allowed: tuple) -> None:
    """Refuse a `given` that is not among the `allowed` names."""
    # Compared only if it is a name: an array would be compared entry by entry.
    if not any(given is one or (isinstance(given, str) and given == one) for one in allowed):
        got = repr(given) if isinstance(given, str) else show(given)
        raise ValueError(f"{name} should be one of {', '.join(map(repr, allowed))}, got {got}")


def key(name: str, k: Any) -> None:
    """Refuse what is no PRNG key."""
    typed = isinstance(k, jax.Array) and jnp.issubdtype(k.dtype, jax.dtypes.prng_key)
    legacy = isinstance(k, jax.Array) and k.dtype == jnp.uint32 and k.shape == (2,)
    if not (typed or legacy):
        raise TypeError(f"{name} should be a PRNG key from jax.random.key(seed), got {show(k)}")
    if typed and k.shape:
        raise ValueError(
            f"{name} should be one PRNG key, got an array of keys of shape {k.shape}; index it or use vmap"
        )


def float_dtype(name: str, dtype: Any) -> jnp.dtype:
    """`dtype` as a real floating dtype."""
    try:
        # None would be float64, and an array would be taken for its dtype.
        found = None if dtype is None or is_array(dtype) else jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in FLOATS:
        got = show(dtype) if found is None else found
        raise TypeError(f"{name} should be one of the dtypes {', '.join(FLOATS)}, got {got}")
    if found == jnp.float64 and not jax.config.read("jax_enable_x64"):
        raise TypeError(f"{name} is float64, but 64-bit types are off: set jax_enable_x64 first")
    return found


def steps(name: str, given: Any) -> bool | int:
    """False, True, or a number of steps of at least 1."""
    if isinstance(given, bool | np.bool_):
        return bool(given)
    if not isinstance(given, int | np.integer):
        raise TypeError(f"{name} should be True, False or a number of steps, got {show(given)}")
    return size(name, given)


def flag(name: str, given: Any) -> bool:
    """`given` as a Python bool: a static option, not an array."""
    if not isinstance(given, bool | np.bool_):
        raise TypeError(f"{name} should be True or False, got {show(given)}")
    return bool(given)


def lengths(name: str, given: Any, batch: tuple[int, ...], time: int) -> jax.Array:
    """Lengths as int32 of shape `batch`, in [0, time]: refused when concrete, clipped under tracing."""
    if isinstance(given, list | tuple | int) and not isinstance(given, bool):
        try:
            given = np.asarray(given)
        except ValueError:
            raise TypeError(f"{name} should be an array of ints of shape {batch}, got a ragged list") from None
    if not is_array(given) or not jnp.issubdtype(given.dtype, jnp.integer):
        raise TypeError(f"{name} should be an array of ints of shape {batch}, got {show(given)}")
    if given.shape != batch:
        raise ValueError(f"{name} should have the batch shape {batch} of xs [T, *batch, D], got shape {given.shape}")
    given = _holding(given)
    if is_concrete(given) and given.size:
        low, high = int(np.min(np.asarray(given))), int(np.max(np.asarray(given)))
        if low < 0 or high > time:
            raise ValueError(f"{name} should lie in [0, T] with T = {time}, got values from {low} to {high}")
    if not is_concrete(given):
        value((given >= 0) & (given <= time), f"{name} should lie in [0, T] with T = {time}")
    return jnp.clip(jnp.asarray(given), 0, time).astype(jnp.int32)


def _holding(ints):
    """Ints in a dtype that holds what they are compared with: a bound of 300 would be 44 in uint8."""
    return ints.astype(np.int32) if ints.dtype.itemsize < 4 else ints


def within(name: str, given: Any, size: int) -> None:
    """Refuse concrete ints outside [0, size)."""
    given = _holding(given)
    if not is_concrete(given):
        value((given >= 0) & (given < size), f"{name} should lie in [0, {size})")
    elif given.size:
        found = np.asarray(given)
        low, high = int(found.min()), int(found.max())
        if low < 0 or high >= size:
            raise ValueError(f"{name} should lie in [0, {size}), got values from {low} to {high}")


def bools(name: str, given: Any, shape: tuple[int, ...], layout: str) -> jax.Array:
    """A bool array of exactly `shape`."""
    if not is_array(given) or given.dtype != jnp.bool_:
        raise TypeError(f"{name} should be an array of bools of shape {shape}, got {show(given)}")
    if given.shape != shape:
        raise ValueError(f"{name} should have shape {layout} = {shape}, got shape {given.shape}")
    return jnp.asarray(given)


def strings(name: str, given: Any) -> list[str]:
    """Texts as a list of them."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        got = "one str: put it in a list" if isinstance(given, str) else show(given)
        raise TypeError(f"{name} should be a sequence of strings, got {got}")
    given = list(given)
    for n, text in enumerate(given):
        if not isinstance(text, str):
            raise TypeError(f"{name} should be a sequence of strings, got {show(text)} at place {n}")
    return given
