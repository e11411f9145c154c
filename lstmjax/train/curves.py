"""The curves of runs, drawn from their logs."""

import os
from pathlib import Path
from typing import Any

from lstmjax.train.watch import read_log

LOG = "log.jsonl"


def draw(runs: dict[str, tuple[list[dict], list[dict]]], path: str | os.PathLike) -> None:
    """A picture of losses by step, and of each measure by epoch.

    Args:
      runs: by name, what `read_log` gave.
      path: of the picture; its suffix says which kind.

    Raises:
      ValueError: no run, or one without a line. ImportError: matplotlib is not there.
    """
    empty = [name for name, (steps, epochs) in runs.items() if not steps and not epochs]
    if not runs or empty:
        raise ValueError(f"there is nothing to draw: {', '.join(empty) or 'no run'} has no line in its log")
    Figure = _figure()
    known = ("epoch", "step", "loss", "skipped", "seconds", "tokens_per_second", "end_of_epoch", "best", "time")
    measures = list(dict.fromkeys(k for _, epochs in runs.values() for line in epochs for k in line if k not in known))
    figure = Figure(figsize=(5 * (1 + len(measures)), 4))
    panels = figure.subplots(1, 1 + len(measures), squeeze=False)
    for name, (steps, epochs) in runs.items():
        lines = [line for line in steps or epochs if line["loss"] is not None]
        panels[0, 0].plot([line["step"] for line in lines], [line["loss"] for line in lines], label=name)
        for panel, measure in zip(panels[0, 1:], measures, strict=True):
            points = [(line["epoch"], line[measure]) for line in epochs if line.get(measure) is not None]
            panel.plot(*zip(*points, strict=True) if points else ([], []), marker=".", label=name)
    for panel, measure in zip(panels[0], ["loss", *measures], strict=True):
        panel.set(xlabel="step" if measure == "loss" else "epoch", title=measure.replace("_", " "))
        panel.grid(alpha=0.3)
    panels[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def draw_sweep(history: tuple[dict[str, Any], ...], names: list[str], path: str | os.PathLike) -> None:
    """A picture of each measure of a sweep by epoch, a curve for each setting."""
    runs: dict[str, Any] = {
        name: (
            [],
            [
                {"step": e, "epoch": e, **{m: v[k] for m, v in line.items() if v[k] is not None}}
                for e, line in enumerate(history, start=1)
                if line["loss"][k] is not None
            ],
        )
        for k, name in enumerate(names)
    }
    draw({name: run for name, run in runs.items() if run[1]}, path)


def read(folder: str | os.PathLike) -> tuple[list[dict], list[dict]]:
    """The log of a run, given as its file, its folder, or the model that stands beside that."""
    path = Path(folder)
    for found in (path, path / LOG, path.with_name(f"{path.name}.run") / LOG):
        if found.is_file():
            return read_log(found)
    raise FileNotFoundError(f"{path} has no {LOG}: it is no run")


def _figure():
    try:
        from matplotlib.figure import Figure  # not pyplot: it would choose a backend for the whole process
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'lstmjax[plot]'") from error
    return Figure
