"""Where the time of an LSTM layer goes on a CPU: every operation that XLA made of it, timed by JAX's own profiler.

    python benchmarks/profile_step.py                                  # the shapes of README.md, forward and training
    python benchmarks/profile_step.py --shape 100,32,256,256 --mode train --top 12
    python benchmarks/profile_step.py --backend scan --json rows.json

Times are microseconds of a step of time, T of them in a run. An operation is a product, elementwise arithmetic, or the
moving of data (copies, slices, transposes, fills), by what stands in its fused computation. Operations run beside one
another on several threads, so their sum may exceed the wall time; `idle` is the wall time in which none runs: the
runtime's dispatch, and threads that wait to be woken. `page faults` is what touching fresh memory costs at the price
measured in the same run; it is a part of the operations that touch it first, not another term of the sum.
"""

import argparse
import json
import re
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import cases
import jax
import numpy as np
import timing
from rich.console import Console
from rich.table import Table
from rivals import RIVALS

# Those of the findings in README.md: a recurrent matrix in the L1, L2, L3 and beyond, with a batch from 1 to 128.
SHAPES = ("100,32,128,128", "100,32,256,256", "50,64,512,512", "250,8,256,1024", "100,128,128,256", "100,1,64,128")
MODES = ("forward", "train")
KINDS = ("product", "elementwise", "moving")

# Opcodes of each kind; an operation is of the first kind of which its computation holds one.
PRODUCTS = {"dot", "custom-call", "convolution"}
ARITHMETIC = {"tanh", "exponential", "multiply", "add", "subtract", "divide", "maximum", "minimum", "reduce", "negate"}

RUNS = 12  # under the profiler


class Operation(NamedTuple):
    """What one instruction of the compiled program takes in a run."""

    name: str
    kind: str
    shape: str
    calls: float  # in a run
    us: float  # of a call


class Profile(NamedTuple):
    """Where a run's time goes; microseconds of a step of time, but for `operations`."""

    shape: str
    mode: str
    wall: float
    product: float
    elementwise: float
    moving: float
    idle: float
    faults: float
    floor: float  # the products alone at the speed of a large GEMM
    operations: list[Operation]


def main() -> int:
    """Profile what the command line asks for."""
    args = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    page, profiles = _price_of_a_page(), []
    for shape in args.shape:
        for mode in args.mode:
            profiles.append(profile(cases.parse(shape), mode, args.backend, page))
            if args.top:
                _print_operations(console, profiles[-1], args.top)
    _print(console, profiles)
    console.print(f"A page of fresh memory costs {page:.2f} us; {timing.cores()} threads; jax {jax.__version__}.")
    if args.json:
        rows = [p._asdict() | {"operations": [o._asdict() for o in p.operations]} for p in profiles]
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def profile(case: cases.Case, mode: str, backend: str, page: float) -> Profile:
    """Where the time of a run of `case` goes; `page` is the price of a page fault in microseconds."""
    implementation = RIVALS[backend].build(case, "float32")
    problem = cases.draw(case, 0)
    operands = implementation.own(problem)
    compiled = jax.jit(getattr(implementation, mode)).lower(*operands).compile()
    kinds = _kinds(compiled.as_text())

    def call():
        jax.block_until_ready(compiled(*operands))

    wall, faults = _wall(call)
    events = _trace(call)
    leaves = [event for event in events if event[0] in kinds and kinds[event[0]][0] in KINDS]
    by_name: dict[str, list[float]] = {}
    for name, start, end in leaves:
        by_name.setdefault(name, []).append((end - start) / 1e3)
    operations = [
        Operation(name, *kinds[name], len(times) / RUNS, statistics.fmean(times)) for name, times in by_name.items()
    ]
    operations.sort(key=lambda o: -o.calls * o.us)
    sums = {kind: sum(o.calls * o.us for o in operations if o.kind == kind) / case.T for kind in KINDS}
    traced = sum(end - start for start, end in _union(leaves)) / 1e3 / RUNS
    gemm = timing.gemm("float32")
    peak = gemm.flops / min(_seconds(lambda: gemm.call(*gemm.operands)) for _ in range(15))
    floor = cases.flops(case, mode, problem.lengths) / peak * 1e6
    times = dict(wall=wall, idle=max(0.0, wall - traced), faults=faults * page, floor=floor)
    return Profile(str(case), mode, **{key: us / case.T for key, us in times.items()}, **sums, operations=operations)


