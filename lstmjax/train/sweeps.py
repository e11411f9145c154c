"""Many small runs at once, which differ in numbers only: one compiled step for all of them, by `vmap`."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from lstmjax import checks, devices
from lstmjax.train.feed import ahead, as_it_is
from lstmjax.train.reports import Reports
from lstmjax.train.snapshots import Snapshots, changes
from lstmjax.train.step import init_state, make_step, next_epoch
from lstmjax.train.stop import Stop
from lstmjax.train.watch import Watch

Array = jax.Array


class Swept(NamedTuple):
    """What k runs gave."""

    params: Any  # those of the best epoch of each: every leaf with a leading axis of k
    history: tuple[dict[str, list], ...]  # one record an epoch; each measure a list of k, None where it is not finite
    best_epoch: tuple[int, ...]  # of each, counted from 1; 0: none was finite
    best: int  # which run has the best measure of all
    interrupted: bool


def parse_sweep(text: str) -> dict[str, list[float | int]]:
    """The settings that "lr=1e-3,3e-3 seed=0..3" names: every combination, one list of values for each name.

    Raises:
      ValueError: saying what is wrong.

    >>> parse_sweep("lr=1e-3,3e-3 seed=0..1")
    {'lr': [0.001, 0.001, 0.003, 0.003], 'seed': [0, 1, 0, 1]}
    """
    named: dict[str, list[float | int]] = {}
    for part in text.split():
        name, equals, values = part.partition("=")
        low, dots, high = values.partition("..")
        try:
            given = range(int(low), int(high) + 1) if dots else [_number(value) for value in values.split(",")]
        except ValueError:
            given = []
        if not name or not equals or not len(given) or name in named:
            raise ValueError(f'a sweep should be of the form "lr=1e-3,3e-3 seed=0..3", each name once, got {part!r}')
        named[name] = list(given)
    if not named:
        raise ValueError('a sweep should be of the form "lr=1e-3,3e-3 seed=0..3", got nothing')
    grid = np.meshgrid(*(np.arange(len(values)) for values in named.values()), indexing="ij")
    return {name: [values[k] for k in ks.ravel()] for (name, values), ks in zip(named.items(), grid, strict=True)}


def _number(text):
    try:
        return int(text)
    except ValueError:
        return float(text)


def sweep(
    loss: Callable[[Any, Any, Array, dict[str, Array]], Array],
    begin: Callable[[dict[str, Array]], tuple[Any, Array]],
    optimizer: Callable[[dict[str, Array]], optax.GradientTransformation],
    batches: Callable[[int], Sequence[Any]],
    settings: dict[str, Sequence[float | int]],
    *,
    epochs: int,
    evaluate: Callable[[Any], dict[str, Any]] | None = None,
    metric: str = "loss",
    average: float | None = None,
    mesh: jax.sharding.Mesh | None = None,
    snapshots: Snapshots | None = None,
    resume: bool = False,
    about: dict[str, Any] | None = None,
    count: Callable[[Any], int] | None = None,
    watch: Watch | None = None,
) -> Swept:
    """Train k models side by side on the same batches, each as it would train alone.

    Args:
      loss: (params, batch, key, settings) -> scalar, of one model; its settings are scalars.
      begin: settings -> the params of one model to begin with, and its PRNG key.
      optimizer: settings -> an optax chain for one model.
      batches: as in `fit`; the same for all.
      settings: by name, the k values.
      epochs: so many passes.
      evaluate: params of all, every leaf with a leading axis of k -> measures, each [k].
      metric: which epoch of a model and which model is best: the least if its name ends in "loss", else the greatest.
      average: keep a running mean of the params of each (`make_step`), to be evaluated and kept in their place.
      mesh: devices that share the models, k / n each: where a step is too small for several cores, one CPU device a
        core makes use of them all. Their number divides k.
      snapshots, resume, count, watch: as in `fit`.
      about: what else decides the run, by name, of what JSON can hold: a sweep goes on only with the same.

    Returns:
      `Swept`. A model whose loss is not finite stands still and does not disturb the others.

    Raises:
      TypeError, ValueError: naming the argument. FloatingPointError: no model had a finite loss in an epoch.

    >>> found = sweep(
    ...     lambda w, batch, key, settings: (w - batch) ** 2,
    ...     lambda settings: (jnp.float32(0), jax.random.key(0)),
    ...     lambda settings: optax.sgd(settings["lr"]),
    ...     lambda epoch: [jnp.float32(2)] * 5,
    ...     parse_sweep("lr=0.01,0.1,0.4"),
    ...     epochs=2,
    ... )
    >>> found.best, found.params.round(2)
    (2, Array([0.37, 1.79, 2.  ], dtype=float32))
    """
    checks.size("epochs", epochs)
    columns = _columns(settings)
    k = len(next(iter(columns.values())))
    if mesh is not None and k % mesh.size:
        raise ValueError(f"mesh should have a number of devices that divides the {k} settings, got {mesh.size}")
    if snapshots is not None:
        snapshots.begin(resume)

    def start(one):
        params, key = begin(one)
        state = init_state(params, optimizer(one), key, average=average)
        return state, jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.int32)

    def step(one, state, batch):
        own = make_step(lambda params, batch, key: loss(params, batch, key, one), optimizer(one), average=average)
        return own(state, batch)

    every, together = jax.vmap(start), jax.vmap(step, (0, 0, None))
    place: Any = as_it_is
    if mesh is not None:
        lead, whole = PartitionSpec(mesh.axis_names[0]), PartitionSpec()
        every = jax.shard_map(every, mesh=mesh, in_specs=lead, out_specs=lead)
        together = jax.shard_map(together, mesh=mesh, in_specs=(lead, lead, whole), out_specs=lead)
        place = partial(devices.copy_to_all, devices=mesh)
        columns = jax.device_put(columns, NamedSharding(mesh, lead))
    step_all = jax.jit(together, donate_argnums=1, compiler_options=devices.compiler_options())
    keep, turn = jax.jit(_keep), jax.jit(next_epoch, donate_argnums=0)
    states, best, best_epoch = jax.jit(every)(columns)
    history: list[dict[str, list]] = []
    known = {"settings": {name: list(values) for name, values in settings.items()}, "about": about}
    if snapshots is not None and snapshots.steps():
        loaded = snapshots.load((states, best, best_epoch))
        if not isinstance(loaded.about, dict) or loaded.about.keys() != {*known, "history"}:
            raise ValueError(f"{snapshots.folder} holds snapshots that are not of a sweep")
        before, now = ({"settings": one["settings"]} | (one["about"] or {}) for one in (loaded.about, known))
        if before != now:
            raise ValueError(f"{snapshots.folder} holds snapshots of another sweep: {changes(before, now)}")
        (states, best, best_epoch), history = loaded.state, loaded.about["history"]
    watch, sign = watch or Watch(), -1 if metric.endswith("loss") else 1

    def save(number):
        if snapshots is not None:
            snapshots.save(number, (states, best, best_epoch), known | {"history": history})

    with Stop() as stop:
        watch.begin(epochs)
        try:
            for epoch in range(len(history), epochs):
                today = batches(epoch)
                if len(today) == 0:
                    raise ValueError(f"batches({epoch}) should give at least one batch, got none")
                first, number = int(states.batch[0]), int(states.step[0])
                watch.epoch_begins(epoch, len(today), first)
                began, tokens = time.perf_counter(), 0

                def read(report, epoch, number, size):
                    loss_now, fine = _middle(report)
                    watch.stepped(epoch, number, loss_now, fine, size)

                def make(n, today=today):
                    return place(today[n]), count(today[n]) if count else 0

                reports = Reports(read)
                for _, (batch, size) in ahead(make, range(first, len(today))):
                    states, report = step_all(columns, states, batch)
                    number, tokens = number + 1, tokens + size
                    reports.add(report, epoch, number, size)
                    if stop.asked:
                        break
                reports.finish()
                if stop.asked:
                    save(number)
                    break
                record = {name: np.asarray(value) for name, value in _measured(states, evaluate).items()}
                if metric not in record:
                    raise ValueError(f"metric should be one of {', '.join(record)}, got {metric!r}")
                if not np.isfinite(record["loss"]).any():
                    raise FloatingPointError(f"no model of the sweep had a finite loss in epoch {epoch + 1}")
                past = np.max([_scores(old[metric], sign) for old in history] or [np.full(k, -np.inf)], axis=0)
                better = _scores(record[metric], sign) > past
                best, best_epoch = keep(better, states.weights, best, np.int32(epoch + 1), best_epoch)
                states = turn(states)
                history.append({name: _json(value) for name, value in record.items()})
                seconds = time.perf_counter() - began
                # The console shows the model that is best in each measure.
                shown: dict[str, Any] = {"epoch": epoch + 1, "step": number, "skipped": 0, "seconds": seconds}
                for name, value in record.items():
                    shown[name] = float(np.nanmin(value) if name.endswith("loss") else np.nanmax(value))
                shown |= {"tokens_per_second": k * tokens / seconds} if count else {}
                watch.epoch_ends(shown, bool(better.any()))
                if stop.asked or epoch + 1 == epochs or (snapshots is not None and snapshots.due()):
                    save(number)
        except KeyboardInterrupt:
            stop.asked = True
        finally:
            watch.end()
        if snapshots is not None:
            snapshots.wait()
    epochs_of = tuple(int(e) for e in np.asarray(best_epoch))
    return Swept(best, tuple(history), epochs_of, _first(history, metric, sign), stop.asked)


def _columns(settings):
    if not isinstance(settings, dict) or not settings:
        raise TypeError(f"settings should be a dict of lists of numbers, got {checks.show(settings)}")
    lengths = {name: len(values) for name, values in settings.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(f"settings should be lists of one length, got {lengths}")
    for name, values in settings.items():
        for value in values:
            checks.finite(f"settings[{name!r}]", value)
    return {name: jnp.array(values, _dtype(values)) for name, values in settings.items()}


def _dtype(values):
    """int32 or, of seeds of 32 bits, uint32; float32 where a value is no int."""
    if not all(isinstance(value, int | np.integer) for value in values):
        return jnp.float32
    return jnp.uint32 if min(values) >= 0 and max(values) >= 2**31 else jnp.int32


def _middle(report):
    """The mean loss of the models whose loss is finite, and whether any is."""
    losses = np.asarray(report.loss)[np.asarray(report.finite).all(-1)]
    return (float(losses.mean()), True) if len(losses) else (float("nan"), False)


def _measured(states, evaluate):
    done = np.asarray(states.batch - states.skipped)
    with np.errstate(invalid="ignore", divide="ignore"):
        losses = np.where(done > 0, np.asarray(states.loss_sum) / done, np.nan)
    return {"loss": losses} | (evaluate(states.weights) if evaluate else {})


def _keep(better, params, best, epoch, best_epoch):
    """The params of the best epoch of each model."""

    def pick(new, old):
        return jnp.where(jax.lax.expand_dims(better, range(1, new.ndim)), new, old)

    return jax.tree.map(pick, params, best), jnp.where(better, epoch, best_epoch)


def _json(values):
    return [float(value) if np.isfinite(value) else None for value in values]


def _scores(values, sign):
    """The greater the better; what is not finite is the worst."""
    found = np.array([np.nan if value is None else value for value in values], float)
    return np.where(np.isfinite(found), sign * found, -np.inf)


def _first(history, metric, sign):
    """The model with the best measure of all."""
    if not history:
        return 0
    scores = np.array([_scores(record[metric], sign) for record in history])
    return int(scores.max(0).argmax())
