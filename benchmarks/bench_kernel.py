"""The CUDA kernel of `backend="persistent"` alone: every cut of a shape, in microseconds a step.

    python benchmarks/bench_kernel.py                            # the shapes that `kernel.cut` was fitted to
    python benchmarks/bench_kernel.py --shape 768,64 1024,128 --dtype bfloat16 --json cuts.json

It needs an NVIDIA GPU and nvcc. Shapes are H,B. What every cut gives is compared with what the first one gives, and one
that differs is not timed. `said` is the estimate of `kernel.cut`, by which `kernel.plan` chooses: ◀ marks its choice.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import timing

from lstmjax.backends import chunks, kernel, nvcc

SHAPES = [(H, B) for H in (128, 256, 512, 768, 1024) for B in (1, 16, 64, 128, 256)]

# What `kernel.KINDS` leaves out, and why it does: to be looked at again where the kernel changes.
OTHERS = [
    *[(units, rows, False, 4, 1) for units in (1, 2) for rows in (1, 2)],
    *[(units, 1, False, 4, 3) for units in (1, 2)],
    *[(units, 1, False, 2, 4) for units in (1, 2)],
    *[(2, 1, True, warps, 1) for warps in (4, 8)],
]

# Kernels in a library: what all of them need takes the compiler as long as two of them.
PART = 6

# Largest difference let through between two cuts, of what the largest number is: sums in another order, over time.
BOUND = {"float32": 5e-3, "bfloat16": 3e-2, "float16": 5e-3}


def main() -> int:
    """Run what the command line asks for; 1 if a cut was wrong or could not be built."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", metavar="H,B", help="units and sequences")
    parser.add_argument("--dtype", nargs="+", choices=BOUND, default=["bfloat16", "float32"])
    parser.add_argument("--steps", type=int, default=256, help="of time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    reason = nvcc.missing()
    if reason is not None:
        parser.error(f"there is no kernel: {reason}")
    shapes = [tuple(map(int, text.split(","))) for text in args.shape] if args.shape else SHAPES
    work = [(H, B, dtype, back) for (H, B), dtype, back in itertools.product(shapes, args.dtype, (False, True))]
    wrong, found = [], []
    with tempfile.TemporaryDirectory() as folder:
        built = _built(work, Path(folder), wrong)
        nvcc.suffix = built.__getitem__
        for H, B, dtype, back in work:
            rows = _times(args.steps, H, B, dtype, back, args.rounds, built, wrong)
            found.append({"H": H, "B": B, "dtype": dtype, "direction": "backward" if back else "forward"} | rows)
            _print(found[-1])
            if args.json:  # what is there so far
                report = {"steps": args.steps, "kernels": found, "wrong": wrong}
                args.json.write_text(json.dumps(report, indent=1) + "\n")
    for problem in wrong:
        print(f"FAILED: {problem}", file=sys.stderr)
    return 1 if wrong else 0


def _cuts(H, B, dtype, back):
    """By kind a plan and its estimate, where there is one."""
    cuts = {kind: kernel.cut(B, H, jnp.dtype(dtype), back, *kind) for kind in [*kernel.KINDS, *OTHERS]}
    return {kind: found for kind, found in cuts.items() if found is not None}


def _built(work, folder, wrong):
    """By the line of a kernel, the suffix of its calls: a few kernels are a library, so that all processors build."""
    lines = {
        kernel.source(how, H, dtype, back=back)
        for H, B, dtype, back in work
        for how, _ in _cuts(H, B, dtype, back).values()
    }
    parts = [sorted(lines)[k : k + PART] for k in range(0, len(lines), PART)]
    command = nvcc.command(nvcc.compiler())

    def build(part):
        path = folder / f"kernels_{parts.index(part)}.so"
        return part, path, nvcc.build(path, command, "\n".join(part))

    suffixes = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for part, path, problem in pool.map(build, parts):
            problem = problem or nvcc.load(path, "CUDA", f"_{path.stem}")
            if problem:
                wrong.append(f"{part}: {problem}")
            suffixes |= dict.fromkeys(part, None if problem else f"_{path.stem}")
    return suffixes


def _times(T, H, B, dtype, back, rounds, built, wrong):
    config = chunks.Config(False, jnp.dtype(dtype), jnp.dtype("float32"), T, "gates", None, (), True, True)
    keys = iter(jax.random.split(jax.random.key(0), 8))

    def normal(*shape, scale=1.0, dtype="float32"):
        return scale * jax.random.normal(next(keys), shape, dtype)

    w_h = normal(H, 4 * H, scale=H**-0.5, dtype=dtype)
    flags, states = jnp.zeros((0, 0), jnp.uint8), (normal(B, H), normal(B, H))
    operands = normal(T, B, 4 * H), normal(B, 4 * H), w_h, *states, flags
    cuts, estimates, calls, first = _cuts(H, B, dtype, back), {}, {}, None
    if back:
        # The gates need not be those of a run: any tanh do.
        operands = normal(T, B, H), *states, w_h, normal(B, H), jnp.tanh(operands[0]), normal(T, B, H), flags
    for kind, (how, estimate) in cuts.items():
        if built[kernel.source(how, H, dtype, back=back)] is None:
            continue
        steps = kernel.steps_backward if back else kernel.steps_forward
        options = {"config": config} | ({} if back else {"keep": True})
        call = jax.jit(lambda *operands, steps=steps, how=how, options=options: steps(how, *operands, **options))
        try:
            results = jax.block_until_ready(call(*operands))
        except Exception as problem:  # whatever XLA makes of it; the others still run
            wrong.append(f"{H},{B} {dtype} {_name(kind)}: {problem}")
            continue
        first = results if first is None else first
        difference = max(_difference(a, b) for a, b in zip(results, first, strict=True))
        if not difference <= BOUND[dtype]:
            wrong.append(f"{H},{B} {dtype} back={back} {_name(kind)}: differs by {difference:.1e}")
            continue
        calls[kind], estimates[kind] = call, estimate
    times = {kind: [] for kind in calls}
    for _ in range(rounds):
        for kind, call in calls.items():
            times[kind].append(timing.sample(call, [operands], 0, 2) * 1000 / T)
    return {
        "us_per_step": {_name(kind): round(statistics.median(each), 3) for kind, each in times.items()},
        "said": {_name(kind): round(estimate, 3) for kind, estimate in estimates.items()},
    }


def _difference(a, b):
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return float(jnp.max(jnp.abs(a - b)) / jnp.maximum(1.0, jnp.max(jnp.abs(b))))


def _name(kind):
    units, rows, cluster, warps, squads = kind
    return f"units {units}, rows {rows}, {'cluster' if cluster else 'L2'}, {squads} x {warps} warps"


def _print(row):
    said = row["said"]
    chosen = min((k for k in map(_name, kernel.KINDS) if k in said), key=said.get, default=None)
    print(row["H"], row["B"], row["dtype"], row["direction"])
    for name, us in sorted(row["us_per_step"].items(), key=lambda item: item[1])[:6]:
        print(f"  {us:7.2f}  said {said[name]:6.2f}  {name}{' ◀' if name == chosen else ''}")
    if chosen in row["us_per_step"]:
        print(f"  chosen: {row['us_per_step'][chosen] / min(row['us_per_step'].values()):.2f} of the best", flush=True)


if __name__ == "__main__":
    sys.exit(main())
