"""Snapshots of a run, to go on from: whole or absent whatever kills the run, and refused when anything in them changed.

A snapshot is a folder named after its step: the arrays, a folder each, as orbax writes them (several processes write
their shards together), and `snapshot.json`, which names every file with its size and sha256, and every leaf with its
shape and dtype. It is built under another name and renamed when all of it is there. No pickle is written or read.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstmjax import checks, leaves
from lstmjax.train.lock import Lock

FORMAT = 1
RECORD, ARRAYS = "snapshot.json", "arrays"


class Loaded(NamedTuple):
    """What a snapshot held."""

    state: Any
    about: Any
    step: int


def changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """In what two runs differ, in words.

    >>> changes({"clip": 1, "seed": 0}, {"clip": 2, "seed": 0})
    'clip was 1 and is now 2'
    """
    names = [name for name in before | now if before.get(name) != now.get(name)]
    return ", ".join(f"{name} was {before.get(name)!r} and is now {now.get(name)!r}" for name in names)


class Snapshots:
    """The snapshots of one run, in a folder of their own.

    Saving goes on in the background once the arrays have been copied to the host. An error of that is raised by the
    next `save`, or by `wait`. Only one run saves in a folder at a time, from its first `save` or `claim` on until
    `close` or the end of its process; others may read there what is whole.

    Args:
      folder: made if it is not there. In a run of several processes all of them name the same folder.
      keep: how many of the last snapshots are kept, beside the last one that was saved as the best.
      share: how much of the time of a run may go into snapshots that nobody asked for by number (`due`).

    Raises:
      TypeError, ValueError, OSError: naming the argument; a folder that is a file or cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Snapshots(folder) as snapshots:
    ...     snapshots.save(7, {"w": jnp.ones(3)}, {"note": "any JSON"})
    ...     snapshots.wait()
    ...     print(snapshots.steps(), snapshots.load({"w": jnp.zeros(3)}))
    [7] Loaded(state={'w': Array([1., 1., 1.], dtype=float32)}, about={'note': 'any JSON'}, step=7)
    """

    def __init__(self, folder: str | os.PathLike, *, keep: int = 2, share: float = 0.02):
        if not isinstance(folder, str | os.PathLike):
            raise TypeError(f"folder should be a path, got {checks.show(folder)}")
        self.folder, self.keep = Path(folder).absolute(), checks.size("keep", keep)
        self.share = checks.positive("share", share)
        self._cost = self._ended = 0.0  # of the last one: the seconds it took, and when it was done
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshots")
        self._writing: Future | None = None
        self._lock: Lock | None = None
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"{self.folder} is a file: snapshots need a folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            self._try_to_write()

    def __enter__(self) -> "Snapshots":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def claim(self) -> None:
        """Keep others from saving here until `close`, and remove what an interrupted save left.

        The lock ends with its process. On Windows, and on a network disk without locks, nobody is kept out.

        Raises:
          BlockingIOError: somebody else saves here; it says who.
        """
        if self._lock is not None or jax.process_index() != 0:
            return
        self._lock = Lock(self.folder)
        for path in self.folder.glob(".*.partial"):
            shutil.rmtree(path, ignore_errors=True)

    def save(self, step: int, state: Any, about: Any = None, *, best: bool = False) -> None:
        """Begin to save.

        Args:
          step: not negative. A snapshot of the same step is replaced.
          state: a pytree of arrays. It may be changed or donated as soon as this returns.
          about: what JSON can hold, to be returned with the state.
          best: whether this is the best so far, to be kept until there is a better one.

        Raises:
          ValueError: `about` that JSON cannot hold, or a leaf that is not finite, named. OSError: what could not be
            written, of this save or of the one before it; nothing is left of such a snapshot. What `claim` raises.
        """
        self.wait()
        self.claim()
        step = checks.size("step", step, least=0)
        _handler()  # imports orbax the first time, which is no part of the cost of a snapshot
        began = time.monotonic()
        try:
            about = json.loads(json.dumps(about, allow_nan=False))  # as it is now, whatever becomes of it
        except (TypeError, ValueError) as error:
            raise ValueError(f"about should hold only what JSON can: {error}") from error
        named = {name: jnp.asarray(leaf) for name, leaf in leaves.named(state).items()}
        arrays = {name: _bits(leaf) for name, leaf in named.items()}
        fine = np.asarray(_finite(list(arrays.values())))
        for name, is_fine in zip(arrays, fine, strict=True):
            if not is_fine:
                raise ValueError(f"the snapshot of step {step} was not saved: {name} holds values that are not finite")
        kinds = {name: leaves.kind(leaf) for name, leaf in named.items()}
        record = {"format": FORMAT, "step": step, "best": bool(best), "about": about, "leaves": kinds}
        partial = self.folder / f".{step:08d}.partial"
        if jax.process_index() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        with self._refusing(step, partial):
            if jax.process_index() == 0:
                partial.mkdir()
            # When this returns, the arrays are on the host, and only the disk is waited for.
            checkpointer = _orbax()
            checkpointer.save(partial / ARRAYS, args=_save_args(arrays))
        self._writing = self._thread.submit(self._finish, step, partial, checkpointer, record, began)

    def due(self) -> bool:
        """Whether the last snapshot is so long ago that one more would take less than `share` of the time since then.

        A snapshot of a small model takes as long as an epoch of a small set; so `fit` asks after each epoch. What a
        kill then costs is at most 1 / share times what a snapshot takes (50 times 0.2 s, say), and the epochs since are
        run again to the same bits. Of several processes each would answer for itself, so there it is always true.
        """
        if jax.process_count() > 1 or not self._ended:
            return True
        if self._writing is not None and not self._writing.done():
            return False
        return (time.monotonic() - self._ended) * self.share >= self._cost

    def wait(self) -> None:
        """Until all that was saved is on the disk; raises what saving met."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """`wait`, end the thread, and let others save here."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def steps(self) -> list[int]:
        """The steps there are complete snapshots of, rising. What an interrupted save left is none."""
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdecimal() and (p / RECORD).is_file())

    def begin(self, resume: bool) -> None:
        """`claim` the folder for a run, which is not to begin anew where the snapshots of one lie.

        Raises:
          TypeError: `resume` is no bool. ValueError: there are snapshots, and `resume` is False. What `claim` raises.
        """
        if not checks.flag("resume", resume) and self.steps():
            raise ValueError(
                f"{self.folder} holds snapshots of a run: give resume=True to go on with it, or another folder"
            )
        self.claim()

    def load(self, like: Any, step: int | None = None) -> Loaded:
        """Read a snapshot, if every byte of it is as it was written and its leaves are those of `like`.

        Args:
          like: a pytree of arrays with the leaves, shapes and dtypes that are expected; what is loaded is placed on
            devices as they are. All but keys may be `jax.ShapeDtypeStruct`s.
          step: None is the last.

        Raises:
          FileNotFoundError: there is none. ValueError: a file was cut, changed, added or removed, or a leaf is
            missing, unknown, or of another shape or dtype; it names file and leaf, and the last good snapshot.
        """
        self.wait()
        found = self.steps()
        if not found:
            raise FileNotFoundError(f"{self.folder} holds no snapshot")
        step = found[-1] if step is None else checks.size("step", step, least=0)
        if step not in found:
            raise FileNotFoundError(f"{self.folder} holds no snapshot of step {step}, only of {found}")
        try:
            record = _verified(self._path(step))
            _compare(self._path(step) / RECORD, record["leaves"], like)
        except ValueError as error:
            good = [k for k in found if k != step and self._is_good(k, like)]
            offer = f"the last good snapshot is of step {good[-1]}" if good else "no other snapshot here is good"
            raise ValueError(f"{error}; {offer}") from None
        return Loaded(_read(self._path(step) / ARRAYS, like), record["about"], step)

    def _path(self, step):
        return self.folder / f"{step:08d}"

    def _is_good(self, step, like):
        try:
            _compare(self._path(step), _verified(self._path(step))["leaves"], like)
        except ValueError:
            return False
        return True

    def _try_to_write(self):
        probe = self.folder / f".probe.{os.getpid()}"
        try:
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise type(error)(f"{self.folder} cannot be written: {error.strerror}") from error

    def _finish(self, step, partial, checkpointer, record, began):
        """Wait for the arrays to be written, by all processes, and make a snapshot of them."""
        with self._refusing(step, partial):
            checkpointer.close()
            if jax.process_index() != 0:
                return
            record["files"] = {path.relative_to(partial).as_posix(): _stamp(path) for path in _files(partial)}
            (partial / RECORD).write_text(_sealed(record))
            _stamp(partial / RECORD)
            self._commit(partial, self._path(step))
        self._forget()
        self._ended = time.monotonic()
        self._cost = self._ended - began

    @contextlib.contextmanager
    def _refusing(self, step, partial):
        """Whatever goes wrong is an OSError that names the snapshot, and leaves nothing of it."""
        try:
            yield
        except Exception as error:
            if jax.process_index() == 0:
                shutil.rmtree(partial, ignore_errors=True)
            raise OSError(f"the snapshot of step {step} was not saved in {self.folder}: {error}") from error

    def _commit(self, partial, path):
        if path.exists():  # a damaged one, or one of another run
            self._remove(path)
        partial.rename(path)
        if hasattr(os, "O_DIRECTORY"):
            folder = os.open(self.folder, os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)

    def _remove(self, path):
        # Renamed first, so that one half removed is never taken for whole.
        gone = path.with_name(f".{path.name}.{time.time_ns()}.partial")
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _forget(self):
        """Remove all but the last snapshots and the best."""
        found = self.steps()
        for step in reversed(found):
            if _is_best(self._path(step)):
                best = step
                break
        else:
            best = None
        for step in found[: -self.keep]:
            if step != best:
                self._remove(self._path(step))


