"""What a bad input is answered with: which error, and that the message names the argument and what was expected.

Each row is a call that must be refused. A row about a shape, a dtype, a kind or an option is refused under tracing too;
a row about the values of arrays (`VALUES`) where they can be seen, or by `checkify`.
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstmjax
from lstmjax import (
    Bidirectional,
    GRUForm,
    GRUState,
    LayerNorm,
    LSTMForm,
    LSTMParams,
    LSTMState,
    MinLSTMForm,
    MinLSTMParams,
    MinLSTMState,
    Norm,
    Regularisers,
    RNNForm,
    SLSTMForm,
    SLSTMParams,
    SLSTMState,
    layers,
    losses,
)
from tests.problems import problem

T, B, D, H = 7, 2, 3, 5

# Words from deep inside JAX, which no message of ours may hand on.
FROM_INSIDE = ("carry", "dot_general", "scan got", "scan body", "jaxpr", "broadcast", "tracer", "truth value")


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


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


P = 2  # features of a projected output
rnn = problem("rnn", T, (B,), D, H).params
projected = LSTMParams(ones(D, 4 * H), ones(P, 4 * H), ones(4 * H), projection=ones(H, P), projection_b=ones(P))
projected_state = LSTMState(ones(B, P), ones(B, H))
coupled = LSTMParams(ones(D, 3 * H), ones(H, 3 * H), ones(3 * H), form=LSTMForm(coupling="f=1-i"))
normed = params._replace(norm=LayerNorm(gates=Norm(ones(4 * H), ones(4 * H)), cell=Norm(ones(H))))
minlstm = MinLSTMParams(ones(D, 3 * H), ones(3 * H))
slstm = SLSTMParams(ones(D, 4 * 6), ones(2, 3, 12), ones(4 * 6))  # two heads of three units
slstm_state = SLSTMState(*(ones(B, 6),) * 4)


def run(name, error, words, params=params, xs=xs, state=None, **kwargs):
    return Bad(f"run: {name}", lstmjax.run, (params, xs, state), kwargs, error, words)


def step(name, error, words, params=params, state=state, x=x, call=lstmjax.step, **kwargs):
    return Bad(f"{call.__name__}: {name}", call, (params, state, x), kwargs, error, words)


def init(name, error, words, key=key, inputs=D, hidden=H, call=lstmjax.init_lstm, **kwargs):
    return Bad(
        f"{call.__name__}: {name}", call, (), dict(key=key, inputs=inputs, hidden=hidden, **kwargs), error, words
    )


def made(name, error, words, call, **kwargs):
    """A row about any other function of keywords."""
    shown = call.func if isinstance(call, functools.partial) else call
    return Bad(f"{shown.__name__}: {name}", call, (), kwargs, error, words)


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
    run("floats of 8 bits", TypeError, ("xs", "float8_e4m3fn[7,2,3]"), xs=ones(T, B, D, dtype=jnp.float8_e4m3fn)),
    run("a shape", TypeError, ("xs", "floats", "ShapeDtypeStruct"), xs=jax.ShapeDtypeStruct((T, B, D), np.float32)),
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
    run(
        "a shape for lengths",
        TypeError,
        ("lengths", "ints", "ShapeDtypeStruct"),
        lengths=jax.ShapeDtypeStruct((B,), np.int32),
    ),
    run("reset of ints", TypeError, ("reset", "bools", "int32[7,2]"), reset=ones(T, B, dtype=np.int32)),
    run(
        "reset of another shape", ValueError, ("reset", "[T, *batch]", "(7, 2)", "(2, 7)"), reset=ones(B, T, dtype=bool)
    ),
    run("reset as a list", TypeError, ("reset", "bools", "list"), reset=[True] * T),
]

MASKS = [
    run(
        "mask and lengths",
        ValueError,
        ("mask", "lengths", "one of them"),
        mask=ones(T, B, dtype=bool),
        lengths=np.array([7, 7]),
    ),
    run("a mask of ints", TypeError, ("mask", "bools", "int32[7,2]"), mask=ones(T, B, dtype=np.int32)),
    run("a mask of floats", TypeError, ("mask", "bools", "float32[7,2]"), mask=ones(T, B)),
    run("lengths for a mask", TypeError, ("mask", "bools", "int32[2]"), mask=np.array([3, 4], np.int32)),
    run("a mask as a list", TypeError, ("mask", "bools", "list"), mask=[[True] * B] * T),
    run("a mask as a string", TypeError, ("mask", "bools", "str"), mask="1101"),
    run("True for a mask", TypeError, ("mask", "bools", "True"), mask=True),
    run("a mask [B, T]", ValueError, ("mask", "[T, *batch]", "(7, 2)", "(2, 7)"), mask=ones(B, T, dtype=bool)),
    run("a mask without batch", ValueError, ("mask", "(7, 2)", "(7,)"), mask=ones(T, dtype=bool)),
    run("a mask without time", ValueError, ("mask", "(7, 2)", "(2,)"), mask=ones(B, dtype=bool)),
    run("a mask a step short", ValueError, ("mask", "(7, 2)", "(6, 2)"), mask=ones(T - 1, B, dtype=bool)),
    run("a mask of features", ValueError, ("mask", "(7, 2)", "(7, 2, 3)"), mask=ones(T, B, D, dtype=bool)),
    run("padding unknown", ValueError, ("padding", "'zero'", "'hold'", "'keep'"), padding="keep"),
    run("padding None", ValueError, ("padding", "'zero'", "'hold'"), padding=None),
    run("padding a number", ValueError, ("padding", "'zero'", "'hold'", "0"), padding=0),
    run("padding an array", ValueError, ("padding", "'zero'", "'hold'", "float32[2]"), padding=ones(2)),
]

VALUES = [
    run("a length above T", ValueError, ("lengths", "T = 7", "8"), lengths=np.array([3, 8])),
    run("a negative length", ValueError, ("lengths", "T = 7", "-1"), lengths=np.array([3, -1])),
    run("a length on the device above T", ValueError, ("lengths", "T = 7", "8"), lengths=jnp.array([3, 8])),
    run(
        "a rate in an array",
        ValueError,
        ("regularisers.inputs", "[0, 1)", "1.5"),
        regularisers=Regularisers(inputs=np.float32(1.5)),
    ),
    run(
        "a rate on the device",
        ValueError,
        ("regularisers.zoneout_h", "[0, 1)", "-0.5"),
        regularisers=Regularisers(zoneout_h=jnp.float32(-0.5)),
    ),
    made(
        "a length above T",
        ValueError,
        ("lengths", "T = 7"),
        lstmjax.trace,
        params=params,
        xs=xs,
        lengths=np.array([3, 8]),
    ),
    made("an id of V", ValueError, ("ids", "[0, 4)", "4"), layers.embed, table=ones(4, 2), ids=np.array([0, 4])),
    made("an id of -1", ValueError, ("ids", "[0, 4)", "-1"), layers.embed, table=ones(4, 2), ids=np.array([0, -1])),
    made(
        "a label of K",
        ValueError,
        ("labels", "[0, 2)", "2"),
        losses.cross_entropy,
        logits=ones(4, 2),
        labels=np.array([0, 2, 0, 0]),
    ),
    made(
        "a label of -1",
        ValueError,
        ("labels", "[0, 2)", "-1"),
        losses.cross_entropy,
        logits=ones(4, 2),
        labels=np.array([0, -1, 0, 0]),
    ),
]

# What is no array, or none that JAX would let into a trace.
UNTRACED = [
    run("objects", TypeError, ("xs", "floats", "object[7,2,3]"), xs=np.full((T, B, D), None)),
    run("a masked array", TypeError, ("xs", "floats", "MaskedArray"), xs=np.ma.ones((T, B, D), np.float32)),
    run("a length in a list above T", ValueError, ("lengths", "T = 7", "8"), lengths=[3, 8]),
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

STATES += [
    run(
        "h as wide as c where it is projected",
        ValueError,
        ("state.h", "(2, 2)", "(2, 5)"),
        params=projected,
        state=state,
    ),
    run(
        "h and c swapped",
        ValueError,
        ("state.h", "(2, 2)", "(2, 5)"),
        params=projected,
        state=LSTMState(projected_state.c, projected_state.h),
    ),
    run(
        "c as narrow as h",
        ValueError,
        ("state.c", "(2, 5)", "(2, 2)"),
        params=projected,
        state=LSTMState(ones(B, P), ones(B, P)),
    ),
    run(
        "a GRU's state for a minLSTM",
        TypeError,
        ("state", "MinLSTMState(h)", "GRUState"),
        params=minlstm,
        state=GRUState(ones(B, H)),
    ),
    run(
        "an LSTM's state for an sLSTM",
        TypeError,
        ("state", "SLSTMState(h, c, n, m)", "LSTMState"),
        params=slstm,
        state=LSTMState(ones(B, 6), ones(B, 6)),
    ),
    run(
        "a stabiliser for another batch",
        ValueError,
        ("state.m", "(2, 6)", "(1, 6)"),
        params=slstm,
        state=slstm_state._replace(m=ones(1, 6)),
    ),
    run(
        "no normaliser",
        TypeError,
        ("state.n", "NoneType"),
        params=slstm,
        state=slstm_state._replace(n=None),
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


def variant(name, error, words, layer=params, **fields):
    """A row about one field of a layer's params."""
    return run(name, error, words, params=layer._replace(**fields))


