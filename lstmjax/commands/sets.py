"""`data`: the data sets that are known, their licences, and whether they are here."""

import argparse

from rich.console import Console
from rich.table import Table

from lstmjax import datasets


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
    lines += [f"licence: {licence(one)}", f"cite: {one.citation}", one.note]
    if folder is None:
        lines += [f"not here: set {datasets.FOLDER} to the folder of data sets"]
    else:
        counts = (f"{split} {_records(part):,}" for split, part in datasets.load(one.name).items())
        lines += [f"in {folder}: {', '.join(counts)}"]
    console.print("\n".join(filter(None, lines)), soft_wrap=True)
    return 0


def licence(one: datasets.Dataset) -> str:
    """The licence of a set, and whether it forbids commercial use."""
    return one.licence + (" (not for commercial use)" if one.noncommercial else "")


def _records(part):
    return len(part.labels) if isinstance(part, datasets.Images) else len(part)
