"""Truncated backpropagation through time: windows of a long sequence, the state handed on between them by value."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lstmjax import checks, varying

Array = jax.Array


def truncated_value_and_grad(
    loss: Callable[[Any, Any, Any], tuple[Array, Any]], window: int
) -> Callable[[Any, Any, Any], tuple[tuple[Array, Any], Any]]:
    """The loss of a long sequence, window by window, and its gradient with respect to params, truncated at the windows.

        L = sum_k loss(params, data[kW : (k+1)W], s_k)[0],   s_{k+1} = stop_gradient(loss(...)[1])

    Differentiated inside the loop over windows: at any time it holds what one window needs, however long the sequence.

    Args:
      loss: (params, data of a window, state) -> (scalar, next state). For a mean over steps, divide by T within.
      window: W, steps in a window. The last window is shorter where W does not divide T.

    Returns:
      (params, data, state) -> ((loss, state), gradients). `data` is a tree of arrays with a leading time axis of one T;
      `state` may hold numbers of any kind; it goes on from window to window, and from call to call if it is handed in.

    Raises:
      TypeError, ValueError: a window that is no positive int; data without one common time axis; a next state that is
        not of the shapes and dtypes of the state.

    Reference: Williams and Peng 1990, section 3.3.

    >>> import lstmjax
    >>> params = lstmjax.init_lstm(jax.random.key(0), 3, 5)
    >>> def loss(params, xs, state):
    ...     state, ys = lstmjax.run(params, xs, state)
    ...     return (ys**2).sum(), state
    >>> state, xs = lstmjax.init_state(params, 2), jnp.ones((100, 2, 3))
    >>> (value, state), gradients = truncated_value_and_grad(loss, window=20)(params, xs, state)
    >>> gradients.w_h.shape
    (5, 20)
    """
    window = checks.size("window", window)
    if not callable(loss):
        raise TypeError(f"loss should be a function (params, data, state) -> (scalar, state), got {checks.show(loss)}")

    def of_window(carry, data):
        params, state, total, gradients = carry
        (value, after), found = jax.value_and_grad(loss, has_aux=True)(params, data, state)
        _check_state(state, after)
        return (params, after, total + value, jax.tree.map(jnp.add, gradients, found)), None

    def over_time(params: Any, data: Any, state: Any) -> tuple[tuple[Array, Any], Any]:
        time = _time(data)
        whole = time - time % window
        params, state = jax.tree.map(jnp.asarray, (params, state))
        first = jax.tree.map(lambda a: a[: min(window, time)], data)
        value, _ = jax.eval_shape(loss, params, first, state)
        # Under shard_map the carry has to vary over the mesh from the start as it does later; the gradients are those
        # of params, over whose axes they are summed.
        names = varying.axes(params, data, state)
        begin = varying.over(names, (state, jnp.zeros((), value.dtype)))
        none = jax.tree.map(lambda a: varying.over(varying.axes(a), jnp.zeros_like(a)), params)
        carry = (params, *begin, none)
        if whole:
            windows = jax.tree.map(lambda a: a[:whole].reshape(whole // window, window, *a.shape[1:]), data)
            carry, _ = jax.lax.scan(of_window, carry, windows)
        if whole < time:
            carry, _ = of_window(carry, jax.tree.map(lambda a: a[whole:], data))
        _, state, total, gradients = carry
        return (total, state), gradients

    return over_time


def _time(data):
    """The T that all of `data` has."""
    leaves = jax.tree.leaves(data)
    for leaf in leaves:
        if not checks.is_array(leaf) or leaf.ndim == 0:
            raise TypeError(f"data should be arrays with a leading time axis, got {checks.show(leaf)}")
    times = sorted({len(leaf) for leaf in leaves})
    if len(times) != 1 or times[0] == 0:
        raise ValueError(f"data should have one leading time axis of at least 1 step, got lengths {times}")
    return times[0]


def _check_state(before, after):
    kinds = [jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", tree) for tree in (before, after)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"loss should return the next state in the shapes of the state, {kinds[0]}, got {kinds[1]}")
