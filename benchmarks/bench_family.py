"""What the members of the family cost: the gradient of each variant, sibling, mask and regulariser, against the plain
LSTM of the same shape; and what a rival takes that has the same thing.

    python benchmarks/bench_family.py [--shape T B D H] [--seconds S] [--json FILE]

A ratio of 1 means that it costs nothing; above 1 it costs. Every row is first run once, and must be finite.
"""

import argparse
import json
import os
from functools import partial
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import timing
from rich.console import Console
from rich.table import Table

import lstmjax
from lstmjax import Regularisers, init_gru, init_lstm, init_minlstm, init_rnn, init_slstm

# name: how to draw the params, and the options of the run. "mask" and "lengths" stand for arrays of the shape at hand.
ROWS = {
    "plain": (init_lstm, {}),
    "plain, scan": (init_lstm, dict(backend="scan")),
    "lengths": (init_lstm, dict(lengths=True)),
    "mask with gaps": (init_lstm, dict(mask=True)),
    "mask with gaps, scan": (init_lstm, dict(mask=True, backend="scan")),
    "recurrent dropout": (init_lstm, dict(regularisers=Regularisers(recurrent=0.3))),
    "inputs dropout": (init_lstm, dict(regularisers=Regularisers(inputs=0.3))),
    "DropConnect": (init_lstm, dict(regularisers=Regularisers(weights=0.5))),
    "zoneout": (init_lstm, dict(regularisers=Regularisers(zoneout_h=0.1, zoneout_c=0.1))),
    "remat": (init_lstm, dict(remat=True)),
    "remat, scan": (init_lstm, dict(remat=True, backend="scan")),
    "peepholes": (partial(init_lstm, peephole=True), {}),
    "coupled gates": (partial(init_lstm, coupling="f=1-i"), {}),
    "projection to H/2": (None, {}),
    "layer norm, gates": (partial(init_lstm, layer_norm="gates"), {}),
    "layer norm, inputs+cell": (partial(init_lstm, layer_norm="inputs+cell"), {}),
    "clip of the cell": (partial(init_lstm, clip_cell=3.0), {}),
    "hard sigmoid": (partial(init_lstm, activations=("hard_sigmoid", "tanh", "tanh")), {}),
    "GRU": (init_gru, {}),
    "GRU, reset before": (partial(init_gru, reset="before"), {}),
    "plain RNN": (init_rnn, {}),
    "minLSTM": (init_minlstm, {}),
    "minLSTM, scan": (init_minlstm, dict(backend="scan")),
    "sLSTM": (init_slstm, {}),
}


def ours(draw, options, xs):
    """The gradient of a loss over outputs with respect to the params, and its operands."""
    T, B, _ = xs.shape
    rng = np.random.default_rng(0)
    arrays = {
        "lengths": jnp.asarray(rng.integers(1, T + 1, B), jnp.int32),
        "mask": jnp.asarray(rng.random((T, B)) < 0.8),
    }
    options = {name: arrays.get(name, value) for name, value in options.items()}
    key = jax.random.key(1) if "regularisers" in options else None

    def loss(params, xs):
        _, ys = lstmjax.run(params, xs, key=key, **options)
        return (ys * ys).sum()

    return jax.grad(loss), (draw(jax.random.key(0)), xs)


def keras(hidden, xs, **options):
    """The same of a Keras layer on JAX."""
    import keras

    layer = keras.layers.LSTM(hidden, return_sequences=True, **options)
    rows = xs.swapaxes(0, 1)
    layer.build(rows.shape)
    weights = [v.value for v in layer.trainable_variables]
    others = [v.value for v in layer.non_trainable_variables]

    def loss(weights, rows):
        ys, _ = layer.stateless_call(weights, others, rows, training=True)
        return (ys * ys).sum()

    return jax.grad(loss), (weights, rows)


def main() -> None:
    """Check, time interleaved, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=4, default=(100, 32, 128, 128), metavar=("T", "B", "D", "H"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    T, B, D, H = options.shape
    xs = jax.random.normal(jax.random.key(0), (T, B, D))
    programs = {}
    for name, (draw, given) in ROWS.items():
        draw = partial(draw or partial(init_lstm, projection=max(1, H // 2)), inputs=D, hidden=H)
        programs[name] = ours(draw, given, xs)
    try:
        programs["keras: plain"] = keras(H, xs)
        programs["keras: recurrent_dropout"] = keras(H, xs, recurrent_dropout=0.3)
    except ImportError:
        print("Keras is not installed: its rows are left out")
    calls, inputs = {}, {}
    for name, (function, operands) in programs.items():
        compiled = timing.compile_jax(function, *operands)
        found = jax.tree.leaves(compiled.call(*operands))
        if not all(bool(jnp.isfinite(a).all()) for a in found):
            raise SystemExit(f"{name} gives values that are not finite")
        calls[name], inputs[name] = compiled.call, [operands]
    times = timing.interleave(calls, inputs, options.seconds)
    table, record = Table("gradient", "ms", "times plain", "95 %"), {}
    for name in calls:
        ratio = timing.ratio(times[name], times["plain"])
        record[name] = {"ms": float(np.median(times[name])), "ratio": ratio._asdict()}
        table.add_row(name, f"{record[name]['ms']:.2f}", f"{ratio.median:.2f}", f"{ratio.low:.2f} - {ratio.high:.2f}")
    Console().print(f"T, B, D, H = {T}, {B}, {D}, {H}; float32; jax {jax.__version__}; {timing.cores()} cores")
    Console().print(table)
    if options.json:
        record = {"shape": [T, B, D, H], "jax": jax.__version__, "cores": timing.cores(), "rows": record}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
