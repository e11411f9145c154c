"""What layers stand in: a pair of directions, and a stack, which is a tuple. They nest."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks
from lstmjax.cells.kinds import cell_of, is_layer
from lstmjax.cells.products import state_dtype


class Bidirectional(NamedTuple):
    """Two layers over the same inputs, one from each end; their outputs stand side by side.

    Also the form of what belongs to such a pair: its state, its trace.
    """

    forward: Any
    backward: Any


def init_state(params: Any, batch: tuple[int, ...] | int = (), dtype: DTypeLike = jnp.float32) -> Any:
    """The zero state of a layer, or of a stack: the containers of `params`, with a state in the place of each layer.

    Args:
      params: the params of a layer, a `Bidirectional` pair, or a tuple of these.
      batch: the batch shape, `()` for one sequence; an int is one axis.
      dtype: of the inputs; the state itself is float32 or wider.

    Returns:
      `LSTMState`, `GRUState`, ... of [*batch, H], in the containers of `params`.

    Raises:
      TypeError, ValueError: `params` that hold no known layer, a batch or dtype that is none.

    >>> import jax, lstmjax
    >>> init_state(lstmjax.init_lstm(jax.random.key(0), 3, 5), batch=2).h.shape
    (2, 5)
    """
    batch = checks.batch_shape("batch", batch)
    wide = state_dtype(checks.float_dtype("dtype", dtype))

    def zeros(name, layer):
        cell = cell_of(layer, name)
        layer = cell.check(name, layer)
        return cell.state(*(jnp.zeros((*batch, width), wide) for width in cell.widths(layer)))

    return map_layers(zeros, params)


def map_layers(function: Callable[[str, Any], Any], params: Any, name: str = "params") -> Any:
    """`function(name, layer)` for every layer, `params[1].forward` say, in the containers of `params`.

    Raises:
      TypeError, ValueError: a container that is no tuple, or one without layers.
    """
    if is_layer(params):
        return function(name, params)
    if not params:
        raise ValueError(f"{name} should hold at least one layer, got an empty tuple")
    fields = getattr(params, "_fields", None)
    names = [f"{name}[{k}]" for k in range(len(params))] if fields is None else [f"{name}.{field}" for field in fields]
    parts = [map_layers(function, part, inner) for inner, part in zip(names, params, strict=True)]
    return tuple(parts) if fields is None else type(params)(*parts)


def check_directions(name: str, params: Any) -> None:
    """Refuse a pair on the backward side of another: that side runs from the end, and a pair runs both ways."""
    if is_layer(params):
        return
    if type(params) is Bidirectional and holds_pair(params.backward):
        raise ValueError(f"{name}.backward should hold no Bidirectional: it runs from the end, and a pair both ways")
    fields = getattr(params, "_fields", None)
    for k, part in enumerate(params):
        check_directions(f"{name}[{k}]" if fields is None else f"{name}.{fields[k]}", part)


def holds_pair(params: Any) -> bool:
    """Whether any container of `params` is a pair of directions."""
    if is_layer(params):
        return False
    return type(params) is Bidirectional or any(map(holds_pair, params))
