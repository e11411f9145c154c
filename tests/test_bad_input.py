"""What a bad input is answered with: which error, and that the message names the argument and what was expected.

Each row is a call of run, step, trace, init or choose that must be refused. A row about a shape, a dtype, a kind or an
option is refused under tracing too; a row about the values of concrete arrays (`VALUES`) only where they can be seen.
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstmjax
from lstmjax import Bidirectional, GRUState, LSTMParams, LSTMState
from tests.problems import problem

T, B, D, H = 7, 2, 3, 5

# Words from deep inside JAX, which no message of ours may hand on.
FROM_INSIDE = ("carry", "dot_general", "scan got", "scan body", "jaxpr", "broadcast")


class Bad(NamedTuple):
    """A call to refuse."""

    name: str
    call: Any
    args: tuple
    kwargs: dict
    error: type
    words: tuple  # all of them in the message


good = problem("lstm", T, (B,), D, H)
gru = problem("gru", T, (B,), D, H)
params, xs, state = good[:3]
x = xs[0]
key = jax.random.key(0)
no_key = np.zeros(3, np.int32)
upper = params._replace(w_x=np.ones((H, 4 * H), np.float32))
stack, stack_state = (params, upper), (state, state)
pair, pair_state = Bidirectional(params, params), Bidirectional(state, state)


def run(name, error, words, params=params, xs=xs, state=None, **kwargs):
    return Bad(f"run: {name}", lstmjax.run, (params, xs, state), kwargs, error, words)


def step(name, error, words, params=params, state=state, x=x, call=lstmjax.step, **kwargs):
    return Bad(f"{call.__name__}: {name}", call, (params, state, x), kwargs, error, words)


def init(name, error, words, key=key, inputs=D, hidden=H, call=lstmjax.init_lstm, **kwargs):
    return Bad(
        f"{call.__name__}: {name}", call, (), dict(key=key, inputs=inputs, hidden=hidden, **kwargs), error, words
    )


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


INPUTS = [
    run("features of another count", ValueError, ("4 features", "w_x", "expects 3"), xs=ones(T, B, 4)),
    run("rank 1", ValueError, ("xs", "[T, *batch, D]", "(7,)"), xs=ones(T)),
    run("rank 0", ValueError, ("xs", "[T, *batch, D]", "()"), xs=np.float32(1)),
    run("ints", TypeError, ("xs", "floats", "int32[7,2,3]"), xs=ones(T, B, D, dtype=np.int32)),
    run("bools", TypeError, ("xs", "floats", "bool[7,2,3]"), xs=ones(T, B, D, dtype=bool)),
    run("complex", TypeError, ("xs", "floats", "complex64[7,2,3]"), xs=ones(T, B, D, dtype=np.complex64)),
    run("None", TypeError, ("xs", "NoneType"), xs=None),
    run("a list", TypeError, ("xs", "list"), xs=[[[1.0, 2.0, 3.0]]]),
    run("a string", TypeError, ("xs", "str"), xs="words"),
    run("a float", TypeError, ("xs", "float"), xs=1.0),
    run("a second layer of another width", ValueError, ("params[1]", "5 features"), params=(params, params)),
    run("a pair's outputs are twice as wide", ValueError, ("params[1]", "10 features"), params=(pair, upper)),
]

LENGTHS = [
    run("lengths of another count", ValueError, ("lengths", "(2,)", "(3,)"), lengths=np.array([1, 2, 3])),
    run("lengths of rank 2", ValueError, ("lengths", "(2,)", "(2, 1)"), lengths=np.array([[1], [2]])),
    run("one length for a batch", ValueError, ("lengths", "(2,)", "()"), lengths=3),
    run("float lengths", TypeError, ("lengths", "ints", "float32[2]"), lengths=np.array([1, 2], np.float32)),
    run("bool lengths", TypeError, ("lengths", "ints", "bool[2]"), lengths=np.array([True, False])),
    run("a mask for lengths", TypeError, ("lengths", "ints", "bool[7,2]"), lengths=ones(T, B, dtype=bool)),
    run("lengths as a string", TypeError, ("lengths", "ints", "str"), lengths="77"),
    run("lengths of floats in a list", TypeError, ("lengths", "ints"), lengths=[1.0, 2.0]),
    run("lengths of a ragged list", TypeError, ("lengths", "ints"), lengths=[[1], [1, 2]]),
    run("True for lengths", TypeError, ("lengths", "ints"), lengths=True),
    run("reset of ints", TypeError, ("reset", "bools", "int32[7,2]"), reset=ones(T, B, dtype=np.int32)),
    run(
        "reset of another shape", ValueError, ("reset", "[T, *batch]", "(7, 2)", "(2, 7)"), reset=ones(B, T, dtype=bool)
    ),
    run("reset as a list", TypeError, ("reset", "bools", "list"), reset=[True] * T),
]

VALUES = [
    run("a length above T", ValueError, ("lengths", "T = 7", "8"), lengths=np.array([3, 8])),
    run("a negative length", ValueError, ("lengths", "T = 7", "-1"), lengths=np.array([3, -1])),
    run("a length in a list above T", ValueError, ("lengths", "T = 7", "8"), lengths=[3, 8]),
    run("a length on the device above T", ValueError, ("lengths", "T = 7", "8"), lengths=jnp.array([3, 8])),
    run("the length of one sequence above T", ValueError, ("lengths", "T = 7", "9"), xs=xs[:, 0], lengths=9),
]

STATES = [
    run("h for another batch", ValueError, ("state.h", "(2, 5)", "(3, 5)"), state=LSTMState(ones(3, H), ones(B, H))),
    run("c for another batch", ValueError, ("state.c", "(2, 5)", "(3, 5)"), state=LSTMState(ones(B, H), ones(3, H))),
    run("a state of one row", ValueError, ("state.h", "(2, 5)", "(1, 5)"), state=LSTMState(ones(1, H), ones(1, H))),
    run("a state without batch", ValueError, ("state.h", "(2, 5)", "(5,)"), state=LSTMState(ones(H), ones(H))),
    run("a state with time", ValueError, ("state.h", "(2, 5)"), state=LSTMState(ones(1, B, H), ones(1, B, H))),
    run(
        "a state of ints", TypeError, ("state.c", "int32[2,5]"), state=LSTMState(ones(B, H), ones(B, H, dtype=np.int32))
    ),
    run("a state of one array", TypeError, ("state", "LSTMState(h, c)", "float32[2,5]"), state=ones(B, H)),
    run("a bare pair of arrays", TypeError, ("state", "LSTMState(h, c)", "tuple"), state=(ones(B, H), ones(B, H))),
    run("a list", TypeError, ("state", "LSTMState(h, c)", "list"), state=[ones(B, H), ones(B, H)]),
    run("another cell's state", TypeError, ("state", "LSTMState(h, c)", "GRUState"), state=GRUState(ones(B, H))),
    run("half a state", TypeError, ("state.c", "NoneType"), state=LSTMState(ones(B, H), None)),
    run("one state for two layers", TypeError, ("state", "tuple of 2", "LSTMState"), params=stack, state=state),
    run("three states for two layers", TypeError, ("state", "tuple of 2", "3"), params=stack, state=(state,) * 3),
    run(
        "a tuple for a pair", TypeError, ("state", "Bidirectional(forward, backward)"), params=pair, state=(state,) * 2
    ),
    run("a pair for two layers", TypeError, ("state", "tuple of 2"), params=stack, state=pair_state),
    run(
        "a layer's state by its path",
        ValueError,
        ("state[1].c", "(2, 5)", "(2, 4)"),
        params=stack,
        state=(state, LSTMState(ones(B, H), ones(B, 4))),
    ),
    run(
        "a direction's state by its path",
        ValueError,
        ("state.backward.h", "(2, 5)"),
        params=pair,
        state=Bidirectional(state, LSTMState(ones(B, 4), ones(B, 4))),
    ),
]

PARAMS = [
    run("None", TypeError, ("params", "LSTMParams", "NoneType"), params=None),
    run("a dict", TypeError, ("params", "LSTMParams", "dict"), params=params._asdict()),
    run("a list of layers", TypeError, ("params", "tuple", "list"), params=[params, upper]),
    run("an empty stack", ValueError, ("params", "at least one layer"), params=()),
    run("no weights for x", TypeError, ("params.w_x", "NoneType"), params=params._replace(w_x=None)),
    run("weights as lists", TypeError, ("params.w_h", "list"), params=params._replace(w_h=[[1.0]])),
    run("integer weights", TypeError, ("params.b", "int32"), params=params._replace(b=ones(20, dtype=np.int32))),
    run("w_h not H by 4H", ValueError, ("params.w_h", "[H, 4H]", "(5, 15)"), params=params._replace(w_h=ones(5, 15))),
    run("H of 0", ValueError, ("params.w_h", "[H, 4H]"), params=LSTMParams(ones(D, 0), ones(0, 0), ones(0))),
    run(
        "w_x of other columns",
        ValueError,
        ("params.w_x", "[D, 20]", "(3, 16)"),
        params=params._replace(w_x=ones(D, 16)),
    ),
    run("w_x transposed", ValueError, ("params.w_x", "[D, 20]", "(20, 3)"), params=params._replace(w_x=params.w_x.T)),
    run("D of 0", ValueError, ("params.w_x", "[D, 20]"), params=params._replace(w_x=ones(0, 20)), xs=ones(T, B, 0)),
    run("b of another size", ValueError, ("params.b", "(20,)", "(19,)"), params=params._replace(b=ones(19))),
    run("two rows of bias", ValueError, ("params.b", "(20,)", "(2, 20)"), params=params._replace(b=ones(2, 20))),
    run("b_n of another size", ValueError, ("params.b_n", "(5,)", "(15,)"), params=gru.params._replace(b_n=ones(15))),
    run(
        "a stack of models",
        ValueError,
        ("params.w_h", "(4, 5, 20)"),
        params=jax.tree.map(lambda w: np.stack([w] * 4), params),
    ),
    run(
        "mixed dtypes",
        TypeError,
        ("params", "one dtype", "float16"),
        params=params._replace(w_h=params.w_h.astype(np.float16)),
    ),
    run(
        "a layer by its path",
        ValueError,
        ("params[1].w_h", "(5, 19)"),
        params=(params, upper._replace(w_h=ones(5, 19))),
    ),
    run(
        "a direction by its path",
        ValueError,
        ("params.backward.b",),
        params=pair._replace(backward=params._replace(b=ones(3))),
    ),
    run("a pair without its half", TypeError, ("params", "NoneType"), params=Bidirectional(params, None)),
]

OPTIONS = [
    run("reverse as int", TypeError, ("reverse", "True or False", "int 1"), reverse=1),
    run("reverse as string", TypeError, ("reverse", "True or False", "'yes'"), reverse="yes"),
    run("reverse as None", TypeError, ("reverse", "True or False"), reverse=None),
    run("reverse of a pair", ValueError, ("reverse", "Bidirectional"), params=pair, reverse=True),
    run("reverse of a pair in a stack", ValueError, ("reverse", "Bidirectional"), params=(pair,), reverse=True),
    run("backend unknown", ValueError, ("backend", "'scan'", "'fused'", "'cuda'"), backend="cuda"),
    run("backend a number", ValueError, ("backend", "'scan'", "3"), backend=3),
    run("fused for a GRU", ValueError, ('backend="fused"', "GRUParams"), params=gru.params, backend="fused"),
    run("residuals for scan", ValueError, ('backend="scan"', "residuals"), backend="scan", residuals="gates"),
    run("chunk for scan", ValueError, ('backend="scan"', "chunk"), backend="scan", chunk=3),
    run("residuals for a GRU", ValueError, ("residuals",), params=gru.params, residuals="gates"),
    run("residuals unknown", ValueError, ("residuals", "'gates'", "'outputs'", "'all'"), residuals="all"),
    run("chunk of 0", ValueError, ("chunk", "at least 1", "0"), chunk=0),
    run("chunk of 2.5", TypeError, ("chunk", "int", "2.5"), chunk=2.5),
    run("chunk True", TypeError, ("chunk", "int", "True"), chunk=True),
    run("compute_dtype of ints", TypeError, ("compute_dtype", "int8"), compute_dtype="int8"),
    run("compute_dtype unknown", TypeError, ("compute_dtype", "'float33'"), compute_dtype="float33"),
    run(
        "compute_dtype float64 without 64 bits", TypeError, ("compute_dtype", "jax_enable_x64"), compute_dtype="float64"
    ),
    run("compute_dtype complex", TypeError, ("compute_dtype", "complex64"), compute_dtype="complex64"),
    run("precision unknown", ValueError, ("recision", "highest", "best"), precision="best"),
]

STEPS = [
    step("features of another count", ValueError, ("4 features", "w_x", "3"), x=ones(B, 4)),
    step("x of rank 0", ValueError, ("x", "[*batch, D]"), x=np.float32(1)),
    step("x with time", ValueError, ("state.h", "(7, 2, 5)", "(2, 5)"), x=xs),
    step("x of ints", TypeError, ("x", "floats", "int32"), x=ones(B, D, dtype=np.int32)),
    step("x a list", TypeError, ("x", "floats", "list"), x=[1.0, 2.0, 3.0]),
    step("no state", TypeError, ("state", "LSTMState(h, c)", "NoneType"), state=None),
    step(
        "state of another batch", ValueError, ("state.h", "(2, 5)", "(3, 5)"), state=LSTMState(ones(3, H), ones(3, H))
    ),
    step("a pair of directions", ValueError, ("params", "Bidirectional", "run"), params=pair, state=pair_state),
    step("a pair within a stack", ValueError, ("params[0]", "Bidirectional"), params=(pair,), state=(pair_state,)),
    step("an empty stack", ValueError, ("params", "at least one layer"), params=(), state=()),
    step("one state for two layers", TypeError, ("state", "tuple of 2"), params=stack),
    step(
        "a layer's state by its path",
        ValueError,
        ("state[1].h",),
        params=stack,
        state=(state, LSTMState(ones(1, H), ones(1, H))),
    ),
    step("no states for two layers", TypeError, ("state",), params=stack, state=None),
    step("compute_dtype of ints", TypeError, ("compute_dtype", "int8"), compute_dtype="int8"),
]

of_cells = [
    (lstmjax.lstm_step, params, state, gru.params),
    (lstmjax.lstm_gates, params, state, gru.params),
    (lstmjax.gru_step, gru.params, gru.state, params),
    (lstmjax.gru_gates, gru.params, gru.state, params),
    (lstmjax.rnn_step, *problem("rnn", T, (B,), D, H)[::2][:2], params),
]
for call, own, own_state, other in of_cells:
    here = functools.partial(step, call=call, params=own, state=own_state)
    STEPS += [
        here(
            "another cell's params", TypeError, (call.__name__, type(own).__name__, type(other).__name__), params=other
        ),
        here("a stack", TypeError, (call.__name__, type(own).__name__, "tuple"), params=(own,)),
        here("features of another count", ValueError, ("x", "D = 3", "(2, 4)"), x=ones(B, 4)),
        here("x of bools", TypeError, ("x", "floats", "bool[2,3]"), x=ones(B, D, dtype=bool)),
        here("a bare array as state", TypeError, ("state", type(own_state).__name__), state=ones(B, H)),
        here("h of another batch", ValueError, ("state.h", "(2, 5)", "(1, 5)"), state=own_state._replace(h=ones(1, H))),
        here("b of another size", ValueError, ("params.b", "(3,)"), params=own._replace(b=ones(3))),
    ]

INITS = []
for call in (lstmjax.init_lstm, lstmjax.init_gru, lstmjax.init_rnn):
    here = functools.partial(init, call=call)
    for size in ("inputs", "hidden"):
        INITS += [
            here(f"{size} 0", ValueError, (size, "at least 1", "0"), **{size: 0}),
            here(f"{size} negative", ValueError, (size, "at least 1", "-4"), **{size: -4}),
            here(f"{size} 2.5", TypeError, (size, "int", "2.5"), **{size: 2.5}),
            here(f"{size} '4'", TypeError, (size, "int", "'4'"), **{size: "4"}),
            here(f"{size} True", TypeError, (size, "int", "True"), **{size: True}),
            here(f"{size} None", TypeError, (size, "int", "NoneType"), **{size: None}),
        ]
    INITS += [
        here("a seed for a key", TypeError, ("key", "jax.random.key", "int 0"), key=0),
        here("an array that is no key", TypeError, ("key", "jax.random.key", "int32[3]"), key=no_key),
        here("many keys", ValueError, ("key", "one PRNG key", "(2,)"), key=jax.random.split(key)),
        here("init unknown", ValueError, ("init", "'glorot'", "'keras'", "'torch'", "'he'"), init="he"),
        here("dtype of ints", TypeError, ("dtype", "int32"), dtype="int32"),
        here("dtype unknown", TypeError, ("dtype", "'float33'"), dtype="float33"),
        here("dtype float64 without 64 bits", TypeError, ("dtype", "float64", "jax_enable_x64"), dtype="float64"),
        here("bias an int", TypeError, ("bias", "True or False"), bias=1),
    ]
INITS += [
    init("forget_bias a string", TypeError, ("forget_bias", "str"), forget_bias="one"),
    init("forget_bias None", TypeError, ("forget_bias", "NoneType"), forget_bias=None),
    Bad("init_state: no params", lstmjax.init_state, (None,), {}, TypeError, ("params", "NoneType")),
    Bad("init_state: a dict", lstmjax.init_state, (params._asdict(),), {}, TypeError, ("params", "dict")),
    Bad("init_state: batch negative", lstmjax.init_state, (params,), dict(batch=-1), ValueError, ("batch", "-1")),
    Bad("init_state: batch 2.5", lstmjax.init_state, (params,), dict(batch=2.5), TypeError, ("batch", "2.5")),
    Bad("init_state: batch '4'", lstmjax.init_state, (params,), dict(batch="4"), TypeError, ("batch", "'4'")),
    Bad("init_state: batch of floats", lstmjax.init_state, (params,), dict(batch=(2.0,)), TypeError, ("batch", "2.0")),
    Bad("init_state: dtype of ints", lstmjax.init_state, (params,), dict(dtype="int32"), TypeError, ("dtype", "int32")),
]

TRACES = [
    Bad("trace: rank 1", lstmjax.trace, (params, ones(T)), {}, ValueError, ("xs", "[T, *batch, D]")),
    Bad("trace: a dict", lstmjax.trace, (params._asdict(), xs), {}, TypeError, ("params", "dict")),
    Bad(
        "trace: reverse of a pair",
        lstmjax.trace,
        (pair, xs),
        dict(reverse=True),
        ValueError,
        ("reverse", "Bidirectional"),
    ),
    Bad(
        "trace: h of another batch",
        lstmjax.trace,
        (params, xs, LSTMState(ones(3, H), ones(3, H))),
        {},
        ValueError,
        ("state.h",),
    ),
    Bad(
        "trace: lengths of another count",
        lstmjax.trace,
        (params, xs),
        dict(lengths=np.array([1])),
        ValueError,
        ("lengths",),
    ),
    Bad(
        "choose: backend unknown", lstmjax.choose, (params, xs), dict(backend="cuda"), ValueError, ("backend", "'cuda'")
    ),
    Bad("choose: fused for a GRU", lstmjax.choose, (gru.params, xs), dict(backend="fused"), ValueError, ("GRUParams",)),
    Bad("choose: no params", lstmjax.choose, (None, xs), {}, TypeError, ("params", "NoneType")),
]

STATIC = INPUTS + LENGTHS + STATES + PARAMS + OPTIONS + STEPS + INITS + TRACES


def refused(bad, call):
    with pytest.raises(bad.error) as caught:
        call()
    # Exactly this kind: a ShapeError, say, that happens to be a ValueError comes from elsewhere.
    assert type(caught.value) is bad.error
    message = str(caught.value)
    for word in bad.words:
        assert word in message
    for word in FROM_INSIDE:
        assert word not in message.lower()


@pytest.mark.parametrize("bad", STATIC + VALUES, ids=lambda bad: bad.name)
def test_refused(bad):
    refused(bad, lambda: bad.call(*bad.args, **bad.kwargs))


@pytest.mark.parametrize("bad", STATIC, ids=lambda bad: bad.name)
def test_refused_under_tracing(bad):
    """With every array a tracer: in `eval_shape` and in `jit`."""
    leaves, tree = jax.tree.flatten((bad.args, bad.kwargs))
    traced = [n for n, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray | np.generic)]

    def call(arrays):
        filled = leaves.copy()
        for n, array in zip(traced, arrays, strict=True):
            filled[n] = array
        args, kwargs = jax.tree.unflatten(tree, filled)
        bad.call(*args, **kwargs)

    arrays = [leaves[n] for n in traced]
    refused(bad, lambda: jax.eval_shape(call, arrays))
    refused(bad, lambda: jax.jit(call)(arrays))


def test_a_state_that_cannot_be_held_is_refused(x64):
    """float64 is not squeezed into the float32 state of float32 inputs; with float64 inputs it is right."""
    wide = jax.tree.map(np.float64, state)
    call = functools.partial(lstmjax.run, params, xs, wide)
    bad = run("wide", TypeError, ("state.h", "float64", "float32"))
    refused(bad, call)
    refused(bad, lambda: jax.eval_shape(call))
    refused(bad, lambda: lstmjax.step(params, wide, x))
    final, _ = lstmjax.run(params, xs.astype(np.float64), wide)
    assert final.h.dtype == np.float64


def test_float64_inputs_are_float32_where_64_bits_are_off():
    """JAX's own rule, and no error: NumPy makes float64 without being asked."""
    got = lstmjax.run(params, xs.astype(np.float64), jax.tree.map(np.float64, state))
    chex.assert_trees_all_equal(got, lstmjax.run(params, xs, state))


def test_a_narrower_state_is_widened():
    narrow = jax.tree.map(lambda s: s.astype(np.float16), state)
    want = lstmjax.run(params, xs, jax.tree.map(lambda s: s.astype(np.float32), narrow))
    chex.assert_trees_all_equal(lstmjax.run(params, xs, narrow), want)


def test_a_nan_weight_is_data():
    """Values of weights are not looked at: a NaN goes through, as the trainer's own check expects."""
    _, ys = lstmjax.run(params._replace(b=params.b * np.nan), xs)
    assert np.isnan(ys).all()
