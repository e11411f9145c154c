"""A folder that one run at a time may write to."""

import contextlib
import os
import platform
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"


class Lock:
    """A lock of the operating system on a file in a folder, which says whose it is, until `release`.

    It ends with its process, so that nothing has to be cleared away after a kill. Where there are no such locks, on
    Windows and on some network disks, nobody is kept out.

    Raises:
      BlockingIOError: somebody else has it; it says who.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lock = Lock(Path(folder))
    ...     lock.release()
    ...     print(os.listdir(folder))
    []
    """

    def __init__(self, folder: Path):
        self._file = None if fcntl is None else _locked(folder / NAME)

    def release(self) -> None:
        """Let others have it."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                os.unlink(file.name)  # while it is ours: afterwards it might be another's
            file.close()


def _locked(path):
    """The file at `path`, open and locked; None where there are no locks."""
    while True:
        file = open(path, "ab+", buffering=0)  # noqa: SIM115 (open as long as the lock is held)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            whose = file.read(200).decode(errors="replace") or "another process"
            file.close()
            raise BlockingIOError(f"{path.parent} should be of no other run, but {whose} saves there") from None
        except OSError:  # this disk has no locks
            file.close()
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # removed by whoever had it, between the two lines above
    with contextlib.suppress(OSError):  # a full disk: it is locked all the same
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}".encode())
    return file
