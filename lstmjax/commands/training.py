"""`train` and `plot`: a run of training from the data to the saved model, and the curves of runs."""

import argparse
import contextlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from lstmjax import checkpoint, classify, datasets, devices, sequences
from lstmjax.commands import compare
from lstmjax.commands.sets import licence
from lstmjax.commands.tasks import TASKS, known, of_set, recipe_file, recipes_of
from lstmjax.recipe import Recipe, checked
from lstmjax.train import Snapshots, Watch, curves, parse_sweep
from lstmjax.train.watch import strict

SENTENCES = ("Not the disaster I feared: it works, and quietly.", "说好的三天送到，结果等了半个月，再也不买了。")


def train(options: argparse.Namespace) -> int:
    """Train a model, or several at once, compare it on test data, save it."""
    console = Console()
    file = recipe_file(options.task, options.data, options.config)
    task, data = TASKS[file.task], options.data or file.data or None
    recipe = _recipe(options, task.recipe._replace(**file.settings))
    if options.sweep and not hasattr(task.module, "sweep"):
        raise ValueError(f"{file.task} has no sweep: train its models one after the other")
    out = Path(options.out)
    checkpoint.check_folder(out)  # before hours are spent
    if options.json and not Path(options.json).parent.is_dir():
        raise ValueError(f"there is no folder {Path(options.json).parent} for --json {options.json}")
    for flag in ("save_every", "patience") if options.sweep else ():
        if getattr(options, flag) is not None:
            raise ValueError(
                f"--{flag.replace('_', '-')} is for one run: a sweep is saved after epochs, and has them all"
            )
    # Beside the model, since a model folder holds a model and nothing else.
    run = out.with_name(f"{out.name}.run")
    run_existed = run.exists()
    checked(recipe)
    mesh = _mesh(options.devices, 1 if options.sweep else recipe.members)
    if not options.resume and any((run / "snapshots").glob("[0-9]*")):
        raise ValueError(f"{run} holds a run that was not finished: --resume goes on with it; or remove the folder")
    if file.name:
        console.print(f"Recipe: {file.name}", highlight=False)
    elif others := recipes_of(options.task, data):
        console.print(f"Recipe: none; --config takes one of those for this set: {', '.join(others)}", highlight=False)
    training, dev, test = _records(console, options, task, data, recipe)
    if hasattr(task.module, "check_test"):
        task.module.check_test(training, test, recipe)
    what = "characters" if isinstance(training, str) else "records"
    console.print(f"train {len(training):,}, dev {len(dev):,}, test {len(test):,} {what}", highlight=False)
    began = time.perf_counter()
    snapshots = Snapshots(run / "snapshots")
    snapshots.claim()  # or what follows would be done to a run that is going on
    if not snapshots.steps():
        (run / curves.LOG).unlink(missing_ok=True)
    try:
        with snapshots:
            how: dict = dict(watch=Watch(console, log=run / curves.LOG, tensorboard=options.tensorboard))
            how |= dict(snapshots=snapshots, resume=options.resume, mesh=mesh)
            if options.sweep:
                models, swept = task.module.sweep(training, dev, _settings(options.sweep), recipe, **how)
            else:
                model, fitted = task.module.fit(training, dev, recipe, save_every=options.save_every, **how)
    finally:
        if not any((run / "snapshots").glob("[0-9]*")):  # nothing to go on from
            shutil.rmtree(run / "snapshots" if run_existed else run, ignore_errors=True)
    if options.sweep:
        model, interrupted, finished = models[swept.best], swept.interrupted, len(swept.history)
        best_epoch = swept.best_epoch[swept.best]
    else:
        interrupted, finished, best_epoch = fitted.interrupted, len(fitted.history), fitted.best_epoch
    if interrupted:
        console.print(f"Stopped; the same command with --resume goes on from {run}/", highlight=False)
    if best_epoch == 0:
        console.print("No epoch was finished: there is no model to save yet.")
        return 130
    stopped = "Stopped by Ctrl-C; kept" if interrupted else "Kept"
    seconds = time.perf_counter() - began
    console.print(f"{stopped} epoch {best_epoch} of {finished}, after {seconds:.1f} s", highlight=False)
    folder = task.module.save(model, out)
    if not interrupted:
        shutil.rmtree(run / "snapshots")
    console.print(f"Saved to {folder}/", highlight=False)
    if options.sweep:
        _print_sweep(console, _settings(options.sweep), swept, run)
    _compare(console, options, task, model, training, dev, test, seconds)
    if data is None:
        for words, row in zip(SENTENCES, classify.predict(model, SENTENCES), strict=True):
            console.print(f"{model.labels[row.argmax()]} ({row.max():.2f}): {words}", highlight=False)
    return 130 if interrupted else 0


def plot(options: argparse.Namespace) -> int:
    """Draw the curves of runs."""
    curves.draw({run: curves.read(run) for run in dict.fromkeys(options.run_folders)}, options.out)
    print(f"Drawn to {options.out}")
    return 0


