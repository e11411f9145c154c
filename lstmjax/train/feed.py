"""Batches made in the background, one or two ahead of the step that takes them."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def ahead(make: Callable[[int], Any], indices: Iterable[int], n: int = 2) -> Iterator[tuple[int, Any]]:
    """(k, make(k)) for each index in order, made by a thread that is up to `n` ahead of whoever takes them.

    As long as each takes less than a millisecond they are made without a thread: to hand one over takes as long.
    What `make` raises is raised where its result would have come.

    >>> list(ahead(lambda k: k * k, range(3)))
    [(0, 0), (1, 1), (2, 4)]
    """
    waiting: deque = deque()
    indices = iter(indices)
    for k in indices:
        began = time.perf_counter()
        made = make(k)
        slow = time.perf_counter() - began > 1e-3
        yield k, made
        if slow:
            break
    else:
        return
    pool = ThreadPoolExecutor(1, thread_name_prefix="feed")
    try:
        for k in indices:
            waiting.append((k, pool.submit(make, k)))
            if len(waiting) > n:
                k, made = waiting.popleft()
                yield k, made.result()
        while waiting:
            k, made = waiting.popleft()
            yield k, made.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def as_it_is(batch: Any) -> Any:
    """A batch as a step on a CPU takes it: a compiled function reads NumPy's arrays sooner than `device_put` does."""
    return batch
