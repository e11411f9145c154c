"""Training a text classifier: tokens a second of ours beside the same model in PyTorch.

    python benchmarks/bench_text.py                       # word vectors, a bidirectional LSTM, mean pooling, AdamW

One member of the classifier of `lstmjax.classify` and a PyTorch model of the same sizes train on the same padded
batches in the same order, in turns; dropout of the same rates in both. PyTorch gets lengths by a mask over its outputs
or as packed sequences; both are timed and the better one stands beside ours. With `--devices 2` ours is timed once more
with each batch split over so many CPU devices (`lstmjax.devices`), as `train --devices 2` does it.
"""

import argparse
import json
import statistics
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import jax
import timing
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table

from lstmjax import classify, members
from lstmjax.devices import mesh, split_batch, spread
from lstmjax.recipe import Recipe
from lstmjax.train import init_state, make_step

SPLIT = "lstmjax, split"


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="SET", default="snips", help="(default: %(default)s)")
    parser.add_argument("--widths", type=int, nargs="*", default=[64, 128, 256], help="(default: 64 128 256)")
    parser.add_argument("--batch", type=int, nargs="*", default=[32, 128], help="sizes (default: 32 128)")
    parser.add_argument("--rounds", type=int, default=15, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="in a round (default: %(default)s)")
    parser.add_argument("--devices", type=int, default=1, help="CPU devices to split batches over too (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args()
    if find_spec("torch") is None:
        parser.error("PyTorch is what it compares with: pip install -e '.[rivals]'")
    import torch

    jax.config.update("jax_num_cpu_devices", options.devices)
    torch.set_num_threads(timing.cores())
    console, rows = Console(highlight=False), []
    for width in options.widths:
        for size in options.batch:
            rows.append(compare(options.data, width, size, options.rounds, options.steps, options.devices))
            console.print(rows[-1])
    ways = [name for name in ("lstmjax", SPLIT, "masked", "packed") if name in rows[0]["speeds"]]
    ours = list(rows[0]["ratios"])
    table = Table("width", "batch", *(f"{name}, tokens/s" for name in ways), *(f"{name} / PyTorch" for name in ours))
    for row in rows:
        cells = [f"{row['speeds'][name]:,.0f}" for name in ways] + [f"{row['ratios'][name]:.2f}" for name in ours]
        table.add_row(str(row["width"]), str(row["batch"]), *cells)
    console.print(table)
    for name in ours:
        console.print(f"{name}: geometric mean {timing.geometric_mean([row['ratios'][name] for row in rows]):.2f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def compare(data: str, width: int, size: int, rounds: int, steps: int, devices: int) -> dict:
    """Tokens a second of each over the same batches, and the median over rounds of ours over the better of theirs."""
    from lstmjax import datasets

    records = [(one.text, one.labels[0]) for one in datasets.load(data, "train")["train"]]
    recipe = Recipe(members=1, embedding=width, hidden=(width,), batch_size=size)
    task = classify._Data(records, records[:50], recipe).task
    epoch = task.batches(0)
    batches = [epoch[k % len(epoch)] for k in range(steps)]
    tokens = sum(map(task.tokens, batches))
    calls = {"lstmjax": _ours(task, batches, None)}
    if devices > 1:
        calls[SPLIT] = _ours(task, batches, mesh())
    table = jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0)))[0].shape[0]
    classes = len({label for _, label in records})
    for name in ("masked", "packed"):
        calls[name] = _theirs(name, batches, table, width, classes, recipe)
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for n in range(rounds):
        for name in list(calls)[:: 1 if n % 2 else -1]:
            began = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - began)
    speeds = {name: tokens / statistics.median(seconds) for name, seconds in times.items()}
    better = max(("masked", "packed"), key=speeds.__getitem__)
    ratios = {
        name: statistics.median(a / b for a, b in zip(times[better], times[name], strict=True))
        for name in ("lstmjax", SPLIT)
        if name in times
    }
    return {"width": width, "batch": size, "devices": devices, "speeds": speeds, "ratios": ratios}


def _ours(task, batches, devices):
    optimizer = members._optimizer(task, task.recipe)
    params, key = members._begin(task, task.recipe)

    def loss(params, batch, key):
        return members._loss(params, batch, key, loss=task.loss, recipe=task.recipe, apart=task.apart)

    step = jax.jit(make_step(loss, optimizer), donate_argnums=0)
    state = init_state(params, optimizer, key)
    if devices is not None:
        state = spread(state, NamedSharding(devices, PartitionSpec()))
        batches = [split_batch(batch, devices=devices) for batch in batches]
    held = [state]

    def call():
        state = held[0]
        for batch in batches:
            state, report = step(state, batch)
        jax.block_until_ready(report)
        held[0] = state

    return call


def _theirs(form, batches, vocabulary, width, classes, recipe):
    import torch
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
            self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
            self.head = nn.Linear(2 * width, classes)
            self.dropout = nn.Dropout(recipe.dropout)

        def forward(self, ids, lengths):
            gone = torch.rand(ids.shape) < recipe.word_dropout
            xs = self.dropout(self.embedding(torch.where(gone & (ids > 0), 1, ids)))
            if form == "packed":
                packed = nn.utils.rnn.pack_padded_sequence(xs, lengths.clamp(min=1), True, enforce_sorted=False)
                ys, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], True, total_length=ids.shape[1])
            else:
                ys, _ = self.lstm(xs)
            valid = (torch.arange(ids.shape[1]) < lengths[:, None])[..., None]
            pooled = (ys * valid).sum(1) / lengths.clamp(min=1)[:, None]
            return self.head(self.dropout(pooled))

    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    ready = [
        [torch.as_tensor(array.astype("int64")) for array in (batch.ids, batch.lengths, batch.labels)]
        + [torch.as_tensor(batch.weights)]
        for batch in batches
    ]

    def call():
        for ids, lengths, labels, weights in ready:
            optimizer.zero_grad()
            losses = nn.functional.cross_entropy(model(ids, lengths), labels, reduction="none")
            loss = (losses * weights).sum() / weights.sum()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()

    return call


if __name__ == "__main__":
    sys.exit(main())
