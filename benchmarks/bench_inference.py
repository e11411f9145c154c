"""Inference with one sequence: a step at a time as it arrives, and the whole sequence at once.

    python benchmarks/bench_inference.py [--size H ...] [--time T] [--seconds S] [--json FILE]

D = H, B = 1, float32. `streaming` hands each step its input and the state of the step before, T times, from Python, and
takes the time of a step; `whole` runs T steps in one call, and takes the time of one. Every implementation has the same
weights; its outputs are compared with float64 first, and one that is wrong is not timed. A ratio above 1 says that
ours is faster.
"""

import argparse
import json
import statistics
import sys
from importlib.util import find_spec
from pathlib import Path

import cases
import jax
import numpy as np
import timing
from bench_scan import BOUNDS
from rich.console import Console
from rich.table import Table
from rivals import REFERENCE

import lstmjax


def ours(layer, state, T):
    """(streaming, whole): xs [T, 1, D] on the host -> ys [T, 1, H]."""
    params, state = jax.device_put((lstmjax.LSTMParams(*layer), lstmjax.LSTMState(*state)))
    step = jax.jit(lstmjax.step).lower(params, state, np.zeros((1, len(layer.w_x)), np.float32)).compile()
    run = jax.jit(lstmjax.run).lower(params, np.zeros((T, 1, len(layer.w_x)), np.float32), state).compile()

    def streaming(xs):
        ys, now = [], state
        for x in xs:
            now, y = step(params, now, x)
            ys.append(np.asarray(y))  # whoever streams reads each output as it comes
        return np.stack(ys)

    def whole(xs):
        return np.asarray(run(params, xs, state)[1])

    return streaming, whole


def flax(layer, state, T):
    from flax import linen as nn

    cell = nn.OptimizedLSTMCell(len(layer.w_h))
    weights = {}
    for gate, w_x, w_h, b in zip("ifgo", *(np.split(array, 4, axis=-1) for array in layer), strict=True):
        weights |= {f"i{gate}": {"kernel": w_x}, f"h{gate}": {"kernel": w_h, "bias": b}}
    (h, c), single, rnn = jax.device_put((state, {"params": weights}, {"params": {"cell": weights}}))
    step = jax.jit(cell.apply)
    run = jax.jit(lambda v, xs, carry: nn.RNN(cell, time_major=True).apply(v, xs, initial_carry=carry))

    def streaming(xs):
        ys, now = [], (c, h)
        for x in xs:
            now, y = step(single, now, x)
            ys.append(np.asarray(y))
        return np.stack(ys)

    return streaming, lambda xs: np.asarray(run(rnn, xs, (c, h)))


def torch(layer, state, T):
    import torch

    torch.set_num_threads(timing.cores())
    whole, cell = torch.nn.LSTM(len(layer.w_x), len(layer.w_h)), torch.nn.LSTMCell(len(layer.w_x), len(layer.w_h))
    with torch.no_grad():
        for module, end in ((whole, "_l0"), (cell, "")):
            values = dict(weight_ih=layer.w_x.T, weight_hh=layer.w_h.T, bias_ih=layer.b, bias_hh=0 * layer.b)
            for name, value in values.items():
                getattr(module, name + end).copy_(torch.tensor(value))
    h, c = map(torch.tensor, state)

    @torch.inference_mode()
    def streaming(xs):
        ys, now = [], (h, c)
        for x in torch.from_numpy(xs):
            now = cell(x, now)
            ys.append(now[0].numpy())
        return np.stack(ys)

    @torch.inference_mode()
    def at_once(xs):
        return whole(torch.from_numpy(xs), (h[None], c[None]))[0].numpy()

    return streaming, at_once


