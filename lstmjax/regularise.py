"""Regularisers that live inside a recurrent layer: pure, and drawn from a key that is handed in.

A layer's regularisers come to `Noise`, which is data to a backend, and to inputs and weights that are partly dropped.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstmjax import checks
from lstmjax.cells.kinds import cell_of, output_size
from lstmjax.layers import dropout

Array = jax.Array


class Regularisers(NamedTuple):
    """What is dropped or held back, each with a probability in [0, 1): a float, or an array without axes, so that a
    sweep may map over it. In a stack they hold for every layer.

    References: Gal and Ghahramani 2016, section 4 (`inputs`, `recurrent`); Zaremba et al. 2014 (`between`); Merity et
    al. 2018, section 3 (`weights`); Krueger et al. 2017, section 3 (`zoneout_h`, `zoneout_c`).
    """

    inputs: Any = 0.0  # features of a layer's inputs, the same ones at every step of a sequence
    recurrent: Any = 0.0  # features of h where it meets w_h, the same ones at every step of a sequence
    between: Any = 0.0  # features of the outputs between the layers of a stack, others at every step
    weights: Any = 0.0  # entries of w_h, the same ones for the whole call (DropConnect)
    zoneout_h: Any = 0.0  # units of h that keep their value for a step; without training, that share of it
    zoneout_c: Any = 0.0  # units of c likewise


class Noise(NamedTuple):
    """What regularisers come to for one layer."""

    recurrent: Array | None = None  # [*batch, P]: what h is multiplied by before it meets w_h
    zoneout: dict[str, Array] = {}  # noqa: RUF012 - field of the state: bool [T, *batch, H], true where it is kept
    expected: dict[str, Array] = {}  # noqa: RUF012 - field of the state: the share of the old value


class Training(NamedTuple):
    """Regularisers at work: their rates checked, and the key they are drawn from, None where nothing is drawn."""

    rates: Regularisers
    key: Array | None

    def below(self, n: int) -> "Training":
        """The same for part n of a container, with a key of its own."""
        return self if self.key is None else self._replace(key=jax.random.fold_in(self.key, n))


QUIET = Noise()
_BETWEEN = 2**32 - 1  # folded into a key where parts of a container are counted from 0: no part has it
OFF = Training(Regularisers(), None)


def prepare(regularisers: Any, key: Any, training: Any = None) -> Training:
    """What a call was given, checked.

    Raises:
      TypeError, ValueError: what is no `Regularisers`, a rate outside [0, 1), no key where `training` asks for one, a
        key that is none.
    """
    if regularisers is None:
        regularisers = Regularisers()
    if type(regularisers) is not Regularisers:
        raise TypeError(f"regularisers should be Regularisers or None, got {checks.show(regularisers)}")
    rates = Regularisers(*(checks.rate(f"regularisers.{name}", rate) for name, rate in regularisers._asdict().items()))
    if key is not None:
        checks.key("key", key)
    if training is not None:
        training = checks.flag("training", training)
    if training and key is None and any(map(_on, rates)):
        raise ValueError("key should be a PRNG key where training is True and a rate is above 0, got None")
    return Training(rates, key if training in (None, True) else None)


def outline(training: Training, dtype: Any = jnp.float32) -> Noise:
    """Which noise there will be, for whoever chooses a backend: the fields that are not None or empty. Without a key
    that is all of it, in the dtype of the state."""
    rates, drawn = training.rates, training.key is not None
    zoned = _zoned(rates, dtype)
    recurrent = rates.recurrent if drawn and _on(rates.recurrent) else None
    return Noise(recurrent, zoned if drawn else {}, {} if drawn else zoned)


def between(training: Training, ys: Array) -> Array:
    """The outputs of a layer on their way to the next."""
    if training.key is None or not _on(training.rates.between):
        return ys
    return dropout(jax.random.fold_in(training.key, _BETWEEN), training.rates.between, ys)


def check_use(name: str, training: Training, params: Any) -> None:
    """Refuse a rate above 0 that this kind of layer has no use for."""
    rates, cell = training.rates, cell_of(params)
    kind = cell.params.__name__
    for field, rate in (("recurrent", rates.recurrent), ("weights", rates.weights)):
        if _on(rate) and not cell.recurrent:
            raise ValueError(f"regularisers.{field} is above 0, but {name} is {kind}, which has no w_h")
    if _on(rates.zoneout_c) and not cell.zoneout_c:
        raise ValueError(f"regularisers.zoneout_c is above 0, but {name} is {kind}: it is for LSTMs only")


def of_layer(training: Training, params: Any, xs: Array, dtype: Any) -> tuple[Any, Array, Noise]:
    """Params and inputs with what is dropped of them, and the noise of one layer.

    Args:
      xs: [T, *batch, D].
      dtype: of the state.
    """
    rates, cell = training.rates, cell_of(params)
    if training.key is None:
        return params, xs, Noise(expected=_zoned(rates, dtype))
    keys = jax.random.split(training.key, 5)
    batch, noise = xs.shape[1:-1], QUIET
    if _on(rates.inputs):
        xs = dropout(keys[0], rates.inputs, xs, shared=(0,))
    if _on(rates.weights):
        params = params._replace(w_h=dropout(keys[1], rates.weights, params.w_h))
    if _on(rates.recurrent):
        ones = jnp.ones((*batch, output_size(params)), dtype)
        noise = noise._replace(recurrent=dropout(keys[2], rates.recurrent, ones))
    widths = dict(zip(cell.state._fields, cell.widths(params), strict=True))
    kept = {
        field: jax.random.bernoulli(
            keys[3 + (field == "c")], rate.astype(jnp.float32), (len(xs), *batch, widths[field])
        )
        for field, rate in _zoned(rates, dtype).items()
    }
    return params, xs, noise._replace(zoneout=kept)


def _zoned(rates, dtype):
    """The rates of zoneout by the field of the state, where there is one."""
    given = {"h": rates.zoneout_h, "c": rates.zoneout_c}
    return {field: jnp.asarray(rate, dtype) for field, rate in given.items() if _on(rate)}


def held(before: Any, after: Any, kept: dict[str, Array], expected: dict[str, Array]) -> Any:
    """The state after a step, of which zoneout keeps a part as it was before."""
    for field, where in kept.items():
        after = after._replace(**{field: jnp.where(where, getattr(before, field), getattr(after, field))})
    for field, rate in expected.items():
        old, new = getattr(before, field), getattr(after, field)
        after = after._replace(**{field: rate * old + (1 - rate) * new})
    return after


def _on(rate):
    """Whether there is anything to do: a rate under tracing may be anything."""
    return not (isinstance(rate, float) and rate == 0)
