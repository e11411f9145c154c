"""Every recipe that comes along, three seeds each, beside its baselines: what the README's table of results is made of.

    python benchmarks/bench_applications.py                     # all recipes: hours
    python benchmarks/bench_applications.py snips --seeds 0     # one of them, once
    python benchmarks/bench_applications.py --latency           # how long an answer takes
    python benchmarks/bench_applications.py --pace 60           # how long each would train here, by the first minute

Results go to a file after every run, and a run that stands there is not made again (`--again`). One that was stopped,
by Ctrl-C or otherwise, goes on where it was when the same command is given again: until it is finished its snapshots
are in a folder beside the file. The model is chosen on dev data; test data are looked at once, at the end.
"""

import argparse
import json
import shutil
import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np
import timing
from rich.console import Console
from rich.table import Table

from lstmjax import allocator, classify, datasets, devices, members, recipe
from lstmjax.commands import compare
from lstmjax.commands.tasks import TASKS, of_set
from lstmjax.train import Snapshots, Watch

LESS = ("nll", "squared_error", "perplexity")  # measures of which less is better
RESULTS = Path(__file__).parent / "results" / "applications.json"


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=recipe.names(), metavar="RECIPE", help="(default: all)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--again", action="store_true", help="also what was run before")
    parser.add_argument("--latency", action="store_true", help="time answers of an untrained snips model")
    parser.add_argument(
        "--pace", type=float, metavar="SECONDS", help="train each for so long only, and say how long all is"
    )
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="(default: %(default)s)")
    options = parser.parse_args()
    console = Console(highlight=False)
    if options.latency:
        print_latency(console)
        return 0
    if options.pace is not None:
        print_pace(options.recipes, options.pace, console)
        return 0
    held = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
    for name in options.recipes:
        one = held.setdefault(name, {"runs": {}})
        for seed in options.seeds:
            if options.again or str(seed) not in one["runs"]:
                console.rule(f"{name}, seed {seed}")
                folder = options.json.with_suffix(".runs") / f"{name}-{seed}"
                found = run(name, seed, console, one, folder)
                if found is None:
                    console.print(f"Stopped; the same command goes on from {folder}/")
                    return 130
                one |= found
                options.json.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
                shutil.rmtree(folder)  # not before, or what is stopped while it measures would be trained anew
    print_results(held, console)
    return 0


class Clock(Watch):
    """Also keeps, in a file, the seconds that a run has taken up to its last whole epoch, before it was stopped too."""

    def __init__(self, console: Console, file: Path):
        super().__init__(console)
        self.file, self.began = file, time.perf_counter()
        self.before = json.loads(file.read_text()) if file.exists() else 0.0

    def epoch_ends(self, record, better):
        super().epoch_ends(record, better)
        self.file.write_text(json.dumps(self.seconds()))

    def seconds(self) -> float:
        """Up to now."""
        return self.before + time.perf_counter() - self.began


def prepared(name: str, seed: int) -> tuple[recipe.File, recipe.Recipe, list]:
    """A recipe's file, its settings, and what it is trained, chosen and measured on."""
    file = recipe.read(name)
    task, splits = TASKS[file.task], ("train", "dev", "test")
    settings = recipe.checked(task.recipe._replace(**file.settings, seed=seed, order=seed))
    if file.data:
        return file, settings, list(of_set(task, file.data, settings, *splits))
    return file, settings, [classify.sample(split) for split in splits]


def run(name: str, seed: int, console: Console, before: dict, folder: Path) -> dict | None:
    """Train and measure a recipe once, from where it was stopped if it was; baselines too if they are not there yet.
    None if it is stopped."""
    file, settings, (training, dev, test) = prepared(name, seed)
    task = TASKS[file.task]
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock(console, folder / "seconds.json")
    mesh = devices.sharing(settings.members)
    with Snapshots(folder / "snapshots") as snapshots:
        model, fitted = task.module.fit(
            training, dev, settings, snapshots=snapshots, resume=True, watch=clock, mesh=mesh
        )
    seconds = clock.seconds()
    if fitted.interrupted:
        return None
    found = {
        split: {key: value for key, value in task.module.evaluate(model, part).items() if isinstance(value, float)}
        for split, part in (("dev", dev), ("test", test))
    }
    runs = before["runs"] | {str(seed): found | {"seconds": seconds, "epoch": fitted.best_epoch}}
    after = {
        "task": file.task,
        "data": file.data,
        "measure": task.module.measure(model),
        "machine": timing.cpu_name() if jax.default_backend() == "cpu" else jax.devices()[0].device_kind,
    }
    after |= {"weights": sum(a.size for a in jax.tree.leaves(model.params)), "runs": runs}
    if "baselines" not in before:
        after["baselines"] = compare.baseline_scores(task, model, training, dev, test, tuple(compare.LINEAR))
    return after


