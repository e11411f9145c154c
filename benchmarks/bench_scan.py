"""LSTM layers over time, ours and others': first whether they are right, then how long they take.

    python benchmarks/bench_scan.py                                      # five shapes, every implementation, < 90 s
    python benchmarks/bench_scan.py --grid cpu --against flax-linen torch --json rows.json
    python benchmarks/bench_scan.py --shape 100,32,256,256 256,64,256,256,bidirectional --mode train

All implementations get the same weights, inputs and initial states. Outputs and all gradients are compared with a
float64 reference, and one that is wrong is not timed. A ratio above 1 says that ours is faster. `lstmjax` is what
backend=None chooses; the ratio of the same backend by name shows the noise of the run. `lstmjax-bfloat16` has products
in bfloat16, and with --devices N `lstmjax-devices` splits the batch over N CPU devices; all others run on one. Two run
only where --against names them: `lstmjax-outputs` keeps least for the gradient, `torch-compile` compiles for minutes.

With --processes N, for a GPU that is at hand for minutes, N processes take three shapes each. All compile and check at
the same time; once they have, one after the other times its shapes while the rest wait; then come the next.

A grid that was stopped goes on by the same command and --resume: shapes that the file of --json has are not run again.
"""

import argparse
import contextlib
import fcntl
import functools
import itertools
import json
import os
import platform
import statistics
import sys
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cases
import jax
import jax.numpy as jnp
import parallel
import plots
import timing
from rich.console import Console
from rich.table import Table
from rivals import REFERENCE, RIVALS, absence

from lstmjax.devices import compiler_options

# Largest error let through. Roundings add up over time and batch to some ten units of roundoff (6e-8, 5e-4 and 4e-3),
# while a swapped pair of gates or a forgotten bias is off by 0.5 and more; the bounds lie between. On a GPU float32
# products are TF32 by default, for JAX and for torch, which has the roundoff of float16.
BOUNDS = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
BOUND_TF32 = 2e-2

MODES = ("forward", "train")

# Of timing for a shape and mode, beside compiling: what the quick grid can spend within its 90 s, what is enough where
# many shapes stand for one another, and what is calm for a few that were asked for.
SECONDS = {"quick": 1.5, "grid": 2.5, "calm": 8.0}

# Share of the cores in other hands from which on times mislead: when a neighbour holds one core, the thread on the
# other waits for it at every step, and torch's threads spin while they wait.
BUSY = 0.05


COLUMNS = ("implementation", "ms", "ratio to ours (◀ lost)", "95 %", "of peak", "error", "compile s", "temp MiB")
MEAN_COLUMNS = ("against", "mode", "dtype", "geometric mean of ratios", "wins", "losses")


# Of a machine, what a run measures, beside what it finds.
MEASURED = ("gemm_peak_gflops", "seconds", "cpu_taken_by_others")

# Elements of the inputs that no cache holds, so that runs need no other draw of them; and floating point operations for
# which NumPy takes minutes, so that a GPU computes the reference, in float64 too.
UNCACHED, SLOW = 2**24, 1e11


class Row(NamedTuple):
    """One implementation on one shape."""

    impl: str
    T: int
    B: int
    D: int
    H: int
    variant: str
    mode: str
    dtype: str
    ms: float  # median
    ratio: float  # to ours: the median of ms / our ms of the same round; above 1 we are faster
    ratio_low: float  # and its 95 % interval
    ratio_high: float
    rounds: int
    error: float
    compile_s: float | None
    temp_bytes: int | None
    gflops: float  # per second, of the matrix products
    peak_share: float  # of the speed of a large GEMM in the same rounds

    @property
    def case(self) -> str:
        """What it ran on, as `cases.parse` reads it."""
        return str(cases.Case(self.T, self.B, self.D, self.H, self.variant))


class Mean(NamedTuple):
    """One implementation over all shapes."""

    impl: str
    mode: str
    dtype: str
    geometric_mean: float  # of the ratios
    wins: int  # shapes where we are faster
    losses: int


class Report(NamedTuple):
    """All that a run of this benchmark has to say."""

    machine: dict
    asked: dict  # of the command line, what the rows depend on
    absent: dict[str, list[str]]  # by implementation, why it was left out of all shapes or of some
    failures: list[str]
    rows: list[Row]
    means: list[Mean]


