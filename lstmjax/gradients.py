"""How far back in time a gradient reaches: the norm of what a loss asks of the state after each step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lstmjax import checks
from lstmjax.containers import init_state
from lstmjax.sequence import step

Array = jax.Array


def over_time(params: Any, xs: Array, loss: Callable[[Any, Array], Array], *, lengths: Array | None = None) -> Any:
    """The norm of the gradient of a loss with respect to the state after every step.

        dL/ds_t = dL/ds_T  prod_{k = t+1..T} ds_k/ds_{k-1},   s_t the state: h of a plain RNN or GRU, (h, c) of an LSTM

    if the loss reads the last state alone, and the sum of such products over all steps that it reads otherwise. Of a
    plain RNN each factor is diag(1 - h_k**2) W_h^T: where its norm is below 1, the product vanishes with t, above 1 it
    may explode. Of an LSTM dc_k/dc_{k-1} holds the forget gate, which may be 1.

    It is computed by adding zeros to every state, and asking for the gradient with respect to them.

    Args:
      params: a layer or a stack, as for `run`; no pair of directions, which has no one order of time.
      xs: [T, *batch, D].
      loss: (state, ys) -> scalar, of what `run` gives: the final state, and ys [T, *batch, H].
      lengths: int [*batch]; None: all T. At padded steps the outputs, and the norms, are 0.

    Returns:
      In the containers of `params`, `LSTMState` or another of norms [T, *batch] each, over the units of a layer. The
      norm for the whole state is the root of the sum of their squares.

    Raises:
      TypeError, ValueError: as `run`; a `loss` that gives no scalar.

    References: Hochreiter 1991, section 3; Bengio et al. 1994, section 4; Pascanu et al. 2013, eqs. 3 to 5.

    >>> import lstmjax
    >>> params = lstmjax.init_rnn(jax.random.key(0), 2, 4)
    >>> found = over_time(params, jnp.ones((9, 3, 2)), lambda state, ys: state.h.sum())
    >>> found.h.shape, bool((found.h[-1] == 2).all())
    ((9, 3), True)
    """
    xs = checks.as_float_array("xs", xs)
    if xs.ndim < 2:
        raise ValueError(f"xs should be [T, *batch, D], got shape {xs.shape}")
    T, batch = len(xs), xs.shape[1:-1]
    valid = jnp.ones((T, *batch), bool)
    if lengths is not None:
        lengths = checks.lengths("lengths", lengths, batch, T)
        valid = jax.lax.expand_dims(jnp.arange(T, dtype=lengths.dtype), range(1, xs.ndim - 1)) < lengths[None]
    first = init_state(params, batch, xs.dtype)
    zeros = jax.tree.map(lambda a: jnp.zeros((T, *a.shape), a.dtype), first)

    def total(added):
        def body(state, now):
            x, added, counts = now
            after, y = _step(params, state, x, added)
            after = jax.tree.map(lambda new, old: jnp.where(counts[..., None], new, old), after, state)
            return after, jnp.where(counts[..., None], y, 0)

        return loss(*jax.lax.scan(body, first, (xs, added, valid)))

    return jax.tree.map(lambda g: jnp.sqrt((g * g).sum(-1)), jax.grad(total)(zeros))


def _step(params, state, x, added):
    """`sequence.step`, with something added to the state of every layer before the next layer sees it."""
    if type(params) is tuple:
        states = []
        for layer, layer_state, layer_added in zip(params, state, added, strict=True):
            layer_state, x = _step(layer, layer_state, x, layer_added)
            states.append(layer_state)
        return tuple(states), x
    state = jax.tree.map(jnp.add, step(params, state, x)[0], added)
    return state, state.h.astype(x.dtype)