PARAMS += [
    variant("a peephole of 4H", ValueError, ("params.peephole", "(15,)", "(20,)"), peephole=ones(20)),
    variant("a peephole by gate", ValueError, ("params.peephole", "(15,)", "(3, 5)"), peephole=ones(3, 5)),
    variant("a peephole of 3H, coupled", ValueError, ("params.peephole", "(10,)", "(15,)"), coupled, peephole=ones(15)),
    variant("a peephole of ints", TypeError, ("params.peephole", "int32"), peephole=ones(15, dtype=np.int32)),
    variant("True for a peephole", TypeError, ("params.peephole", "True"), peephole=True),
    variant(
        "a peephole of another dtype", TypeError, ("one dtype", "peephole float16"), peephole=ones(15, dtype=np.float16)
    ),
    variant("4H columns, coupled", ValueError, ("params.w_h", "3H", "'i=1-f'", "(5, 20)"), form=LSTMForm("i=1-f")),
    variant("3H columns, not coupled", ValueError, ("params.w_h", "coupling", "(5, 15)"), coupled, form=None),
    variant("b of 4H, coupled", ValueError, ("params.b", "(15,)", "(20,)"), coupled, b=ones(20)),
    variant("fewer rows than H, no projection", ValueError, ("params.w_h", "projection"), projected, projection=None),
    variant("a projection [P, H]", ValueError, ("params.projection", "(5, 2)"), projected, projection=ones(P, H)),
    variant("a wider projection", ValueError, ("params.projection", "(5, 2)"), projected, projection=ones(H, 3)),
    variant("a projection of rank 1", ValueError, ("params.projection", "(5, 2)"), projected, projection=ones(H)),
    variant("a size for a projection", TypeError, ("params.projection", "int 2"), projected, projection=2),
    variant("a bias of H", ValueError, ("params.projection_b", "(2,)", "(5,)"), projected, projection_b=ones(H)),
    variant("a bias of no projection", ValueError, ("params.projection_b", "projection is None"), projection_b=ones(H)),
    variant(
        "a bound of no projection",
        ValueError,
        ("params.form.clip_projection", "projection is None"),
        form=LSTMForm(clip_projection=1.0),
    ),
    variant("norm an array", TypeError, ("params.norm", "LayerNorm", "float32[20]"), norm=ones(20)),
    variant("norm a name", TypeError, ("params.norm", "LayerNorm", "'gates'"), norm="gates"),
    variant("norm a dict", TypeError, ("params.norm", "LayerNorm", "dict"), norm={"gates": Norm(ones(20))}),
    variant("norm of nothing", ValueError, ("params.norm", "LayerNorm"), norm=LayerNorm()),
    variant("a scale alone", TypeError, ("params.norm", "LayerNorm", "Norm"), norm=Norm(ones(20))),
    variant("an array for gates", TypeError, ("params.norm.gates", "Norm(scale, shift)"), norm=LayerNorm(ones(20))),
    variant("no scale", TypeError, ("params.norm.cell.scale", "NoneType"), norm=LayerNorm(cell=Norm(None, ones(5)))),
    variant(
        "a scale of H for the gates",
        ValueError,
        ("params.norm.gates.scale", "(20,)", "(5,)"),
        norm=LayerNorm(gates=Norm(ones(5))),
    ),
    variant(
        "a shift of another size",
        ValueError,
        ("params.norm.x.shift", "(20,)", "(19,)"),
        norm=LayerNorm(x=Norm(ones(20), ones(19))),
    ),
    variant(
        "a scale of 4H for the cell",
        ValueError,
        ("params.norm.cell.scale", "(5,)", "(20,)"),
        norm=LayerNorm(cell=Norm(ones(20))),
    ),
    variant(
        "a scale of 4H, coupled",
        ValueError,
        ("params.norm.h.scale", "(15,)", "(20,)"),
        coupled,
        norm=LayerNorm(h=Norm(ones(20))),
    ),
    variant(
        "a scale of ints",
        TypeError,
        ("params.norm.gates.scale", "int32"),
        norm=LayerNorm(gates=Norm(ones(20, dtype=np.int32))),
    ),
    variant(
        "a scale of another dtype",
        TypeError,
        ("one dtype", "norm.h.scale float16"),
        norm=LayerNorm(h=Norm(ones(20, dtype=np.float16))),
    ),
    variant(
        "an output normed that has no norm",
        ValueError,
        ("params.form.normed_cell", "params.norm"),
        form=LSTMForm(normed_cell="output"),
    ),
    variant("another cell's form", TypeError, ("params.form", "LSTMForm", "GRUForm"), form=GRUForm()),
    variant("form a name", TypeError, ("params.form", "LSTMForm", "'f=1-i'"), form="f=1-i"),
    variant("form a dict", TypeError, ("params.form", "LSTMForm", "dict"), form={"clip": 1.0}),
    variant("form not made", TypeError, ("params.form", "LSTMForm"), form=LSTMForm),
    variant(
        "b_n with the reset before",
        ValueError,
        ("params.b_n", "'before'", "params.b"),
        gru.params,
        form=GRUForm("before"),
    ),
    variant("an LSTM's form for a GRU", TypeError, ("params.form", "GRUForm", "LSTMForm"), gru.params, form=LSTMForm()),
    variant("a GRU's form for an RNN", TypeError, ("params.form", "RNNForm", "GRUForm"), rnn, form=GRUForm()),
    variant("a minLSTM of 4H columns", ValueError, ("params.w_x", "[D, 3H]", "(3, 20)"), minlstm, w_x=ones(D, 20)),
    variant("b of a minLSTM", ValueError, ("params.b", "(15,)", "(5,)"), minlstm, b=ones(5)),
    variant("no weights of a minLSTM", TypeError, ("params.w_x", "NoneType"), minlstm, w_x=None),
    variant("an RNN's form for a minLSTM", TypeError, ("params.form", "MinLSTMForm"), minlstm, form=RNNForm()),
    variant("heads of other sizes", ValueError, ("params.w_h", "H/N", "(2, 3, 24)"), slstm, w_h=ones(2, 3, 24)),
    variant("one head too many", ValueError, ("params.w_x", "w_h (3, 3, 12)"), slstm, w_h=ones(3, 3, 12)),
    variant("no head", ValueError, ("params.w_h", "H/N", "(0, 3, 12)"), slstm, w_h=ones(0, 3, 12)),
    variant("w_h of an sLSTM not H by 4H", ValueError, ("params.w_h", "(6, 12)"), slstm, w_h=ones(6, 12)),
    variant("w_h of an sLSTM of rank 4", ValueError, ("params.w_h", "(1, 2, 3, 12)"), slstm, w_h=ones(1, 2, 3, 12)),
    variant("b of a head", ValueError, ("params.b", "(24,)", "(12,)"), slstm, b=ones(12)),
    variant("a minLSTM's form for an sLSTM", TypeError, ("params.form", "SLSTMForm"), slstm, form=MinLSTMForm()),
    run(
        "an activation that sums",
        ValueError,
        ("activation", "float32[]", "float32[2,5]"),
        params=rnn._replace(form=RNNForm(lambda x: x.sum())),
    ),
    run(
        "an activation of another dtype",
        ValueError,
        ("activation", "bfloat16[2,5]", "float32[2,5]"),
        params=rnn._replace(form=RNNForm(lambda x: x.astype(jnp.bfloat16))),
    ),
    run(
        "an activation that widens",
        ValueError,
        ("activation", "float32[2,10]", "float32[2,5]"),
        params=params._replace(form=LSTMForm(activations=("sigmoid", lambda x: jnp.concatenate([x, x], -1), "tanh"))),
    ),
    run(
        "an activation that returns nothing",
        ValueError,
        ("activation", "NoneType", "float32[7,2,5]"),
        params=minlstm._replace(form=MinLSTMForm(lambda x: None)),
    ),
    run(
        "a layer norm by its path",
        ValueError,
        ("params[1].norm.gates.scale", "(20,)", "(15,)"),
        params=(params, upper._replace(norm=LayerNorm(gates=Norm(ones(15))))),
    ),
    run(
        "a form by its path",
        TypeError,
        ("params.backward.form", "LSTMForm"),
        params=Bidirectional(params, params._replace(form=GRUForm())),
    ),
    run(
        "a narrower output than the next layer expects",
        ValueError,
        ("params[1]", "2 features", "5"),
        params=(projected, upper),
    ),
    run("a bare tuple of weights", TypeError, ("params", "LSTMParams", "float32[3,20]"), params=tuple(params[:3])),
]

