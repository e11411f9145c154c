"""`predict`, `roles`, `translate`, `generate`, `evaluate`, `search` and `explain`: what a saved model is for."""

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lstmjax import checks, classify, explain, language, match, sequences, spans, tag, translate
from lstmjax.commands.tasks import known, of_set, task_of
from lstmjax.reader import lines_of
from lstmjax.text import treebank_words

AT_ONCE = 1024  # lines of standard input that are answered together; on a terminal each by itself


def predict(options: argparse.Namespace) -> int:
    """Label texts given as arguments, or line by line from standard input: `label TAB probability TAB text`, where the
    probability of a text that is outside is that of the likeliest class. Pairs are two arguments, or lines of text TAB
    text; pairs with scores give `score TAB text TAB text`. Spans are given as `label=words TAB ... TAB text`; of a
    language model `nats TAB text`, what the text costs it."""
    task = task_of(options.model)
    if task.module is translate:
        raise ValueError(f"{options.model} holds a translator: python -m lstmjax translate --model {options.model}")
    if task.module is sequences:
        raise ValueError(f"{options.model} is a model of sequences, not of texts: predict is not for it, evaluate is")
    model = task.module.load(options.model)
    if task.module is tag and model.recipe.reach:
        raise ValueError(f"{options.model} is a model of roles: use the command roles")
    given: Iterable = options.text or (line for line in _lines() if line.strip())
    if task.module is match:
        given = _pairs(options.text, given)
    for batch in _in_batches(given, _at_once(options.text, AT_ONCE)):
        for answer in _answers(task.module, model, batch):
            print(*answer, sep="\t")
        sys.stdout.flush()
    return 0


def _answers(module, model, batch):
    """What is printed of each text or pair, in columns."""
    if module is tag:
        cut = [words.split() for words in batch]
        for words, said, tags in zip(batch, cut, tag.predict(model, cut), strict=True):
            yield *(_named(one, said) for one in spans.spans_of(tags)), words
    elif module is match:
        found = match.predict(model, batch)
        for pair, row, said in zip(batch, found, match.decide(model, found), strict=True):
            yield *((f"{said:.4f}",) if isinstance(said, float) else (said, f"{row.max():.4f}")), *pair
    elif module is language:
        for words, nats in zip(batch, language.score(model, batch), strict=True):
            yield f"{nats:.4f}", words
    else:
        found = classify.predict(model, batch)
        for words, row, labels in zip(batch, found, classify.decide(model, found), strict=True):
            if model.recipe.several:
                chosen = [f"{label}={row[model.labels.index(label)]:.4f}" for label in labels]
                yield ",".join(chosen) or "none", words
            else:
                yield labels[0], f"{row.max():.4f}", words


def roles(options: argparse.Namespace) -> int:
    """Print who did what to whom: for each predicate of a text a line of `predicate TAB role=words TAB ...`, and a
    blank line after each text; or a JSON object a text. A blank line of standard input is a text, too."""
    task = task_of(options.model)
    model = task.module.load(options.model)
    if task.module is not tag or not model.recipe.reach:
        raise ValueError(f"{options.model} is no model of roles: roles needs one of the task roles")
    for batch in _in_batches(options.text or _lines(), _at_once(options.text, AT_ONCE)):
        cut = [words.split() if options.cut else treebank_words(words) for words in batch]
        for words, found in zip(cut, tag.roles(model, cut), strict=True):
            if options.json:
                of = ({"predicate": one.predicate, "roles": [role._asdict() for role in one.roles]} for one in found)
                print(json.dumps({"words": words, "frames": list(of)}, ensure_ascii=False))
                continue
            for one in found:
                print(words[one.predicate], *(_named(role, words) for role in one.roles), sep="\t")
            print()
        sys.stdout.flush()
    return 0


def _named(span, words):
    """A span as `label=words`."""
    return f"{span.label}={' '.join(words[span.start : span.end])}"


def translations(options: argparse.Namespace) -> int:
    """Translate texts given as arguments, or standard input line by line: a line out for each line in, as soon as a
    batch is there; of a terminal a batch is a line. With --n-best a line for each candidate, numbered by its text."""
    if task_of(options.model).module is not translate:
        raise ValueError(f"{options.model} is no translator: translate needs a model of the task translate")
    model = translate.load(options.model)
    size = _at_once(options.text, translate.AT_ONCE)
    how = {"width": options.beam, "length_penalty": options.length_penalty, "coverage": options.coverage}
    how["longest"] = options.longest
    number = 0
    for batch in _in_batches(options.text or _lines(), size):
        if options.n_best is None:
            print(*translate.translate(model, batch, **how), sep="\n", flush=True)
            continue
        for found in translate.candidates(model, batch, options.n_best, **how):
            number += 1
            for one in found:
                print(number, f"{one.score:.4f}", one.text, sep="\t")
        sys.stdout.flush()
    return 0


