"""The command line: `python -m lstmjax train | predict | evaluate | plot | data`, also installed as `lstmjax`."""

import argparse
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from lstmjax import baselines, classify, datasets, devices, metrics
from lstmjax.train import Snapshots, Watch, curves, parse_sweep

SENTENCES = ("Not the disaster I feared: it works, and quietly.", "说好的三天送到，结果等了半个月，再也不买了。")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 2 for what the caller can mend."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"lstmjax {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"lstmjax {options.command}: stopped", file=sys.stderr)
        return 130


def train(options: argparse.Namespace) -> int:
    """Train a text classifier, or several at once, compare it on test data, save it."""
    console = Console()
    recipe = _recipe(options)
    mesh = _mesh(options.devices)
    # Beside the model, since a model folder holds a model and nothing else.
    run = Path(f"{options.out}.run")
    if not options.resume and any((run / "snapshots").glob("[0-9]*")):
        raise ValueError(f"{run} holds a run that was not finished: --resume goes on with it; or remove the folder")
    if options.data is None:
        training, dev, test = (classify.sample(part) for part in ("train", "dev", "test"))
        console.print("Data: the embedded sample of reviews, half English, half Chinese", highlight=False)
    elif options.data in datasets.names():
        if options.dev or options.test:
            raise ValueError(f"{options.data} has dev and test records of its own: --dev and --test are for files")
        one = datasets.about(options.data)
        console.print(f"Data: {one.name}, {_licence(one)}; {one.citation}", highlight=False, soft_wrap=True)
        training, dev, test = _of_a_set(one, "train", "dev", "test")
    else:
        training, dev, test = _splits(options, recipe.seed)
    console.print(f"train {len(training):,}, dev {len(dev):,}, test {len(test):,} records", highlight=False)
    began = time.perf_counter()
    if not options.resume:
        (run / curves.LOG).unlink(missing_ok=True)
    try:
        with Snapshots(run / "snapshots") as snapshots:
            how: dict = dict(watch=Watch(console, log=run / curves.LOG, tensorboard=options.tensorboard))
            how |= dict(snapshots=snapshots, resume=options.resume, mesh=mesh)
            if options.sweep:
                models, swept = classify.sweep(training, dev, _settings(options.sweep), recipe, **how)
            else:
                model, fitted = classify.fit(training, dev, recipe, save_every=options.save_every, **how)
    finally:
        if not any((run / "snapshots").glob("[0-9]*")):  # nothing to go on from
            shutil.rmtree(run, ignore_errors=True)
    if options.sweep:
        model, interrupted, finished = models[swept.best], swept.interrupted, len(swept.history)
        best_epoch = swept.best_epoch[swept.best]
        if finished:
            _print_sweep(console, _settings(options.sweep), swept, run)
    else:
        interrupted, finished, best_epoch = fitted.interrupted, len(fitted.history), fitted.best_epoch
    if interrupted:
        console.print(f"Stopped; the same command with --resume goes on from {run}/", highlight=False)
    else:
        shutil.rmtree(run / "snapshots")
    if best_epoch == 0:
        console.print("No epoch was finished: there is no model to save yet.")
        return 130
    stopped = "Stopped by Ctrl-C; kept" if interrupted else "Kept"
    seconds = time.perf_counter() - began
    console.print(f"{stopped} epoch {best_epoch} of {finished}, after {seconds:.1f} s", highlight=False)
    _compare(console, model, training, test)
    folder = classify.save(model, options.out)
    console.print(f"Saved to {folder}/", highlight=False)
    if options.data is None:
        _print_predictions(console, model, SENTENCES)
    return 130 if interrupted else 0


def plot(options: argparse.Namespace) -> int:
    """Draw the curves of runs."""
    curves.draw({run: curves.read(run) for run in dict.fromkeys(options.run_folders)}, options.out)
    print(f"Drawn to {options.out}")
    return 0


