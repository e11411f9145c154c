"""What a run shows while it runs: bars or lines on a console, a log in JSON lines, TensorBoard."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lstmjax import checks

_KNOWN = ("epoch", "step", "loss", "skipped", "seconds", "tokens_per_second")


class Watch:
    """Where a run is shown.

    Args:
      console: a bar on a terminal, else a line an epoch; None is quiet.
      log: a file that gets a line of JSON every few steps and every epoch, appended to what is there: a run that goes
        on after it was killed may write a step a second time, and the later line counts (`read_log`).
      tensorboard: a folder of TensorBoard's; needs the `tensorboard` extra.
      every: steps between two lines of the log.

    >>> Watch().every
    10
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        log: str | os.PathLike | None = None,
        tensorboard: str | os.PathLike | None = None,
        every: int = 10,
    ):
        self.console, self.every = console, checks.size("every", every)
        self.log = None if log is None else Path(log)
        self.tensorboard = tensorboard
        self._bar: Progress | None = None
        self._board: Any = None
        self._since: list[float] = []  # the losses since the last line
        self._measured = ""
        self._skipped = 0

    def begin(self, epochs: int) -> None:
        """A run of so many epochs begins."""
        self._epochs = epochs
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            _mend(self.log)  # and an error here, not after the first hour
        if self.tensorboard is not None:
            self._board = _board(self.tensorboard)
        if self.console is not None and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", epoch=0, epochs=epochs, text="")

    def end(self) -> None:
        """The run is over, however it ended."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._board is not None:
            self._board.close()
            self._board = None

    def say(self, line: str) -> None:
        """A line on the console."""
        if self.console is not None:
            self.console.print(line, highlight=False, soft_wrap=True)

    def epoch_begins(self, epoch: int, batches: int, first: int) -> None:
        """An epoch (from 0) of so many batches begins, at batch `first`."""
        self._began, self._tokens = time.perf_counter(), 0
        self._since = []
        if self._bar is not None:
            # The time left is that of the whole run, so the bar counts the steps of all epochs.
            self._bar.update(
                self._task, total=batches * self._epochs, completed=batches * epoch + first, epoch=epoch + 1
            )

    def stepped(self, epoch: int, step: int, loss: float, fine: bool, tokens: int) -> None:
        """A step (the number is that after it) has been made."""
        self._tokens += tokens
        self._skipped += not fine
        if fine:
            self._since.append(loss)
        rate = self._tokens / (time.perf_counter() - self._began)
        if self._bar is not None:
            text = f"loss {loss:.4f}" + (f", {rate:,.0f} tokens/s" if self._tokens else "") + self._measured
            text += f", {self._skipped} skipped" if self._skipped else ""
            self._bar.update(self._task, text=text, advance=1)
        if step % self.every == 0 and self._since:
            line = {"step": step, "epoch": epoch + 1, "loss": sum(self._since) / len(self._since)}
            line |= {"skipped": self._skipped} if self._skipped else {}
            self._write(line | ({"tokens_per_second": rate} if self._tokens else {}), step)
            self._since = []

    def epoch_ends(self, record: dict[str, Any], better: bool) -> None:
        """An epoch has been evaluated."""
        self._measured = "".join(f", {name} {v:.4f}" for name, v in record.items() if name not in _KNOWN)
        self._write({"end_of_epoch": True, "best": better, **record}, record["step"])
        parts = [f"{name} {v:.4f}" for name, v in record.items() if name == "loss" or name not in _KNOWN]
        if "tokens_per_second" in record:
            parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
        if record["skipped"]:
            parts.append(f"{record['skipped']} steps skipped")
        line = f"epoch {record['epoch']:>3}/{self._epochs}  " + "  ".join(parts) + f"  {record['seconds']:.1f} s"
        self.say(line + ("  best" if better else ""))

    def _write(self, line, step):
        if self.log is not None:
            with open(self.log, "a", encoding="utf-8") as file:
                told = {"time": round(time.time(), 3), **strict(line)}
                file.write(json.dumps(told, ensure_ascii=False, allow_nan=False) + "\n")
        if self._board is not None:
            for name, value in line.items():
                if isinstance(value, int | float) and name not in ("step", "epoch", "end_of_epoch", "best", "time"):
                    place = "epoch" if "end_of_epoch" in line else "step"
                    self._board.add_scalar(f"{place}/{name}", value, step)


def strict(record: dict[str, Any]) -> dict[str, Any]:
    """A record with None for numbers that are not finite, which JSON has no word for.

    >>> strict({"step": 3, "loss": float("nan")})
    {'step': 3, 'loss': None}
    """
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()
    }


def read_log(path: str | os.PathLike) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of a log: those of steps and those of epochs, each once and in order.

    Raises:
      FileNotFoundError: no such file. ValueError: a line that is no JSON; a last line that was cut short is left out.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no log of a run")
    lines = path.read_text(encoding="utf-8").split("\n")
    steps: dict[int, dict] = {}
    epochs: dict[int, dict] = {}
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            found = json.loads(line)
            (epochs if "end_of_epoch" in found else steps)[found["step"]] = found
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is no line of a log: {line[:60]!r}") from error
    return [steps[k] for k in sorted(steps)], [epochs[k] for k in sorted(epochs)]


def _mend(path):
    """Make a log ready to be appended to: a last line that a kill cut short is taken away."""
    with open(path, "ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _board(folder):
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError("TensorBoard needs the tensorboardX package: pip install 'lstmjax[tensorboard]'") from error
    return SummaryWriter(str(folder))