def onnxruntime(layer, state, T):
    import onnx
    import onnxruntime
    from onnx import helper

    D, H = len(layer.w_x), len(layer.w_h)

    def iofc(w):
        i, f, g, o = np.split(w, 4, axis=-1)
        return np.ascontiguousarray(np.concatenate([i, o, f, g], axis=-1).T)

    weights = dict(W=iofc(layer.w_x)[None], R=iofc(layer.w_h)[None])
    weights["B"] = np.concatenate([iofc(layer.b), 0 * layer.b])[None]
    node = helper.make_node("LSTM", ["X", "W", "R", "B", "", "h", "c"], ["Y", "Y_h", "Y_c"], hidden_size=H)
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "lstm",
        [
            helper.make_tensor_value_info(n, float32, s)
            for n, s in dict(X=["T", 1, D], h=[1, 1, H], c=[1, 1, H]).items()
        ],
        [helper.make_tensor_value_info(n, float32, None) for n in ("Y", "Y_h", "Y_c")],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = timing.cores()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    h, c = (np.asarray(part)[None] for part in state)

    def streaming(xs):
        ys, now = [], (h, c)
        for x in xs:
            y, *now = session.run(None, {"X": x[None], "h": now[0], "c": now[1]})
            ys.append(y[0, 0])
        return np.stack(ys)

    return streaming, lambda xs: session.run(["Y"], {"X": xs, "h": h, "c": c})[0][:, 0]


IMPLEMENTATIONS = {
    REFERENCE: (("jax",), ours),
    "flax-linen": (("flax",), flax),
    "torch": (("torch",), torch),
    "onnxruntime": (("onnx", "onnxruntime"), onnxruntime),
}


def main() -> int:
    """Run what the command line asks for; 1 if an implementation was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", type=int, default=[32, 128, 256, 512, 1024], help="of the input and h")
    parser.add_argument("--time", type=int, default=100, help="steps")
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing for each size and way")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows, wrong = [], False
    for H in args.size:
        found = _size(H, args.time, args.seconds)
        rows += found
        wrong |= any(row["ms_per_step"] is None for row in found)
    _print(rows, args.time)
    if args.json:
        args.json.write_text(json.dumps({"jax": jax.__version__, "threads": timing.cores(), "rows": rows}, indent=1))
    return int(wrong)


def _size(H, T, seconds):
    problem = cases.draw(cases.Case(T, 1, H, H), 0)
    ((layer,),), ((state,),), xs = problem.operands
    inputs = [(cases.draw(cases.Case(T, 1, H, H), seed).operands.xs,) for seed in range(3)]
    right = cases.reference(problem)[0].ys
    ready = {}
    for name, (packages, build) in IMPLEMENTATIONS.items():
        if all(map(find_spec, packages)):
            ready[name] = build(layer, state, T)
    rows = []
    for k, way in enumerate(("streaming", "whole")):
        calls, errors = {}, {}
        for name, functions in ready.items():
            errors[name] = float(np.abs(functions[k](xs) - right).max())
            if errors[name] <= BOUNDS["float32"]:
                calls[name] = functions[k]
        pause = 0.003 if "torch" in calls else 0
        times = timing.interleave(calls, dict.fromkeys(calls, inputs), seconds, pause)
        for name in ready:
            row = {"way": way, "impl": name, "T": T, "H": H, "error": errors[name], "ms_per_step": None, "ratio": None}
            if name in calls:
                ratio = timing.ratio(times[name], times[REFERENCE]).median
                row |= {"ms_per_step": statistics.median(times[name]) / T, "ratio": ratio}
            rows.append(row)
    return rows


def _print(rows, T):
    table = Table(title=f"B = 1, D = H, T = {T}, float32", title_justify="left", title_style="bold")
    for k, column in enumerate(("way", "H", "implementation", "us a step", "ratio to ours (◀ lost)", "error")):
        table.add_column(column, justify="right" if k > 2 or k == 1 else "left")
    for row in rows:
        if row["ms_per_step"] is None:
            cells = ("WRONG", "")
        else:
            cells = (f"{1000 * row['ms_per_step']:.1f}", f"{row['ratio']:.2f}")
            cells = (cells[0], cells[1] if row["ratio"] >= 1 else f"◀ {cells[1]}")
        lost = row["ratio"] is None or row["ratio"] < 1
        table.add_row(
            row["way"], str(row["H"]), row["impl"], *cells, f"{row['error']:.0e}", style="red" if lost else ""
        )
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
