"""Models of sequences that are not words: against NumPy, blind to padding; what a gradient asks of every step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstmjax
from lstmjax import gradients, losses
from lstmjax.models import sequencer
from lstmjax.models.sequencer import Batch, Options
from tests import reference
from tests.problems import QUICK

B, T, D, K = 3, 6, 4, 5
LENGTHS = np.array([6, 1, 4], np.int32)
WEIGHTS = np.array([1, 0.5, 2], np.float32)
RNG = np.random.default_rng(0)
XS = RNG.normal(size=(B, T, D)).astype(np.float32)
TARGETS = {
    "number": RNG.normal(size=B).astype(np.float32),
    "class": RNG.integers(0, K, B).astype(np.int32),
    "classes": RNG.integers(0, K, (B, T)).astype(np.int32),
    "keys": RNG.integers(0, 2, (B, T, K)).astype(np.float32),
}
CELLS = ("lstm", "gru", "rnn")


def _params(answer="class", hidden=(5, 3), **how):
    return sequencer.init(jax.random.key(0), D, 1 if answer == "number" else K, hidden=hidden, **how)


def _batch(answer, lengths=LENGTHS):
    return Batch(XS, lengths, TARGETS[answer], WEIGHTS)


def _outputs(params, x):
    """The outputs of the last layer over one sequence, in float64, by the plain loops of the reference."""
    xs = [np.asarray(one, np.float64) for one in x]
    for layer in params.layers:
        layer = jax.tree.map(lambda w: np.asarray(w, np.float64), layer)
        state = jax.tree.map(lambda s: np.asarray(s, np.float64), lstmjax.init_state(layer))
        ys = []
        for x in xs:
            state = reference.step(layer, state, x)
            ys.append(state.h)
        xs = ys
    return np.stack(xs)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("answer", sequencer.ANSWERS)
def test_losses_are_their_equations(answer, cell):
    params, options = _params(answer, cell=cell), Options(answer)
    head = jax.tree.map(lambda w: np.asarray(w, np.float64), params.head)
    total = count = 0.0
    for b, n in enumerate(LENGTHS):
        z = _outputs(params, XS[b, :n]) @ head.w + head.b
        y = TARGETS[answer][b]
        for t in [n - 1] if answer in sequencer.AT_END else range(n):
            if answer == "number":
                one = (z[t, 0] - y) ** 2
            elif answer == "keys":
                p = 1 / (1 + np.exp(-z[t]))
                one = -sum(np.log(p[k] if y[t, k] else 1 - p[k]) for k in range(K))
            else:
                one = -np.log(np.exp(z[t]) / np.exp(z[t]).sum())[y if answer == "class" else y[t]]
            total, count = total + WEIGHTS[b] * one, count + WEIGHTS[b]
    found = jax.jit(partial(sequencer.loss, options=options), compiler_options=QUICK)(params, _batch(answer))
    np.testing.assert_allclose(found, total / count, rtol=2e-5)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("answer", sequencer.ANSWERS)
def test_padding_changes_nothing(answer, cell):
    params, options = _params(answer, cell=cell), Options(answer)
    ask = jax.jit(jax.value_and_grad(partial(sequencer.loss, options=options)), compiler_options=QUICK)
    before, batch = np.arange(T)[None] < LENGTHS[:, None], _batch(answer)
    rubbish = batch._replace(xs=np.where(before[..., None], XS, np.float32(np.nan)))
    if answer in ("classes", "keys"):
        shape = before.shape + (1,) * (TARGETS[answer].ndim - 2)
        rubbish = rubbish._replace(targets=np.where(before.reshape(shape), TARGETS[answer], 1 - TARGETS[answer] % 2))
    value, gradient = ask(params, batch)
    other, other_gradient = ask(params, rubbish)
    assert value == other
    jax.tree.map(np.testing.assert_array_equal, gradient, other_gradient)
    found = sequencer.predict(params, XS, LENGTHS, options)
    for b, n in enumerate(LENGTHS):
        alone = sequencer.predict(params, XS[b : b + 1, :n], None, options)[0]
        np.testing.assert_allclose(found[b] if answer in sequencer.AT_END else found[b, :n], alone, atol=1e-6)


def test_no_lengths_are_lengths_of_all():
    params, batch = _params(), _batch("class", np.full(B, T, np.int32))
    np.testing.assert_allclose(
        sequencer.loss(params, batch), sequencer.loss(params, batch._replace(lengths=None)), rtol=1e-6
    )


def test_symbols_are_vectors_with_a_single_one():
    params, ids = _params("classes"), RNG.integers(0, D, (B, T)).astype(np.int32)
    options = Options("classes")
    found = sequencer.apply(params, ids, LENGTHS, options)
    np.testing.assert_array_equal(found, sequencer.apply(params, np.eye(D, dtype=np.float32)[ids], LENGTHS, options))
    assert (found[0] != sequencer.apply(params, (ids + 1) % D, LENGTHS, options)[0]).any()


def test_a_symbol_out_of_range_spoils_its_sequence_from_there_on_under_tracing():
    symbols = jnp.array([[0, 3, 1], [1, -1, 2], [2, 3, 4]])
    found = jax.jit(partial(sequencer.apply, _params("classes"), options=Options("classes")))(symbols)
    assert np.isnan(found).all(-1).tolist() == [[False] * 3, [False, True, True], [False, False, True]]


@pytest.mark.parametrize("answer", ["classes", "keys"])
def test_weights_are_of_sequences(answer):
    with pytest.raises(ValueError, match=r"batch.weights should be \[B\] with B = 3, got shape \(3, 6\)"):
        sequencer.loss(_params(answer), _batch(answer)._replace(weights=np.ones((B, T))), options=Options(answer))


def test_predictions_are_probabilities():
    sums = sequencer.predict(_params(), XS, None, Options("classes")).sum(-1)
    np.testing.assert_allclose(sums, 1, rtol=1e-5)
    keys = sequencer.predict(_params(), XS, None, Options("keys"))
    np.testing.assert_allclose(
        jnp.log(keys / (1 - keys)), sequencer.apply(_params(), XS, None, Options("keys")), atol=1e-5
    )
    assert sequencer.predict(_params("number"), XS, None, Options("number")).shape == (B,)


@pytest.mark.parametrize("variational", [True, False])
@pytest.mark.parametrize("where", ["inputs", "between", "head"])
def test_dropout_is_where_it_should_be(where, variational):
    """Layers without a memory, of which each place of dropout is seen alone: equal steps stay equal, or do not."""
    n = 64
    plain = lstmjax.RNNParams(jnp.eye(n), jnp.zeros((n, n)), form=lstmjax.RNNForm("identity"))
    only = jnp.ones((n, n)) / n  # a mean over all units: what is dropped after it shows as zeros, before it does not
    layers = {"inputs": (plain,), "between": (plain._replace(w_x=only), plain), "head": (plain._replace(w_x=only),)}
    params = sequencer.Params(layers[where], lstmjax.layers.Linear(jnp.eye(n), jnp.zeros(n)))
    options = Options("classes", dropout=0.5, variational=variational)
    xs = np.ones((2, 3, n), np.float32)
    found = np.asarray(sequencer.apply(params, xs, None, options, jax.random.key(1)))
    assert 0.3 < (found == 0).mean() < {"inputs": 0.9, "between": 0.9, "head": 0.7}[where]
    assert (
        (found[:, 0] == 0).tolist() == (found[:, 1] == 0).tolist()
        if variational
        else (found[:, 0] != found[:, 1]).any()
    )
    assert ((found[0] == 0) != (found[1] == 0)).any()
    np.testing.assert_allclose(sequencer.apply(params, xs, None, options), 1, rtol=1e-6)


def test_recurrent_dropout_is_of_h():
    params, options = _params(hidden=8), Options(recurrent=0.5)
    one, two = (sequencer.apply(params, XS, None, options, jax.random.key(k)) for k in (0, 1))
    assert (one != two).any()
    first = [sequencer.apply(params, XS[:, :1], None, options, key) for key in (jax.random.key(0), None)]
    np.testing.assert_array_equal(*first)  # h is 0 at the first step, and nothing else is dropped


def test_smoothing_is_of_the_loss():
    batch, e = _batch("class"), 0.2
    logp = np.log(np.asarray(sequencer.predict(_params(), XS, LENGTHS), np.float64))
    each = -(1 - e) * logp[np.arange(B), TARGETS["class"]] - e * logp.mean(-1)
    found = sequencer.loss(_params(), batch, options=Options(smoothing=e))
    np.testing.assert_allclose(found, (WEIGHTS * each).sum() / WEIGHTS.sum(), rtol=1e-5)


def test_squared_error_leaves_out_what_weighs_nothing():
    found = losses.squared_error(jnp.array([1.0, 5.0, jnp.nan]), jnp.array([0.0, 3.0, 0.0]), jnp.array([3.0, 1.0, 0.0]))
    assert float(found) == (3 * 1 + 4) / 4


def test_chrono_biases_are_drawn_as_they_should_be():
    steps, n = 50, 400
    one, plain = (lstmjax.init_lstm(jax.random.key(3), 2, n, chrono=chrono) for chrono in (steps, None))
    i, f, g, o = np.asarray(one.b, np.float64).reshape(4, n)
    u = np.exp(f)
    assert 1 <= u.min() < 2
    assert steps - 2 < u.max() <= steps - 1 + 1e-4
    quarters = np.histogram(u, 4, (1, steps - 1))[0] / n
    np.testing.assert_allclose(quarters, 0.25, atol=0.07)
    np.testing.assert_array_equal(i, -f)
    assert not g.any()
    assert not o.any()
    np.testing.assert_array_equal(one.w_h[:5], plain.w_h[:5])
    r, z, new = np.asarray(lstmjax.init_gru(jax.random.key(3), 2, n, chrono=steps).b).reshape(3, n)
    np.testing.assert_array_equal(z, f.astype(np.float32))
    assert not r.any()
    assert not new.any()


@pytest.mark.parametrize(("coupling", "sign"), [("f=1-i", -1), ("i=1-f", 1)])
def test_chrono_of_a_coupled_gate(coupling, sign):
    b = lstmjax.init_lstm(jax.random.key(0), 2, 5, chrono=9, coupling=coupling).b.reshape(3, 5)
    assert (sign * b[0] > 0).all()
    assert not b[1:].any()


def test_chrono_keeps_for_as_long_as_it_says():
    """Without inputs a cell loses a factor of f at each step: some units still hold a third of theirs after T / 2."""
    steps = 200
    params = lstmjax.init_lstm(jax.random.key(0), 1, 64, chrono=steps)._replace(w_h=jnp.zeros((64, 256)))
    state = lstmjax.LSTMState(jnp.zeros(64), jnp.ones(64))
    state, _ = lstmjax.run(params._replace(b=params.b.at[:64].add(-99.0)), jnp.zeros((steps // 2, 1)), state)
    u = np.exp(np.asarray(params.b[64:128], np.float64))
    np.testing.assert_allclose(state.c, (u / (1 + u)) ** (steps // 2), atol=1e-3)
    assert (state.c > 1 / 3).mean() > 0.4


def test_a_sequencer_hands_on_what_its_cells_are_drawn_with():
    lstm = _params(hidden=5, forget_bias=3.0).layers[0]
    assert lstm.b[5:10].tolist() == [3.0] * 5
    lstm, gru = (_params(hidden=5, cell=cell, chrono=30).layers[0] for cell in ("lstm", "gru"))
    assert len(set(lstm.b[5:10].tolist())) == len(set(gru.b[5:10].tolist())) == 5
    assert not _params(hidden=5, cell="rnn", chrono=30).layers[0].b.any()


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_gain_is_of_the_weights_of_the_inputs_alone(cell):
    one, other = (_params(hidden=(5, 4), cell=cell, input_gain=gain) for gain in (1.0, 20.0))
    np.testing.assert_array_equal(other.layers[0].w_x, one.layers[0].w_x * 20)
    again = other._replace(layers=(other.layers[0]._replace(w_x=one.layers[0].w_x), *other.layers[1:]))
    jax.tree.map(np.testing.assert_array_equal, again, one)


STACKS = {
    "lstm": lambda k: lstmjax.init_lstm(k[0], D, 3),
    "gru over lstm": lambda k: (lstmjax.init_lstm(k[0], D, 3), lstmjax.init_gru(k[1], 3, 2)),
    "lstm over rnn": lambda k: (lstmjax.init_rnn(k[0], D, 2), lstmjax.init_lstm(k[1], 2, 3, projection=2)),
}


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "padded"])
@pytest.mark.parametrize("name", STACKS)
def test_gradients_over_time_are_those_of_every_state(name, lengths):
    """Against complex steps in NumPy: each number of each state after each step is moved by itself."""
    params = STACKS[name](jax.random.split(jax.random.key(0)))

    def loss(state, ys):
        ends = sum(leaf.sum() for leaf in jax.tree.leaves(state))
        return (jnp.arange(1.0, T + 1)[:, None, None] * ys * ys).sum() + ends

    found = jax.jit(lambda xs: gradients.over_time(params, xs, loss, lengths=lengths), compiler_options=QUICK)(
        np.swapaxes(XS, 0, 1)
    )
    layers = params if type(params) is tuple else (params,)
    found = found if type(params) is tuple else (found,)
    wide = jax.tree.map(lambda w: np.asarray(w, np.complex128), layers)

    def one(b, n, at):
        """The loss of row b, with i * 1e-20 added to the number that `at` names."""
        states = [jax.tree.map(lambda s: np.asarray(s, np.complex128), lstmjax.init_state(layer)) for layer in layers]
        total = 0
        for t in range(n):
            x = XS[b, t].astype(np.complex128)
            for k, layer in enumerate(wide):
                states[k] = reference.step(layer, states[k], x)
                if (t, k) == at[:2]:
                    field, unit = at[2:]
                    moved = getattr(states[k], field).copy()
                    moved[unit] += 1e-20j
                    states[k] = states[k]._replace(**{field: moved})
                x = states[k].h
            total = total + (t + 1) * (x * x).sum()
        return total + sum(leaf.sum() for state in states for leaf in state)

    for k, norms in enumerate(found):
        for field, array in norms._asdict().items():
            width = lstmjax.init_state(layers[k])._asdict()[field].shape[0]
            for b, n in enumerate([T] * B if lengths is None else lengths):
                expected = np.zeros(T)
                for t in range(n):
                    each = [one(b, n, (t, k, field, unit)).imag / 1e-20 for unit in range(width)]
                    expected[t] = np.linalg.norm(each)
                np.testing.assert_allclose(array[:, b], expected, rtol=1e-4, atol=1e-6)


def test_gradients_of_a_linear_network_are_powers():
    """Pascanu et al. 2013: with h_t = a h_{t-1} + x_t the norm falls or rises by |a| from step to step."""
    for a in (0.5, 1.0, 1.5):
        params = lstmjax.RNNParams(jnp.ones((1, 2)), a * jnp.eye(2)[::-1], form=lstmjax.RNNForm("identity"))
        found = gradients.over_time(params, jnp.ones((20, 1)), lambda state, ys: 3 * state.h[0])
        np.testing.assert_allclose(found.h, 3 * a ** np.arange(19.0, -1, -1), rtol=1e-5)


def test_the_cell_of_an_open_forget_gate_keeps_its_gradient():
    params = lstmjax.init_lstm(jax.random.key(0), 1, 4, forget_bias=99.0)
    params = params._replace(w_x=jnp.zeros((1, 16)), w_h=jnp.zeros((4, 16)))
    found = gradients.over_time(params, jnp.zeros((500, 1)), lambda state, ys: state.c.sum())
    np.testing.assert_allclose(found.c, 2.0, rtol=1e-5)
    assert not found.h.any()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: _params(cell="cnn"), ValueError, "cell should be one of"),
        (lambda: _params(chrono=1), ValueError, "chrono should be an int of at least 2"),
        (lambda: _params(input_gain=0), ValueError, "input_gain should be a number above 0 and finite, got 0"),
        (lambda: _params(chrono=2.5), TypeError, "chrono should be an int"),
        (lambda: _params(cell="rnn", forget_bias="one"), TypeError, "forget_bias should be a number"),
        (lambda: lstmjax.init_lstm(jax.random.key(0), 2, 3, chrono=9, bias=False), ValueError, "there is no bias"),
        (
            lambda: lstmjax.init_gru(jax.random.key(0), 2, 3, chrono=0),
            ValueError,
            "chrono should be an int of at least 2",
        ),
        (lambda: sequencer.apply(_params(), XS[..., :3]), ValueError, r"xs should be \[B, T, D\] with D = 4"),
        (lambda: sequencer.apply(_params(), XS[0, 0]), ValueError, "xs should be features"),
        (lambda: sequencer.apply(_params(), XS.astype(int)), TypeError, "xs should be an array of floats"),
        (lambda: sequencer.apply(_params(), np.full((1, 2), 9)), ValueError, r"xs should lie in \[0, 4\)"),
        (lambda: sequencer.apply(_params(), XS, LENGTHS + 1), ValueError, "lengths should lie in"),
        (lambda: sequencer.apply(_params(), XS, None, Options("word")), ValueError, "options.answer should be one of"),
        (lambda: sequencer.apply(_params(), XS, None, Options("number")), ValueError, "a head of one output, got 5"),
        (lambda: sequencer.apply(_params(), XS, None, Options(dropout=1.0)), ValueError, "options.dropout should be"),
        (lambda: sequencer.apply(_params(), XS, key=3), TypeError, "key should be"),
        (lambda: sequencer.loss(_params(), _batch("classes")), ValueError, "labels should have shape"),
        (
            lambda: gradients.over_time(_params().layers, jnp.ones(3), None),
            ValueError,
            r"xs should be \[T, \*batch, D\]",
        ),
        (
            lambda: losses.squared_error(jnp.ones(2), jnp.ones(2, int)),
            TypeError,
            "targets should be an array of floats",
        ),
        (
            lambda: gradients.over_time(lstmjax.Bidirectional(*_params().layers[:1] * 2), jnp.ones((3, D)), None),
            ValueError,
            "should hold no Bidirectional",
        ),
    ],
)
def test_refusals(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
