"""Reports of steps that are under way, read without making the device wait for Python."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

AHEAD = 8  # at most so many steps are asked for before the report of the first of them is read
WAIT = 0.1  # seconds: nor more steps than take so long, which is what Ctrl-C has to wait for


class Reports:
    """A queue of reports, in the order of their steps.

    Args:
      read: called with what `add` was given, once its report is there.

    >>> reports = Reports(lambda report, step: print(step, float(report.loss)))
    >>> import jax.numpy as jnp
    >>> from lstmjax.train import Report
    >>> reports.add(Report(jnp.float32(2), jnp.array([True]), jnp.int32(0)), 1)
    >>> reports.finish()
    1 2.0
    """

    def __init__(self, read: Callable[..., None]):
        self.read, self.waiting = read, deque()  # type: ignore[var-annotated]
        self.began, self.steps = time.perf_counter(), 0

    def add(self, report: Any, *what: Any) -> None:
        """A step has been asked for: reads the reports before it that are there, and waits for the first if there are
        many."""
        each = (time.perf_counter() - self.began) / max(self.steps, 1)
        self.steps += 1
        most = min(AHEAD, max(1, int(WAIT / each) if each > 0 else AHEAD)) if self.steps > 1 else 1
        while self.waiting and (len(self.waiting) >= most or self.waiting[0][0].in_a_row.is_ready()):
            self.read(*self.waiting.popleft())
        self.waiting.append((report, *what))

    def finish(self) -> None:
        """Read all that are left."""
        while self.waiting:
            self.read(*self.waiting.popleft())
