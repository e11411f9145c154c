"""The implementations, an entry each: weights into its form and back, and one layer as its own manual runs it.

Each gets the layout it is fastest in. All take and return the state, and all are asked for the gradients of every
weight, of the inputs and of both initial states. Packages are imported by the entry that needs them, so that one that
is not installed is only absent.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from cases import Layer, Operands, Outputs, State
from timing import Compiled, compile_jax, cores

import lstmjax


class Implementation(NamedTuple):
    """An LSTM ready for a case."""

    own: Callable  # Problem -> the operands of `forward` and `train`, in its form and on its device
    forward: Callable  # the outputs and the final state
    train: Callable  # the loss and all gradients
    outputs: Callable  # what `forward` returns -> Outputs of arrays
    gradients: Callable  # what `train` returns -> Operands of arrays
    compile: Callable  # (forward or train, *operands) -> Compiled


class Rival(NamedTuple):
    """How to come by an implementation."""

    packages: tuple[str, ...]  # as imported
    build: Callable  # (case, dtype) -> Implementation
    lacks: Callable = lambda case, dtype: None  # (case, dtype) -> why it has none for these, or None
    dtype: str | None = None  # of its products, whatever that of the others
    asked: bool = False  # whether it runs only where it is named: it compiles for minutes, or is there for one figure


def absence(rival: Rival, case, dtype: str) -> str | None:
    """Why there is nothing to run, or None."""
    missing = [package for package in rival.packages if find_spec(package) is None]
    return f"{', '.join(missing)} not installed" if missing else rival.lacks(case, dtype)


def _lstmjax(case, dtype, backend, split=False, residuals=None):
    def run(layers, states, xs, lengths):
        pair = lstmjax.Bidirectional if case.variant == "bidirectional" else lambda only: only
        params = tuple(pair(*(lstmjax.LSTMParams(*layer) for layer in layers_k)) for layers_k in layers)
        state = tuple(pair(*(lstmjax.LSTMState(*state) for state in states_k)) for states_k in states)
        how = dict(backend=backend, compute_dtype=_compute(dtype), residuals=residuals)
        state, ys = lstmjax.run(params, xs, state, lengths=lengths, **how)
        return Outputs(ys, tuple(each if type(each) is lstmjax.Bidirectional else (each,) for each in state))

    made = _jax(run, own=lambda layer: layer, ours=lambda layer: layer)
    if not split:
        return made

    def own(problem):
        operands, weight, lengths = made.own(problem)
        operands = operands._replace(
            states=lstmjax.split_batch(operands.states), xs=lstmjax.split_batch(operands.xs, axis=1)
        )
        return operands, lstmjax.split_batch(weight, axis=1), lstmjax.split_batch(lengths)

    return made._replace(own=own)


def _persistent_lacks(case, dtype):
    params = jax.eval_shape(lambda: lstmjax.init_lstm(jax.random.key(0), case.D, case.H))
    xs = jax.ShapeDtypeStruct((case.T, case.B, case.D), jnp.float32)
    return lstmjax.reasons(params, xs, compute_dtype=_compute(dtype))["persistent"]


def _lstmjax_devices_lacks(case, dtype):
    devices = jax.local_device_count()
    if devices == 1:
        return "there is one device"
    return f"{devices} devices do not divide a batch of {case.B}" if case.B % devices else None


def _flax_linen(case, dtype):
    from flax import linen as nn

    def own(layer):
        cell = {}
        for gate, w_x, w_h, b in zip("ifgo", *(np.split(array, 4, axis=-1) for array in layer), strict=True):
            cell |= {f"i{gate}": {"kernel": w_x}, f"h{gate}": {"kernel": w_h, "bias": b}}
        return {"params": {"cell": cell}}

    def ours(variables):
        def joined(side, kind):
            return np.concatenate([variables["params"]["cell"][f"{side}{gate}"][kind] for gate in "ifgo"], axis=-1)

        return Layer(joined("i", "kernel"), joined("h", "kernel"), joined("h", "bias"))

    def layer(variables, state, xs, reverse, lengths):
        cell = nn.OptimizedLSTMCell(state.h.shape[-1], dtype=_compute(dtype))
        rnn = nn.RNN(cell, time_major=True, return_carry=True, reverse=reverse, keep_order=True)
        (c, h), ys = rnn.apply(variables, xs, initial_carry=(state.c, state.h), seq_lengths=lengths)
        return State(h, c), ys

    return _jax(_stacked(layer), own, ours)


def _flax_nnx(case, dtype):
    from flax import nnx

    def model(inputs, hidden, reverse):
        cell = nnx.OptimizedLSTMCell(inputs, hidden, dtype=_compute(dtype), rngs=nnx.Rngs(0))
        return nnx.RNN(cell, time_major=True, return_carry=True, reverse=reverse, keep_order=True, rngs=False)

    def own(layer):
        state = nnx.state(nnx.eval_shape(partial(model, len(layer.w_x), len(layer.w_h), reverse=False)))
        state.cell.dense_i.kernel.set_value(layer.w_x)
        state.cell.dense_h.kernel.set_value(layer.w_h)
        state.cell.dense_h.bias.set_value(layer.b)
        return state

    def ours(state):
        return Layer(state.cell.dense_i.kernel[...], state.cell.dense_h.kernel[...], state.cell.dense_h.bias[...])

    def layer(weights, state, xs, reverse, lengths):
        # split and merge, as its manual has it for jax.jit: nnx.jit walks the module in Python at every call.
        graph = nnx.split(nnx.eval_shape(partial(model, xs.shape[-1], state.h.shape[-1], reverse)))[0]
        (c, h), ys = nnx.merge(graph, weights)(xs, initial_carry=(state.c, state.h), seq_lengths=lengths)
        return State(h, c), ys

    return _jax(_stacked(layer), own, ours)


def _equinox(case, dtype):
    import equinox as eqx

    def own(layer):
        sizes = len(layer.w_x), len(layer.w_h)
        cell = eqx.filter_eval_shape(eqx.nn.LSTMCell, *sizes, key=jax.random.key(0))
        return eqx.tree_at(lambda cell: (cell.weight_ih, cell.weight_hh, cell.bias), cell, _transposed(layer))

    def ours(cell):
        return Layer(*_transposed((cell.weight_ih, cell.weight_hh, cell.bias)))

    def layer(cell, state, xs, reverse, lengths):
        def step(carry, x):
            carry = jax.vmap(cell)(x, carry)
            return carry, carry[0]

        carry, ys = jax.lax.scan(step, tuple(state), xs, reverse=reverse)
        return State(*carry), ys

    return _jax(_stacked(layer), own, ours)


def _equinox_lacks(case, dtype):
    if dtype != "float32":
        return "its cell has no compute dtype beside that of the weights"
    return "its cell knows no lengths" if case.variant == "lengths" else None


def _haiku(case, dtype):
    import haiku as hk

    def own(layer):
        # Its gates stand in the order i, g, f, o, and it adds 1 to the forget gate when it runs.
        w = _haiku_order(np.concatenate([layer.w_x, layer.w_h]))
        i, g, f, o = np.split(_haiku_order(layer.b), 4)
        return {"lstm/linear": {"w": w, "b": np.concatenate([i, g, f - 1, o])}}

    def ours(params):
        w, b = (_haiku_order(params["lstm/linear"][name]) for name in "wb")
        D = len(w) - len(b) // 4
        return Layer(w[:D], w[D:], b)

    def layer(params, state, xs, reverse, lengths):
        def unroll(xs, state):
            core = hk.LSTM(state.hidden.shape[-1], name="lstm")
            return hk.dynamic_unroll(core, xs, state, reverse=reverse)

        ys, (h, c) = hk.without_apply_rng(hk.transform(unroll)).apply(params, xs, hk.LSTMState(*state))
        return State(h, c), ys

    return _jax(_stacked(layer), own, ours)


def _jax_rnn(case, dtype):
    from jax.experimental import rnn

    def own(layer):
        w_x, w_h, b = layer
        # [4H, D] and [4H, H], row after row, and two biases, of which the sum counts.
        return np.concatenate([w_x.T.ravel(), w_h.T.ravel(), b, 0 * b])

    H = case.H

    def ours(flat):
        D = len(flat) // (4 * H) - H - 2
        w_x, w_h, b, _ = np.split(np.asarray(flat), np.cumsum([4 * H * D, 4 * H * H, 4 * H]))
        return Layer(w_x.reshape(4 * H, D).T, w_h.reshape(4 * H, H).T, b)

    def layer(flat, state, xs, reverse, lengths):
        B, T, D = xs.shape
        xs = xs[:, ::-1] if reverse else xs
        steps = jnp.full(B, T, jnp.int32) if lengths is None else lengths
        sizes = dict(input_size=D, hidden_size=H, num_layers=1, dropout=0.0, bidirectional=False)
        ys, h, c = rnn.lstm(xs, state.h[None], state.c[None], flat, steps, **sizes)
        return State(h[0], c[0]), (ys[:, ::-1] if reverse else ys)

    return _jax(_stacked(layer), own, ours, batch_major=True)


def _jax_rnn_lacks(case, dtype):
    if jax.default_backend() != "gpu":
        return "jax.experimental.rnn needs an NVIDIA GPU"
    return None if dtype == "float32" else "jax.experimental.rnn is float32 only"


def _haiku_order(w):
    """Gates i, f, g, o in the order i, g, f, o, and back."""
    i, f, g, o = np.split(np.asarray(w), 4, axis=-1)
    return np.concatenate([i, g, f, o], axis=-1)


def _haiku_lacks(case, dtype):
    if dtype != "float32":
        return "its core has no compute dtype beside that of the weights"
    return "its core knows no lengths" if case.variant == "lengths" else None


def _keras(case, dtype):
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    if keras.backend.backend() != "jax":
        raise RuntimeError(f"Keras was imported before this benchmark, on {keras.backend.backend()}")
    policy = "float32" if dtype == "float32" else f"mixed_{dtype}"

    def layer(weights, state, xs, reverse, lengths):
        options = dict(return_sequences=True, return_state=True, go_backwards=reverse, dtype=policy)
        module = keras.layers.LSTM(state.h.shape[-1], **options)
        module.build(xs.shape)
        mask = None if lengths is None else jnp.arange(xs.shape[1]) < lengths[:, None]
        fixed = [variable.value for variable in module.non_trainable_variables]
        (ys, h, c), _ = module.stateless_call(weights, fixed, xs, initial_state=list(state), mask=mask)
        return State(h, c), (ys[:, ::-1] if reverse else ys)  # as keras.layers.Bidirectional turns it round

    # Batch-major is the only layout of its layers, so its inputs and the weight of the loss are made so beforehand.
    return _jax(_stacked(layer), own=list, ours=lambda weights: Layer(*weights), batch_major=True)


def _torch(case, dtype, traced=False):
    import torch

    torch.set_num_threads(cores())
    if traced:  # by default Dynamo leaves torch.nn.LSTM out of its graphs, and the eager kernel runs
        torch._dynamo.config.allow_rnn = True
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    T, _, D, H, variant = case
    depth, bidirectional = (2 if variant == "stack2" else 1), variant == "bidirectional"
    kind = dict(device=device, dtype=getattr(torch, dtype))
    names = [f"l{k}{way}" for k in range(depth) for way in ["", "_reverse"][: 1 + bidirectional]]

    def own(problem):
        (layers, states, xs), weight, lengths = problem
        module = torch.nn.LSTM(D, H, depth, bidirectional=bidirectional, **kind)
        with torch.no_grad():
            for name, layer in zip(names, _flat(layers), strict=True):
                w_x, w_h, b = _transposed(layer)
                parts = {
                    "weight_ih": w_x,
                    "weight_hh": w_h,
                    "bias_ih": b,
                    "bias_hh": 0 * b,
                }  # of two biases the sum counts
                for part, value in parts.items():
                    getattr(module, f"{part}_{name}").copy_(torch.tensor(value))
        module.flatten_parameters()  # one buffer, as cuDNN wants it; else it is put together at every call
        h, c = (np.stack([getattr(state, part) for state in _flat(states)]) for part in "hc")
        xs, h, c = (torch.tensor(array, requires_grad=True, **kind) for array in (xs, h, c))
        return module, xs, h, c, torch.tensor(weight, **kind), None if lengths is None else torch.tensor(lengths)

    def run(module, xs, h, c, lengths):
        if lengths is None:
            return module(xs, (h, c))
        packed = torch.nn.utils.rnn.pack_padded_sequence(xs, lengths, enforce_sorted=False)
        ys, state = module(packed, (h, c))
        return torch.nn.utils.rnn.pad_packed_sequence(ys, total_length=T)[0], state

    def forward(module, xs, h, c, weight, lengths):
        with torch.inference_mode():
            return run(module, xs, h, c, lengths)

    def train(module, xs, h, c, weight, lengths):
        ys, (h_T, c_T) = run(module, xs, h, c, lengths)
        loss = (ys * weight).sum() + 0.5 * h_T.sum() - 0.25 * c_T.sum()
        return loss, torch.autograd.grad(loss, [*module.parameters(), xs, h, c])

    def outputs(result):
        ys, (h, c) = result
        return Outputs(_numpy(ys), _nest(list(map(State, _numpy(h), _numpy(c))), 1 + bidirectional))

    def gradients(result):
        *weights, xs, h, c = map(_numpy, result[1])
        layers = [Layer(*_transposed(weights[k : k + 3])) for k in range(0, len(weights), 4)]
        states = list(map(State, h, c))
        return Operands(_nest(layers, 1 + bidirectional), _nest(states, 1 + bidirectional), xs)

    def uncompiled(function, *operands):
        return Compiled(function, None, _torch_temp(function, operands) if device == "cpu" else None)

    def compiled(function, *operands):
        module, *rest = operands
        start = time.perf_counter()
        # Of the module, not of the gradient: Dynamo does not trace torch.autograd.grad.
        traced = torch.compile(module)

        def call(module, *rest):
            return function(traced, *rest)

        call(module, *rest)
        return Compiled(call, time.perf_counter() - start, None)

    return Implementation(own, forward, train, outputs, gradients, compiled if traced else uncompiled)


def _torch_temp(function, operands):
    """The bytes that a call holds at most beside its operands and results, by every allocation of PyTorch's own; what
    oneDNN takes for itself is not among them."""
    from torch.profiler import ProfilerActivity, profile

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it writes on stderr when it begins and when it ends
    function(*operands)  # what the first call alone takes
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as taken:
        held = function(*operands)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        taken.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    del held  # so that what is left at the end of the trace are the results
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    living = np.cumsum([0, *(size for _, size in changes)])
    return int(living.max() - living[-1])


def _torch_lacks(case, dtype):
    import torch

    if jax.default_backend() == "gpu" and not torch.cuda.is_available():
        return "installed without CUDA"
    return None


def _torch_compile_lacks(case, dtype):
    if case.T > 50 or case.variant == "lengths":
        return "Dynamo unrolls time and packs no lengths: it is run up to T = 50"
    return _torch_lacks(case, dtype)


REFERENCE = "lstmjax"
RIVALS = {
    "lstmjax": Rival(("lstmjax",), partial(_lstmjax, backend=None)),
    "lstmjax-scan": Rival(("lstmjax",), partial(_lstmjax, backend="scan")),
    "lstmjax-fused": Rival(("lstmjax",), partial(_lstmjax, backend="fused")),
    "lstmjax-persistent": Rival(("lstmjax",), partial(_lstmjax, backend="persistent"), _persistent_lacks, asked=True),
    "lstmjax-outputs": Rival(("lstmjax",), partial(_lstmjax, backend="fused", residuals="outputs"), asked=True),
    "lstmjax-bfloat16": Rival(
        ("lstmjax",),
        partial(_lstmjax, backend=None),
        lambda case, dtype: None if dtype == "float32" else "it stands beside float32",
        dtype="bfloat16",
    ),
    "lstmjax-devices": Rival(("lstmjax",), partial(_lstmjax, backend=None, split=True), _lstmjax_devices_lacks),
    "flax-linen": Rival(("flax",), _flax_linen),
    "flax-nnx": Rival(("flax",), _flax_nnx),
    "equinox": Rival(("equinox",), _equinox, _equinox_lacks),
    "haiku": Rival(("haiku",), _haiku, _haiku_lacks),
    "keras": Rival(("keras",), _keras),
    "jax-rnn": Rival(("jax",), _jax_rnn, _jax_rnn_lacks),
    "torch": Rival(("torch",), _torch, _torch_lacks),
    "torch-compile": Rival(("torch",), partial(_torch, traced=True), _torch_compile_lacks, asked=True),
}


def _jax(run, own, ours, batch_major=False):
    """An implementation that XLA compiles.

    Args:
      run: (weights, states, xs, lengths) -> Outputs; weights in its form, in the containers of `Operands.layers`.
      own, ours: the weights of one layer into its form and, of arrays on the host, back.
      batch_major: whether xs and ys are [B, T, ...].
    """
    turn = (lambda array: np.swapaxes(array, 0, 1)) if batch_major else (lambda array: array)

    def operands(problem):
        layers, states, xs = problem.operands
        layers = tuple(tuple(own(layer) for layer in directions) for directions in layers)
        return jax.device_put((Operands(layers, states, turn(xs)), turn(problem.weight), problem.lengths))

    def forward(operands, weight, lengths):
        return run(*operands, lengths)

    def loss(operands, weight, lengths):
        ys, states = run(*operands, lengths)
        ends = sum(0.5 * jnp.sum(state.h) - 0.25 * jnp.sum(state.c) for state in _flat(states))
        return jnp.sum(ys * weight) + ends

    def outputs(result):
        ys, states = jax.device_get(result)
        return Outputs(turn(ys), tuple(tuple(State(*state) for state in directions) for directions in states))

    def gradients(result):
        layers, states, xs = jax.device_get(result[1])
        return Operands(tuple(tuple(ours(layer) for layer in directions) for directions in layers), states, turn(xs))

    return Implementation(operands, forward, jax.value_and_grad(loss), outputs, gradients, compile_jax)


def _stacked(layer):
    """`run` for `_jax` out of one layer in one direction, (weights, state, xs, reverse, lengths) -> (state, ys)."""

    def run(layers, states, xs, lengths):
        finals = []
        for weights, initial in zip(layers, states, strict=True):
            pairs = enumerate(zip(weights, initial, strict=True))
            runs = [layer(weights, state, xs, bool(k), lengths) for k, (weights, state) in pairs]
            finals.append(tuple(state for state, _ in runs))
            xs = runs[0][1] if len(runs) == 1 else jnp.concatenate([ys for _, ys in runs], axis=-1)
        return Outputs(xs, tuple(finals))

    return run


def _compute(dtype):
    """The dtype of the products as an option: None is that of the inputs, which are float32."""
    return None if dtype == "float32" else dtype


def _transposed(arrays):
    return [np.ascontiguousarray(np.transpose(array)) for array in arrays]


def _flat(nested):
    return [each for directions in nested for each in directions]


def _nest(flat, directions):
    """One tuple for each layer of the stack."""
    return tuple(tuple(flat[k : k + directions]) for k in range(0, len(flat), directions))


def _numpy(tensor):
    return tensor.detach().float().cpu().numpy()
