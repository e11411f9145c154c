"""A step and a loop around any loss and any optax optimizer."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lstmjax import checks

Array = jax.Array


class State(NamedTuple):
    """All that changes from step to step."""

    params: Any
    optimizer: Any  # optax's state
    key: Array
    step: Array  # int32


class Fitted(NamedTuple):
    """What a run of `fit` gave."""

    params: Any  # those of the best epoch
    history: tuple[dict[str, float], ...]  # one record an epoch
    best_epoch: int  # counted from 1; 0 if no epoch was finished
    interrupted: bool  # whether Ctrl-C ended it


def init_state(params: Any, optimizer: optax.GradientTransformation, key: Array) -> State:
    """The state before the first step."""
    with jax.numpy_dtype_promotion("standard"):
        return State(params, optimizer.init(params), key, jnp.int32(0))


def make_step(
    loss: Callable[[Any, Any, Array], Array], optimizer: optax.GradientTransformation
) -> Callable[[State, Any], tuple[State, Array]]:
    """A pure step, to be jitted once by whoever calls it: `jax.jit(make_step(loss, optimizer), donate_argnums=0)`.

    Args:
      loss: (params, batch, key) -> scalar.
      optimizer: any optax chain.

    Returns:
      (state, batch) -> (state, loss before the step).

    >>> step = make_step(lambda w, batch, key: (w - batch) ** 2, optax.sgd(0.25))
    >>> state, value = step(init_state(jnp.float32(0), optax.sgd(0.25), jax.random.key(0)), jnp.float32(2))
    >>> float(value), float(state.params)
    (4.0, 1.0)
    """

    def step(state: State, batch: Any) -> tuple[State, Array]:
        key = jax.random.fold_in(state.key, state.step)
        value, gradients = jax.value_and_grad(loss)(state.params, batch, key)
        # optax counts on promotion, also where a caller has set JAX to be strict about it.
        with jax.numpy_dtype_promotion("standard"):
            updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
            params = optax.apply_updates(state.params, updates)
        return State(params, optimizer_state, state.key, state.step + 1), value

    return step


def fit(
    loss: Callable[[Any, Any, Array], Array],
    params: Any,
    optimizer: optax.GradientTransformation,
    batches: Callable[[int], Sequence[Any]],
    *,
    key: Array,
    epochs: int,
    evaluate: Callable[[Any], dict[str, float]] | None = None,
    metric: str = "loss",
    patience: int | None = None,
    count: Callable[[Any], int] | None = None,
    console: Console | None = None,
) -> Fitted:
    """Train, evaluate after each epoch, and keep the params of the best one.

    Args:
      loss: (params, batch, key) -> scalar.
      params: to begin with; they are not changed.
      optimizer: any optax chain.
      batches: epoch number (from 0) -> the batches of that epoch, in order. As many compilations as shapes among them.
      key: PRNG key, of dropout and the like.
      epochs: at most so many passes.
      evaluate: params -> measures, e.g. on held-out data; they stand in the record of the epoch beside "loss", the
        mean over the epoch's steps.
      metric: the measure that decides which epoch is best: the least if its name ends in "loss", else the greatest.
      patience: stop after so many epochs without a better one; None never does.
      count: batch -> its tokens, for the throughput shown.
      console: where progress is shown: bars on a terminal, else a line an epoch. None is quiet.

    Returns:
      `Fitted`. Ctrl-C ends the run early and keeps the best so far.

    Raises:
      TypeError, ValueError: naming the argument. FloatingPointError: the loss of an epoch is not finite.

    >>> loss = lambda w, batch, key: (w - batch) ** 2
    >>> batches = lambda epoch: [jnp.float32(2)] * 10
    >>> fitted = fit(loss, jnp.float32(0), optax.sgd(0.1), batches, key=jax.random.key(0), epochs=3)
    >>> fitted.best_epoch, round(float(fitted.params), 2)
    (3, 2.0)
    """
    checks.key("key", key)
    checks.size("epochs", epochs)
    if patience is not None:
        checks.size("patience", patience)
    step = jax.jit(make_step(loss, optimizer), donate_argnums=0)
    # The step donates its state: what the caller gave is copied, so that it outlives the first one.
    state = init_state(jax.tree.map(jnp.copy, params), optimizer, jnp.copy(key))
    best, best_epoch, history, interrupted = params, 0, [], False
    with _Shown(console, epochs) as shown:
        try:
            for epoch in range(epochs):
                today = batches(epoch)
                if len(today) == 0:
                    raise ValueError(f"batches({epoch}) should give at least one batch, got none")
                began, losses, tokens = time.perf_counter(), [], 0
                for batch in shown.epoch(epoch, today):
                    state, value = step(state, batch)
                    losses.append(value)
                    tokens += count(batch) if count else 0
                    shown.advance(losses, tokens / (time.perf_counter() - began))
                record = {"epoch": epoch + 1, "loss": float(jnp.stack(losses).mean())}
                if not math.isfinite(record["loss"]):
                    raise FloatingPointError(
                        f"the loss of epoch {epoch + 1} is {record['loss']}: try a lower learning rate"
                    )
                seconds = time.perf_counter() - began
                record |= evaluate(state.params) if evaluate else {}
                if metric not in record:
                    raise ValueError(f"metric should be one of {', '.join(list(record)[1:])}, got {metric!r}")
                record |= {"seconds": seconds} | ({"tokens_per_second": tokens / seconds} if count else {})
                history.append(record)
                sign = -1 if metric.endswith("loss") else 1
                better = best_epoch == 0 or sign * record[metric] > sign * history[best_epoch - 1][metric]
                if better:
                    best, best_epoch = jax.tree.map(jnp.copy, state.params), epoch + 1
                shown.done(record, better)
                if patience is not None and epoch + 1 - best_epoch >= patience:
                    break
        except KeyboardInterrupt:
            interrupted = True
    return Fitted(best, tuple(history), best_epoch, interrupted)


class _Shown:
    """Progress on a console: a bar on a terminal, a line an epoch elsewhere, nothing without one."""

    def __init__(self, console: Console | None, epochs: int):
        self.console, self.epochs, self.bar, self.measured = console, epochs, None, ""
        if console is not None and console.is_terminal:
            self.bar = Progress(
                TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )

    def __enter__(self):
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task("", epoch=0, epochs=self.epochs, text="")
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def epoch(self, epoch: int, batches: Sequence[Any]) -> Iterable[Any]:
        if self.bar:
            # The time left is that of the whole run, so the bar counts the steps of all epochs.
            n = len(batches)
            self.bar.update(self.task, total=n * self.epochs, completed=n * epoch, epoch=epoch + 1)
        return batches

    def advance(self, losses: list, tokens_per_second: float) -> None:
        if self.bar:
            # Only now and then: reading a loss waits for its step, and steps should queue up behind one another.
            if len(losses) % 16 == 1:
                text = f"loss {float(losses[-1]):.4f}"
                text += f", {tokens_per_second:,.0f} tokens/s" if tokens_per_second else ""
                text += self.measured
                self.bar.update(self.task, text=text)
            self.bar.advance(self.task)

    def done(self, record: dict[str, float], better: bool) -> None:
        known = ("epoch", "seconds", "tokens_per_second")
        self.measured = "".join(f", {name} {v:.4f}" for name, v in record.items() if name not in (*known, "loss"))
        if self.console:
            parts = [f"{name} {value:.4f}" for name, value in record.items() if name not in known]
            if "tokens_per_second" in record:
                parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
            line = f"epoch {record['epoch']:>3}/{self.epochs}  " + "  ".join(parts) + f"  {record['seconds']:.1f} s"
            self.console.print(line + ("  best" if better else ""), highlight=False)