OPTIONS = [
    run("reverse as int", TypeError, ("reverse", "True or False", "int 1"), reverse=1),
    run("reverse as string", TypeError, ("reverse", "True or False", "'yes'"), reverse="yes"),
    run("reverse as None", TypeError, ("reverse", "True or False"), reverse=None),
    run("reverse of a pair", ValueError, ("reverse", "Bidirectional"), params=pair, reverse=True),
    run(
        "a pair within the backward side of one",
        ValueError,
        ("params[0].backward", "Bidirectional", "both ways"),
        params=(Bidirectional(params, (pair,)),),
    ),
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
    run("compute_dtype of 8 bits", TypeError, ("compute_dtype", "float8_e4m3fn"), compute_dtype="float8_e4m3fn"),
    run("compute_dtype an array", TypeError, ("compute_dtype", "float32[2]"), compute_dtype=jnp.ones(2)),
    run("precision unknown", ValueError, ("recision", "highest", "best"), precision="best"),
]

OPTIONS += [
    run("backend an array", ValueError, ("backend", "'scan'", "float32[2]"), backend=ones(2)),
    run("backend a list", ValueError, ("backend", "'scan'", "list"), backend=["scan"]),
    run("precision an array", ValueError, ("precision", "float32[2]"), precision=ones(2)),
    run("residuals an array", ValueError, ("residuals", "'gates'", "float32[2]"), residuals=ones(2)),
    run("fused for a minLSTM", ValueError, ('backend="fused"', "MinLSTMParams"), params=minlstm, backend="fused"),
    run("fused for an sLSTM", ValueError, ('backend="fused"', "SLSTMParams"), params=slstm, backend="fused"),
    run(
        "fused for a layer of a stack",
        ValueError,
        ("fused", "GRUParams"),
        params=(params, gru.params._replace(w_x=ones(5, 15))),
        backend="fused",
    ),
    run("associative for an LSTM", ValueError, ('backend="associative"', "LSTMParams"), backend="associative"),
    run("associative for an RNN", ValueError, ("associative", "RNNParams"), params=rnn, backend="associative"),
    run(
        "associative with a chunk", ValueError, ("associative", "chunk"), params=minlstm, backend="associative", chunk=3
    ),
    run("associative with remat", ValueError, ("associative",), params=minlstm, backend="associative", remat=True),
    run(
        "associative with zoneout",
        ValueError,
        ("associative", "zoneout"),
        params=minlstm,
        backend="associative",
        regularisers=Regularisers(zoneout_h=0.1),
    ),
    run("remat of 0", ValueError, ("remat", "at least 1", "0"), remat=0),
    run("remat negative", ValueError, ("remat", "at least 1", "-3"), remat=-3),
    run("remat of 2.5", TypeError, ("remat", "2.5"), remat=2.5),
    run("remat a string", TypeError, ("remat", "'sqrt'"), remat="sqrt"),
    run("remat None", TypeError, ("remat", "NoneType"), remat=None),
    run(
        "remat with residuals of every step",
        ValueError,
        ("remat", "residuals"),
        remat=True,
        residuals="gates",
        backend="fused",
    ),
    run("remat and chunk", ValueError, ("remat", "chunk"), remat=3, chunk=3, backend="fused"),
    run("residuals for a minLSTM", ValueError, ("residuals",), params=minlstm, residuals="outputs"),
    run("residuals for a variant", ValueError, ("residuals",), params=coupled, residuals="outputs"),
]

