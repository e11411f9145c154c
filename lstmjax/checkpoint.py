"""A trained model as a folder: weights in safetensors, everything else in JSON. Nothing in it is run on loading."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.flax

from lstmjax.leaves import kind, named

FORMAT = 1
ABOUT, WEIGHTS = "model.json", "weights.safetensors"


def check_folder(folder: str | Path) -> None:
    """Refuse a name that a model cannot be written to: a file, or a folder that holds something other than a model.

    Raises:
      FileExistsError: naming it.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / ABOUT).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is no model folder: choose another name")


def save(folder: str | Path, params: Any, about: dict[str, Any]) -> Path:
    """Write a model. The folder appears whole or not at all, and replaces an older model of the same name.

    Args:
      folder: to be made.
      params: any pytree of arrays.
      about: what JSON can hold.

    Raises:
      OSError: a path that is a file, that holds something other than a model, or that cannot be written.
      ValueError: a weight that is not finite; `about` that JSON cannot hold.
    """
    folder = Path(folder)
    check_folder(folder)
    arrays = named(params)
    for name, array in arrays.items():
        if not np.isfinite(np.asarray(array, np.float64)).all():
            raise ValueError(f"{name} holds values that are not finite: not saved")
    weights = safetensors.flax.save({name: jnp.asarray(array) for name, array in arrays.items()})
    record = {
        "format": FORMAT,
        "about": about,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "weights": {name: kind(array) for name, array in arrays.items()},
    }
    try:
        text = json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"about should hold only what JSON can: {error}") from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, content in ((WEIGHTS, weights), (ABOUT, text.encode())):
            with open(made / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        made.chmod(0o755)
        if folder.exists():
            folder.rename(made / "old")
        made.rename(folder)
        shutil.rmtree(folder / "old", ignore_errors=True)
    except BaseException:
        if (made / "old").exists() and not folder.exists():
            (made / "old").rename(folder)
        shutil.rmtree(made, ignore_errors=True)
        raise
    return folder


def load(folder: str | Path, template: Callable[[dict[str, Any]], Any]) -> tuple[Any, dict[str, Any]]:
    """Read a model that `save` wrote.

    Args:
      folder: of the model.
      template: about -> a pytree of the shapes and dtypes that the weights must have.

    Returns:
      The params and `about`.

    Raises:
      FileNotFoundError: no folder, or a file of it is missing. ValueError: a file that was cut, changed or written by
        a newer version, or weights other than the template's; the message names file and weight.
    """
    folder = Path(folder)
    record = read_about(folder)
    try:
        content = (folder / WEIGHTS).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}: the model is not complete") from None
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise ValueError(f"{folder / WEIGHTS} is not what was saved: it was cut or changed (its sha256 differs)")
    arrays = _from_bytes(content)
    shapes = template(record["about"])
    wanted = named(shapes)
    for name in sorted(wanted.keys() - arrays.keys()):
        raise ValueError(f"{folder / WEIGHTS} has no weight {name}, expected {kind(wanted[name])}")
    for name in sorted(arrays.keys() - wanted.keys()):
        raise ValueError(f"{folder / WEIGHTS} has a weight {name} that the model does not know")
    for name, array in arrays.items():
        if kind(array) != kind(wanted[name]):
            raise ValueError(f"{folder / WEIGHTS}: {name} should be {kind(wanted[name])}, got {kind(array)}")
    return jax.tree.unflatten(jax.tree.structure(shapes), [arrays[name] for name in wanted]), record["about"]


def load_model(
    folder: str | Path, noun: str, tasks: Sequence[str], describe: Callable[[dict[str, Any]], tuple[Any, Any]]
) -> Any:
    """Read a model of a task: a named tuple with a field `params`, whose `about` says the task.

    Args:
      folder: of the model.
      noun: what it should be, for the message.
      tasks: of which it may be.
      describe: about -> the model without params, and the shapes and dtypes that these must have. What it raises
        (KeyError, TypeError, ValueError) says that `about` describes no such model.

    Raises:
      As `load`; ValueError: a model of another task, or one that cannot be described.
    """
    models: list[Any] = []

    def template(about: dict[str, Any]) -> Any:
        try:
            if about["task"] not in tasks:
                raise TypeError(f"it is of the task {about['task']}")
            model, shapes = describe(about)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{Path(folder) / ABOUT} describes no {noun}: {error!r}") from None
        models.append(model)
        return shapes

    params, _ = load(folder, template)
    return models[0]._replace(params=params)


def read_about(folder: Path) -> dict[str, Any]:
    """What a model folder says of itself: its format, `about` and the sum of its weights; it raises as `load`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no model folder: there is no such folder")
    path = folder / ABOUT
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} is no model folder: it has no {ABOUT}") from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from None
    missing = [k for k in ("format", "about", "sha256") if not isinstance(record, dict) or k not in record]
    if missing:
        raise ValueError(f"{path} has no {missing[0]!r}: it is no model of lstmjax")
    if record["format"] != FORMAT:
        raise ValueError(f"{path} has format {record['format']}, this version of lstmjax reads format {FORMAT}")
    return record


# safetensors' own names of dtypes, which numpy has no bfloat16 among.
_DTYPES = {
    **{f"F{n}": f"float{n}" for n in (16, 32, 64)},
    **{f"{sign}{n}": f"{'u' * (sign == 'U')}int{n}" for sign in "IU" for n in (8, 16, 32, 64)},
    "BF16": "bfloat16",
    "BOOL": "bool",
}


def _from_bytes(content):
    # safetensors.flax.load goes through NumPy, which knows no bfloat16.
    arrays = {}
    for name, part in safetensors.deserialize(content):
        array = np.frombuffer(part["data"], jnp.dtype(_DTYPES[part["dtype"]])).reshape(part["shape"])
        arrays[name] = jnp.asarray(array)
    return arrays
