"""Every benchmark runs, as small as it can be told to: who comes to check a figure should not meet a traceback.

Slow, since each compiles what it times; what is timed is of no account here.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from lstmjax.backends import nvcc

ROOT = Path(__file__).parents[1]
DATA = os.environ.get("LSTMJAX_DATA") or ROOT.parent / "shared" / "data"

TORCH, CRF, SETS = "torch", "torchcrf", "data"  # what a run needs beside the test extra
RUNS = {
    "bench_classifier": ("", ()),
    "bench_decoding": (
        "--shape 4,2,3 4,2,5,15 --width 0 2 --batch 1 --vocabulary 20 --size 8 --steps 3 --seconds 0.05",
        (TORCH, CRF),
    ),
    "bench_family": ("--shape 4 2 4 4 --seconds 0.1", ()),
    "bench_inference": ("--size 4 --time 3 --seconds 0.05", (TORCH,)),
    "bench_scan": ("--shape 4,2,4,4 --seconds 0.05", ()),
    "bench_text": ("--widths 4 --batch 8 --rounds 1 --steps 1 --devices 2", (TORCH, SETS)),
    "bench_train": ("--epochs 5 --models 2 --widths 4", ()),
    "bench_translate": ("--widths 4 --batch 8 --rounds 1 --steps 1 --pairs 60", (TORCH, SETS)),
    "bench_tuned": ("--shape 4,3,4,4 20,9,4,130 --seconds 0.05", ()),
    "profile_step": ("--shape 4,2,4,4", ()),
}


def test_none_is_forgotten():
    # One trains: its parts are those of test_tasks, and its answers are timed below; one needs a GPU, or what is below.
    rest = {"bench_applications", "bench_kernel"}
    assert {path.stem for path in (ROOT / "benchmarks").glob("*_*.py")} == RUNS.keys() | rest


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_it_runs_and_writes_its_figures(name, tmp_path):
    given, needs = RUNS[name]
    arguments = given.split()
    written = tmp_path / "figures.json"
    if name != "bench_classifier":
        arguments = [*arguments, "--json", str(written)]
    run(name, arguments, needs)
    if name != "bench_classifier":
        assert json.loads(written.read_text())


@pytest.mark.slow
def test_processes_time_all_that_one_would(tmp_path):
    """In two processes, so in two waves."""
    written, shapes = tmp_path / "figures.json", ["4,2,4,4", "5,2,4,4,lengths", *(f"{T},2,4,4" for T in range(6, 11))]
    run("bench_scan", ["--shape", *shapes, "--seconds", "0.05", "--against", "flax-linen", "--processes", "2",
                       "--json", str(written)], ())  # fmt: skip
    found = json.loads(written.read_text())
    assert found["failures"] == []
    names = [f"{row['T']},{row['B']},{row['D']},{row['H']},{row['variant']}" for row in found["rows"]]
    assert {name.removesuffix(",plain") for name in names} == set(shapes)
    assert len(found["rows"]) == len(shapes) * 2 * 2  # implementations, modes
    assert [mean["wins"] + mean["losses"] for mean in found["means"]] == [7, 7]


@pytest.mark.slow
def test_a_stopped_grid_goes_on(tmp_path):
    """With the shapes that are there as they are, and not where they were asked for otherwise."""
    written = tmp_path / "figures.json"
    command = ["--seconds", "0.05", "--against", "flax-linen", "--json", str(written), "--resume", "--shape"]
    run("bench_scan", [*command, "4,2,4,4"], ())
    first = json.loads(written.read_text())
    part = first | {"rows": first["rows"][:2]}  # as if it had ended within a shape, before training
    written.write_text(json.dumps(part))
    run("bench_scan", [*command, "4,2,4,4", "5,2,4,4"], ())
    both = json.loads(written.read_text())
    assert len(both["rows"]) == 2 * 4
    assert both["rows"][:2] != part["rows"]  # it was run anew, whole
    run("bench_scan", [*command, "4,2,4,4", "5,2,4,4", "6,2,4,4"], ())
    third = json.loads(written.read_text())
    assert third["rows"][:8] == both["rows"]
    assert [mean["wins"] + mean["losses"] for mean in third["means"]] == [3, 3]
    assert third["machine"]["seconds"] > both["machine"]["seconds"]
    command[1] = "0.06"
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "bench_scan.py"), *command, "7,2,4,4"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2
    assert "seconds was 0.05 and is 0.06" in done.stderr
    assert json.loads(written.read_text()) == third


def test_runs_are_compared_over_the_shapes_that_all_have(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    agree = importlib.import_module("agree")
    shape = dict(T=1, B=1, D=1, variant="plain", dtype="float32", mode="train", impl="torch")
    runs = [
        [shape | dict(H=1, ratio=2.0), shape | dict(H=2, ratio=8.0), shape | dict(H=3, ratio=99.0)],
        [shape | dict(H=2, ratio=2.0), shape | dict(H=1, ratio=4.5)],
    ]
    assert agree.means(runs) == {("torch", "train", "float32"): (2, [pytest.approx(4), pytest.approx(3)])}
    files = [tmp_path / f"{name}.json" for name in ("first", "second")]
    for file, rows in zip(files, runs, strict=True):
        file.write_text(json.dumps({"rows": rows, "machine": {"cpu": "a chip", "cpu_taken_by_others": 0.04}}))
    monkeypatch.setattr(sys, "argv", ["agree.py", *map(str, files), "--rows", "torch"])
    assert agree.main() == 0
    printed = capsys.readouterr().out
    assert "1.33" in printed
    assert [line.split("│")[4].strip() for line in printed.splitlines() if "│ 1,1,1," in line] == [
        "3.25 (2.00 to 4.50)",
        "5.00 (2.00 to 8.00)",
        "",
    ]
    monkeypatch.setattr(sys, "argv", ["agree.py", *map(str, files), "--rows", "keras"])
    with pytest.raises(SystemExit):
        agree.main()
    assert "--rows should name some of torch, got keras" in capsys.readouterr().err
    assert "first: a chip; others had 4 % of the CPU" in printed


def test_what_a_call_of_pytorch_holds(monkeypatch):
    """Beside its operands and its results."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    torch, rivals = pytest.importorskip("torch"), importlib.import_module("rivals")

    def call(given):  # of a million bytes
        twice = 2 * given
        more = twice + given
        return more - twice

    given = torch.ones(1000, 250)
    assert 2_000_000 <= rivals._torch_temp(call, [given]) < 2_001_000
    assert rivals._torch_temp(torch.neg, [given]) < 1000


