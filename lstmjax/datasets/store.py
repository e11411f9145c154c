"""Where the files of data sets are: in a folder, in a cache, or where they were published.

A set is looked for in the folder that the environment variable LSTMJAX_DATA names, as `<folder of the set>/<file>`,
packed (`.gz`) or not; then in the user's cache; then, file by file, at its pinned public origin, and kept in the cache
if its sha256 is right (needs the `data` extra). No text of a set is part of this library; each has its own licence.
"""

import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from lstmjax import checks
from lstmjax.datasets.catalogue import CATALOGUE, Dataset

FOLDER = "LSTMJAX_DATA"  # the environment variable that names the folder of sets


class File(NamedTuple):
    """A file of a set."""

    sha256: str  # of the unpacked bytes
    origin: str  # repository@commit:path of the same bytes; "" if they were made from others


def names() -> tuple[str, ...]:
    """The sets that are known.

    >>> names()[:3]
    ('snips', 'clinc150', 'goemotions')
    """
    return tuple(CATALOGUE)


def about(name: str) -> Dataset:
    """What a set is, what it may be used for, and whom to cite.

    Raises:
      ValueError: no such set.

    >>> about("snips").licence
    'CC0 1.0'
    """
    checks.one_of("name", name, names())
    return CATALOGUE[name]


def load(name: str, *splits: str) -> dict[str, Any]:
    """The records of a set, by split.

    Args:
      name: of the set (`names`).
      splits: which; none is all of them.

    Returns:
      By split, a list of `Labelled`, `Tagged`, `Pair`, `Translation`, `Roles`, `Poem`, lines or pieces; for some
      language models the text, for images `Images`.

    Raises:
      ValueError: no such set or split; a file that is not as it should be, with the line. FileNotFoundError: a file
        that is neither there nor to be had. ImportError: it is to be had, but pooch is not installed.
    """
    known = about(name)
    for split in splits:
        checks.one_of("split", split, tuple(known.splits))
    return {
        split: known.splits[split].read(*(_path(known, path) for path in known.splits[split].paths))
        for split in splits or known.splits
    }


def where(name: str) -> Path | None:
    """The folder that has all files of a set, in that of LSTMJAX_DATA or in the cache; None if neither has."""
    known = about(name)
    for root in _roots():
        if all(_in(root / known.folder, path) for split in known.splits.values() for path in split.paths):
            return root / known.folder
    return None


def _roots():
    given = os.environ.get(FOLDER)
    return [*([Path(given)] if given else []), _cache()]


def _cache():
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lstmjax" / "data"


def _in(folder, path):
    """The file of that path in a folder, packed or not, or None."""
    for name in (path, f"{path}.gz"):
        if (folder / name).is_file():
            return folder / name
    return None


def _path(known, path):
    """A file of a set, wherever it is."""
    for root in _roots():
        found = _in(root / known.folder, path)
        if found is not None:
            return found
    file = _files()[f"{known.folder}/{path}"]
    looked = f"{known.name} needs {known.folder}/{path}, which is in none of {', '.join(map(str, _roots()))}"
    if not file.origin:
        raise FileNotFoundError(
            f"{looked}. It was made from other files and has no origin to be had from: set {FOLDER} to a folder with it"
        )
    try:
        import pooch
    except ImportError as error:
        raise ImportError(
            f"{looked}. To have it from its origin needs pooch: pip install 'lstmjax[data]'; or set {FOLDER}"
        ) from error
    repository, _, rest = file.origin.partition("@")
    commit, _, place = rest.partition(":")
    target = _cache() / known.folder / path
    found = pooch.retrieve(
        f"https://raw.githubusercontent.com/{repository}/{commit}/{place}",
        known_hash=f"sha256:{file.sha256}",
        fname=target.name,
        path=target.parent,
    )
    return Path(found)


@cache
def _files():
    """Every file of every set, by folder and path."""
    lines = (resources.files("lstmjax.datasets") / "files.tsv").read_text(encoding="utf-8").splitlines()
    return {path: File(*rest) for path, *rest in (line.split("\t") for line in lines[1:])}
