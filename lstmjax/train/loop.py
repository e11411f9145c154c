"""The loop around a step: epochs, evaluation, snapshots to go on from, and what ends a run."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lstmjax import checks, devices, leaves
from lstmjax.train.feed import ahead, as_it_is
from lstmjax.train.reports import Reports
from lstmjax.train.snapshots import Snapshots, changes
from lstmjax.train.step import Best, State, init_state, make_step, next_epoch
from lstmjax.train.stop import Stop
from lstmjax.train.summary import summarise
from lstmjax.train.watch import Watch

Array = jax.Array


class Fitted(NamedTuple):
    """What a run of `fit` gave."""

    params: Any  # those of the best epoch
    history: tuple[dict[str, Any], ...]  # one record an epoch
    best_epoch: int  # counted from 1; 0 if no epoch was finished
    interrupted: bool  # whether Ctrl-C or SIGTERM ended it
    state: State | None  # the last; None after a second Ctrl-C, which may come in the middle of a step


def fit(
    loss: Callable[..., Any],
    params: Any,
    optimizer: optax.GradientTransformation,
    batches: Callable[[int], Sequence[Any]],
    *,
    key: Array,
    epochs: int,
    evaluate: Callable[[Any], dict[str, float]] | None = None,
    metric: str = "loss",
    patience: int | None = None,
    accumulate: int = 1,
    average: float | None = None,
    average_after: int | None = None,
    carry: Any = None,
    bad_steps: int = 10,
    mesh: jax.sharding.Mesh | None = None,
    specs: Any = None,
    models: bool = False,
    snapshots: Snapshots | None = None,
    save_every: int | None = None,
    resume: bool = False,
    about: Any = None,
    count: Callable[[Any], int] | None = None,
    watch: Watch | None = None,
) -> Fitted:
    """Train, evaluate after each epoch, and keep the params of the best one.

    Args:
      loss: (params, batch, key) -> scalar; with a carry, (params, carry, batch, key) -> (scalar, carry).
      params: to begin with; they are not changed.
      optimizer: any optax chain.
      batches: epoch number (from 0) -> the batches of that epoch, in order: anything with a length and an index, asked
        for one after the other by a thread that is a little ahead of the steps. The same for the same epoch, whenever
        it is asked. As many compilations as shapes among them.
      key: PRNG key, of dropout and the like.
      epochs: at most so many passes.
      evaluate: params -> measures, e.g. on held-out data; they stand in the record of the epoch beside "loss", the
        mean over the epoch's steps, "skipped", how many of these were not finite, and "step".
      metric: the measure that decides which epoch is best: the least if its name ends in "loss", else the greatest;
        never one that is not finite.
      patience: stop after so many epochs without a better one; None never does.
      accumulate: parts of a batch, run one after the other (`make_step`).
      average: keep a running mean of the params (`make_step`); it is evaluated, and kept as best, in their place.
      average_after: n, of NT-ASGD: the params themselves until an evaluation, v_t of `metric`, is worse than the best
        one that is more than n evaluations old; from then on the mean of all params since, evaluated and kept as best
        in their place (Merity et al. 2018, section 4, algorithm 1):

            m = 1 / (k - T + 1) sum_{i = T .. k} params_i,   T the step where t > n and v_t > min_{l < t - n} v_l

      carry: what goes on from batch to batch (`make_step`), a tree of arrays; each epoch begins with this one.
      bad_steps: so many steps in a row whose loss or gradient is not finite end the run; each of them leaves params and
        optimizer as they were.
      mesh: devices that share each batch (`devices.mesh`): the first axis of each leaf is split over them, and the
        params are copied to all. With `jax.distributed`, the devices of all processes; each process makes the
        whole batch, and its devices take their rows.
      specs: with a mesh, a `PartitionSpec` for each leaf of the params, or a prefix of that tree: how they are
        split instead of copied. For embeddings too large for a device.
      models: with a mesh, that params hold models side by side: every leaf of them, and of the optimizer's state but
        for scalars, has an axis of models in front, which the devices share, and each is given the whole batch. Nothing
        has to go from device to device but what `loss` takes of all models.
      snapshots: where the whole state is saved: after an epoch, as often as that takes little of the run's time
        (`Snapshots.due`), when the run is interrupted, and at its end.
      save_every: save after so many steps, too.
      resume: go on from the last snapshot, if there is one: in a new process, in the middle of an epoch, to the same
        bits as if nothing had been.
      about: what JSON can hold and what this run is known by (its recipe, say); a snapshot of another is refused.
      count: batch -> its tokens, for the throughput shown.
      watch: where the run is shown; None is quiet.

    Returns:
      `Fitted`. Ctrl-C and SIGTERM end the run after the step that is under way; a second Ctrl-C ends it at once. Of
      several processes each would stop at a step of its own, so there they end it as they do without us: the last
      snapshot is what to go on from.

    Raises:
      TypeError, ValueError: naming the argument. FloatingPointError: `bad_steps` in a row, or a
        `metric` that is finite in no epoch; of steps it names the last, the
        batch and the leaves. What `Snapshots.save` and `load` raise.

    >>> loss = lambda w, batch, key: (w - batch) ** 2
    >>> batches = lambda epoch: [jnp.float32(2)] * 10
    >>> fitted = fit(loss, jnp.float32(0), optax.sgd(0.1), batches, key=jax.random.key(0), epochs=3)
    >>> fitted.best_epoch, round(float(fitted.params), 2)
    (3, 2.0)
    """
    _check(key, epochs, patience, bad_steps, mesh, specs, models, snapshots, save_every, resume)
    _check_means(average, average_after, accumulate, carry)
    # The step donates its state: what the caller gave is copied, so that it outlives the first one.
    state: Any = init_state(
        jax.tree.map(jnp.copy, params),
        optimizer,
        jnp.copy(key),
        average=average,
        waits=average_after is not None,
        carry=jax.tree.map(jnp.copy, carry),
    )
    state = state._replace(best=Best(jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.int32)))
    options: dict[str, Any] = {"donate_argnums": 0, "compiler_options": devices.compiler_options()}
    place = as_it_is if jax.default_backend() == "cpu" else jax.device_put
    if mesh is not None:
        where = _of_models(state, mesh) if models else _shardings(state, optimizer, mesh, specs)
        state = devices.spread(state, where)
        options["out_shardings"] = (where._replace(best=None), None)
        place = partial(devices.copy_to_all, devices=mesh) if models else partial(devices.split_batch, devices=mesh)
    history: list[dict[str, Any]] = []
    first_carry = jax.tree.map(jnp.copy, state.carry)
    resumed = snapshots is not None and bool(snapshots.steps())
    if resumed:
        state, history = _go_on(snapshots, state, about)
    # The best are no concern of a step: they are put back where the state is saved.
    best, state = state.best, state._replace(best=None)
    run = _Run(
        jax.jit(make_step(loss, optimizer, accumulate=accumulate, average=average), **options),
        leaves.named(params),
        bad_steps,
        watch or Watch(),
        snapshots,
        save_every,
        {"run": about},
        turn=jax.jit(next_epoch, donate_argnums=0, out_shardings=options.get("out_shardings", (None,))[0]),
    )
    best_epoch = int(best.epoch)
    if resumed:
        run.saved = run.mark(state, best)
    with Stop() as stop:
        run.watch.begin(epochs)
        try:
            for epoch in range(int(state.epoch), epochs):
                if patience is not None and best_epoch and epoch - best_epoch >= patience:
                    break
                began = time.perf_counter()
                state, tokens = run.epoch(state, best, history, epoch, batches, place, count, stop)
                if stop.asked:
                    break
                seconds = time.perf_counter() - began
                record = _record(state, evaluate, metric)
                record |= {"seconds": seconds} | ({"tokens_per_second": tokens / seconds} if count else {})
                sign = -1 if metric.endswith("loss") else 1
                better = math.isfinite(record[metric]) and (
                    best_epoch == 0 or sign * record[metric] > sign * history[best_epoch - 1][metric]
                )
                history.append(record)
                if average_after is not None and int(state.averaged) == 0 and _stalled(history, metric, average_after):
                    state = state._replace(averaged=jnp.ones_like(state.averaged))
                if better:
                    best_epoch = epoch + 1
                    best = Best(jax.tree.map(jnp.copy, state.weights), jnp.full_like(best.epoch, best_epoch))
                state = run.turn(state, first_carry)
                run.watch.epoch_ends(record, better)
                asked = save_every and record["step"] % save_every == 0
                if asked or (snapshots is not None and snapshots.due()):
                    run.save(state, best, history)
                if stop.asked:
                    break
            run.save(state, best, history)
        except KeyboardInterrupt:  # a second one, or one that came from elsewhere
            stop.asked, state = True, None
        finally:
            run.watch.end()
        if snapshots is not None:
            snapshots.wait()
    if history and not best_epoch and not stop.asked:
        raise FloatingPointError(f"{metric} was finite in none of {len(history)} epochs: there is no best one to keep")
    return Fitted(best.params, tuple(history), best_epoch, stop.asked, state)


class _Run:
    """What does not change over the epochs of a run."""

    def __init__(self, step, named, bad_steps, watch, snapshots, save_every, about, turn):
        self.step, self.turn, self.named, self.bad_steps = step, turn, named, bad_steps
        self.watch, self.snapshots, self.save_every, self.about = watch, snapshots, save_every, about
        self.told = False
        self.saved: Any = None  # the mark of the last snapshot

    def epoch(self, state, best, history, epoch, batches, place, count, stop):
        """The rest of an epoch: the state after it, and the tokens that were in it."""
        today = batches(epoch)
        if not (hasattr(today, "__len__") and hasattr(today, "__getitem__")):
            raise TypeError(f"batches({epoch}) should have a length and an index, got {type(today).__name__}")
        n = len(today)
        if n == 0:
            raise ValueError(f"batches({epoch}) should give at least one batch, got none")
        first, number, total = int(state.batch), int(state.step), 0
        self.watch.epoch_begins(epoch, n, first)

        def make(k):
            batch = today[k]
            return place(batch), count(batch) if count else 0

        reports = Reports(self._read)
        for k, (batch, tokens) in ahead(make, range(first, n)):
            if self.watch.console is not None and not self.told:
                self.told = True
                self.watch.say(summarise(self.step, state, batch))
            state, report = self.step(state, batch)
            number, total = number + 1, total + tokens
            reports.add(report, epoch, k, number, tokens)
            if stop.asked:
                break
            if self.save_every and number % self.save_every == 0 and k < n - 1:
                reports.finish()  # so that the log has all that the snapshot has
                self.save(state, best, history)
        reports.finish()
        return state, total

    def save(self, state, best, history):
        """A snapshot of what has none yet, where there is a place for it: the best one if it holds a new best epoch."""
        now = self.mark(state, best)
        if self.snapshots is None or now == self.saved:
            return
        # JSON has no NaN.
        lines = [{k: v if math.isfinite(v) else None for k, v in record.items()} for record in history]
        about = self.about | {"history": lines}
        is_best = now[2] > (self.saved or (0, 0, 0))[2]
        self.snapshots.save(now[0], state._replace(best=best), about, best=is_best)
        self.saved = now

    @staticmethod
    def mark(state, best):
        """What tells a snapshot of a run from the others."""
        return int(state.step), int(state.epoch), int(best.epoch)

    def _read(self, report, epoch, k, number, tokens):
        loss, bad = float(report.loss), int(report.in_a_row)
        self.watch.stepped(epoch, number, loss, bad == 0, tokens)
        if bad >= self.bad_steps:
            places = ["the loss", *(f"the gradient of {name}" if name else "the gradient" for name in self.named)]
            places += ["the carry"] * (len(report.finite) - len(places))
            wrong = [place for place, fine in zip(places, np.asarray(report.finite), strict=True) if not fine]
            if len(wrong) > 5:
                wrong = [*wrong[:5], f"{len(wrong) - 5} more"]
            raise FloatingPointError(
                f"step {number} (epoch {epoch + 1}, batch {k}) is number {bad} in a row that is not finite in "
                f"{', '.join(wrong)}; params are those after step {number - bad}. Try a lower learning rate, or a "
                "bound on the norm of the gradient"
            )


def _check(key, epochs, patience, bad_steps, mesh, specs, models, snapshots, save_every, resume):
    checks.key("key", key)
    checks.size("epochs", epochs)
    checks.size("bad_steps", bad_steps)
    for name, given in (("patience", patience), ("save_every", save_every)):
        if given is not None:
            checks.size(name, given)
    if mesh is not None and (not isinstance(mesh, jax.sharding.Mesh) or len(mesh.axis_names) != 1):
        raise TypeError(f"mesh should be a jax.sharding.Mesh of one axis, got {checks.show(mesh)}")
    if specs is not None and mesh is None:
        raise ValueError("specs say how params are split over the devices of a mesh, and mesh is None")
    if models and (mesh is None or specs is not None):
        raise ValueError(
            "models are shared by the devices of a mesh, and "
            + ("mesh is None" if mesh is None else "specs say how params are split")
        )
    if snapshots is None:
        if resume or save_every is not None:
            raise ValueError(f"{'resume' if resume else 'save_every'} needs snapshots, got None")
    elif not isinstance(snapshots, Snapshots):
        raise TypeError(f"snapshots should be a Snapshots, got {checks.show(snapshots)}")
    else:
        snapshots.begin(resume)


def _check_means(average, average_after, accumulate, carry):
    if average_after is not None:
        checks.size("average_after", average_after)
        if average is not None:
            raise ValueError("average and average_after are two means of the params: give one of them")
    for name, leaf in leaves.named(carry).items():
        if not checks.is_array(leaf):
            raise TypeError(f"carry{name and '.'}{name} should be an array, got {checks.show(leaf)}")
    if carry is not None and checks.size("accumulate", accumulate) > 1:
        raise ValueError(
            f"accumulate should be 1 with a carry, which goes on from batch to batch and not from part to part, got "
            f"{accumulate}"
        )


def _stalled(history, metric, n):
    """Whether the last measure is worse than the best of those more than n evaluations before it."""
    sign = -1 if metric.endswith("loss") else 1
    *before, now = (sign * record[metric] for record in history)
    old = [value for value in before[: max(0, len(before) - n)] if math.isfinite(value)]
    return bool(old) and now < max(old)


def _go_on(snapshots, state, about):
    """The state and the history of the last snapshot."""
    loaded = snapshots.load(state)
    if not isinstance(loaded.about, dict) or loaded.about.keys() != {"run", "history"}:
        raise ValueError(f"{snapshots.folder} holds snapshots that are not of a run of fit")
    before = loaded.about["run"]
    if before != about:
        changed = f"{before!r} and now {about!r}"
        if isinstance(before, dict) and isinstance(about, dict):
            changed = changes(before, about)
        raise ValueError(f"{snapshots.folder} holds snapshots of another run: {changed}")
    history = [{k: math.nan if v is None else v for k, v in line.items()} for line in loaded.about["history"]]
    return loaded.state, history


def _record(state, evaluate, metric):
    """What an epoch came to."""
    steps, skipped = int(state.batch), int(state.skipped)
    if steps == skipped:
        raise FloatingPointError(
            f"no batch of epoch {int(state.epoch) + 1} had a finite loss and gradient: try a lower learning rate"
        )
    record: dict[str, Any] = {
        "epoch": int(state.epoch) + 1,
        "step": int(state.step),
        "loss": float(state.loss_sum) / (steps - skipped),
        "skipped": skipped,
    }
    measured = evaluate(state.weights) if evaluate else {}
    record |= {name: float(value) for name, value in measured.items()}
    if metric not in ("loss", *measured):
        raise ValueError(f"metric should be one of {', '.join(('loss', *measured))}, got {metric!r}")
    return record


def _shardings(state, optimizer, mesh, specs):
    """Where each leaf of the state is to be: copied to all devices, or for params as `specs` say; what the optimizer
    keeps for a weight is where the weight is."""
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    where = jax.tree.map(lambda _: everywhere, state)
    if specs is None:
        return where

    def is_spec(x):
        return isinstance(x, jax.sharding.PartitionSpec)

    try:
        params = jax.tree.map(
            lambda spec, part: jax.tree.map(lambda _: jax.sharding.NamedSharding(mesh, spec), part),
            specs,
            state.params,
            is_leaf=is_spec,
        )
    except ValueError as error:
        raise ValueError(f"specs should be a PartitionSpec for each leaf of the params, or a prefix: {error}") from None
    kept = optax.tree_utils.tree_map_params(
        optimizer, lambda _, spot: spot, state.optimizer, params, transform_non_params=lambda _: everywhere
    )
    mean = None if state.average is None else params
    return where._replace(params=params, optimizer=kept, average=mean, best=where.best._replace(params=params))


def _of_models(state, mesh):
    """Where each leaf of the state is to be, of models side by side: those of a model are on the device that has it."""
    n, (axis,) = mesh.size, mesh.axis_names
    shared, everywhere = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*of)) for of in ([axis], []))
    where = jax.tree.map(lambda _: everywhere, state)

    def by_model(name, tree):
        def place(path, leaf):
            if name == "optimizer" and not leaf.ndim:  # a count of steps
                return everywhere
            if not leaf.ndim or leaf.shape[0] % n:
                raise ValueError(
                    f"{name}{jax.tree_util.keystr(path)} should have an axis of models in front that {n} devices "
                    f"divide, got shape {leaf.shape}"
                )
            return shared

        return jax.tree_util.tree_map_with_path(place, tree)

    params = by_model("params", state.params)
    mean = None if state.average is None else params
    kept = by_model("optimizer", state.optimizer)
    return where._replace(params=params, optimizer=kept, average=mean, best=where.best._replace(params=params))
