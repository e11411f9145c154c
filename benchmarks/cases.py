"""What is run: the shapes, the inputs and weights of each, and the right answer in float64.

B batch, T time, D input, H hidden. Everything here is NumPy and time-major, with gates in the order i, f, g, o;
`rivals.py` takes it from here into each implementation's own form, and its gradients back.
"""

from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """A shape, and what is asked of it."""

    T: int
    B: int
    D: int
    H: int
    variant: str = "plain"

    def __str__(self):
        """Of the form that `parse` reads."""
        shape = f"{self.T},{self.B},{self.D},{self.H}"
        return shape if self.variant == "plain" else f"{shape},{self.variant}"


class Layer(NamedTuple):
    """Weights of one layer in one direction."""

    w_x: Any  # [D, 4H]
    w_h: Any  # [H, 4H]
    b: Any  # [4H]


class State(NamedTuple):
    """State of one layer in one direction."""

    h: Any  # [B, H]
    c: Any  # [B, H]


class Operands(NamedTuple):
    """All that a gradient is taken with respect to; also the form of the gradient."""

    layers: Any  # ((Layer,) or (Layer, Layer) if there are two directions, ...), one for each layer of the stack
    states: Any  # the initial states, in the same containers
    xs: Any  # [T, B, D]


class Outputs(NamedTuple):
    """What a forward run returns."""

    ys: Any  # [T, B, H], or 2H with two directions
    states: Any  # the final states, in the containers of `Operands.states`


class Problem(NamedTuple):
    """A case with numbers in it."""

    operands: Operands  # float32
    weight: Any  # [T, B, H or 2H], of the loss; 0 where a sequence is padded
    lengths: Any  # int32 [B], or None


VARIANTS = ("plain", "bidirectional", "stack2", "lengths")

# One shape of each regime: overhead, a single sequence, and compute with a recurrent matrix that fits the L2, the L3
# and neither. Few and small enough for every implementation to be compiled, checked and timed within 90 s on 2 cores.
_QUICK = {"quick": [(128, 8, 64, 64), (100, 1, 64, 128), (100, 32, 128, 128), (100, 32, 256, 256), (25, 16, 512, 512)]}

# The shapes that other LSTM benchmarks report, and those this library was tuned on. T, B, D, H.
_BOTH = {
    "overhead": [(100, 1, 32, 32), (128, 8, 64, 64)],
    "tuned": [(100, 1, 64, 128), (100, 32, 128, 128), (100, 32, 256, 256), (100, 128, 128, 256)],
    "tuned, wide": [(50, 64, 512, 512), (250, 8, 256, 1024)],
    "Keras": [(128, 32, 128, 128), (256, 64, 256, 256)],
    "Haste": [(50, B, 128, H) for H in (128, 256, 512, 1024) for B in (1, 16, 64, 128)],
    "DeepBench training": [(25, B, H, H) for H in (512, 1024) for B in (16, 64, 128)],
    "DeepBench training, long": [(150, B, 256, 256) for B in (16, 64)],
    "DeepBench inference": [(T, B, H, H) for H in (512, 1536) for B in (1, 4) for T in (25, 50)] + [(150, 1, 256, 256)],
    "variants": [(256, 64, 256, 256, variant) for variant in VARIANTS[1:]],
}
_CPU = {"FlashRNN": [(128, 16, 768, 768)]}
_GPU = {
    "Keras, large": [(256, 64, 512, 256), (512, 32, 1024, 512)],
    "DeepBench training, wide": [(25, B, 2048, 2048) for B in (16, 64, 128)] + [(50, B, 1536, 1536) for B in (8, 32)],
    "FlashRNN, long": [(T, 16, 768, 768) for T in (256, 512, 1024, 2048)],
    "FlashRNN, batch": [(1024, B, 768, 768) for B in (2, 64, 256)],
}
# One size at a time around (100, 32, 128, 128), for pictures of how time and memory grow.
_GROWTH = {
    "T": [(T, 32, 128, 128) for T in (25, 50, 100, 200, 400, 800, 1600)],
    "B": [(100, B, 128, 128) for B in (1, 2, 4, 8, 16, 32, 64, 128, 256)],
    "H": [(100, 32, 128, H) for H in (32, 64, 128, 256, 512, 1024)],
}
GRIDS = {
    grid: [Case(*shape) for shapes in sets.values() for shape in shapes]
    for grid, sets in {"quick": _QUICK, "cpu": _BOTH | _CPU, "gpu": _BOTH | _GPU, "full": _BOTH | _CPU | _GPU}.items()
} | {"growth": list(dict.fromkeys(Case(*shape) for shapes in _GROWTH.values() for shape in shapes))}


