"""One step of training around any loss and any optax optimizer; what is not finite never reaches the weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lstmjax import checks, leaves

Array = jax.Array


class Best(NamedTuple):
    """The best of a run so far."""

    params: Any
    epoch: Array  # int32, counted from 1; 0: none yet


class State(NamedTuple):
    """All that changes from step to step, and where in the data a run stands: what a run goes on from."""

    params: Any
    optimizer: Any  # optax's state
    key: Array
    step: Array  # int32: batches seen
    epoch: Array  # int32, counted from 0
    batch: Array  # int32: batches of this epoch seen, so the index of the next
    loss_sum: Array  # float, over the batches of this epoch whose loss and gradients were finite
    skipped: Array  # int32: batches of this epoch that were not
    in_a_row: Array  # int32: how many of the last batches were not
    average: Any = None  # a mean of the params, if one is kept
    best: Best | None = None
    averaged: Any = None  # int32: the params in a mean that waits for its sign; 0: it still waits; None: another mean
    carry: Any = None  # what goes on from batch to batch within an epoch, if anything does

    @property
    def weights(self) -> Any:
        """What the run has come to: the mean of the params if one is kept, else the params."""
        return self.params if self.average is None else self.average


class Report(NamedTuple):
    """What a step says of itself."""

    loss: Array  # before the step
    finite: Array  # bool [1 + leaves]: of the loss, then of the gradient of each leaf of the params, and of a carry
    in_a_row: Array  # int32: of the state after it


def init_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    key: Array,
    *,
    average: float | None = None,
    waits: bool = False,
    carry: Any = None,
) -> State:
    """The state before the first step: with `average`, or `waits`, for a step that keeps a mean of the params; with
    `carry`, for a loss that hands one on."""
    with jax.numpy_dtype_promotion("standard"):
        opened = optimizer.init(params)
    # An array each: a step donates its state, and no buffer can be given away twice.
    step, epoch, batch, skipped, in_a_row = (jnp.zeros((), jnp.int32) for _ in range(5))
    total = jnp.zeros((), jnp.result_type(float))
    mean = jax.tree.map(jnp.copy, params) if waits or average is not None else None
    averaged = jnp.zeros((), jnp.int32) if waits else None
    return State(
        params, opened, key, step, epoch, batch, total, skipped, in_a_row, mean, averaged=averaged, carry=carry
    )


def next_epoch(state: State, carry: Any = None) -> State:
    """The state at the beginning of the epoch after this one; of one run, or of many in one. With what is carried at
    the beginning of an epoch, if anything is."""
    zero = jnp.zeros_like
    return state._replace(
        epoch=state.epoch + 1,
        batch=zero(state.batch),
        loss_sum=zero(state.loss_sum),
        skipped=zero(state.skipped),
        carry=jax.tree.map(jnp.copy, carry),  # jit would hand on the buffer itself, for the next step to give away
    )


def make_step(
    loss: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    average: float | None = None,
) -> Callable[[State, Any], tuple[State, Report]]:
    """A pure step, to be jitted once by whoever calls it: `jax.jit(make_step(loss, optimizer), donate_argnums=0)`.

        g = mean over parts of dloss(params, part, key)/dparams
        params, optimizer = optimizer(g) if loss and g are finite, else as they were

    A batch whose loss or gradient is not finite changes neither params nor the optimizer's state; it is counted in
    `skipped` and `in_a_row`, and the step number goes on. The check is on the gradient as it comes, before any clipping
    in the optimizer's chain spreads a NaN over all leaves.

    Of a state with a carry, such as the state of a recurrent layer that goes on from one window of a text to the next:

        loss, carry = loss(params, carry, batch, key)

    No gradient goes from a step to the one before (Mikolov et al. 2011, section 3), and a step that is not finite, in
    its carry too, leaves the carry as it was.

    Args:
      loss: (params, batch, key) -> scalar; of a state with a carry, (params, carry, batch, key) -> (scalar, carry).
      optimizer: any optax chain. What in it takes more than gradients and params is given `value`, the loss, and
        `batch`, so that a chain may end in `optax.contrib.reduce_on_plateau`.
      accumulate: parts that a batch is cut into along the first axis of each leaf, to be run one after the other in a
        part of the memory; loss and gradient are the means of theirs.
      average: d in [0, 1), of a mean of the params over the steps that were made, of which the last 1 / (1 - d) or so
        count (Polyak and Juditsky 1992). It begins shorter, since the first params are no good:

            m = d_t m + (1 - d_t) params,   d_t = min(d, (1 + t) / (10 + t)) after step t = 1, 2, ...

        A state that `waits` has another mean, in which all params count the same from the sign on (`fit`):

            m = params where averaged = 0, else m + (params - m) / (averaged + 1), averaged + 1

    Returns:
      (state, batch) -> (state, `Report`).

    Raises:
      TypeError, ValueError: naming the argument; when traced, a batch that `accumulate` does not divide, a carry where
        there are parts, a next carry of other shapes or dtypes.

    >>> step = make_step(lambda w, batch, key: (w - batch) ** 2, optax.sgd(0.25))
    >>> state, report = step(init_state(jnp.float32(0), optax.sgd(0.25), jax.random.key(0)), jnp.float32(2))
    >>> float(report.loss), float(state.params)
    (4.0, 1.0)
    >>> state, report = step(state, jnp.float32(jnp.nan))
    >>> float(state.params), int(state.skipped)
    (1.0, 1)
    """
    checks.size("accumulate", accumulate)
    optimizer = optax.with_extra_args_support(optimizer)
    if average is not None:
        average = checks.rate("average", average)
    gradient = jax.value_and_grad(loss)
    if accumulate > 1:
        gradient = _in_parts(gradient, accumulate)
    handing_on = jax.value_and_grad(loss, has_aux=True)

    def step(state: State, batch: Any) -> tuple[State, Report]:
        key = jax.random.fold_in(state.key, state.step)
        if state.carry is None:
            (value, gradients), carry = gradient(state.params, batch, key), None
        else:
            if accumulate > 1:
                raise ValueError(f"accumulate should be 1 where something is carried from batch to batch: {accumulate}")
            (value, carry), gradients = handing_on(state.params, state.carry, batch, key)
            kinds = [jax.tree.map(leaves.kind, tree) for tree in (state.carry, carry)]
            if kinds[0] != kinds[1]:
                raise ValueError(
                    f"loss should return the next carry in the shapes of the carry, {kinds[0]}: {kinds[1]}"
                )
        if jnp.ndim(value):
            raise ValueError(f"loss should give a scalar, got shape {jnp.shape(value)}")
        finite = leaves.finite((value, gradients))
        if carry is not None:
            finite = jnp.append(finite, leaves.finite(carry).all())
        ok = finite.all()
        on = None if state.averaged is None else state.averaged > 0

        def made():
            # optax counts on promotion, also where a caller has set JAX to be strict about it.
            with jax.numpy_dtype_promotion("standard"):
                more = dict(value=value, batch=batch)
                updates, opened = optimizer.update(gradients, state.optimizer, state.params, **more)
                params = optax.apply_updates(state.params, updates)
            mean, averaged = state.average, state.averaged
            if on is not None:
                averaged = averaged + on.astype(jnp.int32)
                share = 1 / jnp.maximum(averaged, 1).astype(jnp.float32)
                mean = jax.tree.map(lambda m, w: jnp.where(on, m + share.astype(m.dtype) * (w - m), w), mean, params)
            elif average is not None:
                t = (state.step + 1).astype(jnp.float32)
                share = 1 - jnp.minimum(average, (1 + t) / (10 + t))
                mean = jax.tree.map(lambda m, w: m + share.astype(m.dtype) * (w - m), mean, params)
            return params, opened, carry, mean, averaged

        kept = (state.params, state.optimizer, state.carry, state.average, state.averaged)
        params, opened, carry, mean, averaged = _either(ok, made, kept)
        with jax.numpy_dtype_promotion("standard"):
            total = state.loss_sum + jnp.where(ok, value, 0)
        bad = 1 - ok.astype(jnp.int32)
        in_a_row = (state.in_a_row + bad) * bad
        state = state._replace(
            params=params,
            optimizer=opened,
            step=state.step + 1,
            batch=state.batch + 1,
            loss_sum=total.astype(state.loss_sum.dtype),
            skipped=state.skipped + bad,
            in_a_row=in_a_row,
            average=mean,
            averaged=averaged,
            carry=carry,
        )
        return state, Report(value, finite, in_a_row)

    return step


def _either(ok, made, kept):
    """What `made` gives if `ok`, else what is kept, in the dtypes of the other."""

    def like(new, old):
        return old if old.dtype == new.dtype else old.astype(new.dtype)

    kept = jax.tree.map(jnp.asarray, kept)
    # On a CPU a choice of one computation moves nothing, where a choice between numbers reads both: what it is
    # chosen from then has to be there beside what it is written to. A GPU would have the host wait for `ok`.
    if jax.default_backend() == "cpu":
        return jax.lax.cond(ok, made, lambda: jax.tree.map(like, jax.eval_shape(made), kept))
    return jax.tree.map(lambda new, old: jnp.where(ok, new, like(new, old)), made(), kept)


def _in_parts(gradient, n):
    """`gradient` of a batch as the mean over n parts of it."""

    def cut(path, rows):
        shape = jnp.shape(rows)
        if not shape or shape[0] % n:
            name = "batch" + jax.tree_util.keystr(path)
            raise ValueError(f"{name} should have a first axis that accumulate = {n} divides, got shape {shape}")
        # Row k goes into part k mod n, so that rows split over devices stay where they are.
        return jnp.moveaxis(jnp.reshape(rows, (shape[0] // n, n, *shape[1:])), 1, 0)

    def accumulated(params, batch, key):
        parts = jax.tree_util.tree_map_with_path(cut, batch)

        def add(total, part_and_key):
            part, key = part_and_key
            return jax.tree.map(jnp.add, total, gradient(params, part, key)), None

        keys = jax.random.split(key, n)
        first = jax.tree.map(lambda rows: rows[0], parts)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(gradient, params, first, keys[0]))
        total, _ = jax.lax.scan(add, zeros, (parts, keys))
        return jax.tree.map(lambda a: a / n, total)

    return accumulated
