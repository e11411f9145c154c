"""A learning rate to begin with, from one short run in which it rises."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lstmjax import checks, devices
from lstmjax.train.step import init_state, make_step

Array = jax.Array


class RateFound(NamedTuple):
    """What a run with a rising learning rate showed."""

    rate: float  # where the loss fell fastest
    rates: np.ndarray  # of each step
    losses: np.ndarray  # smoothed


def find_learning_rate(
    loss: Callable[[Any, Any, Array], Array],
    params: Any,
    optimizer: Callable[[Any], optax.GradientTransformation],
    batches: Callable[[int], Sequence[Any]],
    *,
    key: Array,
    low: float = 1e-5,
    high: float = 1.0,
    steps: int = 100,
) -> RateFound:
    """The learning rate at which the loss falls fastest while the rate rises from `low` to `high`.

    Args:
      loss, params, batches: as in `fit`; the params are not changed.
      optimizer: learning rate -> an optax chain.
      low, high: the rate of step k is low (high / low)^(k / (steps - 1)).
      steps: at most so many; the run ends where the smoothed loss is 4 times its least, or not finite.

    Returns:
      `RateFound`. A maximum; a third to the whole of it is a good peak for a schedule.

    Raises:
      TypeError, ValueError: naming the argument. FloatingPointError: the loss was not finite before it could fall.

    Reference: Smith 2017, section 3.3.

    >>> found = find_learning_rate(
    ...     lambda w, batch, key: (w - batch) ** 2,
    ...     jnp.float32(0),
    ...     optax.sgd,
    ...     lambda epoch: [jnp.float32(2)],
    ...     key=jax.random.key(0),
    ... )
    >>> 0.01 < found.rate < 1
    True
    """
    checks.key("key", key)
    checks.positive("low", low)
    checks.positive("high", high)
    if not low < high:
        raise ValueError(f"high should be above low, got low {low} and high {high}")
    if checks.size("steps", steps) < 10:
        raise ValueError(f"steps should be at least 10, got {steps}")
    step = jax.jit(
        lambda state, batch, rate: make_step(loss, optimizer(rate))(state, batch),
        donate_argnums=0,
        compiler_options=devices.compiler_options(),
    )
    state = init_state(jax.tree.map(jnp.copy, params), optimizer(jnp.float32(low)), jnp.copy(key))
    rates = low * (high / low) ** (np.arange(steps) / (steps - 1))
    smoothed: list[float] = []
    mean, epoch, today, k = 0.0, 0, batches(0), 0
    for n, rate in enumerate(rates):
        if k == len(today):
            epoch, k = epoch + 1, 0
            today = batches(epoch)
        if len(today) == 0:
            raise ValueError(f"batches({epoch}) should give at least one batch, got none")
        state, report = step(state, today[k], jnp.float32(rate))
        k += 1
        # The exponential mean of the last ten or so, without the bias of its beginning.
        mean = 0.9 * mean + 0.1 * float(report.loss)
        now = mean / (1 - 0.9 ** (n + 1))
        if (
            not math.isfinite(now)
            or not bool(report.finite.all())
            or (smoothed and now - min(smoothed) > 3 * abs(min(smoothed)))
        ):
            break
        smoothed.append(now)
    if len(smoothed) < 10:
        raise FloatingPointError(f"the loss was not finite, or grew, within {len(smoothed)} steps from a rate of {low}")
    losses = np.array(smoothed)
    end = max(int(losses.argmin()) + 1, 3)  # what comes after the least is no descent
    fastest = int(np.gradient(losses[:end]).argmin())
    return RateFound(float(rates[fastest]), rates[: len(losses)], losses)
