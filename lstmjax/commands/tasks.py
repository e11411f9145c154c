"""What the command line knows of a task: the module that does it, and how sets and files become its records."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from lstmjax import checkpoint, classify, datasets, language, match, sequences, tag, translate
from lstmjax.recipe import File, Recipe, names, read


class Task(NamedTuple):
    """A task of texts, or of other sequences."""

    module: ModuleType  # fit, sweep, evaluate, measure, save, load
    recipe: Recipe  # where nothing else is said
    of_set: Callable[[datasets.Dataset, Recipe, Sequence[str]], list]  # the records of these splits of a set
    of_file: Callable[[str, Recipe], Any]  # those of a file
    line: str  # what a line of such a file is
    split: Callable[[Any, Recipe], Any]  # of records: train, dev and test, 80 / 10 / 10
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


def _tagged(one, recipe, splits):
    held = list(datasets.load(one.name, *splits).values())
    for records in held:
        if not isinstance(records, list) or not isinstance(records[0], datasets.Tagged):
            raise ValueError(f"{one.name} ({one.task}) is no set of words with a tag each")
    return [[tag.Record(record.words, record.tags) for record in records] for records in held]


def _frames(one, recipe, splits):
    held = list(datasets.load(one.name, *splits).values())
    for records in held:
        if not isinstance(records, list) or not isinstance(records[0], datasets.Roles):
            raise ValueError(f"{one.name} ({one.task}) is no set of sentences with predicates")
    return [tag.frames(records) for records in held]


def _split_pairs(records, recipe):
    """In each label or, where there are none, of all."""
    labels = [record[2] if len(record) == 3 and recipe.target == "label" else "all" for record in records]
    marked = [(str(n), label) for n, label in enumerate(labels)]
    return [[records[int(n)] for n, _ in part] for part in classify.split(marked, recipe.seed)]


def _split_tagged(records, recipe):
    """By sentences, so that the predicates of one stay together."""
    sentences = {record.words: str(n) for n, record in enumerate(records)}
    parts = classify.split([(n, "sentences") for n in sentences.values()], recipe.seed)
    chosen = [{n for n, _ in part} for part in parts]
    return [[record for record in records if sentences[record.words] in part] for part in chosen]


def _translations(one, recipe, splits):
    held = list(datasets.load(one.name, *splits).values())
    if not all(isinstance(records, list) and isinstance(records[0], datasets.Translation) for records in held):
        raise ValueError(f"{one.name} ({one.task}) is no set of translations")
    return [_turned(records, recipe) for records in held]


def _turned(records, recipe):
    return [tuple(record)[:: -1 if recipe.reverse else 1] for record in records]


def _running(one, recipe, splits):
    """The text of each split: as it is, or a line for each record."""
    found = []
    for held in datasets.load(one.name, *splits).values():
        if isinstance(held, str):
            found.append(held)
            continue
        if not isinstance(held, list) or not (isinstance(held[0], str) or hasattr(held[0], "text")):
            raise ValueError(f"{one.name} ({one.task}) is no set of texts")
        found.append("".join(f"{_line(record)}\n" for record in held))
    return found


def _line(record):
    if isinstance(record, datasets.Poem):
        return f"{record.tune}：{record.text}"  # the tune says how long each verse is
    return record if isinstance(record, str) else record.text


def _no_file(path, recipe):
    raise ValueError(f"{path} is none of the sets of sequences: {', '.join(sequences.SETS)}")


_CLASSIFY = Task(
    classify,
    Recipe(),
    _texts,
    lambda path, recipe: classify.read(path, several=recipe.several),
    "text TAB label",
    lambda records, recipe: classify.split(records, recipe.seed),
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
        _split_pairs,
    ),
    "tag": Task(
        tag,
        Recipe(members=1, recurrent=0.1),
        _tagged,
        lambda path, recipe: tag.read(path),
        "word TAB tag",
        _split_tagged,
    ),
    "roles": Task(
        tag,
        Recipe(members=1, recurrent=0.1, reach=4),
        _frames,
        lambda path, recipe: tag.frames(datasets.roles(Path(path))),
        "columns of CoNLL-2005",
        _split_tagged,
    ),
    "translate": Task(
        translate,
        Recipe(
            members=1,
            tokens="bpe",
            vocabulary=4000,
            embedding=128,
            hidden=(128,),
            decoder=(256,),
            dropout=0.3,
            recurrent=0.2,
            variational=True,
            smoothing=0.1,
            learning_rate=1e-3,
            average=0.999,
            buckets=8,
            best="loss",
        ),
        _translations,
        lambda path, recipe: _turned(translate.read(path), recipe),
        "source TAB target",
        _split_pairs,
    ),
    "language": Task(
        language,
        language.RECIPE,
        _running,
        lambda path, recipe: language.read(path),
        "text",
        lambda records, recipe: language.split(records),
    ),
    "sequence": Task(
        sequences,
        sequences.DEFAULT,
        lambda one, recipe, splits: sequences.records(one.name, recipe, *splits),  # type: ignore[arg-type, return-value]
        _no_file,
        "",
        _no_file,
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
    """The recipe that was asked for; where none was, the one for this set and task if there is just one, or if one has
    the name of the set."""
    if config is not None:
        file = read(config)
        if task is not None and file.task != task:
            raise ValueError(f"{config} is a recipe for the task {file.task}, not for {task}")
        if file.task not in TASKS:
            raise ValueError(f"{config} should name one of the tasks {', '.join(TASKS)}, got {file.task!r}")
        return file
    found = recipes_of(task, data)
    if data in found or len(found) == 1:
        return found.get(data or "", next(iter(found.values())))
    tasks = {file.task for file in found.values()}
    return File(task or (tasks.pop() if len(tasks) == 1 else "classify"), "", {})


def recipes_of(task: str | None, data: str | None) -> dict[str, File]:
    """The recipes that come along for a set, and for this task if it is given, by name."""
    files = {name: read(name) for name in names()} if data else {}
    return {name: file for name, file in files.items() if file.data == data and task in (None, file.task)}


def task_of(folder: str | Path) -> Task:
    """The task that a saved model is for."""
    about = checkpoint.read_about(Path(folder))["about"]
    name: Any = about.get("task") if isinstance(about, dict) else None
    if name not in TASKS:
        raise ValueError(f"{folder} holds a model of the task {name!r}, which is none of {', '.join(TASKS)}")
    return TASKS[name]
