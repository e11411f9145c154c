"""What the rules of the fused backend for a CPU choose, and whether another choice would be faster on this machine.

    python benchmarks/bench_tuned.py [--shape T,B,D,H ...] [--dtype bfloat16] [--seconds S] [--json FILE]

A step takes the batch as one lane or as two, and the state or the weights as the first operand of its product; or
each half of the batch has a loop of its own. All five are timed, forward and backward apart, and forward that keeps
what a gradient needs, against what fused takes by itself; backward of one chunk the other order in the product of dx
too. A ratio below 1 is a choice that would be faster here. All are first compared with one another.
"""

import argparse
import json
import statistics
import sys
from functools import partial
from itertools import product
from pathlib import Path

import cases
import jax
import jax.numpy as jnp
import numpy as np
import timing
from rich.console import Console
from rich.table import Table

from lstmjax.backends import abreast, chunked, chunks, tuning

# Where the rules turn: few and many rows, weights that fit a cache and that do not.
SHAPES = [
    *[(50, B, 128, H) for H in (128, 256, 512) for B in (4, 16, 64, 128)],
    *[(25, B, 1024, 1024) for B in (4, 16, 64, 128)],
]
CHOICES = [dict(lanes=lanes, weights_first=first) for lanes, first in product((1, 2), (False, True))]
HALVES = "a loop for each half"
OTHER = "the other order for dx"
BOUND = {"float32": 1e-4, "bfloat16": 1e-1}


def main() -> int:
    """Print the table."""
    args = _arguments()
    if jax.default_backend() != "cpu":
        print(f"these rules are for a CPU, and JAX runs on {jax.default_backend()}", file=sys.stderr)
        return 2
    about = {"cpu": timing.cpu_name(), "threads": timing.cores(), "jax": jax.__version__, "dtype": args.dtype}
    columns = [*(_said(choice) for choice in CHOICES), HALVES, OTHER]
    table = Table("T,B,D,H", "mode", "ms", *columns, "the rule's")
    rows = []
    for case in args.shape:
        for mode in ("forward", "kept", "backward"):
            row = _measure(case, mode, args)
            rows.append(row)
            ratios = (row["ratios"].get(name) for name in columns)
            table.add_row(
                str(case), mode, f"{row['ms']:.3g}", *(f"{ratio:.2f}" if ratio else "" for ratio in ratios), row["rule"]
            )
            if args.json:
                args.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table)
    console.print(f"{about['cpu']}, {about['threads']} threads, jax {about['jax']}, {args.dtype}")
    return 0


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", metavar="T,B,D,H", help="these shapes (default: where the rules turn)")
    parser.add_argument("--dtype", choices=BOUND, default="float32", help="of the matrix products")
    parser.add_argument("--seconds", type=float, default=1.5, help="of timing for each shape and mode")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows and the machine")
    args = parser.parse_args()
    try:
        args.shape = [cases.parse(text) for text in args.shape or [",".join(map(str, shape)) for shape in SHAPES]]
    except ValueError as problem:
        parser.error(str(problem))
    if any(case.variant != "plain" for case in args.shape):
        parser.error("--shape should be T,B,D,H here: variants are made of plain layers")
    return args


def _measure(case, mode, args):
    """The row of one shape and mode."""
    name, static, operands, chosen = _problem(case, mode, jnp.dtype(args.dtype))
    rule, own = _said(chosen), {key: value for key, value in chosen.items() if key != "abreast"}
    functions = {_said(choice): partial(getattr(chunked, name), **static, **own | choice) for choice in CHOICES}
    if case.B > 1:
        config, (w_x, w_h) = static["config"], operands[:2] if name == "forward" else operands[3:5]
        steps = min(case.T, tuning.chunk(case.T, case.B, w_x, w_h, chosen["abreast"] or 2))
        functions[HALVES] = partial(getattr(abreast, name), **static | {"config": config._replace(chunk=steps)})
    if name == "backward" and static["config"].chunk == case.T:
        functions[OTHER] = partial(functions[_said(own)], x_first=not own["x_first"])
    compiled = {name: timing.compile_jax(function, *operands) for name, function in functions.items()}
    found = {name: jax.tree.leaves(each.call(*operands)) for name, each in compiled.items()}
    first = found[_said(CHOICES[0])]
    for name, arrays in found.items():
        for a, b in zip(arrays, first, strict=True):
            apart = float(np.max(np.abs(np.asarray(a) - np.asarray(b))) / np.max(np.abs(b)))
            if not apart <= BOUND[args.dtype]:
                raise ArithmeticError(f"{name} at {case}, {mode}, is off by {apart:.1e}")
    calls = {name: each.call for name, each in compiled.items()}
    times = timing.interleave(calls, {name: [operands] for name in calls}, args.seconds)
    ratios = {name: timing.ratio(times[name], times[rule]).median for name in calls}
    return {"case": str(case), "mode": mode, "rule": rule, "ms": statistics.median(times[rule]), "ratios": ratios}


def _problem(case, mode, dtype):
    """The function that is timed, its static arguments, its operands, and what the rule chooses."""
    T, B, _, H, _ = case
    problem = cases.draw(case, 0).operands
    ((layer,),), ((state,),) = problem.layers, problem.states
    operands = [jnp.asarray(array) for array in (*layer, problem.xs, *state)]
    config = chunks.Config(
        reverse=False,
        dtype=dtype,
        stored=jnp.dtype("float32"),
        chunk=min(T, tuning.chunk(T, B, operands[0], operands[1])),
        residuals="gates",
        precision=None,
        rest=(),
        insist=False,
    )
    if mode != "backward":
        keep = mode == "kept"
        return "forward", dict(config=config, keep=keep), operands, tuning.forward(T, B, H, dtype, keep=keep)
    rule = tuning.backward(T, B, H, dtype, inputs=case.D)
    hs, h, c, *kept = jax.jit(partial(chunked.forward, config=config, keep=True))(*operands)
    operands = [jnp.ones_like(hs), h, c, *operands, hs, *kept]
    return "backward", dict(config=config, wrt=(True,) * 6), operands, rule


def _said(choice):
    if choice.get("abreast"):
        return HALVES
    lanes = "two lanes" if choice["lanes"] == 2 else "one lane"
    return f"{lanes}, {'weights' if choice['weights_first'] else 'state'} first"


if __name__ == "__main__":
    sys.exit(main())