def main() -> int:
    """Run what the command line asks for; 1 if an implementation was wrong or could not run."""
    args = _arguments()
    # Else JAX takes most of a GPU's memory for itself and leaves torch none.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if args.devices > 1:
        jax.config.update("jax_num_cpu_devices", args.devices)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    asked = {name: getattr(args, name) for name in ("against", "mode", "dtype", "seconds")}
    report = Report(_machine(), asked, {}, [], [], [])
    shapes = args.shape or cases.GRIDS[args.grid]
    if args.resume:
        problem = _recall(args.json, report)
        if problem:
            print(f"--resume: {problem}", file=sys.stderr)
            return 2
        shapes = [case for case in shapes if not _complete(case, report)]
        report.rows[:] = [row for row in report.rows if _complete(cases.parse(row.case), report)]
        report.means[:] = _means(report.rows)
    run = _everywhere if args.processes > 1 else _here
    try:
        for rows in run(shapes, args, report):
            report.rows.extend(rows)
            report.means[:] = _means(report.rows)
            _progress("")
            if not args.markdown:
                _print_rows(console, rows)
            if args.json:  # what is there so far: a grid takes long
                args.json.write_text(json.dumps(_plain(report), indent=1) + "\n")
    except KeyboardInterrupt:
        report.failures.append(f"stopped by Ctrl-C after {len(report.rows)} rows")
    if args.markdown:
        print(_markdown(report))
    else:
        _print_means(console, report)
    if args.plot:
        (plots.growth if args.grid == "growth" and not args.shape else plots.ratios)(report.rows, args.plot)
    for failure in report.failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if report.failures else 0


def _arguments():
    others = [name for name in RIVALS if name != REFERENCE]
    quick = [name for name in others if not RIVALS[name].asked]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", choices=cases.GRIDS, default="quick", help="a set of shapes (default: quick)")
    parser.add_argument("--shape", nargs="+", metavar="T,B,D,H[,VARIANT]", help="these shapes instead of a grid")
    parser.add_argument("--against", nargs="+", metavar="NAME", default=quick, help=f"of {', '.join(others)}")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=MODES, help="forward, or with all gradients")
    parser.add_argument("--dtype", nargs="+", choices=BOUNDS, default=["float32"], help="of the matrix products")
    parser.add_argument("--devices", type=int, metavar="N", help="CPU devices, for lstmjax-devices (grid cpu: cores)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="that compile and check (default: 1)")
    parser.add_argument("--turn", type=Path, metavar="FILE", help=argparse.SUPPRESS)  # of one of these processes
    parser.add_argument("--seconds", type=float, help="of timing for each shape and mode, 15 rounds at least")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows and the machine")
    parser.add_argument(
        "--resume", action="store_true", help="keep the shapes that the file of --json has, run the rest"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios, or of the grid 'growth' the times")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of tables")
    args = parser.parse_args()
    for name in ("shape", "against", "mode", "dtype"):
        setattr(args, name, list(dict.fromkeys(getattr(args, name) or [])))
    unknown = [name for name in args.against if name not in others]
    if unknown:
        parser.error(f"--against knows {', '.join(others)}; got {', '.join(unknown)}")
    try:
        args.shape = [cases.parse(text) for text in args.shape]
    except ValueError as problem:
        parser.error(str(problem))
    for path in (args.json, args.plot):
        if path and not path.parent.is_dir():
            parser.error(f"there is no folder {path.parent} for {path.name}")
    if args.resume and args.json is None:
        parser.error("--resume goes on with the file of --json, which is not given")
    if args.plot and find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib")
    if args.devices is None:
        args.devices = timing.cores() if args.grid == "cpu" and not args.shape else 1
    for name in ("devices", "processes"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} should be at least 1, got {getattr(args, name)}")
    if args.seconds is None:
        args.seconds = SECONDS["calm" if args.shape else "quick" if args.grid == "quick" else "grid"]
    return args


def _here(shapes, args, report):
    """The rows of each case and dtype, timed here; what is absent or fails goes into `report`."""
    work = [(case, dtype) for case in shapes for dtype in args.dtype]
    before, started, cpu = dict(report.machine), time.perf_counter(), timing.cpu_seconds()
    if args.turn:
        with _turn(args.turn, fcntl.LOCK_SH):
            ready = [_ready(case, dtype, args, report, f"{k + 1}/{len(work)}") for k, (case, dtype) in enumerate(work)]
    with _turn(args.turn, fcntl.LOCK_EX):
        if args.turn:
            started, cpu = time.perf_counter(), timing.cpu_seconds()
        for k, (case, dtype) in enumerate(work):
            place = f"{k + 1}/{len(work)}"
            prepared = ready[k] if args.turn else _ready(case, dtype, args, report, place)
            rows = _timed(case, dtype, args, report, place, *prepared)
            seconds = time.perf_counter() - started
            _spend(report.machine, before, seconds, _others(cpu, seconds))
            yield rows


def _everywhere(shapes, args, report):
    """The same, timed by other processes that compile at the same time."""
    before, started, parts = dict(report.machine), time.perf_counter(), []
    for part in parallel.run(Path(__file__), shapes, args):
        parts.append(part["machine"])
        for name, reasons in part["absent"].items():
            held = report.absent.setdefault(name, [])
            held.extend(reason for reason in reasons if reason not in held)
        report.failures.extend(part["failures"])
        peaks = report.machine["gemm_peak_gflops"]
        for dtype, peak in parts[-1]["gemm_peak_gflops"].items():
            peaks[dtype] = max(peak, peaks.get(dtype, 0))
        shares = [machine["cpu_taken_by_others"] for machine in parts]
        _spend(report.machine, before, time.perf_counter() - started, None if None in shares else max(shares))
        rows = [Row(**row) for row in part["rows"]]
        for _, of_one in itertools.groupby(rows, lambda row: (row.case, row.dtype)):
            yield list(of_one)


@contextlib.contextmanager
def _turn(path, kind):
    """Hold the lock of a file, if there is one: LOCK_SH with others that compile, LOCK_EX alone."""
    if path is None:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, kind)
        yield


