"""Batches made in the background, one or two ahead of the step that takes them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def ahead(make: Callable[[int], Any], indices: Iterable[int], n: int = 2) -> Iterator[tuple[int, Any]]:
    """(k, make(k)) for each index in order, made by a thread that is up to `n` ahead of whoever takes them.

    What `make` raises is raised where its result would have come.

    >>> list(ahead(lambda k: k * k, range(3)))
    [(0, 0), (1, 1), (2, 4)]
    """
    waiting: deque = deque()
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