def _lines():
    """The lines of standard input, which is UTF-8 whatever the locale says."""
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            words = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"standard input, line {number}, is not UTF-8 text: {error}") from None
        yield words.rstrip("\r\n")


def _at_once(given, size):
    """How many lines are answered together: who types them waits for each answer."""
    return size if given or not sys.stdin.isatty() else 1


def _in_batches(lines, size):
    """So many lines at a time; those before one that cannot be read are not lost."""
    batch: list = []
    try:
        for line in lines:
            batch.append(line)
            if len(batch) == size:
                yield batch
                batch = []
    except ValueError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def evaluate(options: argparse.Namespace) -> int:
    """Measure a model on a file of records, or on the test split of a set."""
    task = task_of(options.model)
    if options.cache and task.module is not language:
        raise ValueError(f"{options.model} is no language model: --cache is for those")
    model = task.module.load(options.model)
    if known(task, options.data):
        (records,) = of_set(task, options.data, model.recipe, "test")
    else:
        records = task.of_file(options.data, model.recipe)
    how = {"cache": _cache(options.cache)} if options.cache else {}
    found = task.module.evaluate(model, records, **how)
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
        return 0
    console = Console()
    named = (f"{name.replace('_', ' ')} {value:.4f}" for name, value in found.items() if isinstance(value, float))
    what = "records" if "records" in found else "tokens"
    console.print(f"{found[what]:,} {what}, {', '.join(named)}", highlight=False)
    if "f1" not in found:
        return 0
    confusion = found.get("confusion") if len(found["f1"]) <= 12 else None  # wider ones are for --json
    table = Table("label", "F1", *(escape(f"as {label}") for label in found["f1"] if confusion))
    for n, (label, f1) in enumerate(found["f1"].items()):
        table.add_row(escape(label), f"{f1:.4f}", *map(str, confusion[n] if confusion else ()))
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
    """Show what a model looks at in a text, or how it aligns a pair or a translation: in the terminal, and as a picture
    or page."""
    task = task_of(options.model)
    shows: dict[Any, Any] = {classify: explain.text, translate: explain.translation, match: explain.pair}
    if task.module not in shows:
        raise ValueError(
            f"{options.model} is neither of texts with labels nor of pairs or translations: nothing to show"
        )
    needed = 2 if task.module is match else 1
    if len(options.text) != needed:
        what = "the two texts of a pair" if needed == 2 else "one text"
        raise ValueError(f"explain needs {what}, got {len(options.text)}")
    found = shows[task.module](task.module.load(options.model), *options.text)
    explain.to_terminal(found, Console())
    if options.out:
        explain.to_file(found, options.out)
        print(f"Drawn to {options.out}")
    return 0


def generate(options: argparse.Namespace) -> int:
    """Go on with a text as a language model has it."""
    if task_of(options.model).module is not language:
        raise ValueError(f"{options.model} is no language model: generate needs one of the task language")
    how = dict(tokens=options.tokens, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p)
    key = jax.random.key(checks.seed("--seed", options.seed))
    print(language.generate(language.load(options.model), options.prompt, key, **how))
    return 0


def _cache(given):
    """A cache of WINDOW,THETA,LAMBDA."""
    try:
        window, theta, share = given.split(",")
        return language.Cache(int(window), float(theta), float(share))
    except ValueError:
        raise ValueError(f"--cache should be WINDOW,THETA,LAMBDA, such as 2000,0.3,0.1, got {given!r}") from None


def _pairs(given, lines):
    """Pairs of the texts given, or of lines."""
    if given:
        if len(given) % 2:
            raise ValueError(f"pairs are two texts each, got {len(given)} texts")
        yield from zip(given[::2], given[1::2], strict=True)
        return
    for line in lines:
        pair = tuple(line.split("\t"))
        if len(pair) != 2:
            raise ValueError(f"expected text TAB text, got {' '.join(pair)[:60]!r}")
        yield pair