def _handler():
    import orbax.checkpoint as ocp

    # A folder for each array, so that a damaged file says which leaf it belongs to.
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
    # It would merge files of the format that is not used here, and warn that there are none.
    handler.finalize = lambda directory: None  # type: ignore[method-assign]
    return handler


def _orbax():
    import orbax.checkpoint as ocp

    return ocp.AsyncCheckpointer(_handler())


def _save_args(arrays):
    import orbax.checkpoint as ocp

    return ocp.args.PyTreeSave(_numbered(arrays.values()))


def _read(folder, like):
    """The arrays of a verified snapshot, placed as those of `like` are."""
    import orbax.checkpoint as ocp

    wanted = jax.tree.leaves(like)
    bits = [_bits(leaf) for leaf in wanted]
    there = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or _one_device())
        for name, leaf in _numbered(bits).items()
    }
    read: dict[str, Any] = {}
    if there:
        with _orbax() as checkpointer:
            how = ocp.checkpoint_utils.construct_restore_args(there)
            read = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(item=there, restore_args=how))
    found = []
    for k, (leaf, data) in enumerate(zip(wanted, bits, strict=True)):
        array = read[_number(k)] if data.size else jnp.zeros(data.shape, data.dtype)
        found.append(jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if leaves.is_key(leaf) else array)
    return jax.tree.unflatten(jax.tree.structure(like), found)