def predict(options: argparse.Namespace) -> int:
    """Label texts given as arguments, or line by line from standard input: `label TAB probability TAB text`."""
    model = classify.load(options.model)
    texts = options.text or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    for words, row in zip(texts, classify.predict(model, texts), strict=True):
        print(f"{model.labels[row.argmax()]}\t{row.max():.4f}\t{words}")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Measure a model on a file of records, or on the test split of a set."""
    model = classify.load(options.model)
    if options.data in datasets.names():
        (records,) = _of_a_set(datasets.about(options.data), "test")
    else:
        records = classify.read(options.data)
    found = classify.evaluate(model, records)
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
        return 0
    console = Console()
    console.print(
        f"{found['records']:,} records, accuracy {found['accuracy']:.4f}, macro F1 {found['macro_f1']:.4f}",
        highlight=False,
    )
    table = Table("label", "F1", *(f"as {label}" for label in found["f1"]))
    for (label, f1), row in zip(found["f1"].items(), found["confusion"], strict=True):
        table.add_row(label, f"{f1:.4f}", *map(str, row))
    console.print(table)
    return 0


def data(options: argparse.Namespace) -> int:
    """List the data sets that are known, or show one: licence, citation, and where it is."""
    console = Console(highlight=False)
    if options.action == "list":
        table = Table("name", "what it is", "language", "licence", "here")
        for one in map(datasets.about, datasets.names()):
            there = "yes" if datasets.where(one.name) else "no"
            table.add_row(one.name, one.task, one.languages, one.licence, there)
        console.print(table)
        return 0
    if options.name is None:
        raise ValueError("data show needs the name of a set; data list names them")
    one, folder = datasets.about(options.name), datasets.where(options.name)
    lines = [f"{one.name}: {one.task}", f"language: {one.languages}" if one.languages else ""]
    lines += [f"licence: {_licence(one)}", f"cite: {one.citation}", one.note]
    if folder is None:
        lines += [f"not here: set {datasets.FOLDER} to the folder of data sets"]
    else:
        counts = (f"{split} {_records(part):,}" for split, part in datasets.load(one.name).items())
        lines += [f"in {folder}: {', '.join(counts)}"]
    console.print("\n".join(filter(None, lines)), soft_wrap=True)
    return 0


def _records(part):
    return len(part.labels) if isinstance(part, datasets.Images) else len(part)


def _mesh(n):
    """The first n devices, or None if n is."""
    if n is None:
        return None
    if n > 1:
        with contextlib.suppress(RuntimeError):  # JAX has its devices already; below it is said if they are too few
            jax.config.update("jax_num_cpu_devices", n)
    there = jax.devices()
    if not 1 <= n <= len(there):
        raise ValueError(f"devices should be from 1 to {len(there)}, got {n}")
    return devices.mesh(there[:n])


def _settings(text):
    """What a sweep names, `lr` for short."""
    return {("learning_rate" if name == "lr" else name): values for name, values in parse_sweep(text).items()}


def _print_sweep(console, settings, swept, run):
    """A line for each model of a sweep, and a picture of all curves where matplotlib is."""
    table = Table(*settings, "best epoch", "dev accuracy", "dev loss")
    for k, epoch in enumerate(swept.best_epoch):
        record = swept.history[epoch - 1]
        found = [f"{record[name][k]:.4f}" if epoch else "none" for name in ("dev_accuracy", "dev_loss")]
        row = [*(f"{values[k]:g}" for values in settings.values()), str(epoch), *found]
        table.add_row(*row, style="bold" if k == swept.best else None)
    console.print(table)
    names = [
        ", ".join(f"{name} {values[k]:g}" for name, values in settings.items()) for k in range(len(swept.best_epoch))
    ]
    with contextlib.suppress(ImportError):
        curves.draw_sweep(swept.history, names, run / "sweep.png")
        console.print(f"Curves in {run / 'sweep.png'}", highlight=False)


def _of_a_set(one, *splits):
    """The records of these splits of a set."""
    parts = list(datasets.load(one.name, *splits).values())
    for part in parts:
        labels = getattr(part[0], "labels", None) if isinstance(part, list) else None
        if labels is None or any(len(record.labels) != 1 for record in part):
            raise ValueError(f"{one.name} ({one.task}) is no set of texts with one label each")
    return [[(record.text, record.labels[0]) for record in part] for part in parts]


def _licence(one):
    return one.licence + (" (not for commercial use)" if one.noncommercial else "")


def _splits(options, seed):
    """Train, dev and test records of the files given; what is not given is split off at random."""
    records = classify.read(options.data)
    if options.dev and options.test:
        return records, classify.read(options.dev), classify.read(options.test)
    training, dev, test = classify.split(records, seed)
    if options.dev:
        training, dev = training + dev, classify.read(options.dev)
    if options.test:
        training, test = training + test, classify.read(options.test)
    return training, dev, test


def _compare(console, model, training, test):
    """The test accuracy beside what it has to beat."""
    table = Table("test accuracy", "")
    table.add_row(f"{model.recipe.cell.upper()} classifier", f"{classify.evaluate(model, test)['accuracy']:.4f}")
    try:
        table.add_row("TF-IDF + logistic regression", f"{baselines.tfidf(training, test):.4f}")
    except ImportError as error:
        table.add_row("TF-IDF + logistic regression", str(error))
    _, labels = np.unique([label for _, label in test], return_inverse=True)
    table.add_row("majority class", f"{metrics.majority(labels):.4f}")
    console.print(table)


def _print_predictions(console, model, texts):
    for words, row in zip(texts, classify.predict(model, texts), strict=True):
        console.print(f"{model.labels[row.argmax()]} ({row.max():.2f}): {words}", highlight=False)


def _recipe(options):
    given = {
        name: value for name, value in vars(options).items() if name in classify.Recipe._fields and value is not None
    }
    return classify.Recipe(**given)


def _parser():
    parser = argparse.ArgumentParser(prog="lstmjax", description="LSTMs for JAX: train and use a text classifier.")
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("train", help="train a text classifier; with no argument, on the embedded sample")
    command.set_defaults(run=train)
    command.add_argument("--data", metavar="SET", help="a set (data list), or a file of records: text TAB label")
    command.add_argument("--dev", metavar="FILE", help="records to choose the best epoch by (default: 10 %% of --data)")
    command.add_argument("--test", metavar="FILE", help="records to measure on (default: 10 %% of --data)")
    command.add_argument(
        "--out", metavar="DIR", default="runs/model", help="folder of the model (default: %(default)s)"
    )
    command.add_argument("--resume", action="store_true", help="go on with a run that was stopped or killed")
    command.add_argument("--save-every", type=int, metavar="N", help="save the run every N steps, beside every epoch")
    command.add_argument(
        "--devices", type=int, metavar="N", help="split batches, or the models of a sweep, over N devices (CPU: cores)"
    )
    command.add_argument(
        "--sweep", metavar="SETTINGS", help='train all of these at once, keep the best: "lr=1e-3,3e-3 seed=0..3"'
    )
    command.add_argument("--tensorboard", metavar="DIR", help="write TensorBoard's files too")
    for name, default in classify.Recipe()._asdict().items():
        flag = "--" + name.replace("_", "-")
        if isinstance(default, bool):
            command.add_argument(flag, action=argparse.BooleanOptionalAction, help=f"(default: {default})")
        elif isinstance(default, tuple):
            command.add_argument(flag, type=_widths, metavar="H,...", help=f"(default: {','.join(map(str, default))})")
        else:
            command.add_argument(flag, type=type(default), metavar=type(default).__name__, help=f"(default: {default})")

    command = commands.add_parser("predict", help="label texts")
    command.set_defaults(run=predict)
    command.add_argument("--model", metavar="DIR", required=True)
    command.add_argument("text", nargs="*", help="texts; none: lines of standard input")

    command = commands.add_parser("evaluate", help="measure a model on records")
    command.set_defaults(run=evaluate)
    command.add_argument("--model", metavar="DIR", required=True)
    command.add_argument("--data", metavar="SET", required=True, help="a set, or a file of records: text TAB label")
    command.add_argument("--json", action="store_true", help="print JSON")

    command = commands.add_parser(
        "data", help="the data sets that are known, their licences, and whether they are here"
    )
    command.set_defaults(run=data)
    command.add_argument("action", choices=("list", "show"))
    command.add_argument("name", nargs="?", help="of the set to show")

    command = commands.add_parser("plot", help="draw the curves of runs")
    command.set_defaults(run=plot)
    command.add_argument("run_folders", nargs="+", metavar="RUN", help="folder of a model, of its run, or a log")
    command.add_argument("--out", metavar="FILE", default="curves.png", help="(default: %(default)s)")
    return parser


def _widths(given):
    return tuple(int(width) for width in given.split(","))


if __name__ == "__main__":
    sys.exit(main())