def parse(text: str) -> Case:
    """The case that "T,B,D,H" or "T,B,D,H,variant" names, or a ValueError that says what it should be.

    >>> parse("256,64,256,256,lengths")
    Case(T=256, B=64, D=256, H=256, variant='lengths')
    """
    sizes, variant = text.split(",")[:4], text.split(",")[4:] or ["plain"]
    if len(sizes) < 4 or not all(size.isdecimal() and int(size) > 0 for size in sizes) or len(variant) > 1:
        raise ValueError(f"a shape should be T,B,D,H or T,B,D,H,variant in positive ints, got {text!r}")
    if variant[0] not in VARIANTS:
        raise ValueError(f"a variant should be one of {', '.join(VARIANTS)}, got {variant[0]!r}")
    return Case(*map(int, sizes), *variant)


def draw(case: Case, seed: int) -> Problem:
    """Weights that are the same for every seed, inputs and initial states that are not."""
    T, B, D, H, variant = case
    directions, depth = (2 if variant == "bidirectional" else 1), (2 if variant == "stack2" else 1)
    weights, inputs = np.random.default_rng(0), np.random.default_rng([seed, 1])

    def layer(rows):
        b = 0.1 * _normal(weights, 4 * H)
        b[H : 2 * H] += 1  # a forget gate that remembers, so that gradients reach far back
        return Layer(_normal(weights, rows, 4 * H) / rows**0.5, _normal(weights, H, 4 * H) / H**0.5, b)

    def state():
        return State(0.5 * _normal(inputs, B, H), 0.5 * _normal(inputs, B, H))

    layers = tuple(tuple(layer(H if k else D) for _ in range(directions)) for k in range(depth))
    states = tuple(tuple(state() for _ in range(directions)) for _ in range(depth))
    weight = _normal(inputs, T, B, directions * H)
    lengths = None
    if variant == "lengths":
        lengths = inputs.integers(1, T, B, dtype=np.int32, endpoint=True)
        weight = weight * _valid(T, lengths)  # what stands at padded steps is each library's own affair
    return Problem(Operands(layers, states, _normal(inputs, T, B, D)), weight, lengths)


def flops(case: Case, mode: str, lengths: Any) -> float:
    """Floating point operations of the matrix products; training takes three times the forward run."""
    T, B, D, H, variant = case
    steps = T * B if lengths is None else int(lengths.sum())
    forward = 8.0 * steps * H * (D + H)
    forward += {"bidirectional": forward, "stack2": 8.0 * steps * H * 2 * H}.get(variant, 0)
    return forward if mode == "forward" else 3 * forward


def reference(problem: Problem, xp: Any = np) -> tuple[Outputs, Operands]:
    """The outputs, and the gradient of the loss, in float64 by hand: every step written out, forward and back.

    loss = sum(weight * ys) + sum over layers of 0.5 sum(h_T) - 0.25 sum(c_T)

    Args:
      problem: a case with numbers in it.
      xp: NumPy, or jax.numpy where it has float64 (`jax.enable_x64`): the same, on a GPU in seconds for minutes.
    """
    layers, states, xs = _map(lambda array: xp.asarray(array, xp.float64), problem.operands)
    lengths, finals, tapes = problem.lengths, [], []
    for directions, initial in zip(layers, states, strict=True):
        runs = [_forward(xp, *pair, xs, lengths, k) for k, pair in enumerate(zip(directions, initial, strict=True))]
        finals.append(tuple(final for final, _, _ in runs))
        tapes.append([tape for _, _, tape in runs])
        xs = np.concatenate([ys for _, ys, _ in runs], axis=-1)
    dys, d_layers, d_states = problem.weight.astype(np.float64), [], []
    for directions, final, tape in zip(layers[::-1], finals[::-1], tapes[::-1], strict=True):
        d_finals = [State(xp.full_like(s.h, 0.5), xp.full_like(s.c, -0.25)) for s in final]
        parts = np.split(dys, len(directions), axis=-1)
        runs = [_backward(xp, *four) for four in zip(directions, tape, parts, d_finals, strict=True)]
        d_layers.insert(0, tuple(d_layer for d_layer, _, _ in runs))
        d_states.insert(0, tuple(d_state for _, d_state, _ in runs))
        dys = sum(dxs for _, _, dxs in runs)
    return Outputs(xs, tuple(finals)), Operands(tuple(d_layers), tuple(d_states), dys)