@pytest.mark.parametrize("variant", ["plain", "bidirectional", "stack2", "lengths"])
def test_the_reference_is_the_same_on_a_device(variant, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    cases = importlib.import_module("cases")
    problem = cases.draw(cases.Case(5, 3, 4, 2, variant), 0)
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):  # as NumPy does
        there = cases.reference(problem, jnp)
    for got, want in zip(there, cases.reference(problem), strict=True):
        assert cases.error(got, want, problem) < 1e-14


def test_shapes_are_dealt_each_once(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    cases, parallel = importlib.import_module("cases"), importlib.import_module("parallel")
    shapes = cases.GRIDS["gpu"]
    parts = parallel.deal(shapes, 12)
    assert sorted(case for part in parts for case in part) == sorted(shapes)
    assert {len(part) for part in parts} == {len(shapes) // 12}
    largest = [max(case.T * case.B * case.H for case in part) for part in parts]
    assert min(largest) > max(min(case.T * case.B * case.H for case in part) for part in parts)
    assert parallel.deal(shapes[:1], 2) == [shapes[:1]]


@pytest.mark.slow
def test_answers_are_timed():
    assert "times as fast" in run("bench_applications", ["--latency"], (SETS,))


def test_the_kernel_asks_for_a_gpu():
    if jax.default_backend() == "gpu":
        pytest.skip("there is one")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "bench_kernel.py")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "there is no kernel: it needs an NVIDIA GPU, and JAX runs on cpu" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_every_cut_of_the_kernel_is_compared_and_timed(tmp_path, monkeypatch, capsys):
    """On a CPU, by the kernel's own source: the comparisons are real, and the times mean nothing."""
    load = nvcc.load
    flags = [
        "-std=c++17",
        "-O1",
        "-shared",
        "-fPIC",
        "-w",
        "-DLSTMJAX_EMULATED",
        "-I",
        str(ROOT / "tests"),
        "-x",
        "c++",
    ]
    monkeypatch.setattr(nvcc, "missing", lambda: None)
    monkeypatch.setattr(nvcc, "compiler", lambda: shutil.which("g++") or pytest.skip("no g++"))
    monkeypatch.setattr(nvcc, "command", lambda compiler: [compiler, *flags])
    monkeypatch.setattr(nvcc, "load", lambda path, platform, suffix: load(path, "cpu", suffix))
    monkeypatch.setattr(nvcc, "suffix", nvcc.suffix)  # the benchmark puts its own there
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    bench_kernel = importlib.import_module("bench_kernel")
    monkeypatch.setattr(bench_kernel, "OTHERS", [])
    written = tmp_path / "cuts.json"
    arguments = ["--shape", "24,40", "--dtype", "float16", "--steps", "3", "--rounds", "1", "--json", str(written)]
    monkeypatch.setattr(sys, "argv", ["bench_kernel.py", *arguments])
    assert bench_kernel.main() == 0
    found = json.loads(written.read_text())
    assert [row["direction"] for row in found["kernels"]] == ["forward", "backward"]
    assert all(len(row["us_per_step"]) > 4 for row in found["kernels"])
    assert capsys.readouterr().out.count("of the best") == 2


def test_a_recipe_that_was_stopped_goes_on(tmp_path, monkeypatch):
    applications, small = small_recipe(tmp_path, monkeypatch)
    console, before = Console(quiet=True), {"runs": {}, "baselines": {}}
    whole = applications.run(str(small), 0, console, before, tmp_path / "whole")["runs"]["0"]

    class Stopped(applications.Clock):
        def epoch_ends(self, record, better):
            super().epoch_ends(record, better)
            if record["epoch"] == 2:
                signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(applications, "Clock", Stopped)
        assert applications.run(str(small), 0, console, before, tmp_path / "halves") is None
    taken = json.loads((tmp_path / "halves" / "seconds.json").read_text())
    halves = applications.run(str(small), 0, console, before, tmp_path / "halves")["runs"]["0"]
    assert halves["seconds"] > taken > 0
    del whole["seconds"], halves["seconds"]
    assert halves == whole


def test_a_recipe_that_is_stopped_by_its_baselines_is_not_trained_anew(tmp_path, monkeypatch):
    applications, small = small_recipe(tmp_path, monkeypatch)
    written = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["bench_applications.py", str(small), "--seeds", "0", "--json", str(written)])

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(applications.compare, "baseline_scores", stop)
        with pytest.raises(KeyboardInterrupt):
            applications.main()
    assert not written.exists()
    epochs = []
    monkeypatch.setattr(applications.Clock, "epoch_ends", lambda *_: epochs.append(1))
    monkeypatch.setattr(applications.compare, "baseline_scores", lambda *_: {"none": 0.5})
    assert applications.main() == 0
    assert epochs == []
    assert json.loads(written.read_text())[str(small)]["runs"]["0"]["epoch"] in (1, 2, 3)
    assert list(tmp_path.glob("**/snapshots")) == []