OPTIONS += [
    run(f"fused with {name}", ValueError, ('backend="fused"', field), params=layer, backend="fused")
    for name, field, layer in (
        ("peepholes", "params.peephole", params._replace(peephole=ones(15))),
        ("a projection", "params.projection", projected),
        ("layer norm", "params.norm", normed),
        ("coupled gates", "params.form.coupling", coupled),
        ("other activations", "params.form.activations", params._replace(form=LSTMForm(activations=("relu",) * 3))),
        ("a bound", "params.form.clip", params._replace(form=LSTMForm(clip=3.0))),
        ("a bound of the cell", "params.form.clip_cell", params._replace(form=LSTMForm(clip_cell=3.0))),
    )
]


def noise(name, error, words, params=params, key=None, training=None, backend=None, **rates):
    """A row about the rates of a run."""
    return run(
        name, error, words, params, key=key, training=training, backend=backend, regularisers=Regularisers(**rates)
    )


NOISE = [
    run("regularisers a rate", TypeError, ("regularisers", "Regularisers", "0.5"), regularisers=0.5),
    run("regularisers a dict", TypeError, ("regularisers", "Regularisers", "dict"), regularisers={"inputs": 0.5}),
    run("regularisers a tuple", TypeError, ("regularisers", "Regularisers", "tuple"), regularisers=(0.5,) * 6),
    run("regularisers not made", TypeError, ("regularisers", "Regularisers"), regularisers=Regularisers),
    run("a seed for a key", TypeError, ("key", "jax.random.key", "int 0"), key=0),
    run("an array that is no key", TypeError, ("key", "jax.random.key", "int32[3]"), key=no_key),
    run("many keys", ValueError, ("key", "one PRNG key", "(2,)"), key=jax.random.split(key)),
    run("training an int", TypeError, ("training", "True or False", "int 1"), training=1),
    run("training a string", TypeError, ("training", "True or False", "'yes'"), training="yes"),
    run("training an array", TypeError, ("training", "True or False", "bool[]"), training=np.array(True)),
    noise("training without a key", ValueError, ("key", "training", "None"), training=True, inputs=0.1),
    noise("zoneout in training without a key", ValueError, ("key", "training"), training=True, zoneout_h=0.1),
    noise("recurrent of a minLSTM", ValueError, ("regularisers.recurrent", "MinLSTMParams"), minlstm, recurrent=0.1),
    noise("weights of a minLSTM", ValueError, ("regularisers.weights", "MinLSTMParams"), minlstm, weights=0.1),
    noise("zoneout of c of a minLSTM", ValueError, ("regularisers.zoneout_c", "MinLSTM"), minlstm, zoneout_c=0.1),
    noise("zoneout of c of a GRU", ValueError, ("regularisers.zoneout_c", "GRUParams"), gru.params, zoneout_c=0.1),
    noise("zoneout of c of an RNN", ValueError, ("regularisers.zoneout_c", "RNNParams"), rnn, zoneout_c=0.1),
    noise("zoneout of c of an sLSTM", ValueError, ("regularisers.zoneout_c", "SLSTMParams"), slstm, zoneout_c=0.1),
    noise(
        "zoneout of c by its path",
        ValueError,
        ("regularisers.zoneout_c", "params[1]", "GRUParams"),
        (params, gru.params._replace(w_x=ones(5, 15))),
        zoneout_c=0.1,
    ),
    noise("zoneout on fused", ValueError, ('backend="fused"', "zoneout"), backend="fused", zoneout_h=0.1),
    noise("zoneout on fused in training", ValueError, ("fused", "zoneout"), key=key, backend="fused", zoneout_c=0.1),
]
for field in Regularisers._fields:
    where = f"regularisers.{field}"
    NOISE += [
        noise(f"{field} 1.5", ValueError, (where, "[0, 1)", "1.5"), **{field: 1.5}),
        noise(f"{field} negative", ValueError, (where, "[0, 1)", "-0.1"), **{field: -0.1}),
        noise(f"{field} NaN", ValueError, (where, "[0, 1)", "nan"), **{field: float("nan")}),
        noise(f"{field} 1", ValueError, (where, "[0, 1)", "1"), **{field: 1.0}),
        noise(f"{field} a string", TypeError, (where, "[0, 1)", "'0.5'"), **{field: "0.5"}),
        noise(f"{field} None", TypeError, (where, "[0, 1)", "NoneType"), **{field: None}),
        noise(f"{field} True", TypeError, (where, "[0, 1)", "True"), **{field: True}),
        noise(f"{field} of a row of rates", ValueError, (where, "[0, 1)", "float32[2]"), **{field: ones(2)}),
        noise(f"{field} of ints", TypeError, (where, "[0, 1)", "int32[]"), **{field: np.int32(0)}),
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
    step("a pair within a stack", ValueError, ("params", "Bidirectional", "run"), params=(pair,), state=(pair_state,)),
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

STEPS += [
    step("regularisers a rate", TypeError, ("regularisers", "Regularisers", "0.1"), regularisers=0.1),
    step("a rate of 1", ValueError, ("regularisers.zoneout_h", "[0, 1)"), regularisers=Regularisers(zoneout_h=1.0)),
    step(
        "a rate without use",
        ValueError,
        ("regularisers.zoneout_c", "GRUParams"),
        params=gru.params,
        state=gru.state,
        regularisers=Regularisers(zoneout_c=0.1),
    ),
    step("precision unknown", ValueError, ("precision", "'best'"), precision="best"),
    step("h as wide as c where it is projected", ValueError, ("state.h", "(2, 2)", "(2, 5)"), params=projected),
    step("a peephole of another size", ValueError, ("params.peephole",), params=params._replace(peephole=ones(3))),
]

of_cells = [
    (lstmjax.lstm_step, params, state, gru.params),
    (lstmjax.lstm_gates, params, state, gru.params),
    (lstmjax.gru_step, gru.params, gru.state, params),
    (lstmjax.gru_gates, gru.params, gru.state, params),
    (lstmjax.rnn_step, *problem("rnn", T, (B,), D, H)[::2][:2], params),
    (lstmjax.minlstm_step, minlstm, MinLSTMState(ones(B, H)), params),
    (lstmjax.minlstm_gates, minlstm, MinLSTMState(ones(B, H)), params),
    (lstmjax.slstm_step, SLSTMParams(ones(D, 20), ones(1, 5, 20), ones(20)), SLSTMState(*(ones(B, H),) * 4), params),
    (lstmjax.slstm_gates, SLSTMParams(ones(D, 20), ones(5, 20), ones(20)), SLSTMState(*(ones(B, H),) * 4), params),
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
        here("another cell's form", TypeError, ("params.form", "str"), params=own._replace(form="plain")),
    ]
    if "step" in call.__name__:
        STEPS += [
            here("compute_dtype of ints", TypeError, ("compute_dtype", "int8"), compute_dtype="int8"),
            here("precision unknown", ValueError, ("precision", "'best'"), precision="best"),
        ]

INITS = []
for call in (lstmjax.init_lstm, lstmjax.init_gru, lstmjax.init_rnn, lstmjax.init_minlstm, lstmjax.init_slstm):
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
        here("dtype None", TypeError, ("dtype", "None"), dtype=None),
        here("dtype of 8 bits", TypeError, ("dtype", "float8_e5m2"), dtype="float8_e5m2"),
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

for call in (lstmjax.init_minlstm, lstmjax.init_slstm):
    INITS.append(init("forget_bias a string", TypeError, ("forget_bias", "str"), call=call, forget_bias="one"))
INITS += [
    init("chrono 1", ValueError, ("chrono", "at least 2", "1"), chrono=1),
    init("chrono of a GRU 2.5", TypeError, ("chrono", "2.5"), call=lstmjax.init_gru, chrono=2.5),
    init("chrono without a bias", ValueError, ("chrono", "bias is False"), chrono=9, bias=False),
    init("forget_bias NaN", ValueError, ("forget_bias", "finite", "nan"), forget_bias=float("nan")),
    init("forget_bias True", TypeError, ("forget_bias", "True"), forget_bias=True),
    init("init an array", ValueError, ("init", "'glorot'", "float32[2]"), init=ones(2)),
    init("peephole an int", TypeError, ("peephole", "True or False", "int 1"), peephole=1),
    init("peephole None", TypeError, ("peephole", "True or False"), peephole=None),
    init("projection 0", ValueError, ("projection", "at least 1", "0"), projection=0),
    init("projection negative", ValueError, ("projection", "at least 1", "-2"), projection=-2),
    init("projection 2.5", TypeError, ("projection", "int", "2.5"), projection=2.5),
    init("projection '2'", TypeError, ("projection", "int", "'2'"), projection="2"),
    init("projection True", TypeError, ("projection", "int", "True"), projection=True),
    init("projection_bias an int", TypeError, ("projection_bias", "True or False"), projection_bias=1, projection=2),
    init("a bias of no projection", ValueError, ("projection_bias", "projection is None"), projection_bias=True),
    init("a bound of no projection", ValueError, ("clip_projection", "projection is None"), clip_projection=1.0),
    init("layer_norm unknown", ValueError, ("layer_norm", "'gates+cell'", "'cell'"), layer_norm="cell"),
    init("layer_norm True", ValueError, ("layer_norm", "'gates+cell'", "True"), layer_norm=True),
    init("an output normed that has no norm", ValueError, ("normed_cell", "norm"), normed_cell="output"),
    init("heads that do not divide", ValueError, ("heads", "5", "2"), call=lstmjax.init_slstm, heads=2),
    init("more heads than units", ValueError, ("heads", "5", "10"), call=lstmjax.init_slstm, heads=10),
    init("heads 0", ValueError, ("heads", "at least 1", "0"), call=lstmjax.init_slstm, heads=0),
    init("heads 1.0", TypeError, ("heads", "int", "1.0"), call=lstmjax.init_slstm, heads=1.0),
    Bad(
        "init_state: a layer by its path",
        lstmjax.init_state,
        ((params, Bidirectional(gru.params, gru.params._replace(b_n=ones(3)))),),
        {},
        ValueError,
        ("params[1].backward.b_n", "(3,)"),
    ),
    Bad("init_state: an empty stack", lstmjax.init_state, ((),), {}, ValueError, ("params", "at least one layer")),
]

# Options that the forms check, by whatever function they are given to.
FORMS = []
for make in (LSTMForm, functools.partial(lstmjax.init_lstm, key, D, H)):
    here = functools.partial(made, call=make)
    for name in ("clip", "clip_cell", "clip_projection", "epsilon"):
        FORMS += [
            here(f"{name} 0", ValueError, (name, "above 0", "0"), **{name: 0}),
            here(f"{name} negative", ValueError, (name, "above 0", "-1.0"), **{name: -1.0}),
            here(f"{name} NaN", ValueError, (name, "finite", "nan"), **{name: float("nan")}),
            here(f"{name} infinite", ValueError, (name, "finite", "inf"), **{name: float("inf")}),
            here(f"{name} too great", ValueError, (name, "finite"), **{name: 10**400}),
            here(f"{name} a string", TypeError, (name, "number", "'1'"), **{name: "1"}),
            here(f"{name} True", TypeError, (name, "number", "True"), **{name: True}),
            here(f"{name} an array", TypeError, (name, "number", "float32[2]"), **{name: ones(2)}),
        ]
    FORMS += [
        here("epsilon None", TypeError, ("epsilon", "number", "NoneType"), epsilon=None),
        here("coupling unknown", ValueError, ("coupling", "'f=1-i'", "'i=1-f'", "'i=f'"), coupling="i=f"),
        here("coupling True", ValueError, ("coupling", "'f=1-i'", "True"), coupling=True),
        here("coupling an array", ValueError, ("coupling", "'f=1-i'", "float32[2]"), coupling=ones(2)),
        here("normed_cell unknown", ValueError, ("normed_cell", "'state'", "'output'", "'h'"), normed_cell="h"),
        here("one activation", TypeError, ("activations", "three", "'tanh'"), activations="tanh"),
        here("two activations", TypeError, ("activations", "three"), activations=("sigmoid", "tanh")),
        here("activations in a list", TypeError, ("activations", "three"), activations=["sigmoid", "tanh", "tanh"]),
        here(
            "an activation unknown",
            ValueError,
            ("activations[1]", "'hard_sigmoid'", "'swish'"),
            activations=("sigmoid", "swish", "tanh"),
        ),
    ]
for make in (GRUForm, functools.partial(lstmjax.init_gru, key, D, H)):
    FORMS += [
        made("reset unknown", ValueError, ("reset", "'after'", "'before'", "'both'"), make, reset="both"),
        made("reset True", ValueError, ("reset", "'after'", "True"), make, reset=True),
        made("three activations", TypeError, ("activations", "two"), make, activations=("tanh",) * 3),
        made("an activation None", TypeError, ("activations[0]", "None"), make, activations=(None, "tanh")),
    ]
for make in (SLSTMForm, functools.partial(lstmjax.init_slstm, key, D, H)):
    FORMS += [
        made("forget unknown", ValueError, ("forget", "'sigmoid'", "'exp'", "'tanh'"), make, forget="tanh"),
        made("forget None", ValueError, ("forget", "'sigmoid'", "'exp'", "None"), make, forget=None),
    ]
for make, role in (
    (RNNForm, "activation"),
    (functools.partial(lstmjax.init_rnn, key, D, H), "activation"),
    (MinLSTMForm, "candidate"),
    (functools.partial(lstmjax.init_minlstm, key, D, H), "candidate"),
):
    FORMS += [
        made("unknown", ValueError, (role, "'hard_sigmoid'", "'swish'"), make, **{role: "swish"}),
        made("None", TypeError, (role, "None"), make, **{role: None}),
        made("a number", TypeError, (role, "3"), make, **{role: 3}),
        made("in a list", TypeError, (role, "['tanh']"), make, **{role: ["tanh"]}),
        made("a constant too many", ValueError, (role, "'relu'", "0.1"), make, **{role: ("relu", 0.1)}),
        made("a constant NaN", ValueError, (role, "finite", "nan"), make, **{role: ("elu", float("nan"))}),
        made("a constant a string", TypeError, (role, "number", "'1'"), make, **{role: ("elu", "1")}),
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


def ask(name, error, words, call=lstmjax.choose, params=params, xs=xs, **options):
    return Bad(f"{call.__name__}: {name}", call, (params, xs), options, error, words)


TRACES += [
    ask(
        "mask and lengths", ValueError, ("mask", "lengths"), lstmjax.trace, mask=ones(T, B, dtype=bool), lengths=[7, 7]
    ),
    ask("a mask of ints", TypeError, ("mask", "bools"), lstmjax.trace, mask=ones(T, B, dtype=np.int32)),
    ask("a mask [B, T]", ValueError, ("mask", "(2, 7)"), lstmjax.trace, mask=ones(B, T, dtype=bool)),
    ask("reset of ints", TypeError, ("reset", "bools"), lstmjax.trace, reset=ones(T, B, dtype=np.int32)),
    ask("regularisers a rate", TypeError, ("regularisers", "Regularisers"), lstmjax.trace, regularisers=0.1),
    ask(
        "a rate of 1", ValueError, ("regularisers.recurrent",), lstmjax.trace, regularisers=Regularisers(recurrent=1.0)
    ),
    ask(
        "a rate without use",
        ValueError,
        ("regularisers.zoneout_c", "GRUParams"),
        lstmjax.trace,
        gru.params,
        regularisers=Regularisers(zoneout_c=0.1),
    ),
    ask("compute_dtype of ints", TypeError, ("compute_dtype", "int8"), lstmjax.trace, compute_dtype="int8"),
    ask("precision unknown", ValueError, ("precision", "'best'"), lstmjax.trace, precision="best"),
    ask("scan with a chunk", ValueError, ('backend="scan"', "chunk"), backend="scan", chunk=3),
    ask("associative for an LSTM", ValueError, ("associative", "LSTMParams"), backend="associative"),
    ask("fused for a variant", ValueError, ("fused", "params.form.coupling"), params=coupled, backend="fused"),
]
for call in (lstmjax.choose, lstmjax.reasons):
    here = functools.partial(ask, call=call)
    TRACES += [
        here("an option that run has not", TypeError, ("bidirectional", "lengths", "regularisers"), bidirectional=True),
        here("a misspelt option", TypeError, ("residual", "residuals"), residual="gates"),
        here("a dict", TypeError, ("params", "LSTMParams", "dict"), params=params._asdict()),
        here("an empty stack", ValueError, ("params", "at least one layer"), params=()),
        here("a layer of a stack", TypeError, ("params[1]", "NoneType"), params=(params, None)),
        here("a peephole of another size", ValueError, ("params.peephole",), params=params._replace(peephole=ones(3))),
        here("xs None", TypeError, ("xs", "NoneType"), xs=None),
        here("xs a list", TypeError, ("xs", "list"), xs=[[1.0]]),
        here("xs of ints", TypeError, ("xs", "int32"), xs=ones(T, B, D, dtype=np.int32)),
        here("rank 1", ValueError, ("xs", "[T, *batch, D]"), xs=ones(T)),
        here("features of another count", ValueError, ("4 features", "w_x", "3"), xs=ones(T, B, 4)),
        here("residuals unknown", ValueError, ("residuals", "'gates'", "'all'"), residuals="all"),
        here("chunk of 0", ValueError, ("chunk", "at least 1"), chunk=0),
        here("remat of 2.5", TypeError, ("remat", "2.5"), remat=2.5),
        here("padding unknown", ValueError, ("padding", "'hold'", "'keep'"), padding="keep"),
        here("mask and lengths", ValueError, ("mask", "lengths"), mask=ones(T, B, dtype=bool), lengths=[7, 7]),
        here("compute_dtype of ints", TypeError, ("compute_dtype", "int8"), compute_dtype="int8"),
        here("reverse of a pair", ValueError, ("reverse", "Bidirectional"), params=pair, reverse=True),
        here("regularisers a dict", TypeError, ("regularisers", "Regularisers"), regularisers={}),
        here("a rate of 1.5", ValueError, ("regularisers.inputs", "1.5"), regularisers=Regularisers(inputs=1.5)),
        here(
            "a rate without use",
            ValueError,
            ("regularisers.recurrent", "MinLSTMParams"),
            params=minlstm,
            regularisers=Regularisers(recurrent=0.1),
        ),
        here("training without a key", ValueError, ("key",), training=True, regularisers=Regularisers(inputs=0.5)),
        here("a seed for a key", TypeError, ("key", "jax.random.key"), key=0),
    ]


def loss(params, data, state):
    state, ys = lstmjax.run(params, data, state)
    return (ys * ys).mean(), state


def windows(name, error, words, loss=loss, window=3, params=params, data=xs, state=state):
    def in_windows(params, data, state):
        return lstmjax.truncated_value_and_grad(loss, window)(params, data, state)

    return Bad(f"truncated_value_and_grad: {name}", in_windows, (params, data, state), {}, error, words)


AROUND = [
    made("no function", TypeError, ("function", "NoneType"), lstmjax.checkify, function=None),
    windows("a window of 0", ValueError, ("window", "at least 1", "0"), window=0),
    windows("a window of 2.5", TypeError, ("window", "int", "2.5"), window=2.5),
    windows("a window True", TypeError, ("window", "int", "True"), window=True),
    windows("no window", TypeError, ("window", "int", "NoneType"), window=None),
    windows("a loss that is no function", TypeError, ("loss", "function", "NoneType"), loss=None),
    windows("no data", ValueError, ("data", "time"), data=()),
    windows("data without time", TypeError, ("data", "time", "float32[]"), data=np.float32(1)),
    windows("data in a list of numbers", TypeError, ("data", "time", "float"), data=[1.0, 2.0]),
    windows("data of two lengths", ValueError, ("data", "time", "[3, 7]"), data=(xs, xs[:3])),
    windows("data of no steps", ValueError, ("data", "time", "0"), data=xs[:0]),
    windows(
        "a next state of another shape",
        ValueError,
        ("loss", "state", "float32[2, 5]", "float32[5]"),
        loss=lambda params, data, state: ((params.b**2).sum(), jax.tree.map(lambda s: s[0], state)),
    ),
]
for call in (losses.activation_penalty, losses.temporal_activation_penalty):
    here = functools.partial(made, call=call)
    AROUND += [
        here("a list", TypeError, ("ys", "list"), ys=[[1.0]]),
        here("None", TypeError, ("ys", "NoneType"), ys=None),
        here("ints", TypeError, ("ys", "int32"), ys=ones(T, B, H, dtype=np.int32)),
        here("rank 1", ValueError, ("ys", "[T, *batch, H]", "(7,)"), ys=ones(T)),
        here("valid of ints", TypeError, ("valid", "bools"), ys=ones(T, B, H), valid=ones(T, B, dtype=np.int32)),
        here("valid [B, T]", ValueError, ("valid", "(7, 2)", "(2, 7)"), ys=ones(T, B, H), valid=ones(B, T, dtype=bool)),
        here("lengths for valid", TypeError, ("valid", "bools"), ys=ones(T, B, H), valid=np.array([3, 4])),
    ]

AROUND += [
    made(
        "a feature more",
        ValueError,
        ("x", "4", "3"),
        layers.linear,
        params=layers.Linear(ones(3, 2), ones(2)),
        x=ones(B, 4),
    ),
    made(
        "x a list",
        TypeError,
        ("x", "floats", "list"),
        layers.linear,
        params=layers.Linear(ones(3, 2), ones(2)),
        x=[1.0],
    ),
    made(
        "b of another size",
        ValueError,
        ("params", "(3, 2)", "(3,)"),
        layers.linear,
        params=layers.Linear(ones(3, 2), ones(3)),
        x=ones(B, 3),
    ),
    made("no table", TypeError, ("table", "NoneType"), layers.embed, table=None, ids=np.array([1])),
    made("ids of floats", TypeError, ("ids", "ints", "float32[2]"), layers.embed, table=ones(4, 2), ids=ones(2)),
    made("ids in a list", TypeError, ("ids", "ints", "list"), layers.embed, table=ones(4, 2), ids=[1, 2]),
    made("a rate of 1.5", ValueError, ("rate", "[0, 1)", "1.5"), layers.dropout, key=key, rate=1.5, x=ones(3)),
    made("a rate of 1", ValueError, ("rate", "[0, 1)", "1"), layers.dropout, key=key, rate=1.0, x=ones(3)),
    made("a seed for a key", TypeError, ("key", "jax.random.key"), layers.dropout, key=0, rate=0.5, x=ones(3)),
    made("x None", TypeError, ("x", "floats", "NoneType"), layers.dropout, key=None, rate=0.5, x=None),
    made(
        "xs of a feature more",
        ValueError,
        ("xs", "4", "3"),
        layers.attend,
        query=ones(3),
        xs=ones(T, 4),
        valid=ones(T, dtype=bool),
    ),
    made(
        "valid of ints",
        TypeError,
        ("valid", "bools"),
        layers.attend,
        query=ones(3),
        xs=ones(T, 3),
        valid=ones(T, dtype=np.int32),
    ),
    made(
        "labels of floats",
        TypeError,
        ("labels", "ints", "float32[4]"),
        losses.cross_entropy,
        logits=ones(4, 2),
        labels=ones(4),
    ),
    made(
        "labels of another count",
        ValueError,
        ("labels", "(4,)", "(3,)"),
        losses.cross_entropy,
        logits=ones(4, 2),
        labels=np.array([0, 1, 0]),
    ),
    made(
        "logits a list",
        TypeError,
        ("logits", "floats", "list"),
        losses.cross_entropy,
        logits=[[0.0, 1.0]],
        labels=np.array([0]),
    ),
    made(
        "smoothing NaN",
        ValueError,
        ("smoothing", "[0, 1)", "nan"),
        losses.cross_entropy,
        logits=ones(2, 2),
        labels=np.array([0, 1]),
        smoothing=float("nan"),
    ),
]

STATIC = INPUTS + LENGTHS + MASKS + STATES + PARAMS + OPTIONS + NOISE + STEPS + INITS + FORMS + TRACES + AROUND


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


@pytest.mark.parametrize("bad", STATIC + VALUES + UNTRACED, ids=lambda bad: bad.name)
def test_refused(bad):
    refused(bad, lambda: bad.call(*bad.args, **bad.kwargs))


def traced(bad):
    """The call as a function of its arrays, and these."""
    leaves, tree = jax.tree.flatten((bad.args, bad.kwargs))
    places = [n for n, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray | np.generic)]

    def call(arrays):
        filled = leaves.copy()
        for n, array in zip(places, arrays, strict=True):
            filled[n] = array
        args, kwargs = jax.tree.unflatten(tree, filled)
        return bad.call(*args, **kwargs)

    return call, [leaves[n] for n in places]


@pytest.mark.parametrize("bad", STATIC, ids=lambda bad: bad.name)
def test_refused_under_tracing(bad):
    """With every array a tracer: in `eval_shape` and in `jit`."""
    call, arrays = traced(bad)
    refused(bad, lambda: jax.eval_shape(call, arrays))
    refused(bad, lambda: jax.jit(call)(arrays))


@pytest.mark.parametrize("bad", VALUES, ids=lambda bad: bad.name)
def test_values_are_seen_with_checkify(bad):
    """What nobody sees under tracing is an error at run time, for whoever asks for it."""
    call, arrays = traced(bad)
    jax.eval_shape(call, arrays)
    error, _ = jax.jit(lstmjax.checkify(call))(arrays)
    name, allowed, *_ = bad.words
    assert name in error.get()
    assert allowed in error.get()


def shape(result):
    return jax.tree.map(lambda a: a.shape, result)


def test_what_is_allowed():
    """What stands in the table beside what is forbidden, or looks like it, and has a meaning here."""
    ask = functools.partial(jax.eval_shape, lstmjax.run)
    assert ask(params, xs[:, 0])[1].shape == (T, H)  # rank 2: one sequence
    assert ask(params, ones(T, 4, B, D))[1].shape == (T, 4, B, H)  # rank 4: two batch axes
    assert ask(params, ones(T, 0, D))[1].shape == (T, 0, H)
    assert shape(ask(params, ones(0, B, D))) == (((B, H), (B, H)), (0, B, H))
    with_gap = functools.partial(lstmjax.run, mask=np.array([[True], [False]] * 3 + [[True]]).repeat(B, 1))
    assert jax.eval_shape(with_gap, params, xs)[1].shape == (T, B, H)
    quiet = functools.partial(lstmjax.run, regularisers=Regularisers(), training=True)
    assert jax.eval_shape(quiet, params, xs)[1].shape == (T, B, H)  # no rate above 0: no key
    wide = jax.eval_shape(lambda key: lstmjax.init_lstm(key, D, H, projection=H + 1), key)
    assert ask(wide, xs)[1].shape == (T, B, H + 1)


@pytest.mark.parametrize("where", [jax.jit, jax.grad])
def test_values_of_arrays_in_a_closure(where):
    """An array of JAX that a traced function closes over has values that can be looked at, and are."""
    good = dict(ids=jnp.array([2, 0]), rate=jnp.float32(0.5), length=jnp.array([T, 0]))
    bad = {name: value + 1 for name, value in good.items()}
    calls = [
        lambda w, ids, rate, length: layers.embed(w, ids),
        lambda w, ids, rate, length: losses.cross_entropy(w[:2], ids),
        lambda w, ids, rate, length: layers.dropout(key, rate, w),
        lambda w, ids, rate, length: lstmjax.run(
            params, xs * w[0, 0], lengths=length, key=key, regularisers=Regularisers(inputs=rate)
        )[1],
    ]
    w = jnp.ones((3, 3))
    for call in calls:
        where(lambda w, call=call: call(w, **good).sum())(w)
        with pytest.raises(ValueError, match=r"should (lie in|be a float in) \[0, "):
            where(lambda w, call=call: call(w, **bad).sum())(w)


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