def _ready(case, dtype, args, report, place):
    """The problems of a case, and by name what is compiled and right. `place` is for the progress."""
    _progress(f"{place} {case} {dtype}: float64 reference")
    problems, right = _problems(case)
    ready = {}
    for name in [REFERENCE, *args.against]:
        reason = absence(RIVALS[name], case, dtype)
        if reason is not None:
            reasons = report.absent.setdefault(name, [])
            reasons.extend({reason} - set(reasons))
            continue
        _progress(f"{place} {case} {dtype}: compiling and checking {name}")
        try:
            ready[name] = _prepare(name, case, RIVALS[name].dtype or dtype, args.mode, problems, right)
        except Exception as problem:  # whatever a rival raises; the others still run
            report.failures.append(f"{name} at {case} {dtype}: {type(problem).__name__}: {problem}")
    return [problem.lengths for problem in problems], ready


def _timed(case, dtype, args, report, place, lengths, ready):
    """The rows of one case, in both modes."""
    if REFERENCE not in ready:
        return []
    rows, gemm = [], timing.gemm(dtype)
    for mode in args.mode:
        _progress(f"{place} {case} {dtype}: timing {mode}")
        calls = {name: compiled[mode].call for name, (_, compiled, _) in ready.items()} | {"gemm": gemm.call}
        inputs = {name: operands for name, (operands, _, _) in ready.items()} | {"gemm": [gemm.operands]}
        # OpenMP's threads spin for a while after a run of torch, on the cores the next one needs. A GPU that has slept
        # is slow to wake.
        spins = {"torch", "torch-compile"} & set(calls) and jax.default_backend() == "cpu"
        times = timing.interleave(calls, inputs, args.seconds, pause=0.003 if spins else 0)
        work = statistics.mean(cases.flops(case, mode, each) for each in lengths)
        for name, (_, compiled, errors) in ready.items():
            ms, ratio = statistics.median(times[name]), timing.ratio(times[name], times[REFERENCE])
            share = work / gemm.flops * timing.ratio(times["gemm"], times[name]).median
            made = (errors[mode], compiled[mode].compile_s, compiled[mode].temp_bytes, work / ms / 1e6, share)
            rows.append(Row(name, *case, mode, dtype, ms, *ratio, len(times[name]), *made))
        peak = round(gemm.flops / min(times["gemm"]) / 1e6)
        peaks = report.machine["gemm_peak_gflops"]
        peaks[dtype] = max(peak, peaks.get(dtype, 0))
    return rows


