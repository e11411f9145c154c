"""A layer, a pair of directions, or a stack of these over time."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstmjax import checks, regularise, varying
from lstmjax.backends import dispatch, scan
from lstmjax.call import check_params, check_states, checked
from lstmjax.cells.cell import How
from lstmjax.cells.kinds import cell_of
from lstmjax.cells.products import state_dtype
from lstmjax.containers import Bidirectional, holds_pair, map_layers
from lstmjax.padding import hold
from lstmjax.regularise import Regularisers

Array = jax.Array


def run(
    params: Any,
    xs: Array,
    state: Any = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    padding: str = "zero",
    regularisers: Regularisers | None = None,
    key: Array | None = None,
    training: bool | None = None,
    backend: str | None = None,
    compute_dtype: DTypeLike | None = None,
    precision: Any = None,
    residuals: str | None = None,
    chunk: int | None = None,
    remat: bool | int = False,
) -> tuple[Any, Array]:
    """Run a layer, a pair of directions or a stack over a sequence.

        state_t, y_t = step(params, state_{t-1}, x_t),   t = 0 ... T - 1

    Args:
      params: `LSTMParams`, `GRUParams`, `RNNParams`, `MinLSTMParams` or `SLSTMParams`; a `Bidirectional` of two of
        them; or a tuple of these, a stack, each over the outputs of the one before. Widths may differ.
      xs: [T, *batch, D] of floats; `*batch` may be empty (one sequence) or several axes.
      state: the initial state, [*batch, H] each, in the containers of `params`; None is zeros (`init_state`). It is
        kept in float32, or in the dtype of `xs` if that is wider; narrower floats are widened, wider ones refused.
      lengths: int [*batch], the number of steps of each sequence, in [0, T]: padding is at the end. At padded steps
        the outputs are 0 and whatever `xs` holds there is not read; the state is the one after the last valid step.
        A length of 0 gives the initial state. Under tracing the values cannot be checked and are clipped to [0, T].
      mask: bool [T, *batch], true where a step counts: padding at either end, and gaps. At other steps the state is
        held, the output is 0 and `xs` is not read. Not with `lengths`, which are quicker where they will do.
      reset: bool [T, *batch]; where true, the initial state is put in the place of the state before that step, as for
        `is_first` in reinforcement learning. In reverse, "before" is in the order of processing. At a step that does
        not count it is ignored.
      reverse: from the last valid step to the first; the outputs keep the order of time, and the state returned is
        the one after step 0. Of a stack, every layer is reversed; a `Bidirectional` has its directions already and
        refuses it.
      padding: "zero", or "hold": at steps that do not count the output is the h that the state holds, which is the last
        output in the order of processing, or the initial h before the first, as Keras has it.
      regularisers: what is dropped or held back in training (see `Regularisers`).
      key: PRNG key that they are drawn from; the same key, the same draws. None is deterministic.
      training: whether they are at work; None: if there is a key. True without a key is refused if a rate is above 0.
      backend: None chooses (see `choose`); "scan", "fused", "persistent" or "associative" insists.
      compute_dtype: dtype of the matrix products, e.g. "bfloat16"; sums and the state stay float32 or wider. None is
        the wider of `xs` and the weights.
      precision: of the matrix products, as in `jax.lax.dot`; None leaves it to the device: full float32 on a CPU,
        TF32 on NVIDIA GPUs, bfloat16 passes on TPUs. `jax.lax.Precision.HIGHEST` is full float32 everywhere.
      residuals: what fused keeps for the backward pass: "gates" (default, fastest) or "outputs" (leanest).
      chunk: steps in a chunk of fused; None chooses.
      remat: keep less for the backward pass and compute it again: the state every about sqrt(T) steps, or every `remat`
        steps if it is a number. The results are the same.

    Returns:
      The final state in the containers of `params`, and ys [T, *batch, H] in the dtype of `xs`: the outputs of the
      last layer, forward and backward side by side, [T, *batch, 2H], if that is a pair.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what was given; of shapes, dtypes and options
        under tracing too. TypeError: forward mode or second derivatives through backend="fused" by name.

    Reference: the equations of a step are those of `lstm_step`, `gru_step`, `rnn_step`, `minlstm_step`, `slstm_step`.

    >>> import lstmjax
    >>> params = (lstmjax.init_lstm(jax.random.key(0), 3, 5), lstmjax.init_lstm(jax.random.key(1), 5, 4))
    >>> state, ys = run(params, jnp.ones((7, 2, 3)), lengths=jnp.array([7, 4]))
    >>> ys.shape, state[0].h.shape, bool((ys[4:, 1] == 0).all())
    ((7, 2, 4), (2, 5), True)
    """
    call = checked(
        params,
        xs,
        state,
        lengths=lengths,
        mask=mask,
        reset=reset,
        reverse=reverse,
        padding=padding,
        regularisers=regularisers,
        key=key,
        training=training,
        backend=backend,
        compute_dtype=compute_dtype,
        precision=precision,
        residuals=residuals,
        chunk=chunk,
        remat=remat,
    )

    def layer(params, xs, state, **options):
        return dispatch.run(params, xs, state, backend=backend, **options)

    return _walk(layer, call.params, call.xs, call.state, call.options, call.work, padding)


def trace(
    params: Any,
    xs: Array,
    state: Any = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    regularisers: Regularisers | None = None,
    compute_dtype: DTypeLike | None = None,
    precision: Any = None,
) -> Any:
    """Every step's state and activated gates: for pictures, for replay (R2D2), for forecasting.

    Args: those of `run`; regularisers as they are without training.

    Returns:
      In the containers of `params`, for each layer a pair (state, gates) with a leading time axis: `LSTMState` and
      `LSTMGates` of [T, *batch, H], or those of another kind of layer. `state.h[t]` and `state.c[t]` are after step t;
      all is 0 at padded and masked steps.

    Raises: as `run`.

    >>> import lstmjax
    >>> params = lstmjax.init_lstm(jax.random.key(0), 3, 5)
    >>> state, gates = trace(params, jnp.ones((7, 3)))
    >>> state.c.shape, gates.f.shape
    ((7, 5), (7, 5))
    """
    call = checked(
        params,
        xs,
        state,
        lengths=lengths,
        mask=mask,
        reset=reset,
        reverse=reverse,
        regularisers=regularisers,
        compute_dtype=compute_dtype,
        precision=precision,
    )

    def layer(params, xs, state, **options):
        _, traced = scan.trace(params, xs, state, **options)
        return traced, traced[0].h.astype(xs.dtype)

    return _walk(layer, call.params, call.xs, call.state, call.options, call.work, "zero")[0]


def step(
    params: Any,
    state: Any,
    x: Array,
    *,
    regularisers: Regularisers | None = None,
    compute_dtype: DTypeLike | None = None,
    precision: Any = None,
) -> tuple[Any, Array]:
    """One step of a layer or of a stack: streaming on the params that `run` takes.

    Args:
      params: a layer or a tuple of layers; a `Bidirectional` needs the whole sequence and is refused.
      state: of the same containers, from `init_state` or an earlier call.
      x: [*batch, D].
      regularisers: those of the training, as they are without it: zoneout leaves its expectation.
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
    work = regularise.prepare(regularisers, None)
    if holds_pair(params):
        raise ValueError("params should hold no Bidirectional, whose backward layer needs the whole sequence: call run")
    params, _ = check_params("params", params, x.shape[-1], work)
    state = check_states("state", params, state, x.shape[:-1], x.dtype)
    return _step(params, state, x, How(compute_dtype, precision), work)


