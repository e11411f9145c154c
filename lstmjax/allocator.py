"""Memory that a program gets back from the system at every call, and what to say so that it keeps it instead."""

import ctypes
import sys

# glibc's <malloc.h>: the numbers of what `mallopt` sets.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8

_LARGEST = 2**31 - 1  # of a C int: bytes


def keep_memory() -> bool:
    """Tell the C library of this process to keep memory that is freed, for whoever asks for some next.

    On a CPU, XLA asks for all that a program needs in between whenever it is called, in one piece, and frees it when it
    is done. glibc gives pieces of more than 32 MB back to the system at once, and Linux hands them out again page by
    page, cleared, as each is first touched: 50,000 times in a large step of training, and a quarter of its time
    (benchmarks/README.md). Kept, they are touched for the first time once.

    It is of the whole process and cannot be taken back, so the library never does it by itself: the command line does,
    and a program of your own may, at its start, before other threads have asked for memory. What the process has
    held at most it then holds until it ends. On a GPU it changes nothing.

    Returns:
      Whether the C library has agreed: False on other systems than Linux, or with another library than glibc.

    >>> keep_memory() in (True, False)
    True
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):  # musl's mallopt, if it has one, does nothing
        return False
    # One arena, since only that one may grow as far as it likes: of the others none holds more than 64 MB, and what is
    # larger is mapped whatever `_MMAP_MAX` says.
    said = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST), (_TOP_PAD, 2**26))
    return all(library.mallopt(what, value) == 1 for what, value in said)