def test_the_pace_of_a_recipe_is_that_of_its_steps(tmp_path, monkeypatch, capsys):
    applications, small = small_recipe(tmp_path, monkeypatch)
    for limit, taken in (("0", 1), ("1e9", 75)):
        monkeypatch.setattr(sys, "argv", ["bench_applications.py", str(small), "--pace", limit])
        assert applications.main() == 0
        row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│"))
        epochs, batches, _, steps = (float(cell) for cell in row.split("│")[2:6])
        assert (epochs, epochs * batches, steps) == (3, 75, taken)  # 800 records, 32 at a time


def test_the_pace_is_without_what_is_compiled_or_measured(monkeypatch, tmp_path):
    applications, _ = small_recipe(tmp_path, monkeypatch)
    now = [0.0]
    monkeypatch.setattr(applications.time, "perf_counter", lambda: now[0])
    pace = applications.Pace(5.0)

    def made(end, seconds):
        now[0] = end
        pace.heard("/jax/core/compile/backend_compile_duration", seconds)
        pace.heard("/jax/checkpoint/write", 100.0)

    pace.begin(4)
    made(9.0, 3.0)  # before the first epoch
    now[0] = 10.0
    pace.epoch_begins(0, 7, 0)
    # From 11 to 14, a part of that from 12 to 13; and from 16 to 18.
    for end, seconds in ((13.0, 1.0), (14.0, 3.0), (18.0, 2.0)):
        made(end, seconds)
    pace.stepped(0, 1, 0.5, True, 10)
    assert pace.seconds == 8 - 5
    now[0] = 20.0
    pace.stepped(0, 2, 0.5, True, 10)
    assert pace.seconds == 5
    now[0] = 90.0  # a look at dev
    pace.epoch_begins(1, 7, 0)
    now[0] = 90.5
    with pytest.raises(KeyboardInterrupt):
        pace.stepped(1, 3, 0.5, True, 10)
    assert (pace.seconds, pace.steps, pace.batches, pace.epochs) == (5.5, 3, 7, 4)


def small_recipe(tmp_path, monkeypatch):
    """The benchmark of recipes, and one that takes a second."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    small = tmp_path / "small.toml"
    small.write_text('task = "classify"\nmembers = 1\nembedding = 4\nhidden = [4]\nepochs = 3\nbuckets = 1\n')
    return importlib.import_module("bench_applications"), small


def run(name, arguments, needs):
    """What a benchmark prints."""
    for package in needs:
        if package == SETS and not Path(DATA).is_dir():
            pytest.skip(f"the folder of data sets, {DATA}, is absent")
        if package != SETS and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *arguments]
    # As a person would run it: without the flags that make tests compile quickly, which rivals would not be fair with.
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"LSTMJAX_DATA": str(DATA)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