@functools.lru_cache(maxsize=1)
def _problems(case):
    """Draws of a case, and by mode what is right for the first: the same for every dtype."""
    large = case.T * case.B * (case.D + case.H) > UNCACHED
    problems = [cases.draw(case, seed) for seed in range(1 if large else 3)]
    if jax.default_backend() == "gpu" and cases.flops(case, "train", problems[0].lengths) > SLOW:
        with jax.enable_x64(True):
            right = jax.device_get(cases.reference(problems[0], jnp))
    else:
        right = cases.reference(problems[0])
    return problems, dict(zip(MODES, right, strict=True))


def _prepare(name, case, dtype, modes, problems, right):
    """Operands, and by mode what is compiled and its error; an error beyond the bound is an exception."""
    implementation = RIVALS[name].build(case, dtype)
    operands = [implementation.own(problem) for problem in problems]
    compiled, errors = {}, {}
    bound = BOUND_TF32 if dtype == "float32" and jax.default_backend() == "gpu" else BOUNDS[dtype]
    for mode in modes:
        function, read = implementation.forward, implementation.outputs
        if mode == "train":
            function, read = implementation.train, implementation.gradients
        compiled[mode] = implementation.compile(function, *operands[0])
        errors[mode] = cases.error(read(compiled[mode].call(*operands[0])), right[mode], problems[0])
        if not errors[mode] <= bound:  # so that a NaN is wrong too
            raise ArithmeticError(f"{mode} is off by {errors[mode]:.1e} of the reference, more than {bound:.0e}")
    return operands, compiled, errors


def _means(rows):
    groups = {}
    for row in rows:
        if row.impl != REFERENCE:
            groups.setdefault((row.impl, row.mode, row.dtype), []).append(row.ratio)
    return [
        Mean(*group, timing.geometric_mean(ratios), sum(r > 1 for r in ratios), sum(r <= 1 for r in ratios))
        for group, ratios in groups.items()
    ]


