"""What a kind of layer is to the rest of the house, and the door of its steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.typing import DTypeLike

from lstmjax import checks
from lstmjax.cells.products import state_dtype, wider

Array = jax.Array


class How(NamedTuple):
    """How a step is computed, beside its equation."""

    compute_dtype: DTypeLike | None = None
    precision: Any = None
    recurrent: Array | None = None  # [*batch, P], what h is multiplied by before it meets w_h; None: 1


class Cell(NamedTuple):
    """What there is to know about a kind of layer."""

    name: str
    params: Any  # the NamedTuple
    state: Any  # the NamedTuple; its h is the output
    advance: Callable  # (params, state, x, how) -> (state, gates): a step without its checks, the body of a scan
    check: Callable  # (name, params) -> params as jax arrays, or an error that names the field that does not fit
    widths: Callable  # params -> the features of each field of the state
    recurrent: bool = True  # whether h meets weights
    zoneout_c: bool = False  # whether c may keep its value by itself, no other field depending on it


def recurrent(state: Any, how: How) -> Array:
    """The h that meets w_h."""
    return state.h if how.recurrent is None else state.h * how.recurrent


def step(cell: Cell, where: str, params: Any, state: Any, x: Any, compute_dtype: Any, precision: Any) -> tuple:
    """A step of this cell for whoever calls it by its own name: (state, y)."""
    params, state, x = _door(cell, where, params, state, x)
    if compute_dtype is not None:
        compute_dtype = checks.float_dtype("compute_dtype", compute_dtype)
    checks.precision("precision", precision)
    state, _ = cell.advance(params, state, x, How(compute_dtype, precision))
    return state, state.h.astype(x.dtype)


def gates(cell: Cell, where: str, params: Any, state: Any, x: Any) -> Any:
    """The gates of that step."""
    params, state, x = _door(cell, where, params, state, x)
    return cell.advance(params, state, x, How())[1]


def _door(cell, where, params, state, x):
    if type(params) is not cell.params:
        raise TypeError(f"{where}: params should be {cell.params.__name__}, got {checks.show(params)}")
    params = cell.check("params", params)
    x = checks.as_float_array("x", x)
    D = params.w_x.shape[0]
    if x.ndim == 0 or x.shape[-1] != D:
        raise ValueError(f"x has shape {x.shape}, but params expect [*batch, D] with D = {D}")
    return params, check_state("state", cell, params, state, x.shape[:-1], x.dtype), x


def check_state(name: str, cell: Cell, params: Any, state: Any, batch: tuple[int, ...], dtype: DTypeLike) -> Any:
    """`state` in the dtype it is kept in, or an error that names the field that does not fit."""
    kind = cell.state
    if type(state) is not kind:
        raise TypeError(f"{name} should be {kind.__name__}({', '.join(kind._fields)}), got {checks.show(state)}")
    wide, found = state_dtype(dtype), []
    for field, array, width in zip(kind._fields, state, cell.widths(params), strict=True):
        array = checks.as_float_array(f"{name}.{field}", array)
        if array.shape != (*batch, width):
            raise ValueError(
                f"{name}.{field} should have shape [*batch, features] = {(*batch, width)}, got {array.shape}"
            )
        if wider(array.dtype, wide) != wide:
            raise TypeError(
                f"{name}.{field} is {array.dtype}, which {wide} cannot hold: "
                "the state is float32, or the dtype of the inputs if that is wider"
            )
        found.append(array.astype(wide))
    return kind(*found)


def check_arrays(name: str, params: Any, form: Any = None, **nested: Callable) -> Any:
    """`params` with their weights as jax arrays.

    Args:
      form: what kind `params.form` has, where there is one.
      nested: for a field that holds weights of its own, (name, value) -> the value checked.

    Raises:
      TypeError: what is no array of floats, a missing weight that is not optional, a `form` of another kind, or weights
        of more than one dtype.
    """

    def checked(field, value):
        if value is None and field in params._field_defaults:
            return None
        if field in nested:
            return nested[field](f"{name}.{field}", value)
        if field == "form":
            if type(value) is not form:
                raise TypeError(f"{name}.form should be {form.__name__} or None, got {checks.show(value)}")
            return value
        return checks.as_float_array(f"{name}.{field}", value)

    params = type(params)(*(checked(field, value) for field, value in zip(params._fields, params, strict=True)))
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    if len({array.dtype for _, array in leaves}) > 1:
        given = ", ".join(f"{jax.tree_util.keystr(p, simple=True, separator='.')} {a.dtype}" for p, a in leaves)
        raise TypeError(f"{name} should have one dtype for all weights, got {given}")
    return params


def check_shape(name: str, array: Array | None, want: tuple[int, ...], fit: str) -> None:
    """Refuse an array, if there is one, of another shape."""
    if array is not None and array.shape != want:
        raise ValueError(f"{name} should have shape {want} to fit {fit}, got {array.shape}")


def check_square(name: str, params: Any, blocks: int) -> None:
    """Refuse w_x, w_h and b that are not [D, kH], [H, kH] and [kH]."""
    w_h = params.w_h
    if w_h.ndim != 2 or w_h.shape[1] != blocks * w_h.shape[0] or w_h.shape[0] == 0:
        want = "H" if blocks == 1 else f"{blocks}H"
        raise ValueError(f"{name}.w_h should have shape [H, {want}] with H at least 1, got {w_h.shape}")
    check_columns(name, params, w_h.shape[1], f"w_h {w_h.shape}")


def check_columns(name: str, params: Any, columns: int, fit: str) -> None:
    """Refuse w_x and b that are not [D, columns] and [columns]."""
    w_x = params.w_x
    if w_x.ndim != 2 or w_x.shape[1] != columns or w_x.shape[0] == 0:
        raise ValueError(f"{name}.w_x should have shape [D, {columns}] to fit {fit}, got {w_x.shape}")
    check_shape(f"{name}.b", params.b, (columns,), fit)