def _kinds(text):
    """By instruction of a compiled program, its kind and its shape; loops, which hold others, are of the kind ""."""
    computations, name = {}, None
    for line in text.splitlines():
        head = re.match(r"(?:ENTRY )?%?([\w.-]+) .*\{$", line)
        if head:
            name = head[1]
            computations[name] = []
        instruction = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = (\S+?)(?:\{[\d,:T()]*\})? ([\w-]+)\(", line)
        if instruction:
            called = re.search(r"(?:calls|to_apply)=%?([\w.-]+)", line)
            computations[name].append((*instruction.groups(), called and called[1]))
    fused = {called for lines in computations.values() for *_, called in lines if called}

    def opcodes(lines):
        for _, _, opcode, called in lines:
            yield opcode
            yield from opcodes(computations.get(called, []))

    kinds = {}
    for name, lines in computations.items():
        for instruction, shape, opcode, called in lines if name not in fused else ():
            held = {opcode, *opcodes(computations.get(called, []))}
            if opcode in ("while", "conditional", "call", "tuple", "parameter"):
                kind = ""
            elif held & PRODUCTS:
                kind = "product"
            else:
                kind = "elementwise" if held & ARITHMETIC and not shape.endswith("[]") else "moving"
            kinds[instruction] = (kind, shape)
    return kinds


def _wall(call):
    """The median microseconds of a run, and how many pages of fresh memory it touches."""
    for _ in range(3):
        call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    times = [_seconds(call) for _ in range(21)]
    return statistics.median(times) * 1e6, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / len(times)


def _trace(call):
    """(instruction, start, end) in nanoseconds of all that ran in `RUNS` runs."""
    with tempfile.TemporaryDirectory() as folder:
        jax.profiler.start_trace(folder)
        for _ in range(RUNS):
            call()
        jax.profiler.stop_trace()
        file = next(Path(folder).rglob("*.xplane.pb"))
        data = jax.profiler.ProfileData.from_serialized_xspace(file.read_bytes())
    found = []
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name is not None:
                    found.append((name, event.start_ns, event.start_ns + event.duration_ns))
    return found


def _union(events):
    """The intervals in which at least one event runs."""
    merged: list[list[float]] = []
    for _, start, end in sorted(events, key=lambda event: event[1]):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(end, merged[-1][1])
        else:
            merged.append([start, end])
    return merged


def _price_of_a_page():
    """Microseconds that the first touch of a page takes."""
    size, page = 32 * 2**20, resource.getpagesize()

    def touch():
        np.empty(size, np.uint8)[::page] = 1

    return statistics.median(_seconds(touch) for _ in range(9)) * 1e6 / (size / page)


def _seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _print(console, profiles):
    table = Table(title="us of a step of time", title_justify="left", title_style="bold")
    columns = ("T,B,D,H", "mode", "wall", *KINDS, "idle", "page faults", "GEMM floor", "floor / wall")
    for k, column in enumerate(columns):
        table.add_column(column, justify="right" if k > 1 else "left")
    for p in profiles:
        numbers = (p.wall, p.product, p.elementwise, p.moving, p.idle, p.faults, p.floor)
        table.add_row(p.shape, p.mode, *(f"{us:.1f}" for us in numbers), f"{100 * p.floor / p.wall:.0f} %")
    console.print(table)


def _print_operations(console, p, top):
    table = Table(title=f"{p.shape}, {p.mode}: {p.wall:.1f} us a step", title_justify="left", title_style="bold")
    for k, column in enumerate(("operation", "kind", "shape", "calls", "us a call", "us a step")):
        table.add_column(column, justify="right" if k > 2 else "left")
    steps = int(p.shape.split(",")[0])
    for o in p.operations[:top]:
        a_step = f"{o.calls * o.us / steps:.1f}"
        table.add_row(o.name, o.kind, o.shape, f"{o.calls:.0f}", f"{o.us:.1f}", a_step)
    console.print(table)


def _arguments():
    backends = [name for name in RIVALS if name not in ("torch",)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", metavar="T,B,D,H[,VARIANT]", default=SHAPES)
    parser.add_argument("--mode", nargs="+", choices=MODES, default=MODES, help="forward, or with all gradients")
    parser.add_argument("--backend", choices=backends, default="lstmjax", help="whose program (default: lstmjax)")
    parser.add_argument("--top", type=int, default=0, metavar="N", help="print the N longest operations of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all operations")
    args = parser.parse_args()
    try:
        for shape in args.shape:
            cases.parse(shape)
    except ValueError as problem:
        parser.error(str(problem))
    if jax.default_backend() != "cpu":
        parser.error(f"this reads the profile of a CPU; JAX runs on {jax.default_backend()}")
    return args


if __name__ == "__main__":
    sys.exit(main())
