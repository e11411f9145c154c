"""A layer, a pair of directions, or a stack of these over time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks, varying
from lstmjax.backends import dispatch, fused, scan
from lstmjax.cells import cell_of, check_params, check_state, init_state, input_size, is_layer

Array = jax.Array


class Bidirectional(NamedTuple):
    """Two layers over the same inputs, one from each end; their outputs stand side by side.

    Also the form of what belongs to such a pair: its state, its trace.
    """

    forward: Any
    backward: Any


def run(
    params: Any,
    xs: Array,
    state: Any = None,
    *,
    lengths: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    backend: str | None = None,
    compute_dtype: DTypeLike | None = None,
    precision: Any = None,
    residuals: str | None = None,
    chunk: int | None = None,
) -> tuple[Any, Array]:
    """Run a layer, a pair of directions or a stack over a sequence.

        state_t, y_t = step(params, state_{t-1}, x_t),   t = 0 ... T - 1

    Args:
      params: `LSTMParams`, `GRUParams` or `RNNParams`; a `Bidirectional` of two of them; or a tuple of these, a
        stack, each over the outputs of the one before. Widths may differ.
      xs: [T, *batch, D] of floats; `*batch` may be empty (one sequence) or several axes.
      state: the initial state, [*batch, H] each, in the containers of `params`; None is zeros (`init_state`). It is
        kept in float32, or in the dtype of `xs` if that is wider; narrower floats are widened, wider ones refused.
      lengths: int [*batch], the number of steps of each sequence, in [0, T]: padding is at the end. At padded steps
        the outputs are 0 and whatever `xs` holds there is not read; the state is the one after the last valid step.
        A length of 0 gives the initial state. Under tracing the values cannot be checked and are clipped to [0, T].
      reset: bool [T, *batch]; where true, the initial state is put in the place of the state before that step, as for
        `is_first` in reinforcement learning. In reverse, "before" is in the order of processing.
      reverse: from the last valid step to the first; the outputs keep the order of time, and the state returned is
        the one after step 0. Of a stack, every layer is reversed; a `Bidirectional` has its directions already and
        refuses it.
      backend: None chooses (see `choose`); "scan" or "fused" insists.
      compute_dtype: dtype of the matrix products, e.g. "bfloat16"; sums and the state stay float32 or wider. None is
        the wider of `xs` and the weights.
      precision: of the matrix products, as in `jax.lax.dot`; None leaves it to the device: full float32 on a CPU,
        TF32 on NVIDIA GPUs, bfloat16 passes on TPUs. `jax.lax.Precision.HIGHEST` is full float32 everywhere.
      residuals: what fused keeps for the backward pass: "gates" (default, fastest) or "outputs" (leanest).
      chunk: steps in a chunk of fused; None chooses.

    Returns:
      The final state in the containers of `params`, and ys [T, *batch, H] in the dtype of `xs`: the outputs of the
      last layer, forward and backward side by side, [T, *batch, 2H], if that is a pair.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what was given; of shapes, dtypes and options
        under tracing too. TypeError: forward mode or second derivatives through backend="fused" by name.

    Reference: the equations of a step are those of `lstm_step`, `gru_step` and `rnn_step`.

    >>> import lstmjax
    >>> params = (lstmjax.init_lstm(jax.random.key(0), 3, 5), lstmjax.init_lstm(jax.random.key(1), 5, 4))
    >>> state, ys = run(params, jnp.ones((7, 2, 3)), lengths=jnp.array([7, 4]))
    >>> ys.shape, state[0].h.shape, bool((ys[4:, 1] == 0).all())
    ((7, 2, 4), (2, 5), True)
    """
    xs, options = _door(params, xs, lengths, reset, reverse, compute_dtype, precision, residuals, chunk)

    def layer(params, xs, state, **options):
        return dispatch.run(params, xs, state, backend=backend, **options)

    return _walk(layer, params, xs, state, options)


def trace(
    params: Any,
    xs: Array,
    state: Any = None,
    *,
    lengths: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    compute_dtype: DTypeLike | None = None,
    precision: Any = None,
) -> Any:
    """Every step's state and activated gates: for pictures, for replay (R2D2), for forecasting.

    Args: those of `run`.

    Returns:
      In the containers of `params`, for each layer a pair (state, gates) with a leading time axis: `LSTMState` and
      `LSTMGates` of [T, *batch, H], or those of the GRU or RNN. `state.h[t]` and `state.c[t]` are after step t; all
      is 0 at padded steps.

    Raises: as `run`.

    >>> import lstmjax
    >>> params = lstmjax.init_lstm(jax.random.key(0), 3, 5)
    >>> state, gates = trace(params, jnp.ones((7, 3)))
    >>> state.c.shape, gates.f.shape
    ((7, 5), (7, 5))
    """
    xs, options = _door(params, xs, lengths, reset, reverse, compute_dtype, precision, None, None)

    def layer(params, xs, state, **options):
        _, traced = scan.trace(params, xs, state, **options)
        return traced, traced[0].h.astype(xs.dtype)

    return _walk(layer, params, xs, state, options)[0]


def step(
    params: Any, state: Any, x: Array, *, compute_dtype: DTypeLike | None = None, precision: Any = None
) -> tuple[Any, Array]:
    """One step of a layer or of a stack: streaming on the params that `run` takes.

    Args:
      params: a layer or a tuple of layers; a `Bidirectional` needs the whole sequence and is refused.
      state: of the same containers, from `init_state` or an earlier call.
      x: [*batch, D].
      compute_dtype, precision: as in `run`.

    Returns:
      The next state, and y [*batch, H] of the last layer, in the dtype of `x`.

    Raises: as `run`.

    >>> import lstmjax
    >>> params = lstmjax.init_lstm(jax.random.key(0), 3, 5)
    >>> state, y = step(params, lstmjax.init_state(params), jnp.ones(3))
    >>> y.shape
    (5,)
    """
    x = checks.as_float_array("x", x)
    if x.ndim == 0:
        raise ValueError(f"x should be [*batch, D], got shape {x.shape}")
    if compute_dtype is not None:
        compute_dtype = checks.float_dtype("compute_dtype", compute_dtype)
    checks.precision("precision", precision)
    return _step("params", "state", params, state, x, compute_dtype, precision)


def choose(params: Any, xs: Any, *, backend: str | None = None, **options: Any) -> Any:
    """The name of the backend that `run` would take for each layer, in the containers of `params`.

    Args:
      params, xs, backend, options: as for `run`; of `xs` only shape and dtype are read. The options are given as they
        would be given to `run`.

    Raises:
      ValueError: a backend asked for by name that cannot do this, with its reason; an unknown name.

    >>> import lstmjax
    >>> choose(lstmjax.init_gru(jax.random.key(0), 3, 5), jnp.ones((7, 3)))
    'scan'
    """

    def of_layer(layer):
        cell_of(layer)
        return dispatch.choose(layer, xs, backend=backend, **options)

    return jax.tree.map(of_layer, params, is_leaf=is_layer)


def _door(params, xs, lengths, reset, reverse, compute_dtype, precision, residuals, chunk):
    """What `run` and `trace` are given, checked, and the options of a layer."""
    xs = checks.as_float_array("xs", xs)
    if xs.ndim < 2:
        raise ValueError(f"xs should be [T, *batch, D], got shape {xs.shape}; for a single step call step")
    T, *batch, _ = xs.shape
    if lengths is not None:
        lengths = checks.lengths("lengths", lengths, tuple(batch), T)
    if reset is not None:
        reset = checks.bools("reset", reset, (T, *batch), "[T, *batch]")
    if compute_dtype is not None:
        compute_dtype = checks.float_dtype("compute_dtype", compute_dtype)
    checks.precision("precision", precision)
    if residuals is not None:
        checks.one_of("residuals", residuals, fused.RESIDUALS)
    if chunk is not None:
        chunk = checks.size("chunk", chunk)
    if checks.flag("reverse", reverse) and any(type(p) is Bidirectional for p in _containers(params)):
        raise ValueError("reverse should be False for params that hold a Bidirectional, which runs both ways already")
    return xs, dict(
        lengths=lengths,
        reset=reset,
        reverse=reverse,
        compute_dtype=compute_dtype,
        precision=precision,
        residuals=residuals,
        chunk=chunk,
    )


def _containers(params):
    """`params` and all pairs and stacks within."""
    if is_layer(params):
        return []
    return [params] + [inner for part in params for inner in _containers(part)]


def _walk(layer, params, xs, state, options, name="params", state_name="state"):
    """`layer(params, xs, state, **options) -> (result, ys)` through pairs and stacks: the results in the containers
    of `params`, and the last outputs."""
    if type(params) is Bidirectional:
        forward, backward = _parts(state_name, state, params)
        parts = [
            _walk(layer, params.forward, xs, forward, options, f"{name}.forward", f"{state_name}.forward"),
            _walk(
                layer,
                params.backward,
                xs,
                backward,
                options | {"reverse": True},
                f"{name}.backward",
                f"{state_name}.backward",
            ),
        ]
        (forward, ys_forward), (backward, ys_backward) = parts
        return Bidirectional(forward, backward), jnp.concatenate([ys_forward, ys_backward], axis=-1)
    if type(params) is tuple:
        _check_stack(name, params)
        results = []
        for k, (part, part_state) in enumerate(zip(params, _parts(state_name, state, params), strict=True)):
            result, xs = _walk(layer, part, xs, part_state, options, f"{name}[{k}]", f"{state_name}[{k}]")
            results.append(result)
        return tuple(results), xs
    params = _check_layer(name, params, xs)
    batch = xs.shape[1:-1]
    state = (
        init_state(params, batch, xs.dtype)
        if state is None
        else check_state(state_name, params, state, batch, xs.dtype)
    )
    # Zeros made here vary over no mesh axis, however xs does: under shard_map the loop needs them alike.
    lengths, reset = options["lengths"], options["reset"]
    params, xs, state, lengths, reset = varying.alike(params, xs, state, lengths, reset)
    return layer(params, xs, state, **options | {"lengths": lengths, "reset": reset})


def _step(name, state_name, params, state, x, compute_dtype, precision):
    if type(params) is Bidirectional:
        raise ValueError(f"{name} is a Bidirectional, whose backward layer needs the whole sequence: call run")
    if type(params) is tuple:
        _check_stack(name, params)
        states = []
        for k, (part, part_state) in enumerate(zip(params, _parts(state_name, state, params), strict=True)):
            part_state, x = _step(f"{name}[{k}]", f"{state_name}[{k}]", part, part_state, x, compute_dtype, precision)
            states.append(part_state)
        return tuple(states), x
    params = _check_layer(name, params, x)
    state = check_state(state_name, params, state, x.shape[:-1], x.dtype)
    return cell_of(params).step(params, state, x, compute_dtype, precision)


def _check_layer(name, params, xs):
    cell_of(params)
    params = check_params(name, params)
    if xs.shape[-1] != input_size(params):
        raise ValueError(
            f"the inputs of {name} have {xs.shape[-1]} features, but {name}.w_x {params.w_x.shape} expects "
            f"{input_size(params)}"
        )
    return params


def _check_stack(name, params):
    if not params:
        raise ValueError(f"{name} should hold at least one layer, got an empty tuple")


def _parts(name, state, params):
    """The parts of a container's state, or None for each."""
    if state is None:
        return [None] * len(params)
    if type(state) is not type(params) or len(state) != len(params):
        kind = (
            "Bidirectional(forward, backward)" if type(params) is Bidirectional else f"a tuple of {len(params)} states"
        )
        given = f"a tuple of {len(state)}" if type(state) is tuple else checks.show(state)
        raise TypeError(f"{name} should be {kind}, got {given}")
    return state
