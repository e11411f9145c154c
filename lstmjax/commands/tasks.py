"""What the command line knows of a task: the module that does it, and how sets and files become its records."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from lstmjax import checkpoint, classify, datasets, match, sequences
from lstmjax.recipe import File, Recipe, names, read


class Task(NamedTuple):
    """A task of texts, or of other sequences."""

    module: ModuleType  # fit, sweep, predict, decide, evaluate, save, load
    recipe: Recipe  # where nothing else is said
    of_set: Callable[[datasets.Dataset, Recipe, Sequence[str]], list[list]]  # the records of these splits of a set
    of_file: Callable[[str, Recipe], list]  # those of a file
    line: str  # what a line of such a file is
    generated: tuple[str, ...] = ()  # sets that a program draws


def _texts(one, recipe, splits):
    known = one.splits
    wanted = {split: [split, f"{recipe.outside}_{split}"] if recipe.outside else [split] for split in splits}
    wanted = {split: [part for part in parts if part in known] for split, parts in wanted.items()}
    held = datasets.load(one.name, *(part for parts in wanted.values() for part in parts))
    lists = [[record for part in parts for record in held[part]] for parts in wanted.values()]
    for records in lists:
        if not records or not hasattr(records[0], "labels"):
            raise ValueError(f"{one.name} ({one.task}) is no set of texts with labels, one or several each")
        if not recipe.several and any(len(record.labels) != 1 for record in records):
            raise ValueError(f"{one.name} ({one.task}) has texts with several labels: give --several")
    return [
        [(record.text, tuple(record.labels) if recipe.several else record.labels[0]) for record in records]
        for records in lists
    ]


def _pairs(one, recipe, splits):
    held = list(datasets.load(one.name, *splits).values())
    for records in held:
        if not isinstance(records, list) or not isinstance(records[0], datasets.Pair):
            raise ValueError(f"{one.name} ({one.task}) is no set of pairs of texts")
        if recipe.target == "score" and records[0].score is None:
            raise ValueError(f"{one.name} ({one.task}) has no scores: leave out --target score")
    field = 3 if recipe.target == "score" else 2
    return [[(*record[:2], record[field]) for record in records] for records in held]


def _no_file(path, recipe):
    raise ValueError(f"{path} is none of the sets of sequences: {', '.join(sequences.SETS)}")


_CLASSIFY = Task(
    classify,
    Recipe(),
    _texts,
    lambda path, recipe: classify.read(path, several=recipe.several),
    "text TAB label",
)
TASKS = {
    "classify": _CLASSIFY,
    "sentiment": _CLASSIFY,
    "match": Task(
        match,
        Recipe(pooling="max"),
        _pairs,
        lambda path, recipe: match.read(path, target=recipe.target),
        "text TAB text TAB label",
    ),
    "sequence": Task(
        sequences,
        sequences.DEFAULT,
        lambda one, recipe, splits: sequences.records(one.name, recipe, *splits),  # type: ignore[arg-type, return-value]
        _no_file,
        "",
        sequences.GENERATED,
    ),
}


def known(task: Task, name: str) -> bool:
    """Whether this is the name of a set, or of one that is drawn for this task."""
    return name in datasets.names() or name in task.generated


def of_set(task: Task, name: str, recipe: Recipe, *splits: str) -> list:
    """The records of these splits of a set by name. A set without a test split lends its dev split, and a tenth of its
    training split is its dev split then."""
    if name in task.generated:
        return task.module.records(name, recipe, *splits)
    one = datasets.about(name)
    if "test" in one.splits:
        return task.of_set(one, recipe, splits)
    if "train" not in one.splits or "dev" not in one.splits:
        raise ValueError(f"{one.name} ({one.task}) has no splits to train and measure on")
    whole, held = task.of_set(one, recipe, ("train", "dev"))
    order = np.random.default_rng(0).permutation(len(whole))
    tenth = len(whole) // 10
    parts = {"train": [whole[n] for n in order[tenth:]], "dev": [whole[n] for n in order[:tenth]], "test": held}
    return [parts[split] for split in splits]


def recipe_file(task: str | None, data: str | None, config: str | None) -> File:
    """The recipe that was asked for; where none was, the one for this set and task if there is just one."""
    if config is not None:
        file = read(config)
        if task is not None and file.task != task:
            raise ValueError(f"{config} is a recipe for the task {file.task}, not for {task}")
        if file.task not in TASKS:
            raise ValueError(f"{config} should name one of the tasks {', '.join(TASKS)}, got {file.task!r}")
        return file
    found = [file for file in map(read, names()) if data is not None and file.data == data]
    found = [file for file in found if task in (None, file.task)]
    if len(found) == 1:
        return found[0]
    return File(task or "classify", "", {})


def task_of(folder: str | Path) -> Task:
    """The task that a saved model is for."""
    about = checkpoint.read_about(Path(folder))["about"]
    name: Any = about.get("task") if isinstance(about, dict) else None
    if name not in TASKS:
        raise ValueError(f"{folder} holds a model of the task {name!r}, which is none of {', '.join(TASKS)}")
    return TASKS[name]