def _records(console, options, task, data, recipe):
    """Train, dev and test records: of the embedded sample, a set, or files."""
    if data is None:
        if task.module is sequences:
            raise ValueError(f"sequence needs --config, or --data: one of {', '.join(sequences.SETS)}")
        if task.module is not classify:
            raise ValueError(f"{options.task} needs --data: a set (data list), or a file with lines of {task.line}")
        console.print("Data: the embedded sample of reviews, half English, half Chinese", highlight=False)
        return tuple(classify.sample(part) for part in ("train", "dev", "test"))
    if known(task, data):
        if options.dev or options.test:
            raise ValueError(f"{data} has dev and test records of its own: --dev and --test are for files")
        if data in task.generated:
            console.print(f"Data: {data}, drawn by a program", highlight=False)
        else:
            one = datasets.about(data)
            console.print(f"Data: {one.name}, {licence(one)}; {one.citation}", highlight=False, soft_wrap=True)
        return of_set(task, data, recipe, "train", "dev", "test")
    return _of_files(task, data, options, recipe)


def _of_files(task, data, options, recipe):
    """Train, dev and test records of the files given; what is not given is split off at random."""
    records = task.of_file(data, recipe)
    if options.dev and options.test:
        return records, task.of_file(options.dev, recipe), task.of_file(options.test, recipe)
    training, dev, test = task.split(records, recipe)
    if options.dev:
        training, dev = training + dev, task.of_file(options.dev, recipe)
    if options.test:
        training, test = training + test, task.of_file(options.test, recipe)
    return training, dev, test


def _mesh(n, members):
    """The first n devices; of None as many as can share the members."""
    if n is None:
        asked = jax.config.values["jax_num_cpu_devices"] != -1 or "host_platform_device_count" in os.environ.get(
            "XLA_FLAGS", ""
        )
        wanted = 1 if asked else devices.share(members, devices.cores())
    else:
        wanted = n
    if wanted > 1:
        with contextlib.suppress(RuntimeError):  # JAX has its devices already; below it is said if they are too few
            jax.config.update("jax_num_cpu_devices", wanted)
    if n is None:
        return devices.sharing(members)
    there = jax.devices()
    if not 1 <= n <= len(there):
        raise ValueError(f"devices should be from 1 to {len(there)}, got {n}")
    return devices.mesh(there[:n])


def _settings(text):
    """What a sweep names, `lr` for short."""
    return {("learning_rate" if name == "lr" else name): values for name, values in parse_sweep(text).items()}


def _print_sweep(console, settings, swept, run):
    """A line for each model of a sweep, and a picture of all curves where matplotlib is."""
    measures = [name for name in swept.history[0] if name.startswith("dev_")][::-1]
    table = Table(*settings, "best epoch", *(name.replace("_", " ") for name in measures))
    for k, epoch in enumerate(swept.best_epoch):
        record = swept.history[epoch - 1]
        found = [f"{record[name][k]:.4f}" if epoch and record[name][k] is not None else "none" for name in measures]
        row = [*(f"{values[k]:g}" for values in settings.values()), str(epoch), *found]
        table.add_row(*row, style="bold" if k == swept.best else None)
    console.print(table)
    names = [
        ", ".join(f"{name} {values[k]:g}" for name, values in settings.items()) for k in range(len(swept.best_epoch))
    ]
    with contextlib.suppress(ImportError):
        curves.draw_sweep(swept.history, names, run / "sweep.png")
        console.print(f"Curves in {run / 'sweep.png'}", highlight=False)


def _compare(console, options, task, model, training: Sequence, dev: Sequence, test: Sequence, seconds: float) -> None:
    """The model on the test records beside what it has to beat, and with --json to a file."""
    found: dict[str, Any] = task.module.evaluate(model, test)
    measure = task.module.measure(model)
    table = Table(f"test {measure.replace('_', ' ')}", "")
    table.add_row(f"{model.recipe.cell.upper()}, {model.recipe.members} together", f"{found[measure]:.4f}")
    for name in ("accepted_accuracy", "outside_recall", "predicate_f1"):
        if name in found:
            table.add_row(name.replace("_", " "), f"{found[name]:.4f}")
    names = tuple(compare.LINEAR) if options.baselines else compare.QUICK
    rows: dict[str, float] = {}
    try:
        rows = compare.baseline_scores(task, model, training, dev, test, names)
    except ImportError as error:
        table.add_row(names[0], str(error))
    for name, value in rows.items():
        table.add_row(name, f"{value:.4f}")
    console.print(table)
    if options.json:
        kept = strict({name: value for name, value in found.items() if isinstance(value, int | float)})
        line = {"recipe": model.recipe._asdict(), "seconds": seconds, "test": kept, "baselines": strict(rows)}
        Path(options.json).write_text(json.dumps(line, ensure_ascii=False, indent=1), encoding="utf-8")


def _recipe(options, recipe):
    given = {name: value for name, value in vars(options).items() if name in Recipe._fields and value is not None}
    return recipe._replace(**given)