def choose(params: Any, xs: Any, *, backend: str | None = None, **options: Any) -> Any:
    """The name of the backend that `run` would take for each layer, in the containers of `params`.

    Args:
      params, xs, backend, options: as for `run`; of `xs` only shape and dtype are read. The options are given as they
        would be given to `run`.

    Raises:
      TypeError: an option that `run` does not have. ValueError: a backend asked for by name that cannot do this, with
        its reason; an unknown name.

    >>> import lstmjax
    >>> choose(lstmjax.init_gru(jax.random.key(0), 3, 5), jnp.ones((7, 3)))
    'scan'
    """
    return _ask(lambda layer, xs, **asked: dispatch.choose(layer, xs, backend=backend, **asked), params, xs, options)


def reasons(params: Any, xs: Any, **options: Any) -> Any:
    """For each layer, in the containers of `params`, a dict: for each backend why it cannot do this, or None if it can.

    The arguments and the errors are those of `choose`.

    >>> import lstmjax
    >>> reasons(lstmjax.init_gru(jax.random.key(0), 3, 5), jnp.ones((7, 3)))["fused"]
    'it knows LSTMParams only, not GRUParams'
    """
    return _ask(dispatch.reasons, params, xs, options)


def _ask(question, params, xs, options):
    """`question(layer, xs, **options)` of every layer, with what the options of a run come to for a backend."""
    known = (run.__kwdefaults__ or {}).keys() - {"backend"}
    for name in options:
        if name not in known:
            raise TypeError(f"{name} is no option of run, which has {', '.join(sorted(known))}")
    leaves, tree = jax.tree.flatten((params, xs, options))
    abstract = {n: leaf for n, leaf in enumerate(leaves) if isinstance(leaf, jax.ShapeDtypeStruct)}
    answers = []

    def asked(arrays):
        filled = [arrays.get(n, leaf) for n, leaf in enumerate(leaves)]
        call = checked(*jax.tree.unflatten(tree, filled)[:2], **jax.tree.unflatten(tree, filled)[2])
        noise, options = regularise.outline(call.work), call.options
        answers.append(map_layers(lambda _, layer: question(layer, call.xs, **options, noise=noise), call.params))

    # Under tracing, where there are shapes without numbers.
    jax.eval_shape(asked, abstract) if abstract else asked({})
    return answers[0]