def error(got: Any, want: Any, problem: Problem) -> float:
    """The largest difference of any array from the right one, as a share of that array's largest value.

    Outputs at padded steps are left out, since some libraries leave them to be ignored.
    """
    if isinstance(got, Outputs) and problem.lengths is not None:
        got = got._replace(ys=got.ys * _valid(len(got.ys), problem.lengths))
    worst = [
        np.max(np.abs(np.asarray(a, np.float64) - b)) / np.max(np.abs(b))
        for a, b in zip(_leaves(got), _leaves(want), strict=True)
    ]
    return float(np.max(worst))  # a NaN stays one, where Python's max may lose it


def _forward(xp, layer, state, xs, lengths, reverse):
    """The final state, ys in the order of time, and what the backward pass needs of each step."""
    (w_x, w_h, b), (h, c), T = layer, state, len(xs)
    ys, tape = [None] * T, []
    for t in reversed(range(T)) if reverse else range(T):
        valid = np.ones((len(h), 1), bool) if lengths is None else (t < lengths)[:, None]
        i, f, g, o = xp.split(xs[t] @ w_x + h @ w_h + b, 4, axis=-1)
        i, f, g, o = _sigmoid(xp, i), _sigmoid(xp, f), xp.tanh(g), _sigmoid(xp, o)
        c_next = f * c + i * g
        h_next = o * xp.tanh(c_next)
        tape.append((t, valid, xs[t], h, c, i, f, g, o, c_next))
        ys[t] = xp.where(valid, h_next, 0)
        h, c = xp.where(valid, h_next, h), xp.where(valid, c_next, c)
    return State(h, c), _stack(ys), tape


def _backward(xp, layer, tape, dys, d_final):
    """The gradients of the layer, its initial state and its inputs."""
    w_x, w_h, b = layer
    (dh, dc), T = d_final, len(tape)
    dw_x, dw_h, db = xp.zeros_like(w_x), xp.zeros_like(w_h), xp.zeros_like(b)
    dxs = [None] * T
    for t, valid, x, h, c, i, f, g, o, c_next in reversed(tape):
        tanh_c = xp.tanh(c_next)
        dh_next = dys[t] + dh
        dc_next = dc + dh_next * o * (1 - tanh_c**2)
        slopes = (g * i * (1 - i), c * f * (1 - f), i * (1 - g**2))
        dz = [dc_next * slope for slope in slopes] + [dh_next * tanh_c * o * (1 - o)]
        dz = xp.where(valid, xp.concatenate(dz, axis=-1), 0)
        dw_x, dw_h, db = dw_x + x.T @ dz, dw_h + h.T @ dz, db + dz.sum(0)
        dxs[t] = dz @ w_x.T
        dh, dc = xp.where(valid, dz @ w_h.T, dh), xp.where(valid, dc_next * f, dc)
    return Layer(dw_x, dw_h, db), State(dh, dc), _stack(dxs)


def _stack(steps):
    """Arrays on the host: as one operation on a GPU it would have thousands of operands."""
    return np.stack([np.asarray(step) for step in steps])


def _sigmoid(xp, z):
    return 0.5 * xp.tanh(0.5 * z) + 0.5


def _normal(rng, *shape):
    return rng.standard_normal(shape, np.float32)


def _valid(T, lengths):
    """Whether a step is one of its sequence, [T, B, 1]."""
    return (np.arange(T)[:, None] < lengths)[..., None]


def _map(function, tree):
    if not isinstance(tree, tuple):
        return function(tree)
    parts = (_map(function, part) for part in tree)
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def _leaves(tree):
    return [leaf for part in tree for leaf in _leaves(part)] if isinstance(tree, tuple) else [tree]