def _machine():
    versions = {}
    for package in ("lstmjax", "jax", "jaxlib", "numpy", "flax", "equinox", "dm-haiku", "keras", "torch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpu": timing.cpu_name(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.local_device_count(),
        "threads": timing.cores(),  # XLA's; torch is given as many
        "python": platform.python_version(),
        "system": platform.platform(),
        "compiler_options": compiler_options() or {},
        "environment": {
            name: os.environ[name]
            for name in ("XLA_FLAGS", "GLIBC_TUNABLES", "JAX_COMPILATION_CACHE_DIR")
            if name in os.environ
        },
        "versions": versions,
        "gemm_peak_gflops": {},  # by dtype, as they are measured
    }


def _recall(file, report):
    """Take what `file` has into `report`; or say why not, if it is of another machine or another question."""
    if not file.exists():
        return None
    try:
        held = json.loads(file.read_text())
        rows = [Row(**row) for row in held["rows"]]
        machine, asked, absent, failures = (held[name] for name in ("machine", "asked", "absent", "failures"))
    except (ValueError, KeyError, TypeError) as problem:
        return f"{file} is no report of this program that can be gone on with ({type(problem).__name__}: {problem})"
    of_machine = [(name, machine.get(name), here) for name, here in report.machine.items() if name not in MEASURED]
    of_question = [(name, asked.get(name), here) for name, here in report.asked.items()]
    differ = [f"{name} was {was!r} and is {now!r}" for name, was, now in of_machine + of_question if was != now]
    if differ:
        return f"{file} was measured otherwise: {'; '.join(differ)}"
    report.rows.extend(rows)
    report.machine.update({name: machine[name] for name in MEASURED if name in machine})
    report.absent.update(absent)
    report.failures.extend(
        failure for failure in failures if any(f" at {row.case} {row.dtype}:" in failure for row in rows)
    )
    return None


def _complete(case, report):
    """Whether the report has all that is asked of a case."""
    found = {(row.dtype, row.mode) for row in report.rows if row.impl == REFERENCE and row.case == str(case)}
    return found == set(itertools.product(report.asked["dtype"], report.asked["mode"]))


def _spend(machine, before, seconds, share):
    """Put down the seconds of a run and the share others had of the CPU, with those of `before` it was gone on with."""
    parts = [(before.get("seconds", 0.0), before.get("cpu_taken_by_others", 0.0)), (seconds, share)]
    machine["seconds"] = round(sum(part for part, _ in parts), 1)
    unknown = any(share is None for _, share in parts)
    taken = None if unknown else sum(part * share for part, share in parts) / max(machine["seconds"], 1e-9)
    machine["cpu_taken_by_others"] = None if taken is None else round(taken, 2)


def _others(before, seconds):
    """The share of the cores that other processes had during the run."""
    if before is None:
        return None
    everyone, own = (now - then for now, then in zip(timing.cpu_seconds(), before, strict=True))
    return max(0.0, everyone - own) / (seconds * os.cpu_count())


def _progress(doing):
    """One line on a terminal, written over the last. No spinner: its thread would run while others are timed."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{doing}", end="", file=sys.stderr, flush=True)


def _print_rows(console, rows):
    for mode in dict.fromkeys(row.mode for row in rows):
        block = [row for row in rows if row.mode == mode]
        table = Table(
            title=f"T,B,D,H = {block[0].case}, {mode}, {block[0].dtype}", title_justify="left", title_style="bold"
        )
        for k, column in enumerate(COLUMNS):
            table.add_column(column, justify="right" if k else "left")
        for row in block:
            table.add_row(*_cells(row), style="red" if row.ratio < 1 else "")
        console.print(table)


def _print_means(console, report):
    table = Table(title="All shapes", title_justify="left", title_style="bold")
    for k, column in enumerate(MEAN_COLUMNS):
        table.add_column(column, justify="right" if k > 2 else "left")
    for mean in report.means:
        table.add_row(*_mean_cells(mean), style="red" if mean.geometric_mean < 1 else "")
    console.print(table)
    for remark in _remarks(report):
        console.print(remark)


def _markdown(report):
    lines = [_pipes(*MEAN_COLUMNS), "|---|---|---|--:|--:|--:|"]
    lines += [_pipes(*_mean_cells(mean)) for mean in report.means]
    lines += ["", _pipes("T,B,D,H", "mode", "dtype", *COLUMNS), "|---|---|---|---" + "|--:" * (len(COLUMNS) - 1) + "|"]
    lines += [_pipes(row.case, row.mode, row.dtype, *_cells(row)) for row in report.rows]
    return "\n\n".join(["\n".join(lines), *_remarks(report)])


def _remarks(report):
    """What has to be said beside the tables."""
    machine = report.machine
    remarks = [f"Absent: {name} ({'; '.join(reasons)})." for name, reasons in report.absent.items()]
    versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
    peaks = ", ".join(f"{gflops} GFLOP/s {dtype}" for dtype, gflops in machine["gemm_peak_gflops"].items())
    remarks += [
        f"{machine['cpu']}, device {machine['device']}, {machine['threads']} threads each; GEMM peak {peaks}.",
        f"Python {machine['python']}, {versions}.",
        f"{machine.get('seconds', 0)} s in all.",
    ]
    if (machine.get("cpu_taken_by_others") or 0) > BUSY:
        share = f"{100 * machine['cpu_taken_by_others']:.0f} %"
        remarks.append(f"Other processes took {share} of the CPU: do not trust these times, run it again.")
    return remarks


def _plain(report):
    """The report in lists and dicts, for JSON."""
    rows, means = ([item._asdict() for item in items] for items in (report.rows, report.means))
    return report._asdict() | {"rows": rows, "means": means}


def _cells(row):
    """A row as text, under COLUMNS."""
    compile_s = "" if row.compile_s is None else f"{row.compile_s:.2f}"
    memory = "" if row.temp_bytes is None else f"{row.temp_bytes / 2**20:.1f}"
    ratio = f"{row.ratio:.2f}" if row.ratio >= 1 else f"◀ {row.ratio:.2f}"
    interval = f"{row.ratio_low:.2f} to {row.ratio_high:.2f}"
    share = f"{100 * row.peak_share:.0f} %"
    return row.impl, f"{row.ms:.3g}", ratio, interval, share, f"{row.error:.0e}", compile_s, memory


def _mean_cells(mean):
    """A mean as text, under MEAN_COLUMNS."""
    return mean.impl, mean.mode, mean.dtype, f"{mean.geometric_mean:.2f}", str(mean.wins), str(mean.losses)


def _pipes(*cells):
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    sys.exit(main())