def _walk(layer, params, xs, state, options, work, padding):
    """`layer(params, xs, state, **options) -> (result, ys)` through pairs and stacks: the results in the containers
    of `params`, and the last outputs."""
    if type(params) is Bidirectional:
        walk = partial(_walk, layer, padding=padding)
        forward, ys = walk(params.forward, xs, state.forward, options, work.below(0))
        options = options | {"reverse": True}
        backward, ys_backward = walk(params.backward, xs, state.backward, options, work.below(1))
        return Bidirectional(forward, backward), jnp.concatenate([ys, ys_backward], axis=-1)
    if type(params) is tuple:
        results = []
        for k, (part, part_state) in enumerate(zip(params, state, strict=True)):
            xs = xs if k == 0 else regularise.between(work.below(k), xs)
            # What stands in the padding between layers is not read.
            here = padding if k == len(params) - 1 else "zero"
            result, xs = _walk(layer, part, xs, part_state, options, work.below(k), here)
            results.append(result)
        return tuple(results), xs
    params, xs, noise = regularise.of_layer(work, params, xs, state_dtype(xs.dtype))
    # Zeros made here vary over no mesh axis, however xs does: under shard_map the loop needs them alike.
    lengths, mask, reset = options["lengths"], options["mask"], options["reset"]
    params, xs, state, lengths, mask, reset, noise = varying.alike(params, xs, state, lengths, mask, reset, noise)
    options = options | {"lengths": lengths, "mask": mask, "reset": reset, "noise": noise}
    result, ys = layer(params, xs, state, **options)
    return result, ys if padding == "zero" else hold(ys, state.h, lengths, mask, options["reverse"])


def _step(params, state, x, how, work):
    if type(params) is tuple:
        states = []
        for part, part_state in zip(params, state, strict=True):
            part_state, x = _step(part, part_state, x, how, work)
            states.append(part_state)
        return tuple(states), x
    after, _ = cell_of(params).advance(params, state, x, how)
    after = regularise.held(state, after, {}, regularise.outline(work, after.h.dtype).expected)
    return after, after.h.astype(x.dtype)
