"""What the training loop costs beside a bare one, whether the data keeps up, and what a sweep costs beside one run.

    python benchmarks/bench_train.py                      # the sample that comes with the library
    python benchmarks/bench_train.py --data snips         # a set of lstmjax.datasets, or a file of text TAB label

An epoch of `train.fit` (prefetch, reports read, log written, snapshots after each) is timed beside a bare loop over the
same jitted step and batches that lie ready on the device; the two take turns, epoch by epoch. A sweep of 8 models over
CPU devices, one a core, is timed beside one of the same models alone, also in turns.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import optax
import timing
from rich.console import Console
from rich.table import Table

from lstmjax import batches, classify, datasets, devices, text, train
from lstmjax.models import classifier

OPTIONS = classifier.Options(pooling="mean", dropout=0.5, word_dropout=0.1)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", metavar="SET", help="a set, or a file of text TAB label (default: the embedded sample)"
    )
    parser.add_argument("--epochs", type=int, default=20, help="of each loop, 5 at least (default: %(default)s)")
    parser.add_argument("--models", type=int, default=8, help="in the sweep (default: %(default)s)")
    parser.add_argument(
        "--widths", type=int, nargs="*", default=[8, 16, 32], help="of its models (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args()
    if options.epochs < 5:
        parser.error(f"--epochs should be at least 5, got {options.epochs}")
    jax.config.update("jax_num_cpu_devices", timing.cores())
    records = _records(options.data)
    task = _Task(records)
    found = {
        "data": options.data or "the embedded sample",
        "records": len(records),
        "steps an epoch": len(task.batches(0)),
        **_loop(task, options.epochs),
        **_feed(task),
    }
    for width in options.widths:
        found |= _sweep(task, options.epochs, options.models, width)
    console, table = Console(highlight=False), Table("", "")
    for name, value in found.items():
        table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _records(data):
    if data is None:
        return classify.sample("train")
    if data in datasets.names():
        return [(one.text, one.labels[0]) for one in datasets.load(data, "train")["train"]]
    return classify.read(data)


class _Task:
    """Records as batches, and what is trained on them."""

    def __init__(self, records):
        tokenised = [text.tokenise(t) for t, _ in records]
        vocabulary = text.Vocabulary.count(tokenised, size=20000)
        names, labels = np.unique([label for _, label in records], return_inverse=True)
        sequences = [vocabulary.encode(tokens) for tokens in tokenised]
        self.size, self.classes = len(vocabulary), len(names)

        def make(cut):
            n = len(cut.rows)
            ids, lengths = text.pad([sequences[r] for r in cut.rows] + [sequences[0][:0]] * (32 - n), cut.length)
            there = np.arange(32) < n
            return classifier.Batch(
                ids, lengths, np.resize(labels[cut.rows], 32).astype(np.int32), there.astype(np.float32)
            )

        self.batches = batches.Batches([len(s) for s in sequences], make, batch_size=32, buckets=4)

    def params(self, key, width):
        """Of a small classifier."""
        return classifier.init(key, self.size, self.classes, embedding=width, hidden=width, pooling="mean")


def _loss(params, batch, key):
    return classifier.loss(params, batch, key, options=OPTIONS)


def _loop(task, epochs):
    """An epoch of fit as a multiple of a bare one."""
    optimizer = optax.adamw(2e-3)
    step = jax.jit(train.make_step(_loss, optimizer), donate_argnums=0)
    params = task.params(jax.random.key(0), 64)
    state = train.init_state(jax.tree.map(np.array, params), optimizer, jax.random.key(1))
    ready = [jax.device_put(batch) for batch in task.batches(0)]
    bare = []

    def evaluate(_):
        nonlocal state
        began = time.perf_counter()
        for batch in ready:
            state, report = step(state, batch)
        jax.block_until_ready((state.params, report))
        bare.append(time.perf_counter() - began)
        return {}

    with tempfile.TemporaryDirectory() as folder, train.Snapshots(Path(folder) / "snapshots") as snapshots:
        fitted = train.fit(
            _loss,
            params,
            optimizer,
            task.batches,
            key=jax.random.key(1),
            epochs=epochs + 2,
            evaluate=evaluate,
            snapshots=snapshots,
            count=lambda batch: int(batch.lengths.sum()),
            watch=train.Watch(log=Path(folder) / "log.jsonl"),
        )
    ours = [record["seconds"] for record in fitted.history]
    ours, bare = ours[2:], bare[2:]  # the first ones compile
    ratio = timing.ratio(ours, bare)
    return {
        "epoch of fit, ms": statistics.median(ours) * 1000,
        "bare epoch, ms": statistics.median(bare) * 1000,
        "fit / bare": ratio.median,
        "fit / bare, 95 %": f"{ratio.low:.3f} to {ratio.high:.3f}",
    }


def _feed(task):
    """How fast batches are made when nobody trains on them."""
    epoch = task.batches(1)
    began = time.perf_counter()
    for k in range(len(epoch)):
        epoch[k]
    return {"making all batches of an epoch, ms": (time.perf_counter() - began) * 1000}


def _sweep(task, epochs, models, width):
    """An epoch of k small models at once as a multiple of an epoch of one alone."""
    rates = np.geomspace(1e-3, 1e-2, models).tolist()
    single = jax.jit(train.make_step(_loss, optax.adamw(rates[0])), donate_argnums=0)
    optimizer = optax.adamw(rates[0])
    state = train.init_state(task.params(jax.random.key(0), width), optimizer, jax.random.key(1))
    ready, alone, together = [jax.device_put(batch) for batch in task.batches(0)], [], []
    ended = [0.0]

    def evaluate(params):
        nonlocal state
        jax.block_until_ready(params)
        together.append(time.perf_counter() - ended[0])
        began = time.perf_counter()
        for batch in ready:
            state, report = single(state, batch)
        jax.block_until_ready((state.params, report))
        alone.append(time.perf_counter() - began)
        ended[0] = time.perf_counter()
        return {}

    cores = timing.cores()
    train.sweep(
        lambda params, batch, key, settings: _loss(params, batch, key),
        lambda settings: (task.params(jax.random.key(0), width), jax.random.key(1)),
        lambda settings: optax.adamw(settings["rate"]),
        task.batches,
        {"rate": rates},
        epochs=epochs + 2,
        evaluate=evaluate,
        mesh=devices.mesh() if models % cores == 0 and cores > 1 else None,
    )
    ratio = timing.ratio(together[2:], alone[2:])
    return {
        f"{models} models of width {width} at once, ms": statistics.median(together[2:]) * 1000,
        f"one of width {width} alone, ms": statistics.median(alone[2:]) * 1000,
        f"{models} of width {width} at once / one": ratio.median,
        f"{models} of width {width} at once / one, 95 %": f"{ratio.low:.2f} to {ratio.high:.2f}",
    }


if __name__ == "__main__":
    sys.exit(main())
