"""The arguments of a run, all checked before anything is computed."""

from typing import Any, NamedTuple

import jax

from lstmjax import checks, regularise
from lstmjax.backends import dispatch, fused
from lstmjax.cells.cell import check_state
from lstmjax.cells.kinds import cell_of, input_size, is_layer, output_size
from lstmjax.containers import Bidirectional, check_directions, holds_pair, init_state, map_layers
from lstmjax.padding import PADDINGS

Array = jax.Array


class Call(NamedTuple):
    """What a run was given, checked."""

    params: Any
    xs: Array
    state: Any
    options: dict  # of a layer
    work: regularise.Training


def checked(
    params,
    xs,
    state=None,
    *,
    lengths=None,
    mask=None,
    reset=None,
    reverse=False,
    padding="zero",
    regularisers=None,
    key=None,
    training=None,
    backend=None,
    compute_dtype=None,
    precision=None,
    residuals=None,
    chunk=None,
    remat=False,
):
    """The arguments of `run`, or the error that names the one that is wrong, before anything is computed."""
    xs = checks.as_float_array("xs", xs)
    if xs.ndim < 2:
        raise ValueError(f"xs should be [T, *batch, D], got shape {xs.shape}; for a single step call step")
    T, *batch, _ = xs.shape
    if lengths is not None and mask is not None:
        raise ValueError("lengths and mask both say which steps count: give one of them")
    if lengths is not None:
        lengths = checks.lengths("lengths", lengths, tuple(batch), T)
    if mask is not None:
        mask = checks.bools("mask", mask, (T, *batch), "[T, *batch]")
    if reset is not None:
        reset = checks.bools("reset", reset, (T, *batch), "[T, *batch]")
    if compute_dtype is not None:
        compute_dtype = checks.float_dtype("compute_dtype", compute_dtype)
    checks.precision("precision", precision)
    if checks.flag("reverse", reverse) and holds_pair(params):
        raise ValueError("reverse should be False for params that hold a Bidirectional, which runs both ways already")
    check_directions("params", params)
    checks.one_of("padding", padding, PADDINGS)
    if residuals is not None:
        checks.one_of("residuals", residuals, fused.RESIDUALS)
    if chunk is not None:
        chunk = checks.size("chunk", chunk)
    remat = checks.steps("remat", remat)
    work = regularise.prepare(regularisers, key, training)
    params, _ = check_params("params", params, xs.shape[-1], work)
    state = check_states("state", params, state, tuple(batch), xs.dtype, fresh=True)
    cost = dict(residuals=residuals, chunk=chunk, remat=remat)
    noise = regularise.outline(work)
    map_layers(lambda _, layer: dispatch.choose(layer, xs, backend=backend, **cost, noise=noise), params)
    data = dict(lengths=lengths, mask=mask, reset=reset, reverse=reverse)
    return Call(params, xs, state, data | cost | dict(compute_dtype=compute_dtype, precision=precision), work)


def check_params(name, params, features, work):
    """The params as jax arrays, and the features of their outputs, for inputs of so many `features`."""
    if type(params) is Bidirectional:
        sides = [check_params(f"{name}.{side}", part, features, work) for side, part in params._asdict().items()]
        return Bidirectional(*(part for part, _ in sides)), sum(width for _, width in sides)
    if type(params) is tuple:
        if not params:
            raise ValueError(f"{name} should hold at least one layer, got an empty tuple")
        parts = []
        for k, part in enumerate(params):
            part, features = check_params(f"{name}[{k}]", part, features, work)
            parts.append(part)
        return tuple(parts), features
    params = cell_of(params, name).check(name, params)
    if features != input_size(params):
        raise ValueError(
            f"the inputs of {name} have {features} features, but {name}.w_x {params.w_x.shape} expects "
            f"{input_size(params)}"
        )
    regularise.check_use(name, work, params)
    return params, output_size(params)


def check_states(name, params, state, batch, dtype, fresh=False):
    """The states in the dtype they are kept in, in the containers of `params`; zeros for None, if `fresh`."""
    if state is None and fresh:
        return init_state(params, batch, dtype)
    if is_layer(params):
        return check_state(name, cell_of(params), params, state, batch, dtype)
    pair = type(params) is Bidirectional
    if type(state) is not type(params) or len(state) != len(params):
        kind = "Bidirectional(forward, backward)" if pair else f"a tuple of {len(params)} states"
        given = f"a tuple of {len(state)}" if type(state) is tuple else checks.show(state)
        raise TypeError(f"{name} should be {kind}, got {given}")
    names = [f"{name}.{side}" for side in params._fields] if pair else [f"{name}[{k}]" for k in range(len(params))]
    parts = [check_states(n, p, s, batch, dtype, fresh) for n, p, s in zip(names, params, state, strict=True)]
    return Bidirectional(*parts) if pair else tuple(parts)
