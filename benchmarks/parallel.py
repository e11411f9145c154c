"""Many shapes in several processes: what takes a CPU is done at the same time, what is timed one after the other."""

import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import cases

# That a process has compiled before any is timed: what a GPU's memory holds of them, and what a stop can lose.
SHAPES = 3


def deal(shapes: list[cases.Case], hands: int) -> list[list[cases.Case]]:
    """The shapes in so many parts, the largest first, so that each part has large ones and small ones.

    >>> deal([cases.Case(1, 1, 1, size) for size in (1, 2, 3)], 2)
    [[Case(T=1, B=1, D=1, H=3, variant='plain'), Case(T=1, B=1, D=1, H=1, variant='plain')], \
[Case(T=1, B=1, D=1, H=2, variant='plain')]]
    """
    by_size = sorted(shapes, key=lambda case: case.T * case.B * (case.D + case.H), reverse=True)
    return [part for part in (by_size[k::hands] for k in range(hands)) if part]


def run(program: Path, shapes: list[cases.Case], args: Namespace) -> Iterator[dict]:
    """The report of each part of the shapes, as soon as its process has ended.

    A stop is passed on by the terminal, which sends it to all; what was timed by then is in the reports.

    Args:
      program: `bench_scan.py`.
      shapes: all of them.
      args: of the command line.
    """
    wave = SHAPES * args.processes
    for k in range(0, len(shapes), wave):
        yield from _wave(program, shapes[k : k + wave], args)


def _wave(program, shapes, args):
    with tempfile.TemporaryDirectory() as folder:
        turn, running = Path(folder) / "turn", {}
        for k, part in enumerate(deal(shapes, args.processes)):
            file = Path(folder) / f"{k}.json"
            command = [sys.executable, str(program), "--shape", *map(str, part), "--against", *args.against]
            command += ["--mode", *args.mode, "--dtype", *args.dtype, "--devices", str(args.devices)]
            command += ["--seconds", str(args.seconds), "--json", str(file), "--turn", str(turn)]
            running[file] = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while running:
                time.sleep(0.1)
                for file in [file for file, process in running.items() if process.poll() is not None]:
                    running.pop(file)
                    yield _report(file)
        except KeyboardInterrupt:
            for file, process in running.items():
                process.wait()
                yield _report(file)
            raise


def _report(file):
    if file.exists():
        return json.loads(file.read_text())
    failure = f"a process that had the shapes of {file.stem} ended before it had timed any"
    nothing = {"gemm_peak_gflops": {}, "cpu_taken_by_others": 0.0}
    return {"machine": nothing, "absent": {}, "failures": [failure], "rows": []}
