"""The variants of every cell: against NumPy, alone and in combinations; where they change nothing; what they cost."""

import collections
import dataclasses
import functools
import re

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstmjax
from lstmjax import (
    GRUForm,
    GRUParams,
    LayerNorm,
    LSTMForm,
    LSTMParams,
    LSTMState,
    MinLSTMForm,
    MinLSTMParams,
    Norm,
    Regularisers,
    RNNForm,
    RNNParams,
    SLSTMForm,
    SLSTMParams,
    regularise,
)
from tests import reference
from tests.problems import QUICK, cast, state_of

# As small as shows everything: compilation is what takes the time.
T, B, D, H, P = 4, 3, 2, 4, 3

# --- the cells with anything that they may have ----------------------------------------------------------------------


def lstm(rng, *, bias=True, peephole=False, projection=None, projection_b=False, norms=None, **form):
    """An LSTM. `norms` says for each field of `LayerNorm` whether it has a shift."""
    form = LSTMForm(**form)
    blocks = 3 if form.coupling else 4
    P = H if projection is None else projection
    normal = functools.partial(draw, rng)

    def norm(field, shift):
        features = H if field == "cell" else blocks * H
        return Norm(1 + normal(features) / 2, normal(features) if shift else None)

    return LSTMParams(
        w_x=normal(D, blocks * H),
        w_h=normal(P, blocks * H),
        b=normal(blocks * H) if bias else None,
        peephole=normal((blocks - 1) * H) if peephole else None,
        projection=None if projection is None else normal(H, P),
        projection_b=normal(P) if projection_b else None,
        norm=LayerNorm(**{field: norm(field, shift) for field, shift in norms.items()}) if norms else None,
        form=form,
    )


def gru(rng, *, bias=True, **form):
    form, normal = GRUForm(**form), functools.partial(draw, rng)
    b_n = normal(H) if bias and form.reset == "after" else None
    return GRUParams(normal(D, 3 * H), normal(H, 3 * H), normal(3 * H) if bias else None, b_n, form)


def rnn(rng, *, bias=True, **form):
    normal = functools.partial(draw, rng)
    return RNNParams(normal(D, H), normal(H, H), normal(H) if bias else None, RNNForm(**form))


def minlstm(rng, *, bias=True, **form):
    normal = functools.partial(draw, rng)
    return MinLSTMParams(normal(D, 3 * H), normal(3 * H) if bias else None, MinLSTMForm(**form))