def print_results(held: dict, console: Console) -> None:
    """A line for each recipe: mean and spread over seeds, the best baseline, the time of a run."""
    table = Table("recipe", "measure", "test, mean", "lowest to highest", "best baseline", "seconds")
    for name, one in held.items():
        values = [run["test"][one["measure"]] for run in one["runs"].values()]
        choose = min if one["measure"] in LESS else max
        best = choose(one.get("baselines", {}).items(), key=lambda item: item[1], default=("none", float("nan")))
        seconds = statistics.mean(run["seconds"] for run in one["runs"].values())
        spread = f"{min(values):.4f} to {max(values):.4f}, {len(values)} runs"
        row = [f"{statistics.mean(values):.4f}", spread, f"{best[1]:.4f} {best[0]}", f"{seconds:.0f}"]
        table.add_row(name, one["measure"].replace("_", " "), *row)
    console.print(table)


class Pace(Watch):
    """Ends a run that has made steps for so many seconds; what is compiled or measured meanwhile is not counted."""

    def __init__(self, limit: float):
        super().__init__()
        self.limit, self.steps, self.seconds = limit, 0, 0.0
        self.compiled: list[tuple[float, float]] = []  # when something was traced or compiled since the last step

    def heard(self, name: str, seconds: float, **_) -> None:
        """What JAX says it has done."""
        if name.startswith("/jax/core/compile/"):
            now = time.perf_counter()
            self.compiled.append((now - seconds, now))

    def begin(self, epochs):
        super().begin(epochs)
        self.epochs = epochs

    def epoch_begins(self, epoch, batches, first):
        super().epoch_begins(epoch, batches, first)
        self.batches = batches
        self._mark()

    def stepped(self, epoch, step, loss, fine, tokens):
        super().stepped(epoch, step, loss, fine, tokens)
        self.steps, now, last = step, time.perf_counter(), self.last
        self.seconds += now - last
        for start, end in sorted(self.compiled):  # they may lie within one another
            self.seconds -= max(0.0, end - max(start, last))
            last = max(last, end)
        self._mark()
        if self.seconds > self.limit:
            raise KeyboardInterrupt

    def _mark(self):
        self.last = time.perf_counter()
        self.compiled.clear()


def print_pace(names: list[str], limit: float, console: Console) -> None:
    """How long the steps of each recipe would take on this machine, by those of its first seconds: without compiling,
    and without the looks at dev after each epoch."""
    table = Table("recipe", "epochs", "steps of one", "ms a step", "steps taken", "minutes in all")
    for name in names:
        file, settings, (training, dev, _) = prepared(name, 0)
        pace = Pace(limit)
        jax.monitoring.register_event_duration_secs_listener(pace.heard)
        _, fitted = TASKS[file.task].module.fit(
            training, dev, settings, watch=pace, mesh=devices.sharing(settings.members)
        )
        if fitted.interrupted and pace.seconds <= limit:  # by somebody else
            break
        each = pace.seconds / pace.steps
        minutes = each * pace.batches * pace.epochs / 60
        row = (pace.epochs, pace.batches, f"{1e3 * each:.1f}", pace.steps, f"{minutes:.1f}")
        table.add_row(name, *map(str, row))
        console.print(f"{name}: {minutes:.1f} minutes")
    console.print(table)
    console.print(f"{timing.cpu_name()}, {timing.cores()} threads")


def print_latency(console: Console) -> None:
    """The time of an answer to one sentence, and of 1,000 at once, of a model as large as the snips recipe makes it."""
    records = [(one.text, one.labels[0]) for one in datasets.load("snips", "train")["train"]]
    data = classify._Data(records, records[:50], recipe.read("snips").recipe())
    params, _ = members._begin(data.task, data.task.recipe)
    model = data.model._replace(params=params)
    texts = [words for words, _ in records[:1000]]
    for sentence in texts:
        classify.predict(model, [sentence])  # compiles for every length that occurs
    classify.predict(model, texts)
    alone, together = [], []
    for _ in range(15):
        began = time.perf_counter()
        for sentence in texts[:100]:
            classify.predict(model, [sentence])
        alone.append((time.perf_counter() - began) / 100)
        began = time.perf_counter()
        classify.predict(model, texts)
        together.append((time.perf_counter() - began) / len(texts))
    one, many = np.median(alone), np.median(together)
    console.print(
        f"one sentence {1e3 * one:.2f} ms, of 1,000 at once {1e3 * many:.4f} ms each, {one / many:.1f} times as fast"
    )


if __name__ == "__main__":
    # As the command line has it; of the whole process, so not in `main`, which the tests call.
    allocator.keep_memory()
    jax.config.update("jax_num_cpu_devices", timing.cores())
    sys.exit(main())