def _number(k):
    return f"{k:05d}"


def _numbered(arrays):
    """By number, since a leaf may have any name but a folder may not. Orbax takes no empty arrays."""
    return {_number(k): array for k, array in enumerate(arrays) if array.size}


def _bits(leaf):
    """A leaf as an array of numbers, which PRNG keys are not."""
    return jax.random.key_data(leaf) if leaves.is_key(leaf) else leaf


_finite = jax.jit(leaves.finite)


def _one_device():
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _files(folder):
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def _stamp(path):
    """Size and sha256 of a file, which is on the disk afterwards."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return [os.fstat(file.fileno()).st_size, digest]


def _sealed(record):
    text = json.dumps(record, ensure_ascii=False, indent=1)
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest()}) + "\n" + text


def _opened(path):
    """The record of a snapshot, if it is as it was written."""
    try:
        seal, _, text = path.read_bytes().decode().partition("\n")
        if json.loads(seal) == {"sha256": hashlib.sha256(text.encode()).hexdigest()}:
            return json.loads(text)
    except ValueError:
        pass
    raise ValueError(f"{path} was cut or changed: its sha256 differs")


def _is_best(folder):
    try:
        return _opened(folder / RECORD)["best"]
    except (OSError, ValueError):
        return False


def _verified(folder):
    """The record of a snapshot whose every file is as it was written."""
    record = _opened(folder / RECORD)
    if record["format"] != FORMAT:
        raise ValueError(
            f"{folder / RECORD} has format {record['format']}, this version of lstmjax reads format {FORMAT}"
        )
    names, there = list(record["leaves"]), {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    del there[RECORD]

    def whose(name):
        number = name.removeprefix(f"{ARRAYS}/").partition("/")[0]
        return f" (leaf {names[int(number)]})" if number.isdecimal() and int(number) < len(names) else ""

    for name in record["files"].keys() - there.keys():
        raise ValueError(f"{folder / name}{whose(name)} is missing")
    for name in there.keys() - record["files"].keys():
        raise ValueError(f"{folder / name}{whose(name)} is no part of the snapshot")
    for name, (size, digest) in record["files"].items():
        found = there[name].stat().st_size
        if found != size:
            raise ValueError(f"{folder / name}{whose(name)} was cut or changed: {found} bytes, {size} were written")
        with open(there[name], "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise ValueError(f"{folder / name}{whose(name)} was changed: its sha256 differs")
    return record


def _compare(path, kinds, like):
    wanted = {name: leaves.kind(leaf) for name, leaf in leaves.named(like).items()}
    for name in wanted:
        if name not in kinds:
            raise ValueError(f"{path} has no leaf {name}, expected {wanted[name]}")
    for name in kinds:
        if name not in wanted:
            raise ValueError(f"{path} has a leaf {name} that the run does not know")
    for name in wanted:
        if kinds[name] != wanted[name]:
            raise ValueError(f"{path}: leaf {name} should be {wanted[name]}, got {kinds[name]}")
    if list(kinds) != list(wanted):
        raise ValueError(f"{path} has the leaves in another order than the run")
