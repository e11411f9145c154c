"""Activations by name, as ONNX defines them: the roles of a cell may each have another.

An activation is a name, a tuple of a name and its constants alpha and beta, or any function of an array.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstmjax import checks

Array = jax.Array
Activation = str | tuple | Callable


class _Known(NamedTuple):
    function: Callable  # of the array and as many constants as there are defaults
    constants: tuple = ()  # alpha, beta where nothing else is said


def activation(given: Activation) -> Callable[[Array], Array]:
    """The function that `given` stands for.

        sigmoid, tanh, softsign, softplus, identity, relu = max(x, 0)
        hard_sigmoid = min(max(alpha x + beta, 0), 1)           alpha 0.2, beta 0.5
        affine = alpha x + beta                                 alpha 1, beta 0
        scaled_tanh = alpha tanh(beta x)                        alpha 1, beta 1
        leaky_relu = x if x >= 0 else alpha x                   alpha 0.01
        thresholded_relu = x if x > alpha else 0                alpha 1
        elu = x if x >= 0 else alpha (e**x - 1)                 alpha 1

    Args:
      given: a name, (name, alpha), (name, alpha, beta), or a function, which is taken as it is.

    Raises:
      TypeError, ValueError: see `check_activation`; and when it is used, a function that keeps not shape and dtype.

    Reference: the ONNX operators LSTM, HardSigmoid, LeakyRelu, ThresholdedRelu and Elu.

    >>> activation(("hard_sigmoid", 0.25, 0.5))(jnp.array([-9.0, 1.0])).tolist()
    [0.0, 0.75]
    """
    check_activation("activation", given)
    if callable(given):
        return partial(_kept, given)
    name, *constants = (given,) if isinstance(given, str) else given
    function, defaults = _KNOWN[name]
    constants = [*constants, *defaults[len(constants) :]]
    return (lambda x: function(x, *constants)) if constants else function


def check_activation(name: str, given: Any) -> None:
    """Refuse what `activation` does not know: a TypeError for another kind of thing, a ValueError for an unknown name
    or constants that are none of its."""
    if callable(given):
        return
    known, *constants = (given,) if isinstance(given, str) else given if isinstance(given, tuple) and given else (None,)
    if not isinstance(known, str):
        raise TypeError(f"{name} should be the name of an activation, (name, alpha, beta) or a function, got {given!r}")
    checks.one_of(name, known, tuple(_KNOWN))
    most = len(_KNOWN[known].constants)
    if len(constants) > most:
        raise ValueError(f"{name} {known!r} should have at most {most} constants, got {given!r}")
    for constant in constants:
        checks.finite(name, constant)


def _kept(function, x):
    """What `function` makes of x, if that is an array like x."""
    y = function(x)
    if not checks.is_array(y) or (y.shape, y.dtype) != (x.shape, x.dtype):
        raise ValueError(f"an activation should keep shape and dtype, got {checks.show(y)} for {checks.show(x)}")
    return y


def _hard_sigmoid(x, alpha, beta):
    # Comparisons rather than clip, whose derivative at the corners is a half.
    line = alpha * x + beta
    return jnp.where(line > 1, 1, jnp.where(line < 0, 0, line))


def _softsign(x):
    return x / (1 + jnp.abs(x))


_KNOWN = {
    "sigmoid": _Known(jax.nn.sigmoid),
    "tanh": _Known(jnp.tanh),
    "relu": _Known(jax.nn.relu),
    "identity": _Known(lambda x: x),
    "softsign": _Known(_softsign),
    "softplus": _Known(jax.nn.softplus),
    "hard_sigmoid": _Known(_hard_sigmoid, (0.2, 0.5)),
    "affine": _Known(lambda x, alpha, beta: alpha * x + beta, (1.0, 0.0)),
    "scaled_tanh": _Known(lambda x, alpha, beta: alpha * jnp.tanh(beta * x), (1.0, 1.0)),
    "leaky_relu": _Known(lambda x, alpha: jnp.where(x >= 0, x, alpha * x), (0.01,)),
    "thresholded_relu": _Known(lambda x, alpha: jnp.where(x > alpha, x, 0), (1.0,)),
    "elu": _Known(lambda x, alpha: jax.nn.elu(x, alpha), (1.0,)),
}
