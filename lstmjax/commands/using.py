"""`predict`, `evaluate`, `search` and `explain`: what a saved model is for."""

import argparse
import json
import sys

import numpy as np
from rich.console import Console
from rich.table import Table

from lstmjax import classify, explain, match, sequences
from lstmjax.commands.tasks import known, of_set, task_of
from lstmjax.reader import lines_of


def predict(options: argparse.Namespace) -> int:
    """Label texts given as arguments, or line by line from standard input: `label TAB probability TAB text`. Pairs are
    two arguments, or lines of text TAB text; pairs with scores give `score TAB text TAB text`."""
    task = _of_texts(options.model, "predict")
    model = task.module.load(options.model)
    lines = [line.rstrip("\n") for line in sys.stdin if line.strip()] if not options.text else []
    if task.module is match:
        pairs = _pairs(options.text, lines)
        found = match.predict(model, pairs)
        for pair, row, said in zip(pairs, found, match.decide(model, found), strict=True):
            head = f"{said:.4f}" if isinstance(said, float) else f"{said}\t{row.max():.4f}"
            print(head, *pair, sep="\t")
        return 0
    texts = options.text or lines
    found = classify.predict(model, texts)
    for words, row, labels in zip(texts, found, classify.decide(model, found), strict=True):
        if model.recipe.several:
            chosen = [f"{label}={row[model.labels.index(label)]:.4f}" for label in labels]
            print(",".join(chosen) or "none", words, sep="\t")
        else:
            print(labels[0], f"{row.max():.4f}", words, sep="\t")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Measure a model on a file of records, or on the test split of a set."""
    task = task_of(options.model)
    model = task.module.load(options.model)
    if known(task, options.data):
        (records,) = of_set(task, options.data, model.recipe, "test")
    else:
        records = task.of_file(options.data, model.recipe)
    found = task.module.evaluate(model, records)
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
        return 0
    console = Console()
    named = (f"{name.replace('_', ' ')} {value:.4f}" for name, value in found.items() if isinstance(value, float))
    console.print(f"{found['records']:,} records, {', '.join(named)}", highlight=False)
    if "f1" not in found:
        return 0
    confusion = found.get("confusion") if len(found["f1"]) <= 12 else None  # wider ones are for --json
    table = Table("label", "F1", *(f"as {label}" for label in found["f1"] if confusion))
    for n, (label, f1) in enumerate(found["f1"].items()):
        table.add_row(label, f"{f1:.4f}", *map(str, confusion[n] if confusion else ()))
    console.print(table)
    return 0


def search(options: argparse.Namespace) -> int:
    """Rank the lines of a file by how near they are to a text: `nearness TAB line`."""
    task = task_of(options.model)
    if task.module is not match:
        raise ValueError(f"{options.model} is no model of pairs of texts: search needs one of the task match")
    model = match.load(options.model)
    lines = [line.strip() for _, line in lines_of(options.corpus, "text to search in")]
    near = match.search(model, match.encode(model, lines), options.query)
    for n in np.argsort(-near, kind="stable")[: options.top]:
        print(f"{near[n]:.4f}\t{lines[n]}")
    return 0


def show(options: argparse.Namespace) -> int:
    """Show what a model looks at in a text, or how it aligns a pair: in the terminal, and as a picture or page."""
    task = _of_texts(options.model, "explain")
    model = task.module.load(options.model)
    if task.module is match:
        if len(options.text) != 2:
            raise ValueError(f"explain needs the two texts of a pair, got {len(options.text)}")
        found = explain.pair(model, *options.text)
    else:
        if len(options.text) != 1:
            raise ValueError(f"explain needs one text, got {len(options.text)}")
        found = explain.text(model, options.text[0])
    explain.to_terminal(found, Console())
    if options.out:
        explain.to_file(found, options.out)
        print(f"Drawn to {options.out}")
    return 0


def _of_texts(folder, command):
    """The task of a saved model, which is one of texts."""
    task = task_of(folder)
    if task.module is sequences:
        raise ValueError(f"{folder} is a model of sequences, not of texts: {command} is not for it, evaluate is")
    return task


def _pairs(given, lines):
    if given:
        if len(given) % 2:
            raise ValueError(f"pairs are two texts each, got {len(given)} texts")
        return list(zip(given[::2], given[1::2], strict=True))
    pairs = [tuple(line.split("\t")) for line in lines]
    for pair in pairs:
        if len(pair) != 2:
            raise ValueError(f"expected text TAB text, got {' '.join(pair)[:60]!r}")
    return pairs