def slstm(rng, *, bias=True, heads=1, **form):
    """An sLSTM; without heads its w_h has two axes."""
    normal = functools.partial(draw, rng)
    w_h = normal(H, 4 * H) if heads is None else normal(heads, H // heads, 4 * H // heads)
    return SLSTMParams(normal(D, 4 * H), w_h, normal(4 * H) if bias else None, SLSTMForm(**form))


def draw(rng, *shape):
    return rng.normal(size=shape) * 0.7


def bump(z):
    """An activation of nobody's, for NumPy and for JAX."""
    return z / (1 + z * z)


# --- each alone ------------------------------------------------------------------------------------------------------

ALONE = {
    "peephole": (lstm, dict(peephole=True)),
    "f=1-i": (lstm, dict(coupling="f=1-i", peephole=True)),
    "i=1-f": (lstm, dict(coupling="i=1-f", peephole=True)),
    "projection": (lstm, dict(projection=P)),
    "wide projection": (lstm, dict(projection=H + 1, projection_b=True)),
    "norm of gates, scale": (lstm, dict(norms=dict(gates=False))),
    "norm of gates and cell": (lstm, dict(norms=dict(gates=True, cell=True), bias=False)),
    "norm of x, h and cell": (lstm, dict(norms=dict(x=True, h=True, cell=True))),
    "norm of the output": (lstm, dict(norms=dict(cell=False), normed_cell="output")),
    "epsilon": (lstm, dict(norms=dict(gates=False), epsilon=0.3)),
    "clip": (lstm, dict(clip=0.4)),
    "clip of the cell": (lstm, dict(clip_cell=0.3)),
    "clip of the projection": (lstm, dict(projection=P, clip_projection=0.1)),
    "relu, identity, softsign": (lstm, dict(activations=("relu", "identity", "softsign"))),
    "hard_sigmoid, softplus, elu": (lstm, dict(activations=("hard_sigmoid", "softplus", "elu"))),
    "leaky_relu, thresholded_relu, affine": (lstm, dict(activations=("leaky_relu", "thresholded_relu", "affine"))),
    "scaled_tanh and constants": (
        lstm,
        dict(activations=(("hard_sigmoid", 0.3, 0.4), ("scaled_tanh", 1.7, 0.7), ("affine", 0.5, -0.1))),
    ),
    "one constant": (lstm, dict(activations=(("elu", 0.5), ("leaky_relu", 0.3), ("thresholded_relu", 0.2)))),
    "a function": (lstm, dict(activations=(bump, bump, bump))),
    "gru before": (gru, dict(reset="before")),
    "gru before, hard_sigmoid and softsign": (gru, dict(reset="before", activations=("hard_sigmoid", "softsign"))),
    "gru after, a function and relu": (gru, dict(activations=(bump, "relu"))),
    "gru without bias": (gru, dict(bias=False)),
    "rnn relu": (rnn, dict(activation="relu")),
    "rnn a function": (rnn, dict(activation=bump)),
    "minlstm": (minlstm, dict()),
    "minlstm tanh": (minlstm, dict(candidate="tanh", bias=False)),
    "slstm": (slstm, dict(heads=None)),
    "slstm exp": (slstm, dict(forget="exp")),
    "slstm of two heads": (slstm, dict(heads=2)),
}

# What there is to say about steps: each variant meets one of these, each kind of cell all of them.
STEPS = [
    dict(lengths=True, reset=True),
    dict(mask=True, reverse=True),
    dict(mask=True, reset=True, padding="hold"),
    dict(lengths=True, reverse=True, padding="hold"),
    dict(mask=True, reset=True, reverse=True),
]


@pytest.mark.parametrize("name", ALONE)
def test_variant_equals_numpy(x64, name):
    """Values and all gradients, from an initial state."""
    draw_params, given = ALONE[name]
    number = list(ALONE).index(name)
    rng = np.random.default_rng(number)
    agrees(draw_params(rng, **given), rng, STEPS[number % len(STEPS)])


@hypothesis.settings(max_examples=20)
@hypothesis.given(st.data())
def test_combinations_equal_numpy(data):
    """Whatever an LSTM may have, in any combination."""
    flag, bound = st.booleans(), st.sampled_from([None, 0.3, 1.0])
    activation = st.sampled_from(["sigmoid", "tanh", "hard_sigmoid", ("scaled_tanh", 1.2, 0.8), "softsign", bump])
    norms = st.dictionaries(st.sampled_from(["gates", "x", "h", "cell"]), flag)
    given = data.draw(
        st.fixed_dictionaries(
            dict(
                bias=flag,
                peephole=flag,
                coupling=st.sampled_from([None, "f=1-i", "i=1-f"]),
                projection=st.sampled_from([None, P, H]),
                norms=norms,
                activations=st.tuples(activation, activation, activation),
                clip=bound,
                clip_cell=bound,
                epsilon=st.sampled_from([1e-5, 0.1]),
            )
        )
    )
    if given["projection"] is not None:
        given |= data.draw(st.fixed_dictionaries(dict(projection_b=flag, clip_projection=bound)))
    if "cell" in given["norms"]:
        given["normed_cell"] = data.draw(st.sampled_from(["state", "output"]))
    steps = data.draw(
        st.fixed_dictionaries(
            dict(reset=flag, reverse=flag, padding=st.sampled_from(["zero", "hold"])),
            optional={data.draw(st.sampled_from(["lengths", "mask"])): flag},
        )
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    with jax.enable_x64(True):
        agrees(lstm(rng, **given), rng, steps)


def test_everything_in_a_stack_of_pairs_equals_numpy(x64):
    """Kinds and widths side by side, each with variants."""
    rng = np.random.default_rng(0)
    pair = lstmjax.Bidirectional(lstm(rng, projection=1, peephole=True), gru(rng, reset="before"))
    inner = lstm(rng, coupling="i=1-f", norms=dict(gates=False), projection=D)
    stack = (lstm(rng, norms=dict(x=True), projection=D), inner, pair)
    agrees(stack, rng, dict(mask=True, reset=True))


def agrees(params, rng, steps):
    """`run` under jit gives the values and the gradients of the reference."""
    xs = rng.normal(size=(T, B, D))
    state = jax.tree.map(
        lambda layer: state_of(rng, layer, (B,)), params, is_leaf=lambda part: type(part) in reference.CELLS
    )
    options = dict(steps)
    if steps.get("lengths"):
        options["lengths"] = np.array([T - 1, 0, T])
    if steps.get("mask"):
        options["mask"] = np.array([[0, 1, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0]], bool)
    options["reset"] = rng.random((T, B)) < 0.3 if steps.get("reset") else None
    options = {name: value for name, value in options.items() if value is not False}

    agrees_with_reference(params, xs, state, options, {}, None)


def agrees_with_reference(params, xs, state, options, regularisers, noise):
    def loss(run, *args):
        found = run(*args, **options)
        return reference.scalar(*found), found

    run = functools.partial(lstmjax.run, **regularisers)
    gradient = jax.value_and_grad(functools.partial(loss, run), (0, 1, 2), has_aux=True)
    (_, got), gradients = jax.jit(gradient, compiler_options=QUICK)(params, xs, state)
    slow_run = functools.partial(reference.run, noise=noise)
    chex.assert_trees_all_close(got, slow_run(params, xs, state, **options), rtol=1e-13, atol=1e-13)
    want = reference.gradients(lambda *args: loss(slow_run, *args)[0], params, xs, state)
    chex.assert_trees_all_close(gradients, want, rtol=1e-12, atol=1e-12)


# --- the step and the trace ------------------------------------------------------------------------------------------

KINDS = {
    "lstm": (lstm, dict(peephole=True, coupling="i=1-f", projection=P, norms=dict(gates=True, cell=False), clip=1.0)),
    "gru": (gru, dict(reset="before")),
    "rnn": (rnn, dict(activation="softsign")),
    "minlstm": (minlstm, dict(candidate="tanh")),
    "slstm": (slstm, dict(heads=2, forget="exp")),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_trace_equals_numpy(x64, kind, reverse):
    """Every state and every gate, 0 where a step does not count; the states are those that run goes through."""
    rng = np.random.default_rng(0)
    params = KINDS[kind][0](rng, **KINDS[kind][1])
    xs, state = rng.normal(size=(T, B, D)), state_of(rng, params, (B,))
    options = dict(mask=rng.random((T, B)) < 0.7, reset=rng.random((T, B)) < 0.3, reverse=reverse)
    states, gates = jax.jit(functools.partial(lstmjax.trace, **options), compiler_options=QUICK)(params, xs, state)
    chex.assert_trees_all_close((states, gates), reference.trace(params, xs, state, **options), rtol=0, atol=1e-13)
    for array in (*states, *gates):
        np.testing.assert_array_equal(array[~options["mask"]], 0)


@every_kind
def test_forms_are_no_leaves_and_equal_forms_are_one_program(kind):
    """A form is a part of the tree: optimisers and checkpoints see arrays only, jit knows equal forms from others."""
    rng = np.random.default_rng(0)
    draw_params, given = KINDS[kind]
    params = cast(draw_params(rng, **given), np.float32)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
    again = params._replace(form=dataclasses.replace(params.form))
    assert again.form == params.form
    assert hash(again.form) == hash(params.form)
    assert jax.tree.map(np.zeros_like, params).form is params.form
    traces = []

    @jax.jit
    def see(params):
        traces.append(params.form)
        return params.b

    default = type(params.form)()
    for form in (params.form, again.form, default, params.form):
        see(params._replace(form=form))
    assert traces == [params.form, default]


# --- regularisers ----------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("training", [True, False], ids=["drawn", "expected"])
def test_regularisers_equal_numpy_with_what_was_drawn(x64, kind, training):
    """Values and gradients; what was drawn is read off ones that went through the draw."""
    rng = np.random.default_rng(0)
    params = KINDS[kind][0](rng, **KINDS[kind][1])
    xs, state = rng.normal(size=(T, B, D)), state_of(rng, params, (B,))
    rates = dict(inputs=0.4, zoneout_h=0.3)
    rates |= dict(recurrent=0.3, weights=0.2) if kind != "minlstm" else {}
    rates |= dict(zoneout_c=0.6) if kind == "lstm" else {}
    given = dict(regularisers=Regularisers(**rates), key=jax.random.key(1), training=training)
    noise = reference.Noise(zoneout_h=0.3, zoneout_c=rates.get("zoneout_c", 0.0))
    if training:
        ones = jax.tree.map(np.ones_like, params)
        work = regularise.prepare(**given)
        weights, inputs, drawn = regularise.of_layer(work, ones, np.ones_like(xs), np.float64)
        noise = reference.Noise(
            inputs,
            1.0 if drawn.recurrent is None else drawn.recurrent,
            getattr(weights, "w_h", 1.0),
            **{f"zoneout_{field}": kept.astype(float) for field, kept in drawn.zoneout.items()},
        )
    agrees_with_reference(params, xs, state, dict(mask=rng.random((T, B)) < 0.8), given, noise)


# --- neutral weights -------------------------------------------------------------------------------------------------


def test_neutral_weights_are_the_plain_cell(x64):
    """What changes nothing changes nothing: values and gradients of the plain weights."""
    rng = np.random.default_rng(0)
    plain = lstm(rng)._replace(form=None)
    zeros, far = np.zeros(3 * H), 1e9
    i, f = 0, 1

    def coupled(weights, block, of):
        """A gate that is 1 - another has the other's weights with the opposite sign, since 1 - sigmoid(z) is
        sigmoid(-z): such weights with all four gates, and without the one that follows from the other."""
        weights = [w.reshape(*w.shape[:-1], 4, H) for w in weights]
        weights = [w.at[..., block, :].set(-w[..., of, :]) for w in weights]
        fewer = [jnp.delete(w, block, axis=-2) for w in weights]
        return [[w.reshape(*w.shape[:-2], -1) for w in some] for some in (weights, fewer)]

    neutral = [
        plain._replace(form=LSTMForm()),
        plain._replace(peephole=zeros),
        plain._replace(projection=np.eye(H), projection_b=np.zeros(H)),
        plain._replace(form=LSTMForm(clip=far, clip_cell=far)),
        plain._replace(projection=np.eye(H), form=LSTMForm(clip_projection=far)),
        plain._replace(form=LSTMForm(activations=(jax.nn.sigmoid, jnp.tanh, ("scaled_tanh", 1.0, 1.0)))),
    ]
    xs, lengths = rng.normal(size=(T, B, D)), np.array([T, 0, 2])

    def outcome(w, params):
        found = lstmjax.run(params._replace(**dict(zip(("w_x", "w_h", "b"), w, strict=True))), xs, lengths=lengths)
        return reference.scalar(*found), found

    @functools.partial(jax.jit, compiler_options=QUICK)
    def all_of_them(w):
        each = jax.value_and_grad(outcome, has_aux=True)
        pairs = []
        for coupling, block, of in (("f=1-i", f, i), ("i=1-f", i, f)):
            four, three = coupled(w, block, of)
            pairs.append((outcome(four, plain), outcome(three, plain._replace(form=LSTMForm(coupling=coupling)))))
        return each(w, plain), [each(w, params) for params in neutral], pairs

    want, found, pairs = all_of_them(jax.tree.map(jnp.asarray, (plain.w_x, plain.w_h, plain.b)))
    for got in found:
        chex.assert_trees_all_close(got, want, rtol=0, atol=1e-14)
    for four, three in pairs:
        chex.assert_trees_all_close(three, four, rtol=0, atol=1e-14)


def test_neutral_forms_of_the_other_cells(x64):
    """The reset does not matter where it is 1, heads not where a matrix has blocks, and a default form nowhere."""
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(T, B, D))
    open_reset = gru(rng)
    open_reset.b[:H] = 40.0
    before = open_reset._replace(b_n=None, form=GRUForm(reset="before"))
    before = before._replace(b=open_reset.b + np.concatenate([np.zeros(2 * H), open_reset.b_n]))
    two = slstm(rng, heads=2)
    blocks = np.zeros((2, H // 2, 4, 2, H // 2))  # head, its rows, gate, head, its columns
    for k in range(2):
        blocks[k, :, :, k] = two.w_h[k].reshape(H // 2, 4, H // 2)
    whole = two._replace(w_h=blocks.reshape(H, 4 * H))
    pairs = [(open_reset, before), (two, whole), (whole, whole._replace(w_h=whole.w_h[None]))]
    pairs += [(params._replace(form=None), params) for params in (gru(rng), rnn(rng), minlstm(rng), slstm(rng))]
    run = jax.jit(lambda pairs: jax.tree.map(lambda p: lstmjax.run(p, xs), pairs, is_leaf=is_layer))
    for one, other in run(pairs):
        chex.assert_trees_all_close(one, other, rtol=0, atol=1e-14)


def is_layer(part):
    return type(part) in reference.CELLS


def test_the_stabiliser_of_an_slstm_cancels(x64):
    """h is that of the equations without it, whose exponentials are within floats here."""
    rng = np.random.default_rng(0)
    for forget in ("sigmoid", "exp"):
        params = slstm(rng, heads=None, forget=forget)
        xs = rng.normal(size=(T, D))
        h, c, n, hs = np.zeros(H), 0.0, 0.0, []
        for x in xs:
            z_i, z_f, z_g, z_o = np.split(x @ params.w_x + h @ params.w_h + params.b, 4)
            f = np.exp(z_f) if forget == "exp" else reference.sigmoid(z_f)
            c, n = f * c + np.exp(z_i) * np.tanh(z_g), f * n + np.exp(z_i)
            h = reference.sigmoid(z_o) * c / n
            hs.append(h)
        state, ys = lstmjax.run(params, xs)
        np.testing.assert_allclose(ys, hs, rtol=1e-13)
        np.testing.assert_allclose(state.n * np.exp(state.m), n, rtol=1e-13)


# --- huge and constant numbers ---------------------------------------------------------------------------------------

BOUNDED = {
    "peepholes and projection": (lstm, dict(peephole=True, projection=P, projection_b=True)),
    "coupled": (lstm, dict(coupling="f=1-i", peephole=True)),
    "norm of gates and cell": (lstm, dict(norms=dict(gates=True, cell=True))),
    "norm of x, h and cell": (lstm, dict(norms=dict(x=True, h=True, cell=True), normed_cell="output")),
    "clipped": (lstm, dict(clip=2.0, clip_cell=1.0, activations=("hard_sigmoid", "relu", "identity"))),
    "softsign, hard_sigmoid": (lstm, dict(activations=("hard_sigmoid", "softsign", "softsign"))),
    "gru before": (gru, dict(reset="before", activations=("hard_sigmoid", "softsign"))),
    "minlstm": (minlstm, dict(candidate="tanh")),
    "slstm": (slstm, dict(heads=2)),
    "slstm exp": (slstm, dict(forget="exp")),
}


@functools.partial(jax.jit, compiler_options=QUICK)
def outcomes(cells, xs):
    """For each cell the sum of the outputs and the outputs, and the gradients of that sum."""

    def loss(params, xs):
        ys = lstmjax.run(params, xs)[1]
        return ys.sum(), ys

    return {name: jax.value_and_grad(loss, (0, 1), has_aux=True)(params, xs) for name, params in cells.items()}


def test_huge_inputs_give_finite_numbers():
    """In float32, values and gradients; of an output that is bounded by nature, bounded values."""
    rng = np.random.default_rng(0)
    cells = {name: cast(draw_params(rng, **given), np.float32) for name, (draw_params, given) in BOUNDED.items()}
    signs = np.sign(rng.normal(size=(T, B, D))).astype(np.float32)
    for size in (1e4, 1e30):
        for name, found in outcomes(cells, signs * np.float32(size)).items():
            (_, ys), gradients = found
            assert np.abs(ys).max() < 20, name
            for leaf in jax.tree.leaves(gradients):
                assert np.isfinite(leaf).all(), name


def test_layer_norm_of_equal_numbers():
    """Equal pre-activations have no variance: the outputs are those of the shifts, and the gradients are finite."""
    rng = np.random.default_rng(0)
    forms = [dict(gates=False), dict(gates=True, cell=True), dict(x=True, h=True, cell=True)]
    cells = [cast(lstm(rng, norms=norms), np.float32) for norms in forms]
    # Every column alike, over a state of zeros: x W_x and h W_h are each one number, many times.
    cells = {str(n): p._replace(w_x=np.ones_like(p.w_x), w_h=np.ones_like(p.w_h)) for n, p in enumerate(cells)}
    at_zero = outcomes(cells, np.zeros((1, B, D), np.float32))
    for size in (0.1, 1e3, 1e30):
        for name, found in outcomes(cells, np.full((1, B, D), size, np.float32)).items():
            chex.assert_tree_all_finite(found)
            np.testing.assert_allclose(found[0][1], at_zero[name][0][1], rtol=0, atol=1e-6)


def test_layer_norm_does_not_see_the_unit():
    """Inputs of 1e30 are normed to what the same inputs of 1e4 are: squares that overflow would make them 0."""
    rng = np.random.default_rng(0)
    forms = [dict(gates=True), dict(x=True, h=True, cell=True)]
    cells = {str(n): cast(lstm(rng, norms=norms), np.float32) for n, norms in enumerate(forms)}
    xs = rng.normal(size=(1, B, D)).astype(np.float32)
    found, want = (outcomes(cells, xs * np.float32(size)) for size in (1e30, 1e4))
    for name in cells:
        # From a state of zeros, so that nothing of another size meets the inputs.
        np.testing.assert_allclose(found[name][0][1], want[name][0][1], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[name][1][1] * 1e30, want[name][1][1] * 1e4, rtol=1e-2, atol=1e-3)


# --- what the plain cells pay ----------------------------------------------------------------------------------------


def test_the_plain_lstm_pays_nothing():
    """The program of a plain LSTM is that of its equations in a scan, operation for operation."""
    rng = np.random.default_rng(0)
    params = cast(lstm(rng)._replace(form=None), np.float32)
    xs, state = np.ones((T, B, D), np.float32), LSTMState(*np.ones((2, B, H), np.float32))

    def by_hand(params, xs, state):
        def step(carry, x):
            (h, c), t = carry  # scan counts the steps, for lengths
            z = x @ params.w_x + h @ params.w_h
            i, f, g, o = jnp.split(z + params.b[None], 4, axis=-1)
            i, f = jax.nn.sigmoid(i), jax.nn.sigmoid(f)
            c = f * c + i * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (LSTMState(h, c), t + 1), h

        (state, _), ys = jax.lax.scan(step, (state, jnp.int32(0)), xs)
        return state, ys

    def run(params, xs, state):
        return lstmjax.run(params, xs, state, backend="scan")

    assert operations(run, params, xs, state) == operations(by_hand, params, xs, state)

    def gradient(f):
        return jax.grad(lambda *args: reference.scalar(*f(*args)), (0, 1, 2))

    assert operations(gradient(run), params, xs, state) == operations(gradient(by_hand), params, xs, state)


def operations(f, *args):
    """How many there are of each operation in the lowered program."""
    return collections.Counter(re.findall(r"stablehlo\.\w+", jax.jit(f).lower(*args).as_text()))


def test_a_default_form_is_no_form():
    """To the letter of the lowered program, on every backend."""
    rng = np.random.default_rng(0)
    backends = {lstm: ("scan", "fused"), minlstm: ("scan", "associative")}
    for draw_params in (lstm, gru, rnn, minlstm, slstm):
        params = cast(draw_params(rng), np.float32)
        for backend in backends.get(draw_params, ("scan",)):

            def text(params, backend=backend):
                run = functools.partial(lstmjax.run, backend=backend)
                return jax.jit(run).lower(params, np.ones((T, B, D), np.float32)).as_text()

            assert text(params) == text(params._replace(form=None))
    changed = LSTMForm(clip=1.0)
    params = cast(lstm(rng), np.float32)
    assert operations(lstmjax.run, params, np.ones((T, D), np.float32)) != operations(
        lstmjax.run, params._replace(form=changed), np.ones((T, D), np.float32)
    )


# --- forward mode ----------------------------------------------------------------------------------------------------


@every_kind
def test_forward_mode_equals_complex_step(x64, kind):
    rng = np.random.default_rng(0)
    args = KINDS[kind][0](rng, **KINDS[kind][1]), rng.normal(size=(T, B, D))
    args = *args, state_of(rng, args[0], (B,))
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), args)
    _, got = jax.jit(lambda *a: jax.jvp(lstmjax.run, *a), compiler_options=QUICK)(args, direction)
    moved = jax.tree.map(lambda a, d: a + 1e-30j * d, args, direction)
    want = jax.tree.map(lambda a: a.imag / 1e-30, reference.run(*moved))
    chex.assert_trees_all_close(got, want, rtol=1e-12, atol=1e-12)
